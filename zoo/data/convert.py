"""Conversions from one kind of data to a kind that needs less, and the reasons why other conversions are refused.

Nothing is made up: if the data holds less than the wanted kind needs, the conversion is refused with a reason. `row`
and every extra column are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from zoo.data.formats import FORMATS, SIDES, names_side
from zoo.data.kinds import KINDS, Record, prompt_key
from zoo.errors import ZooError, nearest
from zoo.numbers import amount


def convert(
    records: list[Record], source_kind: str, wanted_kind: str, *, pairs: str = "all"
) -> tuple[list[Record], str]:
    """Convert records to another kind; returns them and a note (empty when nothing had to be done).

    `pairs` says which pairs a ranking gives: "all", or "best-worst" for one pair a prompt.
    Raises ZooError for a conversion that would have to invent something.
    """
    for name in (source_kind, wanted_kind):
        if name not in KINDS:
            raise ZooError(
                f"There is no data kind '{name}'.{nearest(name, KINDS)}",
                hint="The kinds are: " + ", ".join(KINDS) + ".",
            )
    if source_kind == wanted_kind:
        return records, ""
    conversion = CONVERSIONS.get((source_kind, wanted_kind))
    if conversion is None:
        raise _refusal(records, source_kind, wanted_kind)
    if (source_kind, wanted_kind) == ("ranking", "preference"):
        conversion = ranked(pairs)
    converted = [made for record in records for made in conversion.each(record)]
    if conversion.once:
        first: dict[str, Record] = {}
        for record in converted:
            first.setdefault(prompt_key(record), record)
        converted = list(first.values())
    return converted, conversion.note(len(records), len(converted))


@dataclass(frozen=True)
class Conversion:
    """What each record becomes. once: each prompt is kept once only, at its first place."""

    each: Callable[[Record], Iterable[Record]]
    note: Callable[[int, int], str]
    """The sentence about so many records that became so many."""
    once: bool = False


def kinds_that_serve(wanted_kind: str) -> list[str]:
    """The kinds of data that serve an algorithm which asks for `wanted_kind`, that kind first."""
    return [wanted_kind] + [source for source, wanted in CONVERSIONS if wanted == wanted_kind]


def _refusal(records: list[Record], source_kind: str, wanted_kind: str) -> ZooError:
    source, wanted = KINDS[source_kind], KINDS[wanted_kind]
    extra = [name for name in (records[0] if records else {}) if name not in (*source.fields, "row")]
    unread = [field for field in wanted.required if field not in source.fields]
    missing = [field for field in unread if field not in extra]
    others = [name for name in extra if name not in unread]
    hint = f"Kinds of data that would do: {', '.join(kinds_that_serve(wanted_kind))}."
    if unread and not missing:
        # The columns exist, but their values made the data look like another kind.
        reason = f"the values of {' and '.join(unread)} do not fit this kind"
        meant = next(name for name, format in FORMATS.items() if format.kind == wanted_kind)
        hint = f"--format {meant} reads the data as that kind anyway and lists the rows that do not fit."
    else:
        reason = _REFUSALS.get((source_kind, wanted_kind)) or _missing_fields(missing)
    if others and missing:
        hint += f" If one of the other columns ({', '.join(others[:8])}) holds what is missing, say which"
        pair = _meant(missing, others)
        hint += f": --columns {pair[0]}={pair[1]}" if pair else f" with --columns {missing[0]}=NAME."
    return ZooError(
        f"The data is of kind '{source_kind}' ({source.description}), but kind '{wanted_kind}' "
        f"({wanted.description}) is needed: {reason}.",
        hint=hint,
    )


def _meant(missing: list[str], others: list[str]) -> tuple[str, str] | None:
    """A field and the column that may hold it, by its name: never the better answer as the worse one, nor the reverse.

    None where the columns' names say that they hold something else.
    """
    named = {column: field for field in SIDES for column in others if names_side(column, field)}
    for column in others:
        if named.get(column) in missing:
            return named[column], column
    free = [column for column in others if column not in named]
    return (missing[0], free[0]) if free else None


def _missing_fields(missing: list[str]) -> str:
    return "it has no " + " and no ".join(missing) if missing else "one cannot be made from the other"


_REFUSALS = {
    ("feedback", "preference"): "labels say whether an answer is good, not which of two answers to the same "
    "prompt is the better one",
    ("ranking", "feedback"): "a rank says which answer is better, not whether it is good",
    ("demonstration", "feedback"): "there are only good answers, and no label",
    ("demonstration", "text"): "an answer and its prompt become text only through a chat template",
}


def _without(record: Record, *fields: str) -> Record:
    return {name: value for name, value in record.items() if name not in fields}


def _single(record: Record, answer: Any, **more: Any) -> Record:
    """A record with one answer, without the fields of pairs and rankings."""
    rest = _without(
        record, "prompt", "completion", "chosen", "rejected", "completions", "ranks", "margin", "p_chosen", "label"
    )
    return {"prompt": record["prompt"], "completion": answer, **more, **rest}


def _preference_to_feedback(record: Record) -> list[Record]:
    return [_single(record, record[side], label=side == "chosen") for side in ("chosen", "rejected")]


def _preference_to_demonstration(record: Record) -> list[Record]:
    return [_single(record, record["chosen"])]


def _preference_to_ranking(record: Record) -> list[Record]:
    rest = _without(record, "prompt", "chosen", "rejected", "margin", "p_chosen")
    answers = [record["chosen"], record["rejected"]]
    return [{"prompt": record["prompt"], "completions": answers, "ranks": [1, 2], **rest}]


def _ranking_to_demonstration(record: Record) -> list[Record]:
    return [_single(record, record["completions"][record["ranks"].index(min(record["ranks"]))])]


def _ranking_to_preference(record: Record, pairs: str = "all") -> list[Record]:
    rest = _without(record, "prompt", "completions", "ranks")
    return [
        {"prompt": record["prompt"], "chosen": better, "rejected": worse, **rest}
        for better, worse in _ranked_pairs(record, pairs)
    ]


def ranked(pairs: str) -> Conversion:
    """From rankings to pairs. Raises ZooError for a choice of pairs that there is not."""
    if pairs not in ("all", "best-worst"):
        raise ZooError(f"Rankings cannot be turned into '{pairs}' pairs.", hint="Choose all or best-worst.")
    which = "every pair of unequal ranks" if pairs == "all" else "the best against the worst"
    return Conversion(
        partial(_ranking_to_preference, pairs=pairs),
        lambda before, after: f"{amount(before, 'ranking')} became {amount(after, 'pair')}: {which}.",
    )


def _ranked_pairs(record: Record, pairs: str) -> Iterator[tuple[Any, Any]]:
    """Pairs (better, worse) of one ranking; ties and equal answers give none."""
    ordered = sorted(zip(record["ranks"], record["completions"], strict=True), key=lambda item: item[0])
    candidates: Any = itertools.combinations(ordered, 2) if pairs == "all" else [(ordered[0], ordered[-1])]
    for (better_rank, better), (worse_rank, worse) in candidates:
        if better_rank < worse_rank and better != worse:
            yield better, worse


def _feedback_to_demonstration(record: Record) -> list[Record]:
    return [_single(record, record["completion"])] if record["label"] else []


ANSWERED = {name for kind in KINDS.values() for name in kind.required} - {"prompt"} | {"margin", "p_chosen"}
"""Fields that a prompt alone does not have."""


def _to_prompt(record: Record) -> list[Record]:
    return [_without(record, *ANSWERED)]


def _prompts_note(before: int, after: int) -> str:
    merged = "" if after == before else f" of {amount(before, 'record')}, each once"
    return f"Only the prompts are used, not their answers: {amount(after, 'prompt')}{merged}."


# A prompt with two answers must not count twice.
_PROMPTS = Conversion(_to_prompt, _prompts_note, once=True)
CONVERSIONS: dict[tuple[str, str], Conversion] = {
    ("preference", "feedback"): Conversion(
        _preference_to_feedback,
        lambda before, after: (
            f"{amount(before, 'pair')} became {amount(after, 'labelled answer')}: each chosen one desirable, "
            "each rejected one undesirable."
        ),
    ),
    ("preference", "demonstration"): Conversion(
        _preference_to_demonstration,
        lambda before, after: (
            f"{amount(before, 'pair')} became demonstrations: the chosen answers; the rest is unused."
        ),
    ),
    ("preference", "ranking"): Conversion(
        _preference_to_ranking, lambda before, after: f"{amount(before, 'pair')} became rankings of two answers."
    ),
    ("preference", "prompt"): _PROMPTS,
    ("ranking", "preference"): ranked("all"),
    ("ranking", "demonstration"): Conversion(
        _ranking_to_demonstration,
        lambda before, after: f"{amount(before, 'ranking')} became demonstrations: the best answer of each.",
    ),
    ("ranking", "prompt"): _PROMPTS,
    ("feedback", "demonstration"): Conversion(
        _feedback_to_demonstration,
        lambda before, after: (
            f"{after:,} of {amount(before, 'labelled answer')} are desirable and became demonstrations; "
            f"{before - after:,} are unused."
        ),
    ),
    ("feedback", "prompt"): _PROMPTS,
    ("demonstration", "prompt"): _PROMPTS,
    ("stepwise", "prompt"): _PROMPTS,
}
