"""Statistics of encoded records: tokens, lengths, how many answers end, which side of a pair is longer.

They are counted block by block, and their size does not grow with the number of records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy

from zoo.data.encoding.block import ANSWER_NAMES, CUT, ENDED, FLAGS, NAME, Block, Numbers, prompt_lengths, token_lengths
from zoo.numbers import amount

CONVERSATION, MARKED = ANSWER_NAMES.index("conversation"), ANSWER_NAMES.index("marked")


@dataclass
class Statistics:
    """Counts over encoded records. A conversation counts once, regardless of how many of its turns are trained."""

    records: int = 0
    prompt_lengths: Counter[int] = field(default_factory=Counter)
    answer_lengths: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    """Tokens of prompt and answer; of the prompt alone where there is no answer yet."""
    differences: Counter[int] = field(default_factory=Counter)
    """Of pairs: tokens of the chosen answer minus tokens of the rejected one."""
    trained: int = 0
    conversations: int = 0
    trained_all_turns: int = 0
    """Trained tokens of conversations in which every assistant turn is trained."""
    several_turns: int = 0
    """Conversations in which that is more than the completion."""
    in_last_turn: int = 0
    in_all_turns: int = 0
    """Trained tokens of these, in the completion and in every turn."""
    cut: int = 0
    ended: int = 0
    end_trained: int = 0
    distinct: int = 0
    """Answers, with a conversation of which more is trained than the completion as another one."""
    unended: int = 0
    """Those of them that were cut before their end."""
    desirable: int = 0

    @property
    def answers(self) -> int:
        """Answers, each once."""
        return self.answer_lengths.total()

    def add(self, block: Block, eos_ids: set[int]) -> None:
        """Count a block. eos_ids: the tokens that end an answer."""
        self.records += len(block)
        self.desirable += int(block.numbers.get("label", numpy.zeros(0)).sum())
        if block.kind == "prompt":
            self._add_lengths(prompt_lengths(block.entries()), None)
        elif len(block):
            self._add_answers(block, eos_ids)

    def merge(self, other: Statistics) -> None:
        """Add the counts of another part of the same data."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    def less(self, other: Statistics) -> Statistics:
        """The counts without those of a part of the same data."""
        return Statistics(**{item.name: getattr(self, item.name) - getattr(other, item.name) for item in fields(self)})

    def _add_answers(self, block: Block, eos_ids: set[int]) -> None:
        entries, owners = block.entries(), block.owners()
        trained, ends = block.trained(), block.end_trained(eos_ids)
        entries, owners, trained, ends = (of[entries[:, NAME] != MARKED] for of in (entries, owners, trained, ends))
        main = entries[:, NAME] != CONVERSATION
        self._add_lengths(prompt_lengths(entries[main]), token_lengths(entries[main]))
        flags = entries[main, FLAGS]
        self.trained += int(trained[main].sum())
        self.cut += int((flags & CUT > 0).sum())
        self.ended += int((flags & ENDED > 0).sum())
        self.end_trained += int(ends[main].sum())
        again = _repeated(entries, owners)
        self.distinct += int((~again).sum())
        self.unended += int((entries[~again][:, FLAGS] & ENDED == 0).sum())
        self._add_turns(trained, main, again)
        if block.kind == "preference":
            lengths = token_lengths(entries)
            self.differences += _counts(lengths[::2] - lengths[1::2])

    def _add_lengths(self, prompts: Numbers, answers: Numbers | None) -> None:
        self.prompt_lengths += _counts(prompts)
        self.lengths += _counts(prompts if answers is None else prompts + answers)
        if answers is not None:
            self.answer_lengths += _counts(answers)

    def _add_turns(self, trained: Numbers, main: Numbers, again: Numbers) -> None:
        """Count conversations, each of which stands right behind the completion of its record."""
        places = numpy.flatnonzero(~main)
        self.conversations += len(places)
        self.trained_all_turns += int(trained[places].sum())
        several = places[~again[places]]
        self.several_turns += len(several)
        self.in_all_turns += int(trained[several].sum())
        self.in_last_turn += int(trained[several - 1].sum())

    # -- what they say ---------------------------------------------------------------------------------------------

    def measured(self) -> dict[str, Any]:
        """The statistics for data.json: counts, lengths in tokens, shares from 0 to 1."""
        statistics: dict[str, Any] = {
            "answers": self.answers,
            "tokens": sum(length * count for length, count in self.lengths.items()),
            "trained_tokens": self.trained,
            **({"trained_tokens_all_turns": self.trained_all_turns} if self.conversations else {}),
            "prompt_lengths": quantiles(self.prompt_lengths),
            "answer_lengths": quantiles(self.answer_lengths),
            "cut": self.cut,
            "ended": self.ended,
        }
        if self.answers:
            statistics["end_trained"] = self.end_trained / self.answers
        if self.differences:
            statistics["chosen_longer"] = self.longer() / self.differences.total()
        return statistics

    def longer(self) -> int:
        """Pairs whose chosen answer has more tokens."""
        return sum(count for difference, count in self.differences.items() if difference > 0)

    def ends(self) -> tuple[int, int]:
        """Answers, and how many of them were cut before their end: what `ChatTemplate.preflight` takes."""
        return self.distinct, self.unended

    def balance(self, kind: str) -> dict[str, Any]:
        """For feedback the counts of labels, for pairs how often the chosen answer is longer."""
        if kind == "feedback":
            return {"labels": {"desirable": self.desirable, "undesirable": self.records - self.desirable}}
        if pairs := self.differences.total():
            shorter = sum(count for difference, count in self.differences.items() if difference < 0)
            return {
                "chosen_longer": self.longer() / pairs,
                "chosen_shorter": shorter / pairs,
                "chosen_minus_rejected": quantiles(self.differences),
            }
        return {}

    def summary(self) -> list[str]:
        """The sizes as plain lines; no line if there are no records."""
        facts = self.measured()
        prompts, answers = facts["prompt_lengths"], facts["answer_lengths"]
        if not prompts:
            return []
        if not answers:
            return [f"{amount(facts['tokens'], 'token')}; prompts {_span(prompts)} tokens long."]
        trained = f"{self.trained:,} of them trained"
        if self.conversations and self.trained_all_turns != self.trained:
            trained += f" ({self.trained_all_turns:,} with every assistant turn)"
        lengths = f"prompts {_span(prompts)}, answers {_span(answers)} tokens long"
        return [f"{amount(facts['tokens'], 'token')}, {trained}; {lengths}."]

    # -- kept beside the records -----------------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """All counts as JSON types; `from_json` reads them."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: sorted(value.items()) if isinstance(value, Counter) else value for name, value in values.items()}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Statistics:
        """The statistics that `as_json` wrote."""
        counts: dict[str, Any] = {
            name: Counter(dict(value)) if isinstance(value, list) else value for name, value in values.items()
        }
        return Statistics(**counts)


