"""What every check is: a class with a name, which looks at a subject and says what it has found."""

import re
from abc import ABC, abstractmethod

from lm.audit.findings import Findings
from lm.audit.subject import Subject


class Check(ABC):
    """One thing that is looked at. A class of one's own takes part by its `class_path`; its docstring's first
    line says what it is about, and its arguments are its options."""

    @classmethod
    def name(cls) -> str:
        """As figures and thresholds name it: `personal_data` for PersonalData."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def title(cls) -> str:
        """What it is about, in a line."""
        return (cls.__doc__ or cls.__name__).strip().partition("\n")[0].rstrip(".")

    def unfit(self, subject: Subject) -> str | None:
        """Why it is nothing for such a model, if so: a classifier can't be asked to write."""
        return None

    @abstractmethod
    def run(self, subject: Subject) -> Findings:
        """Look. What takes long goes through `subject.while_time`.

        Raises:
            UserError: something that it needs is not there. The audit goes on, and says so.
        """
