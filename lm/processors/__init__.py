"""What turns raw things into a network's input, and travels in the checkpoint. Tokenizers are the first kind:
`lm.tokenizer`."""

from lm.processors.base import Processor, open_processor, register

__all__ = ["Processor", "open_processor", "register"]