def _counts(values: Numbers) -> Counter[int]:
    different, counts = numpy.unique(values, return_counts=True)
    return Counter(dict(zip(different.tolist(), counts.tolist(), strict=True)))


def _repeated(entries: Numbers, owners: Numbers) -> Numbers:
    """Whether the answer before, of the same record, is the same one under another name, bool [A]."""
    again = numpy.zeros(len(entries), dtype=bool)
    again[1:] = (owners[1:] == owners[:-1]) & (entries[1:, NAME + 1 :] == entries[:-1, NAME + 1 :]).all(axis=1)
    return again


def nth(counts: Mapping[int, int], place: int) -> int:
    """The value at a place, from 0, of the counted values in ascending order."""
    for value in sorted(counts):
        place -= counts[value]
        if place < 0:
            return value
    raise IndexError(place)


def quantiles(counts: Mapping[int, int]) -> dict[str, int]:
    """Minimum, median, 95th percentile and maximum of counted values; empty without values."""
    last = sum(counts.values()) - 1
    if last < 0:
        return {}
    places = {"min": 0, "median": last // 2, "p95": int(last * 0.95), "max": last}
    return {name: nth(counts, place) for name, place in places.items()}


def _span(lengths: Mapping[str, int]) -> str:
    return f"{lengths['min']:,}–{lengths['max']:,} (median {lengths['median']:,})"
