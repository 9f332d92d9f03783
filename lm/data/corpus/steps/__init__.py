"""What documents go through on their way into a corpus."""

from lm.data.corpus.steps.contamination import Contamination
from lm.data.corpus.steps.duplicates import Duplicates, RepeatedPassages
from lm.data.corpus.steps.language import Language
from lm.data.corpus.steps.normalise import Normalise
from lm.data.corpus.steps.only import Only
from lm.data.corpus.steps.personal import PersonalData
from lm.data.corpus.steps.quality import Quality

__all__ = [
    "Contamination",
    "Duplicates",
    "Language",
    "Normalise",
    "Only",
    "PersonalData",
    "Quality",
    "RepeatedPassages",
]
