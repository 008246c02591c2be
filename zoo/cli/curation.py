"""`zoo data dedup`, `zoo data filter`, `zoo data contamination`: rows removed, with a report of which and why."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from zoo.cli.curation_job import Job
from zoo.cli.help import App
from zoo.cli.listings import Json
from zoo.errors import ZooError
from zoo.terminal import Console, fitting, print_json

READING = "Reading the data"
WRITING = "Writing"


class Part(StrEnum):
    """The part of a row that is looked at."""

    EVERYTHING = "everything"
    PROMPT = "prompt"
    ANSWER = "answer"


SOURCE = Annotated[str, typer.Argument(help="A file, folder, hub dataset, or named source (starter).")]
SHARED: dict[str, tuple[Any, Any]] = {
    "out": (Annotated[Path, typer.Option(
        help="File for the kept rows; the report goes next to it.", rich_help_panel=WRITING)], None),
    "force": (Annotated[bool, typer.Option(
        "--force", help="Overwrite existing files.", rich_help_panel=WRITING)], False),
    "dry_run": (Annotated[bool, typer.Option(
        "--dry-run", help="Show the report without writing anything.", rich_help_panel=WRITING)], False),
    "examples": (Annotated[int, typer.Option(
        min=0, help="Removed rows to show per reason.", rich_help_panel=WRITING)], 2),
    "kind": (Annotated[str, typer.Option(
        help="The kind of data to request from a named source.", rich_help_panel=READING)], "demonstration"),
    "split": (Annotated[str, typer.Option(help="Split of the data.", rich_help_panel=READING)], "train"),
    "columns": (Annotated[str | None, typer.Option(
        help="Which column is which: prompt=question,completion=answer.", rich_help_panel=READING)], None),
    "format": (Annotated[str | None, typer.Option(
        help="The format of the rows, if it cannot be detected.", rich_help_panel=READING)], None),
    "limit": (Annotated[int | None, typer.Option(
        min=1, help="Read only the first N rows.", rich_help_panel=READING)], None),
    "strict": (Annotated[bool, typer.Option("--strict", help="Stop at any bad row.", rich_help_panel=READING)], False),
    "as_json": (Json, False),
}  # fmt: skip
"""What every verb can be told besides its own options: the type of each, and its default."""

verbs = App(name="data")
"""What can stand behind `zoo data` instead of a source."""


def verb(name: str, out: str, *examples: str, source: Any = SOURCE) -> Callable[[Callable[..., None]], None]:
    """Make a verb of a function of a Job and its own options. out: where rows go by default; source: which is read."""

    def add(work: Callable[..., None]) -> None:
        def command(**options: Any) -> None:
            shared = {key: options.pop(key) for key in ("source", *SHARED)}
            work(Job(name, **shared), **options)

        (_, *own) = inspect.signature(work, eval_str=True).parameters.values()
        defaults = {"out": Path(out)} if source is SOURCE else {"out": Path(out), "source": None}
        parameters = [
            _parameter("source", source, defaults.get("source", inspect.Parameter.empty)),
            *(_parameter(parameter.name, parameter.annotation, parameter.default) for parameter in own),
            *(_parameter(key, kind, defaults.get(key, default)) for key, (kind, default) in SHARED.items()),
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__doc__ = work.__doc__
        verbs.command(name, epilog="Examples: " + "    ".join(examples))(command)

    return add


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


@verb(
    "dedup", "deduplicated.jsonl", "zoo data dedup rows.jsonl",
    "zoo data dedup rows.jsonl --near 0.8 --out unique.jsonl",
    "zoo data dedup starter --kind preference --on prompt --dry-run",
)  # fmt: skip
def dedup(
    job: Job,
    near: Annotated[
        float | None,
        typer.Option(help="Also remove rows with at least this Jaccard similarity of word n-grams, such as 0.8."),
    ] = None,
    on: Annotated[Part, typer.Option(help="What to compare: everything, prompt, answer.")] = Part.EVERYTHING,
    normalised: Annotated[bool, typer.Option("--normalised", help="Ignore case, white space and punctuation.")] = False,
    ngram: Annotated[int, typer.Option(min=1, help="Words per n-gram for --near.")] = 3,
) -> None:
    """Remove duplicate rows: those with the same texts, and with --near also near-duplicates.

    The first of several duplicates stays. Rows with the same texts but another label are kept and counted as
    contradictions.
    """
    from zoo.data.curation import verbs as work
    from zoo.data.curation.dedup import Exact, Near
    from zoo.data.curation.rows import check_part

    rows = job.open()
    check_part(on, rows.kind)
    almost = None if near is None else Near(rows.kind, near, on, ngram)
    exact = Exact(rows.kind, on, normalised)
    settings = {"near": near, "ngram": ngram, "on": on, "normalised": normalised}
    job.run(settings, work.dedup, exact, almost)


@verb(
    "filter", "filtered.jsonl", "zoo data filter rows.jsonl",
    "zoo data filter rows.jsonl --rules 'chat,links,words(least=5)'",
    "zoo data filter rows.jsonl --rules=-echo --dry-run",
    "zoo data filter rows.jsonl --rules 'perplexity(keep=0.9)' --model smollm2-135m", "zoo data filter --list",
    source=Annotated[str | None, typer.Argument(help="File, folder, hub dataset, or source; not needed with --list.")],
)  # fmt: skip
def filter_rows(
    job: Job,
    rules: Annotated[
        str, typer.Option(help="Sets and rules, with their limits: 'chat,words(least=5)'; -NAME removes one.")
    ] = "chat",
    show_list: Annotated[bool, typer.Option("--list", help="Show every rule with its limits, and exit.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model, folder or run for the rule perplexity.", show_default="the data's, or smollm2-135m"
        ),
    ] = None,
    max_length: Annotated[int, typer.Option(min=2, help="Maximum tokens of a row that the model reads.")] = 1024,
    runs: Annotated[str, typer.Option(help="Folder that holds the runs.")] = "runs",
) -> None:
    """Remove low-quality rows by named rules: length, repetition, symbols, damage, perplexity under a model.

    `--rules` takes the sets chat, gopher, c4 and alpaca, and single rules. They look at the answers to learn from (not
    at rejected ones), or at the part that a rule's option `on` names.
    """
    from zoo.data.curation import verbs as work
    from zoo.data.curation.rules import PERPLEXITY, chosen_rules
    from zoo.data.sources.named import data_model
    from zoo.models.default import NAME

    chosen = chosen_rules(rules)
    if show_list:
        return _list_rules(chosen, job.as_json)
    if job.source is None:
        raise ZooError("No data is given.", "zoo data filter rows.jsonl, or zoo data filter --list for the rules.")
    job.open()
    model = model or data_model(job.source, NAME)
    scoring = _scoring(model, runs, max_length, job.console) if PERPLEXITY in chosen else None
    settings: dict[str, Any] = {"rules": {name: vars(rule.limits) for name, rule in chosen.items()}}
    settings |= {"model": model, "max_length": max_length} if scoring else {}
    job.run(settings, work.filter_rows, chosen, scoring)


def _scoring(model: str, runs: str, max_length: int, console: Console) -> Any:
    """A function from rows to perplexities. The model is loaded now, so that a wrong name fails before reading."""
    from zoo.evals.perplexity import perplexities
    from zoo.evals.subject import load_subject
    from zoo.training.record.progress import counter

    subject = load_subject(model, runs, console.say, head="lm")
    count = counter(console, "rows scored")
    return lambda rows, kind: perplexities(subject, rows, kind, max_length, count)


def _list_rules(chosen: Any, as_json: bool) -> None:
    from zoo.data.curation.rules import RULES, SETS

    shown = {**RULES, **chosen}
    if as_json:
        content = [
            {"name": rule.name, "on_now": rule.name in chosen, **vars(rule.limits), "source": rule.source,
             "sets": [name for name, rules in SETS.items() if rule.name in rules], "help": rule.help}
            for rule in shown.values()
        ]  # fmt: skip
        return print_json(content)
    table = Table("rule", "on", "least", "most", "looks at", "sets", "what it measures", box=None, pad_edge=False)
    for rule in shown.values():
        sets = ", ".join(name for name, rules in SETS.items() if rule.name in rules)
        limits = ["" if limit is None else f"{limit:g}" for limit in (rule.limits.least, rule.limits.most)]
        table.add_row(rule.name, "*" if rule.name in chosen else "", *limits, rule.limits.on, sets, rule.help)
    Console().print(fitting(table, Console()))
    Console().print("\nChoose rules with --rules 'gopher,-stop_words'; add --list to see the choice.")


@verb(
    "contamination", "uncontaminated.jsonl", "zoo data contamination rows.jsonl --eval test.jsonl",
    "zoo data contamination rows.jsonl --eval starter@heldout --eval test.jsonl --remove --out clean.jsonl",
    "zoo data contamination rows.jsonl --eval test.jsonl --ngram 8 --overlap 0.5",
)  # fmt: skip
def contamination(
    job: Job,
    evaluation: Annotated[
        list[str], typer.Option("--eval", help="An evaluation set, in any form that zoo reads; may be repeated.")
    ],
    remove: Annotated[bool, typer.Option("--remove", help="Write the rows that are not contaminated.")] = False,
    ngram: Annotated[int, typer.Option(min=1, help="Consecutive shared words that count as a match.")] = 13,
    shortest: Annotated[int, typer.Option(min=1, help="Shortest item to search for, in words.")] = 8,
    common: Annotated[int, typer.Option(min=1, help="Ignore n-grams in more than N evaluation texts.")] = 10,
    overlap: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of an item's n-grams that a row must contain; 0: one n-gram is enough."),
    ] = 0.0,
    on: Annotated[Part, typer.Option(help="What to search for: everything, prompt, answer.")] = (Part.EVERYTHING),
    eval_columns: Annotated[str | None, typer.Option(help="Which column of the evaluation is which.")] = None,
    eval_format: Annotated[str | None, typer.Option(help="The format of the evaluation's rows.")] = None,
) -> None:
    """Find rows that share 13 consecutive words with an evaluation set, the criterion of GPT-3's authors.

    Says which evaluation items are affected, and with --remove writes the rows that share nothing.
    """
    from zoo.data.curation import verbs as work
    from zoo.data.curation.contamination import Evaluation

    job.open(write=remove)
    items = Evaluation(ngram, shortest, common, overlap)
    for name in evaluation:
        _add_items(items, name, job.open_other(name, eval_columns, eval_format), on)
    if len(items.unchecked) == len(items.items):
        raise ZooError(
            f"No item of {', '.join(evaluation)} has the {items.shortest} words that a search needs.",
            f"Search for shorter items: --ngram {ngram} --shortest 5.",
        )
    settings = {
        "eval": evaluation, "ngram": ngram, "shortest": shortest, "common": common, "overlap": overlap, "on": on,
    }  # fmt: skip
    job.run(
        settings, work.contamination, items,
        more=lambda: {"evaluation": [items.affected(name) for name in dict.fromkeys(evaluation)]},
    )  # fmt: skip


def _add_items(items: Any, name: str, rows: Any, on: str) -> None:
    from zoo.data.curation.rows import check_part, fields_of
    from zoo.data.load import judge

    check_part(on, rows.kind)
    for row in rows.rows:
        if row.record is not None:
            items.add(name, row.number, fields_of(row.record, rows.kind, on).values())
    judge(rows.report, rows.report.kept, False)
