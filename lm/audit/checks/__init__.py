"""The checks that ship, by their names in a configuration."""

from lm.audit.checks.crows_pairs import CrowsPairs
from lm.audit.checks.exposure import Exposure
from lm.audit.checks.extraction import Extraction
from lm.audit.checks.groups import Groups
from lm.audit.checks.harm import Refusals, Toxicity
from lm.audit.checks.injection import Injection
from lm.audit.checks.membership import Membership
from lm.audit.checks.personal_data import PersonalData
from lm.audit.checks.robustness import Robustness
from lm.audit.checks.supply_chain import SupplyChain
from lm.audit.checks.winogender import Winogender

__all__ = [
    "CrowsPairs",
    "Exposure",
    "Extraction",
    "Groups",
    "Injection",
    "Membership",
    "PersonalData",
    "Refusals",
    "Robustness",
    "SupplyChain",
    "Toxicity",
    "Winogender",
]
