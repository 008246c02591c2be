"""Scores in a run's folder: samples to read in samples.jsonl, and the number of each case in cases.jsonl.

Changes are computed from the cases. Older runs have no cases, but samples, which serve as well if every case has one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from zoo.errors import ZooError
from zoo.evals import Score
from zoo.evals.changes import Change, change
from zoo.paths import write_text
from zoo.runs import Run

Row = dict[str, Any]
SAMPLES, CASES = "samples.jsonl", "cases.jsonl"
HELD_OUT = "held-out"
"""The `eval` of answers to held-out prompts that no evaluation asked for."""
CASE = ("eval", "when", "cases", "about")
"""What a line of cases.jsonl holds."""
DIGITS = 6


def write_score(run: Run, when: str, score: Score) -> None:
    """Store the samples and cases of a score with `when` ("before", "after"), replacing earlier ones."""
    write_samples(run, score.name, when, score.samples)
    row = {"eval": score.name, "when": when, "about": _about(score.samples)}
    cases = [float(f"{case:.{DIGITS}g}") for case in score.cases]
    _replace(run, CASES, score.name, when, [{**row, "cases": cases}] if cases else [])


def write_samples(run: Run, name: str, when: str, samples: list[Row]) -> None:
    """Write samples to samples.jsonl, replacing earlier ones of the same evaluation and time."""
    _replace(run, SAMPLES, name, when, [{"eval": name, "when": when, **sample} for sample in samples])


def append_samples(run: Run, name: str, when: str, samples: list[Row]) -> None:
    """Add samples of a moment that comes once; what a resume makes again, it has cut off before."""
    rows = [{"eval": name, "when": when, **sample} for sample in samples]
    with (run.path / SAMPLES).open("a", encoding="utf-8") as stream:
        stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def copy_score(source: Run, run: Run, name: str, when: str) -> None:
    """Copy the samples and cases of a score from another run."""
    for file in (SAMPLES, CASES):
        rows = source.read_rows(file)
        _replace(run, file, name, when, [row for row in rows if (row["eval"], row["when"]) == (name, when)])


def read_samples(run: Run) -> list[Row]:
    return run.read_rows(SAMPLES, ("eval", "when"))


def with_cases(run: Run, when: str) -> Callable[[Score], Score]:
    """A function that adds the cases to a score of this run and time; none unless the run has stored all of them."""
    stored_cases = {row["eval"]: row for row in run.read_rows(CASES, CASE) if row["when"] == when}
    samples = [row for row in read_samples(run) if row["when"] == when]

    def completed(score: Score) -> Score:
        if stored := stored_cases.get(score.name):
            return replace(score, cases=stored["cases"], about=stored["about"])
        of_it = [row for row in samples if row["eval"] == score.name]
        values = [float(row["score"]) for row in of_it if row.get("score") is not None]
        complete = len(values) == len(of_it) == score.n
        return replace(score, cases=values if complete else [], about=_about(of_it))

    return completed


def changes_of(run: Run) -> dict[str, Change]:
    """The changes of all scores that were computed before and after training, by name."""
    before, after = (scores_of(run, when) for when in ("before", "after"))
    return {name: change(before[name], score) for name, score in after.items() if name in before}


def scores_of(run: Run, when: str) -> dict[str, Score]:
    """The scores of a finished run, with their cases."""
    scores, completed = run.part("summary.json", "scores", when), with_cases(run, when)
    try:
        return {name: completed(Score(**{**values, "name": name})) for name, values in scores.items()}
    except (TypeError, ValueError) as error:
        raise ZooError(
            f"{run.path / 'summary.json'} is damaged: a score {when} training is no score ({error}).",
            "Put it back from a copy, or leave the run out.",
        ) from None


def _about(samples: list[Row]) -> str:
    """A fingerprint of the stored prompts."""
    if not samples:
        return ""
    asked = json.dumps([sample["prompt"] for sample in samples], sort_keys=True)
    return hashlib.blake2b(asked.encode(), digest_size=6).hexdigest()


def _replace(run: Run, file: str, name: str, when: str, rows: list[Row]) -> None:
    """Write rows to a file, replacing those of the same evaluation and time."""
    kept = [row for row in run.read_rows(file) if (row["eval"], row["when"]) != (name, when)]
    if not kept and not rows and not (run.path / file).is_file():
        return
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in [*kept, *rows]]
    write_text(run.path / file, "".join(lines))
