"""`zoo label`: preferences by a judge."""

from __future__ import annotations

from collections.abc import Sequence
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
    "zoo label pairs.jsonl --judge runs/sft-1 --constitution default --chain-of-thought --clamp 0.4,0.6",
)
KINDS = ("preference", "feedback", "prompt")
QUESTIONS = "What is asked"
DRAWING = "Drawing answers"
READING = "Reading the data"


def label(
    data: Annotated[str, typer.Argument(help="A file, folder, hub data set, or named source (starter).")],
    judge: Annotated[
        str, typer.Option(help="self (the --model), a model, folder or run, or https://host/v1#model.")
    ] = "self",
    model: Annotated[
        str, typer.Option(help="The model that answers prompts, and is the judge called self.")
    ] = "smollm2-135m",
    out: Annotated[Path, typer.Option(help="Where the labelled rows go; an unfinished file is gone on with.")] = Path(
        "labelled.jsonl"
    ),
    constitution: Annotated[
        str | None,
        typer.Option(help="Compare by principles, one drawn a pair: default, or a file.", rich_help_panel=QUESTIONS),
    ] = None,
    chain_of_thought: Annotated[
        bool,
        typer.Option("--chain-of-thought", help="Let the judge reason before it chooses.", rich_help_panel=QUESTIONS),
    ] = False,
    clamp: Annotated[
        str | None, typer.Option(help="Least and greatest label: 0.4,0.6.", rich_help_panel=QUESTIONS)
    ] = None,
    wording: Annotated[
        Path | None, typer.Option(help="A file of texts to ask with (docs/judges.md).", rich_help_panel=QUESTIONS)
    ] = None,
    max_thought_tokens: Annotated[
        int, typer.Option(min=1, help="Longest reasoning, in tokens.", rich_help_panel=QUESTIONS)
    ] = 256,
    votes: Annotated[
        int, typer.Option(min=1, help="Answers a question of an endpoint without log-probs.", rich_help_panel=QUESTIONS)
    ] = 5,
    parallel: Annotated[
        int, typer.Option(min=1, help="Requests to an endpoint at a time.", rich_help_panel=QUESTIONS)
    ] = 4,
    samples: Annotated[int, typer.Option(min=2, help="Answers drawn for a bare prompt.", rich_help_panel=DRAWING)] = 2,
    temperature: Annotated[
        float, typer.Option(help="Temperature that they are drawn at.", rich_help_panel=DRAWING)
    ] = 1.0,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest drawn answer, in tokens.", rich_help_panel=DRAWING)
    ] = 128,
    seed: Annotated[int, typer.Option(help="Seed of answers and principles.", rich_help_panel=DRAWING)] = 0,
    kind: Annotated[
        str | None,
        typer.Option(help="Read it as preference, feedback or prompt; by default what it is.", rich_help_panel=READING),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the data.", rich_help_panel=READING)] = "train",
    columns: Annotated[
        str | None, typer.Option(help="Names of columns: prompt=question.", rich_help_panel=READING)
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="The format of the rows, where detection is not sure.", rich_help_panel=READING)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Read the first N rows only.", rich_help_panel=READING)
    ] = None,
    runs: Annotated[str, typer.Option(help="Folder that holds the runs.", rich_help_panel=READING)] = "runs",
    as_json: Json = False,
) -> None:
    """Let a judge say which of two answers is better, and write that as preference data to train on.

    Each pair is judged in both orders, and `p_chosen` is the mean of the two probabilities. Pairs are taken from the
    data; to bare prompts a model draws two answers. Run the same command again to go on where it was stopped: nothing
    is judged twice. `zoo train --algo rm --data labelled.jsonl` then learns from it, and so does every other algorithm
    for pairs.
    """
    from zoo.judges.constitution import load_constitution
    from zoo.judges.drawing import Drawer
    from zoo.judges.label_file import LabelFile
    from zoo.judges.labelling import How
    from zoo.judges.labelling import label as judge_all
    from zoo.judges.pairs import groups_of
    from zoo.rollout.engine import Sampling
    from zoo.training.progress import counter

    console = Console(stderr=as_json)
    say: Any = lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)  # noqa: E731
    how = How(load_constitution(constitution) if constitution else (), chain_of_thought, _clamp(clamp), seed)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    loaded = _load(data, kind, say, split=split, columns=columns, format=format, limit=limit)
    groups = groups_of(loaded.records, loaded.kind, samples)
    drawing = {"model": model, "samples": samples, "sampling": repr(sampling)} if any(g.draw for g in groups) else {}
    judging, subject = _judge(
        judge, model, bool(drawing), runs, say, wording=wording, votes=votes, parallel=parallel,
        longest_thought=max_thought_tokens,
    )  # fmt: skip
    settings = {"data": loaded.fingerprint, "kind": loaded.kind, **_asked(judging, how), **drawing}
    file = LabelFile(out, settings)
    say(_plan(groups, judging, how, file))
    draw = Drawer(subject.model, subject.template, subject.precision, sampling) if drawing else None
    summary = judge_all(groups, judging, file, how, draw, counter(console, "pairs"))
    if not summary["pairs"]:
        raise ZooError(
            f"Nothing could be judged: {_reasons(summary)}.", f"`zoo data {data}` shows the prompts and answers."
        )
    print_json(summary) if as_json else _show(summary, file.path, console)


