"""What a run leaves for people: samples, the closing panel."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from zoo.environments import answer_in
from zoo.evals.kept_scores import HELD_OUT, changes_of, read_samples
from zoo.numbers import amount, decimal, signed
from zoo.runs import WARNINGS, Run
from zoo.terminal import Console, JsonLines

SHOWN_WARNINGS = 3
"""Warnings of the report that the closing panel has too."""


def write_cases(run: Run, step: int, cases: Mapping[str, Sequence[float | None]]) -> None:
    """Write held-out metrics case by case, to four digits, of the first and the last validation.

    heldout.json is {"first": {"step": 0, "values": {name: [value or null]}}, "last": …}.
    """
    if not cases:
        return
    values = {
        name: [None if value is None else float(f"{value:.4g}") for value in column] for name, column in cases.items()
    }
    write_first_and_last(run, "heldout.json", {"step": step, "values": values})


def write_first_and_last(run: Run, file: str, now: dict[str, Any]) -> None:
    """Write the results of a validation, with its "step", into {"first": …, "last": …}."""
    first = run.read_json(file).get("first", now) if now["step"] else now
    run.write_json(file, {"first": first, "last": now})


def closing_panel(console: Console, run: Run, summary: dict[str, Any]) -> None:
    """Print the scores before and after, one sample, the first warnings, where the model is, and what to type next."""
    warnings = run.read_json(WARNINGS).get("warnings", [])
    if isinstance(console, JsonLines):
        for line in warnings:
            console.say(line, event="warning", level="warning", step=summary["steps"])
        text = f"{run.name} is finished after {amount(summary['steps'], 'step')}: {run.model_path}"
        console.say(text, event="finished", step=summary["steps"], metrics=summary["after"])
        return
    table, room = Table(box=box.SIMPLE, show_edge=False, pad_edge=False), console.width - len("│  │")
    table.add_column("", overflow="fold")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right", no_wrap=True)
    pairs, changes = sample_pairs(run), changes_of(run)
    for name in summary["after"]:
        if name in summary["before"]:
            old, new = summary["before"][name], summary["after"][name]
            sure = changes[name].around if name in changes else ""
            change = f"{signed(new - old)} {sure}".strip()
            table.add_row(name, decimal(old), decimal(new), change)
    scored: list[Any] = [table] if table.row_count else []
    lines: list[Any] = [*scored, *_sample_lines(pairs), *_warning_lines(warnings), f"model   {run.model_path}"]
    page = run.path / "report.html"
    lines += [f"report  {page}"] if page.is_file() else []
    name = run.typed
    asking = f"zoo eval MODEL --reward {name}" if summary.get("head") == "scalar" else f"zoo chat {name}"
    typed = (asking, f"zoo eval {name}", f"zoo train --model {name} --algo …")
    apart = "    " if len("next    ") + len("    ".join(typed)) <= room else "\n        "
    lines += [f"next    {apart.join(typed)}"]
    if Measurement.get(console, console.options.update(max_width=10_000), table).minimum > room:
        table.box, table.padding = None, (0, 1, 0, 0)
    console.print(Panel(Group(*lines), title=Text(f"{run.name}: {amount(summary['steps'], 'step')}"), expand=False))


def sample_pairs(run: Run) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The samples of each evaluation and prompt, before and after training; else in the first and last validation."""
    samples, ends = read_samples(run), ("before", "after")
    if not any(row["when"] in ends for row in samples):
        samples = [row for row in samples if row["eval"] == HELD_OUT]
        ends = (samples[0]["when"], samples[-1]["when"]) if samples else ends
    before, after = (by_case(row for row in samples if row["when"] == when) for when in ends)
    return [(before[case], sample) for case, sample in after.items() if case in before]


def by_case(samples: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Samples by evaluation and prompt. Of several answers to a prompt each is a case of its own.

    They are drawn independently, so any two answers to a prompt may be compared.
    """
    cases: dict[str, dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    for sample in samples:
        asked = json.dumps([sample["eval"], sample["prompt"]], sort_keys=True)
        cases[f"{asked} {seen[asked]}"] = sample
        seen[asked] += 1
    return cases


def _sample_lines(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[Text | str]:
    """The held-out prompt whose answer improved most, before and after; the first two where there are no scores."""

    def gain(pair: tuple[dict[str, Any], dict[str, Any]]) -> float:
        return (pair[1]["score"] or 0) - (pair[0]["score"] or 0)

    best = sorted(pairs, key=gain, reverse=True)
    scored = any(new["score"] is not None for _, new in best)
    lines: list[Text | str] = ["The answer whose score rose most:"] if best and gain(best[0]) > 0 else []
    for old, new in best[: 1 if scored else 2]:
        prompt = new["prompt"] if isinstance(new["prompt"], str) else new["prompt"][-1]["content"]
        texts = {"prompt ": prompt, "before ": answer_in(old), "after  ": answer_in(new)}
        lines += [Text.assemble((name, "bold"), f" {printable(text)[:300]}") for name, text in texts.items()] + [""]
    return lines


def _warning_lines(warnings: Sequence[str]) -> list[Text | str]:
    """The first warnings of the report."""
    if not warnings:
        return []
    left = len(warnings) - SHOWN_WARNINGS
    more = [f"{left} more in the report"] if left > 0 else []
    return [Text.assemble(("caution ", "bold yellow"), line) for line in [*warnings[:SHOWN_WARNINGS], *more]] + [""]


def printable(text: str) -> str:
    """Text of a model or data set without control codes, on one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
