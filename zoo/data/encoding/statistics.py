"""Statistics of encoded records: tokens, lengths, how many answers end, which side of a pair is longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.data.encoding.template import ends_trained
from zoo.values.answers import answers_in
from zoo.values.types import Answer


def measure(records: Sequence[Mapping[str, Any]], eos_ids: set[int]) -> dict[str, Any]:
    """Statistics of encoded records as JSON: counts, lengths in tokens, shares from 0 to 1."""
    answers = [answer for record in records for answer in main_answers(record)]
    prompts = [len(answer.prompt) for answer in answers] or [len(r["prompt"]) for r in records if "prompt" in r]
    turns = [record["conversation"] for record in records if "conversation" in record]
    statistics: dict[str, Any] = {
        "answers": len(answers),
        "tokens": sum(map(len, answers)) if answers else sum(prompts),
        "trained_tokens": _trained(answers),
        **({"trained_tokens_all_turns": _trained(turns)} if turns else {}),
        "prompt_lengths": quantiles(prompts),
        "answer_lengths": quantiles([len(answer.completion) for answer in answers]),
        "cut": sum(answer.cut for answer in answers),
        "ended": sum(answer.ended for answer in answers),
    }
    if answers:
        statistics["end_trained"] = sum(ends_trained(answer, eos_ids) for answer in answers) / len(answers)
    pairs = [record for record in records if "chosen" in record]
    if pairs:
        longer = [len(pair["chosen"].completion) > len(pair["rejected"].completion) for pair in pairs]
        statistics["chosen_longer"] = sum(longer) / len(pairs)
    return statistics


def summary(statistics: Mapping[str, Any]) -> list[str]:
    """The sizes as plain lines; no line if there are no records."""
    prompts, answers = statistics["prompt_lengths"], statistics["answer_lengths"]
    if not prompts:
        return []
    if not answers:
        return [f"{statistics['tokens']:,} tokens; prompts {_span(prompts)} tokens long."]
    trained = f"{statistics['trained_tokens']:,} of them trained"
    trained_in_all_turns = statistics.get("trained_tokens_all_turns", statistics["trained_tokens"])
    if trained_in_all_turns != statistics["trained_tokens"]:
        trained += f" ({trained_in_all_turns:,} with every assistant turn)"
    lengths = f"prompts {_span(prompts)}, answers {_span(answers)} tokens long"
    return [f"{statistics['tokens']:,} tokens, {trained}; {lengths}."]


def quantiles(values: Sequence[int]) -> dict[str, int]:
    """Minimum, median, 95th percentile and maximum; empty without values."""
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {"min": ordered[0], "median": ordered[last // 2], "p95": ordered[int(last * 0.95)], "max": ordered[-1]}


def main_answers(record: Mapping[str, Any]) -> list[Answer]:
    """The answers of an encoded record; a conversation counts once, regardless of how many of its turns are trained."""
    return answers_in({name: value for name, value in record.items() if name != "conversation"})


def _trained(answers: Sequence[Answer]) -> int:
    return sum(int(answer.mask.sum()) for answer in answers)


def _span(lengths: Mapping[str, int]) -> str:
    return f"{lengths['min']:,}–{lengths['max']:,} (median {lengths['median']:,})"
