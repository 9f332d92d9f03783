"""preprocessor_config.json: the inverse of what processors' `of_folder` reads."""

from typing import Any

from lm.errors import UserError
from lm.processors.images import ImageProcessor
from lm.processors.speech import SoundProcessor

_FILTERS = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers


def of_pictures(processor: ImageProcessor) -> dict[str, Any]:
    """That of a processor of pictures.

    Raises:
        UserError: transformers has none that does the same; as below.
    """
    height, width = processor.size
    size = {"height": height, "width": width}
    if processor.fit == "pad":
        raise UserError("transformers' processors of ViTs don't pad pictures: this one has `fit` pad")
    described = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "image_mean": list(processor.mean),
        "image_std": list(processor.std),
        "resample": _FILTERS[processor.resample],
    }
    if processor.fit == "stretch" and processor.crop_ratio == 1:
        return {"image_processor_type": "ViTImageProcessor", "size": size, **described}
    goal = {name: round(side / processor.crop_ratio) for name, side in size.items()}
    if processor.fit == "crop":
        goal = {"shortest_edge": min(goal.values())}  # `crop` of a square
    return {
        **{"image_processor_type": "CLIPImageProcessor", "size": goal, **described},
        **{"do_center_crop": True, "crop_size": size, "do_convert_rgb": True},
    }


def of_whisper(processor: SoundProcessor) -> dict[str, Any]:
    """That of sounds as Whisper hears them."""
    # Its bands end at 8 kHz whatever the rate is, and its `chunk_length` is a whole number.
    kind, seconds = "WhisperFeatureExtractor", processor.seconds or 0
    _insist(kind, processor, rate=16000, scale="slaney", norm="whisper", seconds=float(int(seconds)) or 30.0)
    samples = int(seconds) * processor.rate
    if samples % (2 * processor.hop):
        raise UserError(f"transformers' {kind} can't do what this processor does: `hop` is {processor.hop}")
    return {
        **{"feature_extractor_type": kind, "feature_size": processor.bins, "sampling_rate": processor.rate},
        **{"hop_length": processor.hop, "n_fft": processor.window, "chunk_length": int(seconds)},
        **{"n_samples": samples, "nb_max_frames": samples // processor.hop},
        **{"padding_side": "right", "padding_value": 0.0, "return_attention_mask": False},
    }


def of_ast(processor: SoundProcessor) -> dict[str, Any]:
    """That of sounds as AST hears them."""
    kind, rate = "ASTFeatureExtractor", processor.rate
    _insist(kind, processor, scale="kaldi", norm="fixed", window=rate // 40, hop=rate // 100)
    return {
        **{"feature_extractor_type": kind, "feature_size": 1, "num_mel_bins": processor.bins},
        **{"sampling_rate": rate, "max_length": processor.frames(round(processor.seconds * rate))},
        # It divides by twice the deviation.
        **{"do_normalize": True, "mean": processor.mean, "std": processor.std / 2},
        **{"padding_side": "right", "padding_value": 0.0, "return_attention_mask": False},
    }


def _insist(kind: str, processor: SoundProcessor, **wanted: Any) -> None:
    for name, value in wanted.items():
        if (found := getattr(processor, name)) != value:
            raise UserError(
                f"transformers' {kind} can't do what this processor does: `{name}` is {found}, not {value}"
            )
