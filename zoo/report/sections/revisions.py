"""Answers that were critiqued and revised before a run was trained on them: how often, by which principle, and how.

Read from revisions.jsonl, in which an algorithm writes a line for each step: the `prompt`, its `row`, the `round` and
`principle`, the `answer` before, the `critique`, the `revision` ("" if it is empty), and whether it is `cut`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.evals import share_score
from zoo.evals.changes import change_of_values
from zoo.evals.refusals import refusal_of
from zoo.numbers import amount, signed
from zoo.report.plots.bars import shares
from zoo.report.plots.tables import Panel, Table
from zoo.runs import Run

FIELDS = {"row", "prompt", "round", "principle", "answer", "critique", "revision", "cut"}
SHOWN = 6
Step = Mapping[str, Any]


def read_steps(run: Run) -> list[Step]:
    """The steps of a run, in order; none if the file is absent or has other fields."""
    return [row for row in run.read_rows("revisions.jsonl") if row.keys() >= FIELDS]


def revision_panels(steps: Sequence[Step]) -> list[Panel]:
    """Shares of answers that changed and that refuse, round by round, and a table with a line for each principle."""
    if not steps:
        return []
    rounds = {k: [step for step in steps if step["round"] == k] for k in sorted({step["round"] for step in steps})}
    changed = {f"round {k}": (sum(map(_changed, of_it)), len(of_it)) for k, of_it in rounds.items()}
    refused = {f"after round {k}": [_refused(_stands(step)) for step in of_it] for k, of_it in rounds.items()}
    first = next(iter(rounds.values()))
    sides = {"first answers": [_refused(_before(step)) for step in first], **refused}
    panels = [
        shares("answers revised", changed, "round", "Revisions that differ from the answer they revise."),
        shares(
            "refused or evaded", {side: (sum(hits), len(hits)) for side, hits in sides.items()}, "answers",
            "Detected by a few patterns. " + _change(list(sides.values())),
        ),
        _by_round(rounds),
        _by_principle(steps),
    ]  # fmt: skip
    return [panel for panel in panels if panel is not None]


def _changed(step: Step) -> bool:
    return bool(step["revision"]) and step["revision"] != step["answer"]


def _before(step: Step) -> str:
    return str(step["answer"])


def _stands(step: Step) -> str:
    """The answer after a step; an empty revision keeps the answer before."""
    return step["revision"] or _before(step)


def _refused(text: str) -> bool:
    return bool(refusal_of(text))


def _change(sides: Sequence[Sequence[bool]]) -> str:
    """The change from the first share to the last, over the same prompts."""
    first, last = sides[0], sides[-1]
    if len(first) != len(last):
        return ""
    change = change_of_values(first, last)
    sure = f" {change.around} (95 %)" if change.around else ""
    return f"Change from first to last: {signed(change.value)}{sure}, on the same {amount(len(first), 'prompt')}."


def _by_round(rounds: Mapping[int, Sequence[Step]]) -> Table:
    rows = [
        (k, len(of_it), sum(map(_changed, of_it)), sum(not step["revision"] for step in of_it),
         sum(bool(step["cut"]) for step in of_it), sum(not step["critique"] for step in of_it), *_words(of_it))
        for k, of_it in rounds.items()
    ]  # fmt: skip
    columns = ("round", "answers", "changed", "revision empty", "revision cut", "critique empty", "words before",
               "words after")  # fmt: skip
    return Table("rounds of critique", columns, rows, "Counts, and the mean words of an answer.")


def _by_principle(steps: Sequence[Step]) -> Table:
    """The most frequently sampled first."""
    groups: dict[str, list[Step]] = {}
    for step in steps:
        groups.setdefault(str(step["principle"]), []).append(step)
    rows = []
    for principle, drawn in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        hits = sum(map(_changed, drawn))
        share = share_score(principle, hits, len(drawn))
        before, after = (sum(_refused(side(step)) for step in drawn) for side in (_before, _stands))
        rows.append((principle, len(drawn), hits, share.value, share.low, share.high, before, after, *_words(drawn)))
    columns = ("principle", "sampled", "changed", "share changed", "low", "high", "refused before", "refused after",
               "words before", "words after")  # fmt: skip
    note = (
        "low and high: the 95 % Wilson interval of the share changed. Refused or evaded: counts, detected by patterns."
    )
    return Table("principles and what they changed", columns, rows, note)


def _words(steps: Sequence[Step]) -> tuple[float, float]:
    """Mean words of an answer before and after."""
    before, after = (sum(len(side(step).split()) for step in steps) for side in (_before, _stands))
    return before / len(steps), after / len(steps)


def triptychs(steps: Sequence[Step]) -> list[Step]:
    """A few steps to read: first those where only one side refuses, then those that changed; spread over the run."""
    ranked: dict[int, list[Step]] = {0: [], 1: [], 2: []}
    for step in steps:
        turned = _refused(_before(step)) != _refused(_stands(step))
        ranked[0 if turned else 1 if _changed(step) else 2].append(step)
    shown: list[Step] = []
    for group in ranked.values():
        room = SHOWN - len(shown)
        shown += group[:: max(1, -(-len(group) // room))][:room] if room else []
    return shown