def _judge(judge: str, model: str, draws: bool, runs: str, say: Any, **options: Any) -> tuple[Any, Any]:
    """The judge, and the model that answers where it is needed: one in memory if they are the same."""
    import torch

    from zoo.cli.models import load_subject
    from zoo.judges.make import SELF, make_judge

    is_self = judge in (SELF, model)
    subject: Any = load_subject(model, runs, say, head="lm") if draws or is_self else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options |= {"device": device, "cache": True, "out": runs, "say": say}
    if not is_self:
        return make_judge(judge, **options), subject
    made = make_judge(SELF, subject.model, subject.template, subject.precision, **options)
    # In rows that are read elsewhere, "self" would mean nothing.
    made.respondent.name = model
    return made, subject


def _plan(groups: Sequence[Any], judging: Any, how: Any, file: Any) -> str:
    pairs = sum(group.count for group in groups)
    asked = f"wording {judging.wording.id}" + (f", {len(how.principles)} principles" if how.principles else "")
    before = f"; {len(file.rows):,} are labelled already" if file.rows else ""
    return f"{pairs:,} pairs for the judge {judging.name} ({asked}), in both orders{before}."


def _load(data: str, kind: str | None, say: Any, **options: Any) -> Any:
    """The data as pairs, judged answers or prompts."""
    from zoo import registry
    from zoo.data.load import load, source_kind
    from zoo.training.setup import columns_of

    if kind is not None and kind not in KINDS:
        raise ZooError(f"--kind {kind} cannot be labelled.", f"Choose one of {', '.join(KINDS)}.")
    named = registry.contributions(registry.manager(), "sources")
    options["columns"] = columns_of(options["columns"])
    found = kind or source_kind(data, options["split"], options["columns"], named)
    wanted = found if found in KINDS else "preference" if found == "ranking" else "prompt"
    loaded = load(data, wanted, named_sources=named, **options)
    for line in loaded.report.lines():
        say(line)
    return loaded


def _asked(judging: Any, how: Any) -> dict[str, Any]:
    """The settings that a label depends on."""
    from zoo.judges.constitution import constitution_id

    return {
        "judge": judging.name,
        "judge_fingerprint": judging.respondent.fingerprint()[:16],
        "wording": judging.wording.id,
        "constitution": constitution_id(how.principles) if how.principles else None,
        "chain_of_thought": how.chain_of_thought,
        "clamp": how.clamp,
        "seed": how.seed,
    }


def _clamp(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low <= 0.5 <= high <= 1:
        raise ZooError(f"--clamp {text} is not two numbers around a half.", "Write --clamp 0.4,0.6.")
    return low, high


def _reasons(summary: dict[str, Any]) -> str:
    return (
        "; ".join(f"{count:,} {reason}" for reason, count in summary["unusable_reasons"].items())
        or "there are no pairs"
    )


def _show(summary: dict[str, Any], path: Path, console: Console) -> None:
    def percent(name: str) -> str:
        return f"{summary[name]:.1%}"

    rows = [
        ("pairs labelled", f"{summary['pairs']:,}", ""),
        ("position-inconsistent", percent("position_inconsistent"), "the same place was preferred in both orders"),
        ("ties", percent("ties"), "within 0.01 of a half"),
        ("mean entropy", f"{summary['entropy']:.3f}", "0 is certain, 0.693 a coin"),
        ("chosen is longer", percent("chosen_longer"), "judges like length; half would be even"),
    ]
    if summary["agreement"] is not None:
        rows.append(("agreement", percent("agreement"), f"with the data, on {summary['agreement_pairs']:,} pairs"))
    if summary["unusable"]:
        rows.append(("left out", f"{summary['unusable']:,}", _reasons(summary)))
    table = Table("", "", "", box=None, show_header=False, pad_edge=False)
    for name, value, meaning in rows:
        table.add_row(name, value, f"[dim]{escape(meaning)}[/dim]")
    console.print(table)
    console.print(f"Written to {path}. Train on it: zoo train --algo rm --data {path}", highlight=False, soft_wrap=True)
