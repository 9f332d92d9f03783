"""`lm compare`: which of several models is better, if any.

`statistics.py` knows differences and their errors; `compare.py` pairs the examples of models and says what
may be said; `records.py`, `predictions.py`, `tested.py` and `text.py` know where figures of examples come
from; `samples.py` puts texts side by side; `output.py` is table and picture, `command.py` the command.
"""
