"""Answers before, during and after training: side by side for the same prompt, and their numbers at every moment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.environments import answer_in
from zoo.evals import mean_score, share_score, within_0_and_1
from zoo.evals.kept_scores import HELD_OUT
from zoo.evals.pairs import Pair
from zoo.numbers import amount

PROMPTS_SHOWN = 12
"""Prompts on the page: half of them those that gained most, half those that lost most."""
MOMENTS_SHOWN = 4
"""Answers to one prompt: the first, the last, and some between."""
ROLLOUTS_SHOWN = 12
MOMENTS_COUNTED = 6
NOT_DETAILS = {"eval", "prompt", "when", "answer", "score", "length", "row", "messages"}
Row = Mapping[str, Any]


def moment(when: str) -> float:
    """Where a sample's `when` ("before", "step 20", "after") stands in time."""
    if when in ("before", "after"):
        return {"before": -1.0, "after": float("inf")}[when]
    number = when.rsplit(" ", 1)[-1]
    return float(number) if number.isdigit() else 0.0


def by_prompt(samples: Sequence[Row]) -> list[dict[str, Any]]:
    """Prompts that were answered at two moments at least: {"eval", "prompt", "answers": […], "change"}, in order."""
    cases: dict[str, list[Row]] = {}
    for row in samples:
        cases.setdefault(json.dumps([row["eval"], row["prompt"]]), []).append(row)
    prompts = []
    for rows in cases.values():
        rows = sorted(rows, key=lambda row: moment(row["when"]))
        if len({row["when"] for row in rows}) > 1:
            change = (rows[-1].get("score") or 0) - (rows[0].get("score") or 0)
            answers = [_answer(row) for row in _spread(rows, MOMENTS_SHOWN)]
            prompts.append({"eval": rows[0]["eval"], "prompt": rows[0]["prompt"], "answers": answers, "change": change})
    return prompts


def telling(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The prompts whose answers gained and lost most, or all where there are few."""
    if len(cases) <= PROMPTS_SHOWN:
        return list(cases)
    ranked, half = sorted(cases, key=lambda case: -case["change"]), PROMPTS_SHOWN // 2
    return ranked[:half] + ranked[-half:]


def passing(samples: Sequence[Row]) -> list[dict[str, Any]]:
    """Answers to prompts that were seen once, in order of the steps, evenly spread: those of rollouts."""
    several = {json.dumps([case["eval"], case["prompt"]]) for case in by_prompt(samples)}
    rows = [row for row in samples if json.dumps([row["eval"], row["prompt"]]) not in several]
    rows = sorted((row for row in rows if row["when"] not in ("before", "after")), key=lambda row: moment(row["when"]))
    return [{"prompt": row["prompt"], **_answer(row)} for row in _spread(rows, ROLLOUTS_SHOWN)]


def _spread(rows: Sequence[Any], count: int) -> list[Any]:
    """So many evenly, the first and the last among them."""
    if len(rows) <= count:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (count - 1))] for i in range(count)]


def _answer(row: Row) -> dict[str, Any]:
    length = row.get("length")
    details = {
        name: value for name, value in row.items() if name not in NOT_DETAILS and not isinstance(value, list | dict)
    }
    return {
        "when": row["when"], "score": row.get("score"),
        "text": answer_in(row),
        "length": amount(length, "token") if length is not None else amount(len(row["answer"].split()), "word"),
        "details": details,
    }  # fmt: skip


def moments(samples: Sequence[Row]) -> list[dict[str, Any]]:
    """A row per evaluation and moment, some of many: n, mean score with its interval, mean length, cut share."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in samples:
        groups.setdefault((row["eval"], row["when"]), []).append(row)
    rows = []
    for name in sorted({name for name, _ in groups}):
        ordered = sorted((when for of, when in groups if of == name), key=moment)
        rows += [_moment(name, when, groups[name, when]) for when in _spread(ordered, MOMENTS_COUNTED)]
    return rows


def _moment(name: str, when: str, rows: Sequence[Row]) -> dict[str, Any]:
    scores = [float(row["score"]) for row in rows if row.get("score") is not None]
    score = mean_score(name, scores, within_0_and_1(scores)) if scores else None
    lengths = [row["length"] for row in rows if row.get("length") is not None]
    cuts = [bool(row["cut"]) for row in rows if row.get("cut") is not None]
    cut = share_score("cut", sum(cuts), len(cuts)) if cuts else None
    return {
        "eval": name, "when": when, "n": len(rows), "score": score,
        "length": sum(lengths) / len(lengths) if lengths else None, "cut": cut,
    }  # fmt: skip


def mean_words(samples: Sequence[Row]) -> tuple[float | None, float | None]:
    """Words of the answers to the same prompts, before and after training.

    Texts of scored pairs do not count, nor those answers that a run writes to be read: they are two, and short.
    """
    written = [row for row in samples if row["eval"] != HELD_OUT and Pair.from_sample(row) is None]
    sides = {
        when: {
            json.dumps([row["eval"], row["prompt"]]): len(row["answer"].split())
            for row in written
            if row["when"] == when
        }
        for when in ("before", "after")
    }
    common = sides["before"].keys() & sides["after"].keys()
    if not common:
        return None, None
    before, after = (sum(counts[case] for case in common) / len(common) for counts in sides.values())
    return before, after
