"""Whether a model is safe to use: what it remembers, gives out and prefers, bound to its very weights."""

from typing import TYPE_CHECKING

from lm.lazy import lazy

if TYPE_CHECKING:
    from lm.audit.audit import Audit, perform, read_audit, verdict
    from lm.audit.callback import Auditing
    from lm.audit.check import Check
    from lm.audit.findings import Chart, Figure, Findings
    from lm.audit.private.training import PrivateTraining
    from lm.audit.subject import Subject

_HOMES = {
    "Audit": "audit",
    "Auditing": "callback",
    "Chart": "findings",
    "Check": "check",
    "Figure": "findings",
    "Findings": "findings",
    "PrivateTraining": "private.training",
    "Subject": "subject",
    "perform": "audit",
    "read_audit": "audit",
    "verdict": "audit",
}
__all__ = [
    "Audit",
    "Auditing",
    "Chart",
    "Check",
    "Figure",
    "Findings",
    "PrivateTraining",
    "Subject",
    "perform",
    "read_audit",
    "verdict",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
