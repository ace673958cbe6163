"""quire-eval: does reuse keep this model's answers?"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..errors import InvalidArgument, QuireError
from .cells import DEFAULT_BUDGETS, UNCODED, Cell, make_cells, split_policies
from .tasks import TASKS

if TYPE_CHECKING:
    from .loading import Subject
    from .records import RunFolder
    from .runner import Options
    from .session import Outcome

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
PROMPTS_MAX = 100_000
ERRORS_SHOWN = 5

app = typer.Typer(
    name="quire-eval",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Does position-independent reuse of KV keep a model's answers?

Exit codes: 0 done, 1 a gate failed or cells could not be measured, 2 wrong use or input,
130 interrupted (what was measured is kept).""",
)
errors = Console(stderr=True, highlight=False)
output = Console(highlight=False)

ModelArgument = Annotated[
    str, typer.Argument(help="GGUF file, model folder, or its name in Quire's cache")
]
ModelOption = Annotated[str, typer.Option("--model", "-m", help="as for the other commands")]
Dtype = Annotated[str, typer.Option(help="fp32, bf16 or fp16")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1")]
Threads = Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0: torch's choice")]
Documents = Annotated[
    Path | None,
    typer.Option(help="folder of .html .txt .md .rst .py files; default: what this machine has"),
]
Template = Annotated[str, typer.Option(help="chat, plain or auto")]
Seed = Annotated[
    int, typer.Option(min=0, help="prompts of one seed and corpus are always the same")
]
Chunks = Annotated[str, typer.Option(help="chunks of a prompt: 5, or from-to")]
ChunkTokens = Annotated[int, typer.Option(help="tokens of a chunk, about")]


Form = Annotated[str, typer.Option("--output", "-o", help="text or json")]


def check_form(form: str) -> None:
    """Raises InvalidArgument."""
    if form not in ("text", "json"):
        raise InvalidArgument(f"--output {form}: text or json")


@contextmanager
def reporting() -> Iterator[None]:
    """Errors as one line and an exit code."""
    warnings.filterwarnings("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        yield
    except QuireError as error:
        message = str(error.args[0]) if error.args else str(error)
        errors.print(f"quire-eval: {message}", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_USAGE) from error
    except OSError as error:
        errors.print(f"quire-eval: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_USAGE) from error
    except KeyboardInterrupt as error:
        errors.print("quire-eval: interrupted", markup=False)
        raise typer.Exit(EXIT_INTERRUPTED) from error


def chosen_tasks(text: str) -> list[str]:
    """Names parted by commas, or "all"."""
    names = list(TASKS) if text == "all" else [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        raise InvalidArgument(f"unknown task {''.join(unknown[:1])!r}; tasks: {', '.join(TASKS)}")
    return names


def _budgets(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",") if part]
    except ValueError as error:
        raise InvalidArgument(f"--budgets {text}: numbers between 0 and 1, by commas") from error
    if not values or not all(0 < value <= 1 for value in values):
        raise InvalidArgument(f"--budgets {text}: numbers between 0 and 1, by commas")
    return values


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
    )


def _measure(
    subject: Subject,
    folder: RunFolder,
    tasks: list[str],
    cells: list[Cell],
    prompts: int,
    options: Options,
    first: int,
) -> Outcome:
    """run_session() with a bar, or a line per cell where nobody watches."""
    from .session import run_session

    with _progress() as bar:
        task = bar.add_task("measuring", total=prompts * len(tasks) * len(cells))

        def advance(prompt: str, cell: Cell, seconds: float | None) -> None:
            bar.update(task, advance=1, description=f"{prompt} {cell.key}")
            if not errors.is_terminal and seconds is not None:
                errors.print(f"{prompt} {cell.key} {seconds:.2f} s", markup=False)

        try:
            return run_session(
                subject,
                folder,
                tasks,
                cells,
                prompts,
                options=options,
                first=first,
                progress=advance,
            )
        except KeyboardInterrupt:
            bar.stop()
            errors.print(
                f"{len(folder.done)} cells are kept in {folder.path}; the same command goes on",
                markup=False,
            )
            raise


def _say_outcome(outcome: Outcome, out: Path) -> None:
    """Raises Exit where cells failed."""
    errors.print(
        f"{outcome.n_done} cells measured, {outcome.n_skipped} known before, "
        f"{len(outcome.errors)} failed: {out}",
        markup=False,
        soft_wrap=True,
    )
    for message in outcome.errors[:ERRORS_SHOWN]:
        errors.print(f"failed: {message}", markup=False, soft_wrap=True)
    if outcome.errors:
        raise typer.Exit(EXIT_FAILED)


@app.command(
    epilog="Examples:  quire-eval run -m qwen.gguf --policies reuse,random:B,query:B -n 100 -o out "
    "quire-eval run -m gemma.gguf --policies 'query:0.15@filler link0' --codecs none,int8-channel "
    "-n 20 -o out"
)
def run(
    model: ModelOption,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="folder of the results; a run goes on there")
    ],
    policies: Annotated[
        list[str] | None,
        typer.Option(
            "--policies",
            "-p",
            help="by commas; NAME:B stands for one policy per budget, NAME@VARIANT fixes one; "
            "no-documents is a baseline, full prefill always runs",
        ),
    ] = None,
    variants: Annotated[
        str,
        typer.Option(help="iso, sys, sink:N, filler, neighbours:N, similar:N, beside:N, anew; A&B"),
    ] = "sys",
    codecs: Annotated[str, typer.Option(help="none, or names of codecs, by commas")] = UNCODED,
    budgets: Annotated[str, typer.Option(help="what B stands for")] = ",".join(
        f"{b:g}" for b in DEFAULT_BUDGETS
    ),
    tasks: Annotated[str, typer.Option("--tasks", "-t", help="by commas, or all")] = "needle",
    prompts: Annotated[
        int, typer.Option("--prompts", "-n", min=1, max=PROMPTS_MAX, help="per task")
    ] = 20,
    first: Annotated[int, typer.Option(min=0, help="number of the first prompt")] = 0,
    seed: Seed = 0,
    chunks: Chunks = "4-7",
    chunk_tokens: ChunkTokens = 200,
    documents: Documents = None,
    template: Template = "auto",
    generate: Annotated[
        int, typer.Option(min=0, max=4096, help="tokens of free generation; 0: none")
    ] = 0,
    deviation: Annotated[
        int, typer.Option(min=0, help="prompts whose KV is compared by layer")
    ] = 2,
    dump_rows: Annotated[
        bool, typer.Option("--dump-rows", help="write the rows of every cell")
    ] = False,
    dtype: Dtype = "fp32",
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Measure policies x variants x codecs on generated prompts against full prefill."""
    with reporting():
        from .loading import find_model, load_engine, parse_layout, subject_of
        from .records import RunFolder
        from .runner import Options

        names = [
            name for text in policies or ["reuse,random:B,query:B"] for name in split_policies(text)
        ]
        cells = make_cells(names, variants.split(","), codecs.split(","), _budgets(budgets))
        wanted = chosen_tasks(tasks)
        layout = parse_layout(chunks, chunk_tokens)
        engine = load_engine(model, dtype, device, threads)
        subject = subject_of(
            engine, documents=documents, template=template, layout=layout, seed=seed
        )
        folder = RunFolder(out, {**subject.settings(find_model(model)), "generate": generate})
        options = Options(generate, dump_rows, deviation)
        outcome = _measure(subject, folder, wanted, cells, prompts, options, first)
        _say_outcome(outcome, out)


@app.command(
    name="tasks",
    epilog="Examples:  quire-eval tasks   quire-eval tasks --show needle -m qwen.gguf --prompt 3",
)
def show_tasks(
    show: Annotated[str, typer.Option(help="print a prompt of this task, or of all")] = "",
    model: Annotated[
        str, typer.Option("--model", "-m", help="whose tokenizer cuts the chunks")
    ] = "",
    prompt: Annotated[int, typer.Option(min=0, help="its number")] = 0,
    seed: Seed = 0,
    chunks: Chunks = "4-7",
    chunk_tokens: ChunkTokens = 200,
    documents: Documents = None,
    form: Form = "text",
) -> None:
    """The kinds of prompts; with --show and a model, the prompts themselves."""
    with reporting():
        check_form(form)
        if not show and form == "json":
            for name, text in TASKS.items():
                sys.stdout.write(json.dumps({"task": name, "asked": text}) + "\n")
            return
        if not show:
            table = Table("task", "what is asked", box=None)
            for name, text in TASKS.items():
                table.add_row(name, text)
            output.print(table)
            return
        from .loading import find_model, parse_layout
        from .showing import load_tokenizer, print_prompt
        from .tasks import Encoder, Generator, read_corpus

        if not model:
            raise InvalidArgument("--show needs a model (-m), whose tokenizer cuts the chunks")
        encoder = Encoder(load_tokenizer(find_model(model)))
        layout = parse_layout(chunks, chunk_tokens)
        generator = Generator(read_corpus(documents), encoder, layout, seed)
        for task in chosen_tasks(show):
            made = generator.text(task, prompt)
            if form == "json":
                sys.stdout.write(made.to_json() + "\n")
            else:
                print_prompt(output, encoder.prompt(made), encoder)


@app.command(epilog="Examples:  quire-eval report out   quire-eval report out --no-plots")
def report(
    folder: Annotated[Path, typer.Argument(help="what quire-eval run wrote")],
    draws: Annotated[int, typer.Option(min=100, max=1_000_000, help="of the bootstrap")] = 10_000,
    plots: Annotated[bool, typer.Option(help="draw PNG and SVG")] = True,
) -> None:
    """Tables with intervals (report.md, summary.json) and plots, from a run's results."""
    with reporting():
        from .report import write_report

        for path in write_report(folder, draws, plots=plots):
            output.print(str(path), markup=False, soft_wrap=True)


@app.command(epilog="Examples:  quire-eval gates qwen.gguf   quire-eval gates model/ -o json")
def gates(
    model: ModelArgument,
    form: Form = "text",
    mutants: Annotated[bool, typer.Option(help="check that defects are caught, too")] = True,
    seed: Seed = 0,
    dtype: Dtype = "fp32",
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Exactness gates of reuse, and whether they catch defects put in on purpose."""
    with reporting():
        check_form(form)
        from ..transformers.gates import run_gates
        from .gate import as_dict, gate_input, mutants_caught
        from .loading import load_engine

        def say(text: str) -> None:
            if form == "text":
                output.print(text, markup=False, soft_wrap=True)

        engine = load_engine(model, dtype, device, threads)
        given = gate_input(engine, seed)
        results = run_gates(engine, given)
        for result in results:
            say(str(result))
        found: dict[str, list[str]] = {}
        if engine.shape.immovable:
            say(f"chunks are refused: {engine.shape.immovable}")
        elif mutants:
            found = mutants_caught(engine, given)
        for name, by in found.items():
            say(f"{'caught' if by else 'MISSED'} {name}: {', '.join(by)}")
        good = all(result.passed for result in results) and all(found.values())
        if form == "json":
            shown = {
                "model": Path(model).name,
                "model_id": engine.model_id.hex(),
                "passed": good,
                "chunks_refused": engine.shape.immovable,
                "gates": [as_dict(result) for result in results],
                "mutants": found,
            }
            sys.stdout.write(json.dumps(shown, indent=1) + "\n")
        if not good:
            raise typer.Exit(EXIT_FAILED)


@app.command(
    # With ; and not &&: a verdict that is no yes is to be set, too, and ends in exit code 1.
    epilog="Examples:  quire-eval gate qwen.gguf   quire-eval gate qwen.gguf --verdict qwen.json; "
    "quirectl verdict set qwen --file qwen.json"
)
def gate(
    model: ModelArgument,
    form: Form = "text",
    verdict_file: Annotated[
        Path | None,
        typer.Option("--verdict", help="write what `quirectl verdict set` takes to this file"),
    ] = None,
    policy: Annotated[str, typer.Option(help="the policy to be judged")] = "",
    prompts: Annotated[int, typer.Option("--prompts", "-n", min=3, max=100)] = 5,
    chunk_tokens: ChunkTokens = 100,
    seed: Seed = 0,
    documents: Documents = None,
    template: Template = "auto",
    dtype: Dtype = "fp32",
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Two minutes: may chunks be reused with this model, and how? Exit code 0: yes, 1: no."""
    with reporting():
        check_form(form)
        from ..transformers.policies import DEFAULT_POLICY
        from .gate import check_judged, judge, refused
        from .loading import load_engine, parse_layout, subject_of
        from .showing import print_verdict
        from .verdict_file import make_way, write_verdict

        judged = policy or DEFAULT_POLICY
        check_judged(judged)
        if verdict_file is not None:
            make_way(verdict_file)
        engine = load_engine(model, dtype, device, threads)
        verdict = refused(engine)
        if verdict is None:
            layout = parse_layout("4-4", chunk_tokens)
            subject = subject_of(
                engine, documents=documents, template=template, layout=layout, seed=seed
            )
            with _progress() as bar:
                task = bar.add_task("judging", total=prompts * 4 + 2)
                verdict = judge(
                    subject,
                    policy=judged,
                    n_prompts=prompts,
                    progress=lambda what: bar.update(task, advance=1, description=what),
                )
        if verdict_file is not None:
            write_verdict(verdict_file, verdict, engine.model_id)
        if form == "json":
            about = {"model": Path(model).name, "model_id": engine.model_id.hex()}
            sys.stdout.write(json.dumps({**about, **verdict.to_dict()}, indent=1) + "\n")
        else:
            print_verdict(output, verdict)
        if not verdict.passed:
            raise typer.Exit(EXIT_FAILED)


def run_program() -> int:
    """The program's exit code."""
    try:
        app(standalone_mode=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_OK
