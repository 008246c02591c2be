"""`zoo label`: preference data from a judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zoo.cli.listings import Json, print_json
from zoo.errors import ZooError

EXAMPLES = (
    "zoo label starter --kind preference --limit 20",
    "zoo label prompts.jsonl --model smollm2-135m --judge https://api.example.com/v1#big-model",
    "zoo label pairs.jsonl --judge runs/sft-1 --constitution default --chain-of-thought",
)
QUESTIONS = "Asking the judge"
DRAWING = "Sampling answers"
READING = "Reading the data"


def label(
    data: Annotated[str, typer.Argument(help="A file, folder, hub dataset, or named source (starter).")],
    judge: Annotated[
        str, typer.Option(help="self (the model of --model), a model, folder or run, or https://host/v1#model.")
    ] = "self",
    model: Annotated[
        str | None,
        typer.Option(
            help="The model that answers prompts, and that judges when --judge is self.",
            show_default="the data's, or smollm2-135m",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="File for the labelled rows; an unfinished file is continued.")] = Path(
        "labelled.jsonl"
    ),
    constitution: Annotated[
        str | None,
        typer.Option(
            help="Compare by principles, one sampled per pair: default, or a file.", rich_help_panel=QUESTIONS
        ),
    ] = None,
    chain_of_thought: Annotated[
        bool,
        typer.Option("--chain-of-thought", help="Let the judge reason before it chooses.", rich_help_panel=QUESTIONS),
    ] = False,
    clamp: Annotated[
        str | None,
        typer.Option(
            help="Bounds of the labels; 0.4,0.6 with --constitution and --chain-of-thought; 0,1 for no clamping.",
            rich_help_panel=QUESTIONS,
        ),
    ] = None,
    wording: Annotated[
        Path | None,
        typer.Option(help="A file with your own prompts for the judge (docs/judges.md).", rich_help_panel=QUESTIONS),
    ] = None,
    max_thought_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum length of the reasoning, in tokens.", rich_help_panel=QUESTIONS)
    ] = 256,
    votes: Annotated[
        int,
        typer.Option(
            min=1, help="Votes per question, if a server gives no log-probabilities.", rich_help_panel=QUESTIONS
        ),
    ] = 5,
    parallel: Annotated[
        int, typer.Option(min=1, help="Simultaneous requests to a server.", rich_help_panel=QUESTIONS)
    ] = 4,
    samples: Annotated[int, typer.Option(min=2, help="Answers to sample per prompt.", rich_help_panel=DRAWING)] = 2,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.", rich_help_panel=DRAWING)] = 1.0,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum length of a sampled answer, in tokens.", rich_help_panel=DRAWING)
    ] = 128,
    seed: Annotated[int, typer.Option(help="Seed for sampling answers and principles.", rich_help_panel=DRAWING)] = 0,
    kind: Annotated[
        str | None,
        typer.Option(
            help="Read the data as preference, feedback or prompt; by default as its own kind.", rich_help_panel=READING
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the data.", rich_help_panel=READING)] = "train",
    columns: Annotated[
        str | None, typer.Option(help="Which column is which: prompt=question.", rich_help_panel=READING)
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="The format of the rows, if it cannot be detected.", rich_help_panel=READING)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Read only the first N rows.", rich_help_panel=READING)
    ] = None,
    runs: Annotated[str, typer.Option(help="Folder that holds the runs.", rich_help_panel=READING)] = "runs",
    as_json: Json = False,
) -> None:
    """Let a judge say which of two answers is better, and write the result as preference data.

    Each pair is judged in both orders, and `p_chosen` is the mean of the two probabilities. Pairs come from the data;
    for data with only prompts, a model samples the answers. Run the same command again to continue after a stop:
    nothing is judged twice. Then train on the file, with `zoo train --algo rm --data labelled.jsonl` or any other
    preference algorithm.
    """
    from zoo.data.sources.named import data_model
    from zoo.models.default import NAME

    model = model or data_model(data, NAME)
    _look_ahead(data, kind, judge, model, runs)
    from zoo.labelling.job import LabelOptions, label_data
    from zoo.training.record.progress import counter

    console = Console(stderr=as_json)
    options = LabelOptions(
        data, judge, model, constitution, chain_of_thought, clamp,
        str(wording) if wording else None, max_thought_tokens, votes, parallel, samples, temperature, max_new_tokens,
        seed, kind, split, columns, format, limit,
    )  # fmt: skip
    say: Any = lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)  # noqa: E731
    summary = label_data(options, out, runs, say, counter(console, "pairs"))
    print_json(summary) if as_json else _show(summary, out, console)


def _look_ahead(data: str, kind: str | None, judge: str, model: str, runs: str) -> None:
    """Raises ZooError for missing data, a missing judge or a missing model, before imports that take seconds."""
    from zoo.contract import registry
    from zoo.data.sources import is_on_hub, open_source
    from zoo.judges.spelled import SELF, check_judge
    from zoo.models.names import expect

    named = registry.contributions(registry.manager(), "sources")
    if not is_on_hub(data, named):
        try:
            open_source(data, kind or "preference", named_sources=named, limit=1)
        except ZooError:
            if kind is not None:
                raise
            open_source(data, "prompt", named_sources=named, limit=1)
    check_judge(judge, runs)
    if judge == SELF:
        expect(model, runs)


def _show(summary: dict[str, Any], path: Path, console: Console) -> None:
    from zoo.labelling.job import reasons

    def percent(name: str) -> str:
        return f"{summary[name]:.1%}"

    rows = [
        ("pairs labelled", f"{summary['pairs']:,}", ""),
        ("position-inconsistent", percent("position_inconsistent"), "the same position was preferred in both orders"),
        ("ties", percent("ties"), "within 0.01 of one half"),
        ("mean entropy", f"{summary['entropy']:.3f}", "0 is certain, 0.693 a coin flip"),
        ("chosen is longer", percent("chosen_longer"), "without length bias, about half"),
    ]
    if summary["agreement"] is not None:
        rows.append(("agreement", percent("agreement"), f"with the data, on {summary['agreement_pairs']:,} pairs"))
    if summary["unusable"]:
        rows.append(("left out", f"{summary['unusable']:,}", reasons(summary)))
    table = Table("", "", "", box=None, show_header=False, pad_edge=False)
    for name, value, meaning in rows:
        table.add_row(name, value, f"[dim]{escape(meaning)}[/dim]")
    console.print(table)
    console.print(f"Written to {path}. Train on it: zoo train --algo rm --data {path}", highlight=False, soft_wrap=True)
