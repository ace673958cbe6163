"""A reference engine on Hugging Face transformers: the oracle for every other engine of Quire.

Needs the extra ``quire[transformers]`` (torch, transformers; gguf and accelerate for GGUF files).
"""

from .edits import kept_runs, plan_of_edit
from .engine import Engine, Prefilled
from .errors import ModelUnsupported, RopeCannotMove
from .generation import Generated, extend, force, generate
from .plan import PlanSegment, ReusePlan, plan_of_parts, plan_of_segments
from .recipes import (
    Recipe,
    behind_dummies,
    behind_neighbours,
    behind_prefix,
    in_context,
    isolated,
    run_digest,
)
from .shape import LayerSpec, ModelShape
from .sources import ChunkKv, KvSource, StoredKv
from .state import KvState, OldKv
from .stats import ChunkStats, ColumnMass, SegmentMass
from .store import StorePlan, pack, plan_from_store, put
from .variants import plan_of_variants

__all__ = [
    "ChunkKv",
    "ChunkStats",
    "ColumnMass",
    "Engine",
    "Generated",
    "KvSource",
    "KvState",
    "LayerSpec",
    "ModelShape",
    "ModelUnsupported",
    "OldKv",
    "PlanSegment",
    "Prefilled",
    "Recipe",
    "ReusePlan",
    "RopeCannotMove",
    "SegmentMass",
    "StorePlan",
    "StoredKv",
    "behind_dummies",
    "behind_neighbours",
    "behind_prefix",
    "extend",
    "force",
    "generate",
    "in_context",
    "isolated",
    "kept_runs",
    "pack",
    "plan_from_store",
    "plan_of_edit",
    "plan_of_parts",
    "plan_of_segments",
    "plan_of_variants",
    "put",
    "run_digest",
]
