"""Using a model: writing with a cache, filling masks."""

from lm.inference.fill import fill, show_guesses
from lm.inference.generate import Sampling, generate, generate_text, stream_text

__all__ = ["Sampling", "fill", "generate", "generate_text", "show_guesses", "stream_text"]
