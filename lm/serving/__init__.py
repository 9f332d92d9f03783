"""Serving: `lm serve` answers requests as OpenAI's interface does. A wing: nothing else needs it.

Importing this package imports neither torch nor FastAPI: names are looked up when first used.
"""

from lm.lazy import lazy

__getattr__, __dir__ = lazy(__name__, {"Engine": "engine", "House": "house", "make_app": "app"})
