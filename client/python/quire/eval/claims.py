"""What the publications say of their methods, beside which our figures stand.

Their models (7B to 70B), tasks and measures are others than ours; what can be compared is whether a
method keeps what full prefill knows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    method: str
    source: str
    text: str


_CACHEBLEND = Claim(
    "CacheBlend",
    "EuroSys'25, arXiv 2405.16444",
    "10-20 % of the tokens, 15 typical, keep quality; TTFT 2.2-3.3x",
)
_EPIC = Claim(
    "EPIC / LegoLink", "ICML'25, arXiv 2410.15332", "0-7 % loss with 2 rows a chunk; TTFT up to 8x"
)
_FUSIONRAG = Claim(
    "FusionRAG",
    "SIGMOD'26, arXiv 2601.12904",
    "under 15 % of the tokens: exact match within 0.03 of full prefill in 14 of 20 cells",
)
CLAIMS: dict[str, Claim] = {
    "reuse": Claim(
        "Full reuse",
        "Block-Attention, arXiv 2409.15355; TurboRAG, arXiv 2410.07590",
        "for models trained for it; for others no claim",
    ),
    "cacheblend-v": _CACHEBLEND,
    "cacheblend-k": _CACHEBLEND,
    "cacheblend-gradual": _CACHEBLEND,
    "epic": _EPIC,
    "link0": _EPIC,
    "cachecraft": Claim(
        "Cache-Craft",
        "SIGMOD'25, arXiv 2502.15734",
        "51 % less compute than prefix caching, 75 % less than full prefill, quality kept",
    ),
    "fusionrag": _FUSIONRAG,
    "query-last": _FUSIONRAG,
    "kvshare": Claim(
        "KVShare",
        "arXiv 2503.16525",
        "+20.4 % accuracy over CacheBlend and EPIC; TTFT up to 9.4x",
    ),
    "prophetkv": Claim(
        "ProphetKV", "ICML'26, arXiv 2602.02579", "20 % of the tokens, chosen by the question"
    ),
    "psr": Claim(
        "PSR",
        "arXiv 2603.20218",
        "the best mix without training there; such methods stay 7-18 % F1 below full prefill",
    ),
    "ape": Claim(
        "APE",
        "ICLR'25, arXiv 2502.05431",
        "98 % of sequential prefill on RAG, 93 % on in-context learning",
    ),
    "kvcomm": Claim(
        "KVCOMM",
        "NeurIPS'25, arXiv 2510.12872",
        "over 70 % of the tokens reused; up to 7.8x TTFT with five agents, quality kept",
    ),
    "pie": Claim(
        "PIE",
        "ICLR'25, arXiv 2407.03157",
        "85 % less compute after edits (RepoBench), quality kept",
    ),
    "relay": Claim(
        "RelayCaching", "ICML'26, arXiv 2603.13289", "over 80 % reused; TTFT up to 4.7x"
    ),
}


def claim_of(policy: str) -> Claim | None:
    """By a policy's text."""
    return CLAIMS.get(policy.split("/")[-1].partition(":")[0])
