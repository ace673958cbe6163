"""A run over many prompts: what is done stays done, one failing cell stops no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import NonFinite, QuireError
from .cells import Cell
from .loading import Subject
from .records import RunFolder
from .runner import Leads, Options, PromptRun, needs_anchors, needs_stats

# Called after each cell: prompt, cell, seconds (None: done before, or failed).
Progress = Callable[[str, Cell, float | None], None]


@dataclass
class Outcome:
    n_done: int = 0
    n_skipped: int = 0
    errors: list[str] = field(default_factory=list)


def run_session(
    subject: Subject,
    folder: RunFolder,
    tasks: Sequence[str],
    cells: Sequence[Cell],
    n_prompts: int,
    *,
    options: Options | None = None,
    first: int = 0,
    progress: Progress = lambda prompt, cell, seconds: None,
) -> Outcome:
    """Prompts first .. first + n_prompts of every task under every cell that is not done.

    Raises PromptTooLong, DocumentsMissing and NonFinite (the model or its KV is broken); what a
    policy refuses is noted in errors.jsonl.
    """
    chosen = options or Options()
    leads, outcome = Leads(subject.engine), Outcome()
    with_stats = needs_stats(cells, subject.engine.shape)
    with_anchors = needs_anchors(cells)
    for task, index in subject.generator.prompts(list(tasks), n_prompts, first):
        prompt = subject.generator.prompt(task, index)
        todo = [cell for cell in cells if (prompt.id, cell.key) not in folder.done]
        for cell in cells:
            if cell not in todo:
                outcome.n_skipped += 1
                progress(prompt.id, cell, None)
        if not todo:
            continue
        begin, cpu = time.perf_counter(), time.process_time()
        run = PromptRun(
            subject.engine,
            subject.encoder,
            prompt,
            chosen,
            leads,
            with_stats=with_stats,
            with_anchors=with_anchors,
        )
        for cell in todo:
            try:
                result = run.run(cell, deviation=index < chosen.n_deviation)
            except NonFinite:
                raise
            except QuireError as error:
                outcome.errors.append(f"{prompt.id} {cell.key}: {error}")
                folder.add_error(prompt.id, cell.key, str(error))
                progress(prompt.id, cell, None)
                continue
            seconds = time.perf_counter() - begin
            timing = {
                "prompt": prompt.id,
                "cell": cell.key,
                "seconds": round(seconds, 3),
                "cpu_seconds": round(time.process_time() - cpu, 3),
            }
            folder.add(result.results, result.rows, result.deviation, [timing])
            outcome.n_done += 1
            progress(prompt.id, cell, seconds)
            begin, cpu = time.perf_counter(), time.process_time()
    return outcome
