"""Draws time to first token against distance from full prefill, per policy, as SVG.

usage: plot_policies.py DEMO_JSON OUT.svg      (DEMO_JSON: what tools/demo.sh --json wrote)
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 110, 40, 55


def main() -> None:
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    rows = [row for row in rows if row["policy"] != "full"]
    speed_max = 10 ** math.ceil(math.log10(max(row["speedup"] for row in rows)))
    kl_max = max(row["kl"] for row in rows) * 1.15

    def x(speedup: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log10(speedup) / math.log10(speed_max)

    def y(kl: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * kl / kl_max

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">First token: speed-up over full prefill, and how far the answer drifts</text>',
    ]
    for tick in [1, 2, 5, 10, 20, 50, 100]:
        if tick <= speed_max:
            out.append(
                f'<line x1="{x(tick):.0f}" y1="{TOP}" x2="{x(tick):.0f}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>'
            )
            out.append(
                f'<text x="{x(tick):.0f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick}x</text>'
            )
    for part in range(5):
        kl = kl_max * part / 4
        out.append(
            f'<line x1="{LEFT}" y1="{y(kl):.0f}" x2="{WIDTH - RIGHT}" y2="{y(kl):.0f}" stroke="#ddd"/>'
        )
        out.append(f'<text x="{LEFT - 8}" y="{y(kl) + 4:.0f}" text-anchor="end">{kl:.2f}</text>')
    out.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">'
        "speed-up of the first token (median, log scale; right is better)</text>"
    )
    out.append(
        f'<text x="18" y="{HEIGHT / 2:.0f}" transform="rotate(-90 18 {HEIGHT / 2:.0f})" text-anchor="middle">'
        "mean KL to full prefill (low is better)</text>"
    )
    for row in [{"policy": "full prefill", "speedup": 1.0, "kl": 0.0}, *rows]:
        color = "#c0392b" if row["policy"].startswith("query") else "#2c3e50"
        out.append(f'<circle cx="{x(row["speedup"]):.1f}" cy="{y(row["kl"]):.1f}" r="6" fill="{color}"/>')
        out.append(
            f'<text x="{x(row["speedup"]) + 10:.1f}" y="{y(row["kl"]) - 8:.1f}" fill="{color}">{row["policy"]}</text>'
        )
    out.append("</svg>")
    Path(sys.argv[2]).write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
