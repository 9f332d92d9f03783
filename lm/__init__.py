"""From raw text to a language model that works. `lm --help` lists the commands; in Python `lm.load(path)`
opens a model, and nothing is imported before that."""

from typing import TYPE_CHECKING

from lm.lazy import lazy

if TYPE_CHECKING:
    from lm.errors import UserError
    from lm.predictor import Predictor, load

__all__ = ["Predictor", "UserError", "__version__", "load"]
__version__ = "0.1.0"

__getattr__, __dir__ = lazy(__name__, {"Predictor": "predictor", "load": "predictor", "UserError": "errors"})
