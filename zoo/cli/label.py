"""`zoo label`: preference data from a judge. Its flags are made from the options of a labelling."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from zoo.cli.train import flag_of, parameter
from zoo.errors import ZooError
from zoo.labelling.options import LabelOptions
from zoo.numbers import amount
from zoo.options.fields import build, options_of
from zoo.terminal import Console, fitting, print_json

EXAMPLES = (
    "zoo label starter --kind preference --limit 20",
    "zoo label prompts.jsonl --model smollm2-135m --judge https://api.example.com/v1#big-model",
    "zoo label pairs.jsonl --judge runs/sft-1 --constitution default --chain-of-thought",
    "zoo label prompts.jsonl --model runs/sft-1 --samples 5 --reward runs/rm-1",
    "zoo label starter --kind demonstration --teacher runs/sft-1 --top-k 64",
)
MODEL_DEFAULT = "the data's, or smollm2-135m"
OWN: list[tuple[str, type, Any, Any]] = [
    ("out", Path, typer.Option(help="File for the labelled rows; an unfinished file is continued.",
                               show_default="labelled.jsonl"), Path("labelled.jsonl")),
    ("runs", str, typer.Option(help="Folder that holds the runs.", show_default="runs"), "runs"),
    ("as_json", bool, typer.Option("--json", help="Print JSON."), False),
]  # fmt: skip


def command() -> Any:
    """The function behind `zoo label`, with a flag for every option of a labelling."""

    def label(data: str, **given: Any) -> None:
        """Let a judge say which of two answers is better, and write the result as preference data.

        Each pair is judged in both orders, and `p_chosen` is the mean of the two probabilities. Pairs come from the
        data; for data with only prompts, a model samples the answers. Run the same command again to continue after a
        stop: nothing is judged twice. Then train on the file, with `zoo train --algo rm --data labelled.jsonl` or any
        other preference algorithm.

        With --reward there is no judge: of two answers the one with the higher reward is chosen. A reward is what
        `zoo train --reward` takes, such as a reward model.

        With --teacher there is no judge: the log-probs of that model's likeliest words are written beside
        demonstrations, or beside the answers that it gives to prompts, and `gkd --stored` trains on them.
        """
        own = {name: given.pop(name) for name, *_ in OWN}
        _label({"data": data, **{name: value for name, value in given.items() if value is not None}}, **own)

    source, *options = options_of(LabelOptions)
    shown = [replace(o, default=MODEL_DEFAULT) if o.name == "model" else o for o in options]
    parameters = [
        inspect.Parameter(
            source.name, inspect.Parameter.POSITIONAL_OR_KEYWORD,
            annotation=Annotated[str, typer.Argument(help=source.help)],
        )
    ]  # fmt: skip
    parameters += [parameter(o.name, bool if o.is_flag else str, flag_of(o)) for o in shown]
    parameters += [parameter(name, kind, info, default) for name, kind, info, default in OWN]
    label.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    label.__annotations__ = {p.name: p.annotation for p in parameters}
    return label


def _label(given: dict[str, Any], out: Path, runs: str, as_json: bool) -> None:
    from zoo.data.sources.named import data_model
    from zoo.models.default import NAME

    if "model" not in given and "teacher" not in given:
        given["model"] = data_model(given["data"], NAME)
    options = build(LabelOptions, given, what="`zoo label`", where=dict.fromkeys(given, "command line"))
    _look_ahead(options, runs)
    from zoo.labelling.job import label_data
    from zoo.training.record.progress import counter

    console = Console(stderr=as_json)
    summary = label_data(
        options, out, runs, console.say, counter(console, "pairs" if options.teacher is None else "rows")
    )
    if as_json:
        print_json(summary)
    elif options.teacher is not None:
        _show_taught(summary, out, console)
    else:
        _show(summary, out, console)


def _look_ahead(options: LabelOptions, runs: str) -> None:
    """Raises ZooError for missing data, a missing judge or a missing model, before imports that take seconds."""
    data, kind = options.data, options.kind
    from zoo.contract import registry
    from zoo.data.sources import is_on_hub, open_source
    from zoo.data.sources.reading import Reading
    from zoo.judges.spelled import SELF, check_judge
    from zoo.models.names import expect

    named = registry.contributions(registry.manager(), "sources")
    if not is_on_hub(data, named):
        first = Reading(limit=1, named_sources=named)
        try:
            open_source(data, kind or "preference", first)
        except ZooError:
            if kind is not None:
                raise
            open_source(data, "prompt", first)
    if options.teacher is not None:
        expect(options.teacher, runs)
        return
    if options.reward is not None:
        return
    check_judge(options.judge, runs)
    if options.judge == SELF:
        expect(options.model, runs)


def _show_taught(summary: dict[str, Any], path: Path, console: Console) -> None:
    console.say(f"{amount(summary['rows'], 'row')} with {amount(summary['tokens'], 'token')}. Words that are not "
                f"listed have a probability of {summary['rest']:.4f} a token, on average.")  # fmt: skip
    for code, count in summary["left_out"].items():
        console.say(f"Left out: {count:,} {code}.")
    console.say(f"Written to {path}. Train on it: zoo train --algo gkd --stored --own-share 0 --data {path}")


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
        rows.append(
            ("agreement", percent("agreement"), f"with the data, on {amount(summary['agreement_pairs'], 'pair')}")
        )
    if summary["cut_answers"]:
        rows.append(
            ("cut answers", f"{summary['cut_answers']:,}", "by --max-new-tokens; training takes them for finished")
        )
    if summary["unusable"]:
        rows.append(("left out", f"{summary['unusable']:,}", reasons(summary)))
    table = Table("", "", "", box=None, show_header=False, pad_edge=False)
    for name, value, meaning in rows:
        table.add_row(name, value, Text(meaning, style="dim"))
    console.print(fitting(table, console))
    console.say(f"Written to {path}. Train on it: zoo train --algo rm --data {path}")
