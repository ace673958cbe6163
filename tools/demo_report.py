"""Tables of the demo from quire-ask's JSON.

usage: demo_report.py question FILE
       demo_report.py summary [--json OUT] FILE...
Beside each FILE lies FILE's stem + ".expected": a regular expression that a right answer matches.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path


def load(path: Path) -> tuple[list[dict], str]:
    return json.loads(path.read_text())["policies"], path.with_suffix(".expected").read_text()


def is_right(entry: dict, expected: str) -> bool:
    return re.search(expected, entry["answer"], re.IGNORECASE) is not None


def print_question(path: Path) -> None:
    policies, expected = load(path)
    first = policies[0]
    print(f"  {first['prompt_tokens']} prompt tokens, {policies[-1]['chunk_tokens']} of them from the store")
    print(f"  {'policy':<12}{'first token':>12}{'speed-up':>10}{'recomputed':>12}{'KL':>10}  answer")
    for entry in policies:
        answer = " ".join(entry["answer"].split())
        mark = "" if is_right(entry, expected) else "  (not the expected answer)"
        print(
            f"  {entry['policy']:<12}{entry['ttft_ms']:>9.0f} ms{entry['speedup']:>9.1f}x"
            f"{entry['recomputed_tokens']:>12}{entry['kl']:>10.4f}  {answer[:90]}{mark}"
        )


def summarise(paths: list[Path]) -> list[dict]:
    questions = [load(path) for path in paths]
    rows = []
    for index, name in enumerate(entry["policy"] for entry in questions[0][0]):
        entries = [policies[index] for policies, _ in questions]
        reuse = [next(entry for entry in policies if entry["policy"] == "reuse") for policies, _ in questions]
        rows.append(
            {
                "policy": name,
                "ttft_ms": round(statistics.median(entry["ttft_ms"] for entry in entries), 1),
                "speedup": round(statistics.median(entry["speedup"] for entry in entries), 2),
                "kl": statistics.mean(entry["kl"] for entry in entries),
                "top1": statistics.mean(entry["top1"] for entry in entries),
                "correct": sum(
                    is_right(entry, expected) for entry, (_, expected) in zip(entries, questions, strict=True)
                ),
                "asked": len(questions),
                "kl_wins": sum(entry["kl"] < base["kl"] for entry, base in zip(entries, reuse, strict=True))
                / len(questions),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["question", "summary"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    if arguments.kind == "question":
        for path in arguments.files:
            print_question(path)
        return
    rows = summarise(arguments.files)
    print(f"  {'policy':<12}{'first token':>12}{'speed-up':>10}{'mean KL':>10}{'top-1':>8}{'right':>8}")
    for row in rows:
        print(
            f"  {row['policy']:<12}{row['ttft_ms']:>9.0f} ms{row['speedup']:>9.1f}x{row['kl']:>10.4f}"
            f"{row['top1']:>8.2f}{row['correct']:>5} of {row['asked']}"
        )
    if arguments.json:
        arguments.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
