"""From rows of data to the pairs of answers that a judge compares; missing answers are sampled from a model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.data.kinds import EXTRAS, KINDS, Record, prompt_key

CHUNK = 8
"""Prompts that are answered, judged and written together; a kill loses at most the work of one such chunk."""
OWN = ("p_chosen", "margin", "judge", "wording", "principle", "p_orders", "thoughts", "source_row", "pair", "agrees",
       "cut_answers")  # fmt: skip
"""Columns of labelled rows; they replace columns of the data with the same names."""


class Cut(str):
    """The text of a sampled answer that the greatest length cut off."""


@dataclass
class Group:
    """A prompt and its answers. row: its number in the source; labels: the data's label of each answer, None without
    one; draw: how many answers are missing; rest: the row's other columns."""

    row: int
    prompt: Any
    answers: list[Any] = field(default_factory=list)
    labels: list[float | None] = field(default_factory=list)
    draw: int = 0
    rest: dict[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of pairs that it gives."""
        answers = len(self.answers) + self.draw
        return answers * (answers - 1) // 2


@dataclass(frozen=True)
class Pair:
    """Two answers to compare. number: of the pair in its group; a_is_better: the data's label, None without one."""

    group: Group
    number: int
    a: Any
    b: Any
    a_is_better: bool | None

    @property
    def key(self) -> tuple[int, int]:
        return self.group.row, self.number


Draw = Callable[[Sequence[Group], int], list[list[str] | None]]
"""A function of groups and a seed: the missing answers to each group's prompt, `Cut` if they have no end; None if the
model cannot take the prompt."""


def groups_of(records: Sequence[Record], kind: str, samples: int) -> list[Group]:
    """The records as groups: pairs unchanged, judged answers by their prompt, `samples` answers for a bare prompt.

    For a prompt with a single answer, one more answer is sampled.
    """
    if kind == "preference":
        return [
            Group(
                record["row"], record["prompt"], [record["chosen"], record["rejected"]], [1.0, 0.0], rest=_rest(record)
            )
            for record in records
        ]
    if kind == "prompt":
        return [Group(record["row"], record["prompt"], draw=samples, rest=_rest(record)) for record in records]
    groups: dict[str, Group] = {}
    for record in records:
        group = groups.setdefault(prompt_key(record), Group(record["row"], record["prompt"], rest=_rest(record)))
        group.answers.append(record["completion"])
        group.labels.append(float(record["label"]))
    for group in groups.values():
        group.draw = 1 if len(group.answers) == 1 else 0
    return list(groups.values())


def _rest(record: Record) -> dict[str, Any]:
    """The extra columns, and what the prompt has for its template."""
    taken = {name for kind in KINDS.values() for name in kind.fields} - {*EXTRAS} | {"row", *OWN}
    return {name: value for name, value in record.items() if name not in taken}


def pairs_of(group: Group, drawn: Sequence[str]) -> Iterator[Pair]:
    """Every two answers of a group."""
    answers = [*group.answers, *drawn]
    labels = [*group.labels, *[None] * len(drawn)]
    for number, (i, j) in enumerate(itertools.combinations(range(len(answers)), 2)):
        first, second = labels[i], labels[j]
        better = None if first is None or second is None or first == second else first > second
        yield Pair(group, number, answers[i], answers[j], better)
