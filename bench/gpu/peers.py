"""Times torch's attention on the shapes of Quire's own kernels: what a user has without them."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

REPEATS = 21
WARM_UPS = 3
QUERY_HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    what: str
    microseconds: float
    tflops: float
    gigabytes_per_second: float


def median_microseconds(torch: ModuleType, body: Callable[[], object]) -> float:
    times = []
    for i in range(WARM_UPS + REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        body()
        end.record()
        torch.cuda.synchronize()
        if i >= WARM_UPS:
            times.append(begin.elapsed_time(end) * 1000.0)
    return sorted(times)[REPEATS // 2]


def random(torch: ModuleType, *shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def attention_flops(rows: int, mean_kv: float) -> float:
    return 4.0 * QUERY_HEADS * HEAD_DIM * rows * mean_kv


def causal(torch: ModuleType, tokens: int) -> Result:
    """Causal attention over a prompt: the yardstick of selective recompute at equal FLOPs."""
    q = random(torch, 1, QUERY_HEADS, tokens, HEAD_DIM)
    k, v = (random(torch, 1, KV_HEADS, tokens, HEAD_DIM) for _ in range(2))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    time = median_microseconds(torch, lambda: sdpa(q, k, v, is_causal=True, enable_gqa=True))
    return Result(f"SDPA causal, {tokens} tokens", time, attention_flops(tokens, tokens / 2) / time / 1e6, 0)


def scattered_rows_sdpa(torch: ModuleType, tokens: int, share: float) -> Result:
    """Rows scattered over the prompt, each up to its own position: SDPA with a boolean mask."""
    rows = int(tokens * share)
    positions = torch.sort(torch.randperm(tokens, device="cuda")[:rows]).values
    mask = torch.arange(tokens, device="cuda")[None, :] <= positions[:, None]
    q = random(torch, 1, QUERY_HEADS, rows, HEAD_DIM)
    k, v = (random(torch, 1, KV_HEADS, tokens, HEAD_DIM) for _ in range(2))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    time = median_microseconds(torch, lambda: sdpa(q, k, v, attn_mask=mask, enable_gqa=True))
    flops = attention_flops(rows, float(positions.float().mean()) + 1)
    return Result(f"SDPA masked rows, {share:.0%} of {tokens}", time, flops / time / 1e6, 0)


def scattered_rows_flex(torch: ModuleType, tokens: int, share: float) -> Result:
    """The same with flex_attention, which skips blocks that are masked whole."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    rows = int(tokens * share)
    positions = torch.sort(torch.randperm(tokens, device="cuda")[:rows]).values

    def seen(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key <= positions[query]

    blocks = create_block_mask(seen, None, None, rows, tokens, device="cuda")
    compiled = torch.compile(flex_attention)
    q = random(torch, 1, QUERY_HEADS, rows, HEAD_DIM)
    k, v = (random(torch, 1, KV_HEADS, tokens, HEAD_DIM) for _ in range(2))
    time = median_microseconds(torch, lambda: compiled(q, k, v, block_mask=blocks, enable_gqa=True))
    flops = attention_flops(rows, float(positions.float().mean()) + 1)
    return Result(f"flex_attention rows, {share:.0%} of {tokens}", time, flops / time / 1e6, 0)


def decode(torch: ModuleType, batch: int, tokens: int) -> Result:
    """One query token per request over its whole KV."""
    q = random(torch, batch, QUERY_HEADS, 1, HEAD_DIM)
    k, v = (random(torch, batch, KV_HEADS, tokens, HEAD_DIM) for _ in range(2))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    time = median_microseconds(torch, lambda: sdpa(q, k, v, enable_gqa=True))
    rate = 2 * k.numel() * k.element_size() / time / 1e3
    return Result(f"SDPA decode, batch {batch} x {tokens}", time, 0, rate)


def scatter(torch: ModuleType, tokens: int) -> Result:
    """A layer's K from a contiguous chunk to pages in random order, by indexing."""
    chunk = random(torch, tokens, KV_HEADS, HEAD_DIM)
    pages = random(torch, 4 * tokens, KV_HEADS, HEAD_DIM)
    rows = torch.randperm(4 * tokens, device="cuda")[:tokens]
    time = median_microseconds(torch, lambda: pages.index_copy_(0, rows, chunk))
    return Result(f"index_copy_, {tokens} tokens", time, 0, 2 * chunk.numel() * 2 / time / 1e3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--tokens", type=int, default=32768)
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("peers: no GPU", file=sys.stderr)
        return 3
    n = arguments.tokens
    jobs: list[Callable[[], Result]] = [
        lambda: causal(torch, n // 4),
        lambda: scattered_rows_sdpa(torch, n // 2, 0.15),
        lambda: scattered_rows_flex(torch, n, 0.05),
        lambda: scattered_rows_flex(torch, n, 0.15),
        lambda: decode(torch, 1, n),
        lambda: decode(torch, 16, n),
        lambda: scatter(torch, 256 * 32),
    ]
    results = []
    print("\n| peer (torch) | us | TFLOP/s | GB/s |\n|---|---|---|---|")
    for job in jobs:
        try:
            result = job()
        except RuntimeError as error:  # out of memory, or no such kernel in this torch
            print(f"| failed: {str(error).splitlines()[0][:90]} | | | |")
            continue
        results.append(result)
        rate = f"{result.gigabytes_per_second:.0f}"
        print(f"| {result.what} | {result.microseconds:.1f} | {result.tflops:.0f} | {rate} |", flush=True)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["what", "us", "tflops", "gb_per_s"])
            writer.writerows([(r.what, r.microseconds, r.tflops, r.gigabytes_per_second) for r in results])
    return 0


if __name__ == "__main__":
    sys.exit(main())
