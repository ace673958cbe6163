"""Row policies: which cached tokens are computed again, at which layers."""

from .base import (
    Charge,
    DecodeView,
    Fixup,
    LayerView,
    PolicyInput,
    PolicyNeeds,
    QuestionLayers,
    RowPolicy,
    Rows,
    Variant,
    charge_of,
)
from .cacheblend import CacheBlend, share_of_budget
from .epic import Epic
from .exact_prefix import ExactPrefix
from .full import FullPrefill
from .full_reuse import FullReuse
from .link0 import Link0
from .query_guided import QueryGuided
from .random_rows import RandomRows
from .registry import DEFAULT_POLICY, parse_policy, policy_names

__all__ = [
    "DEFAULT_POLICY",
    "CacheBlend",
    "Charge",
    "DecodeView",
    "Epic",
    "ExactPrefix",
    "Fixup",
    "FullPrefill",
    "FullReuse",
    "LayerView",
    "Link0",
    "PolicyInput",
    "PolicyNeeds",
    "QueryGuided",
    "QuestionLayers",
    "RandomRows",
    "RowPolicy",
    "Rows",
    "Variant",
    "charge_of",
    "parse_policy",
    "policy_names",
    "share_of_budget",
]
