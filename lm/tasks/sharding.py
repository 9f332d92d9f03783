"""Where the configurations of runs made before look for the strategy."""

from lm.engine.sharding import Sharded

__all__ = ["Sharded"]
