"""Row policies: which cached tokens are computed again, at which layers."""

from .ape import Ape, ContextScaling
from .base import (
    Charge,
    DecodeView,
    Fixup,
    LayerView,
    Notes,
    PolicyInput,
    PolicyNeeds,
    QuestionLayers,
    RowPolicy,
    Rows,
    Scores,
    Variant,
    VariantCandidate,
    charge_of,
)
from .cacheblend import CacheBlend, CacheBlendGradual, share_of_budget
from .cachecraft import CacheCraft
from .chosen import ChosenVariant
from .epic import Epic
from .exact_prefix import ExactPrefix
from .full import FullPrefill
from .full_reuse import FullReuse
from .fusionrag import FusionRag
from .kvcomm import Anchor, AnchorPool, KvComm
from .kvshare import KvShare
from .link0 import Link0
from .pie import Pie
from .psr import Psr
from .query_guided import ProphetKv, QueryGuided
from .query_value import QueryValue
from .random_rows import RandomRows
from .registry import DEFAULT_POLICY, parse_policy, policy_names
from .relay import Relay
from .union import Union

__all__ = [
    "DEFAULT_POLICY",
    "Anchor",
    "AnchorPool",
    "Ape",
    "CacheBlend",
    "CacheBlendGradual",
    "CacheCraft",
    "Charge",
    "ChosenVariant",
    "ContextScaling",
    "DecodeView",
    "Epic",
    "ExactPrefix",
    "Fixup",
    "FullPrefill",
    "FullReuse",
    "FusionRag",
    "KvComm",
    "KvShare",
    "LayerView",
    "Link0",
    "Notes",
    "Pie",
    "PolicyInput",
    "PolicyNeeds",
    "ProphetKv",
    "Psr",
    "QueryGuided",
    "QueryValue",
    "QuestionLayers",
    "RandomRows",
    "Relay",
    "RowPolicy",
    "Rows",
    "Scores",
    "Union",
    "Variant",
    "VariantCandidate",
    "charge_of",
    "parse_policy",
    "policy_names",
    "share_of_budget",
]
