"""Rubrics: criteria with weights, from a file or from a column of the row, and the score of an answer by them.

The score is that of HealthBench (arXiv:2505.08775): the weights of the criteria that hold, merits and faults alike,
divided by the sum of the positive weights. Without negative weights it is equation 1 of Rubrics as Rewards
(arXiv:2507.17746).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from zoo.errors import ZooError, nearest
from zoo.options.strict_yaml import read_yaml
from zoo.paths import typed_path
from zoo.rewards.missing import Missing
from zoo.rewards.references import value_of

COLUMNS = ("rubric", "rubrics", "checklist", "criteria")
"""The columns that are searched for a rubric, in this order."""
TEXTS, WEIGHTS = ("criterion", "description"), ("weight", "points")
"""The keys of an entry, as data sets of rubrics have them."""
KEYS = ("id", *TEXTS, *WEIGHTS)
ID = re.compile(r"[\w.-]+")


class Criterion(NamedTuple):
    """What an answer is checked for. weight: negative for a fault; id: its name in metrics."""

    text: str
    weight: float
    id: str


def is_file(criteria: str) -> bool:
    """Whether the option `criteria` names a file, and not a column."""
    return criteria.endswith((".yaml", ".yml")) or "/" in criteria


def load_rubric(name: str) -> list[Criterion]:
    """The criteria of a YAML file (`criteria:`, a list). Raises ZooError that names the file, the entry and the key."""
    file = typed_path(name)
    if not file.is_file():
        raise ZooError(f"there is no file {name}", "Give a YAML file, or the name of a column that holds a rubric.")
    content = read_yaml(file)
    for key in content:
        if key != "criteria":
            raise ZooError(f"{file}: there is no key '{key}'", "Its one key is criteria.")
    rubric = _rubric(content.get("criteria"), str(file))
    for number, (criterion, entry) in enumerate(zip(rubric, content["criteria"], strict=True), start=1):
        for key in entry if isinstance(entry, Mapping) else ():
            if key not in KEYS:
                hint = f"{nearest(str(key), KEYS)} Keys: {', '.join(KEYS)}.".strip()
                raise ZooError(f"{file}: entry {number} cannot have the key '{key}'", hint)
        if not ID.fullmatch(criterion.id):
            raise ZooError(f"{file}: the id '{criterion.id}' is not one word of letters, digits, dots and dashes")
        if criterion.id in [earlier.id for earlier in rubric[: number - 1]]:
            raise ZooError(f"{file}: two criteria have the id '{criterion.id}'", "Each needs an id of its own.")
    return rubric


def rubric_of(record: Mapping[str, Any], column: str = "") -> list[Criterion] | Missing:
    """The rubric of a row, or why it has none. column: its column, if not one of COLUMNS."""
    entries = value_of(record, [column] if column else COLUMNS, "rubric")
    if isinstance(entries, Missing):
        return entries
    try:
        return _rubric(entries, "the row's rubric")
    except ZooError as error:
        return Missing(error.message)


def _rubric(entries: Any, where: str) -> list[Criterion]:
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise ZooError(f"{where}: there is no list of criteria", "Write `criteria:` and a list of them.")
    rubric = [_criterion(entry, number, f"{where}: entry {number}") for number, entry in enumerate(entries, start=1)]
    if not any(criterion.weight > 0 for criterion in rubric):
        raise ZooError(f"{where}: no weight is above 0", "The score is divided by the sum of the positive weights.")
    return rubric


def _criterion(entry: Any, number: int, where: str) -> Criterion:
    if isinstance(entry, str):
        entry = {TEXTS[0]: entry}
    if not isinstance(entry, Mapping):
        raise ZooError(f"{where} is neither a text nor a mapping", f"Keys: {', '.join(KEYS)}.")
    text = next((entry[key] for key in TEXTS if entry.get(key) is not None), None)
    weight = next((entry[key] for key in WEIGHTS if entry.get(key) is not None), 1.0)
    if not isinstance(text, str) or not text.strip():
        raise ZooError(f"{where} has no text under '{TEXTS[0]}'")
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not math.isfinite(weight):
        raise ZooError(f"{where} has the weight {weight!r:.40}, not a number")
    return Criterion(text.strip(), float(weight), str(entry.get("id", number)))


def score(rubric: Sequence[Criterion], met: Sequence[float]) -> float:
    """Σ weight·met / Σ positive weights. met: for each criterion the probability that it holds, or 0 or 1."""
    reached = sum(criterion.weight * share for criterion, share in zip(rubric, met, strict=True))
    return reached / sum(criterion.weight for criterion in rubric if criterion.weight > 0)
