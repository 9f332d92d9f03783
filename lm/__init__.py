"""From raw text to a language model that works. `lm --help` lists the commands."""

__version__ = "0.1.0"
