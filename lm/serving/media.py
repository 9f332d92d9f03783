"""`/v1/detect`, `/v1/segment`, `/v1/transcribe` and OpenAI's `/v1/audio/transcriptions`: what models find in
files that a request brings along. One after the other, in the model's own thread: a few large pictures at
once would fill the memory. None is written to a disk."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.responses import PlainTextResponse

from lm.inference.lines import Line
from lm.processors.sounds import seconds_of
from lm.serving import limits
from lm.serving.errors import APIError
from lm.serving.house import Served
from lm.serving.schemas import Detect, Segment, Transcribe, Transcription
from lm.serving.tasks import files, response


def detect(served: Served, body: Detect) -> dict[str, Any]:
    return response(served, _found(served, "detect", files("input", body.input), threshold=body.threshold))


def segment(served: Served, body: Segment) -> dict[str, Any]:
    """Each mask as a PNG file in base64, and what its values stand for: `classes`, in their order. Of a model
    that tells things apart these, each with its mask as COCO's runs."""
    if served.model.task("segment").instances:
        pictures = files("input", body.input)
        return response(served, _found(served, "segment", pictures, threshold=body.threshold))
    from lm.tasks.image.drawing import colours
    from lm.tasks.image.placed import png

    labels = served.model.labels
    palette = colours(len(labels))
    found = _found(served, "segment", files("input", body.input))
    rows = ({**row, "mask": b64encode(png(row["mask"], palette)).decode()} for row in found)
    classes = [
        {"label": label, "colour": "#{:02x}{:02x}{:02x}".format(*colour)}
        for label, colour in zip(labels, palette, strict=True)
    ]
    return {**response(served, rows), "classes": classes}


def transcribe(served: Served, body: Transcribe) -> dict[str, Any]:
    sounds = files("input", body.input)
    _length(sounds, body.beam_width)
    return response(served, _found(served, "transcribe", sounds, beam_width=body.beam_width))


def transcription(served: Served, form: Transcription, sound: bytes) -> Any:
    """OpenAI's answer to its form."""
    seconds = _length([sound], form.beam_width)
    (row,) = _found(served, "transcribe", [sound], beam_width=form.beam_width)
    if form.response_format == "text":
        return PlainTextResponse(row["text"] + "\n")
    if form.response_format == "json":
        return {"text": row["text"]}
    return {"task": "transcribe", "language": "unknown", "duration": round(seconds, 2), **row}


def _found(served: Served, command: str, given: Sequence[bytes], **settings: Any) -> Iterator[dict[str, Any]]:
    """What a command finds in each file, by settings that hold for this request alone."""
    with served.model.using(command, **settings):
        for number, data in enumerate(given, start=1):
            for group in served.model.apply(command, [Line(f"file {number}", {"data": data})]):
                yield from ({name: value for name, value in row.items() if name != "data"} for row in group)


def _length(sounds: Sequence[bytes], beam_width: int | None) -> float:
    """Seconds of sounds, without decoding them: a small file may have days of silence.

    Raises:
        APIError: they are too long, or for so many beginnings.
    """
    seconds = sum(seconds_of(data, f"file {number}") for number, data in enumerate(sounds, start=1))
    most = min(limits.SECONDS, limits.BEAM_SECONDS // (beam_width or 1))
    if seconds > most:
        how = "" if most == limits.SECONDS else f" with a `beam_width` of {beam_width}"
        words = f"these are {seconds:.0f} seconds of sound: send at most {most} at once{how}"
        raise APIError(413, words, code="too_large")
    return seconds
