"""What a Whisper writes down without any training of ours, decoder and all, by transformers: the figure that
stands beside `lm fit speechocean`.

    python tests/benchmarks/whisper_zero_shot.py WHISPER data/speechocean --where split=test --name '{id}.ogg'
    python tests/benchmarks/whisper_zero_shot.py WHISPER data/ljspeech-readings --name '{id}.flac'

A folder has `transcripts.tsv` and `audio.tar`. Errors are counted as ours are: in lower case, without
punctuation. What Whisper writes in figures ("15" for FIFTEEN) counts as wrong, as it does for ours.
"""

import argparse
import tarfile
import time
from pathlib import Path

import torch
from speed import flags

from lm.data.examples.tables import read_rows
from lm.metrics import SpeechScores
from lm.processors.sounds import read_sound

RATE = 16000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--where", default="", help="COLUMN=VALUE of the rows that count")
    parser.add_argument("--name", default="{id}.wav", help="of a row's file")
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

    torch.set_num_threads(1)
    model = WhisperForConditionalGeneration.from_pretrained(args.model).eval()
    prepare = WhisperFeatureExtractor.from_pretrained(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    column, _, value = args.where.partition("=")
    rows = [
        row
        for _, row in read_rows(str(args.folder / "transcripts.tsv"))
        if row.get(column) == value or not column
    ]
    scores, started = SpeechScores(), time.perf_counter()
    with tarfile.open(args.folder / "audio.tar") as archive, torch.inference_mode():
        members = {Path(member.name).name: member for member in archive if member.isfile()}
        for row in rows[: args.limit]:
            name = args.name.format(**row)
            sound = read_sound(archive.extractfile(members[name]).read(), name, RATE)
            features = prepare(sound.samples, sampling_rate=RATE, return_tensors="pt").input_features
            written = model.generate(features, max_new_tokens=200)[0]
            scores.update([tokenizer.decode(written, skip_special_tokens=True)], [row["text"]])
    found = {name: float(value) for name, value in scores.compute().items()}
    print(f"{len(rows[: args.limit])} sounds in {time.perf_counter() - started:.0f} s ({flags()})")
    print(", ".join(f"{name} {value:.4g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
