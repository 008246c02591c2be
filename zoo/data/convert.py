"""Conversions from one kind of data to a kind that needs less, and the reasons why other conversions are refused.

Nothing is made up: if the data holds less than the wanted kind needs, the conversion is refused with a reason. `row`
and every extra column are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from zoo.data.formats import FORMATS
from zoo.data.kinds import KINDS, Record, prompt_key
from zoo.errors import ZooError, nearest


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
        return _ranking_to_preference(records, pairs)
    return conversion(records)


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
        hint += (
            f" If one of the other columns ({', '.join(others[:8])}) holds what is missing, say which:"
            f" --columns {missing[0]}={others[0]}"
        )
    return ZooError(
        f"The data is of kind '{source_kind}' ({source.description}), but kind '{wanted_kind}' "
        f"({wanted.description}) is needed: {reason}.",
        hint=hint,
    )


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


def _preference_to_feedback(records: list[Record]) -> tuple[list[Record], str]:
    converted = [
        _single(record, record[side], label=side == "chosen") for record in records for side in ("chosen", "rejected")
    ]
    return converted, (
        f"{len(records):,} pairs became {len(converted):,} labelled answers: "
        "each chosen one desirable, each rejected one undesirable."
    )


def _preference_to_demonstration(records: list[Record]) -> tuple[list[Record], str]:
    converted = [_single(record, record["chosen"]) for record in records]
    return converted, f"{len(records):,} pairs became demonstrations: the chosen answers; the rest is unused."


def _preference_to_ranking(records: list[Record]) -> tuple[list[Record], str]:
    converted = [
        {
            "prompt": record["prompt"],
            "completions": [record["chosen"], record["rejected"]],
            "ranks": [1, 2],
            **_without(record, "prompt", "chosen", "rejected", "margin", "p_chosen"),
        }
        for record in records
    ]
    return converted, f"{len(records):,} pairs became rankings of two answers."


def _ranking_to_demonstration(records: list[Record]) -> tuple[list[Record], str]:
    converted = [
        _single(record, record["completions"][record["ranks"].index(min(record["ranks"]))]) for record in records
    ]
    return converted, f"{len(records):,} rankings became demonstrations: the best answer of each."


def _ranking_to_preference(records: list[Record], pairs: str = "all") -> tuple[list[Record], str]:
    if pairs not in ("all", "best-worst"):
        raise ZooError(f"Rankings cannot be turned into '{pairs}' pairs.", hint="Choose all or best-worst.")
    converted = []
    for record in records:
        rest = _without(record, "prompt", "completions", "ranks")
        for better, worse in _ranked_pairs(record, pairs):
            converted.append({"prompt": record["prompt"], "chosen": better, "rejected": worse, **rest})
    which = "every pair of unequal ranks" if pairs == "all" else "the best against the worst"
    return converted, f"{len(records):,} rankings became {len(converted):,} pairs: {which}."


def _ranked_pairs(record: Record, pairs: str) -> Iterator[tuple[Any, Any]]:
    """Pairs (better, worse) of one ranking; ties and equal answers give none."""
    ordered = sorted(zip(record["ranks"], record["completions"], strict=True), key=lambda item: item[0])
    candidates: Any = itertools.combinations(ordered, 2) if pairs == "all" else [(ordered[0], ordered[-1])]
    for (better_rank, better), (worse_rank, worse) in candidates:
        if better_rank < worse_rank and better != worse:
            yield better, worse


def _feedback_to_demonstration(records: list[Record]) -> tuple[list[Record], str]:
    converted = [_single(record, record["completion"]) for record in records if record["label"]]
    return converted, (
        f"{len(converted):,} of {len(records):,} labelled answers are desirable and became "
        f"demonstrations; {len(records) - len(converted):,} are unused."
    )


def _to_prompt(records: list[Record]) -> tuple[list[Record], str]:
    """The prompts alone, each once: a prompt with two answers must not count twice."""
    fields = {name for kind in KINDS.values() for name in kind.required} - {"prompt"} | {"margin", "p_chosen"}
    converted, seen = [], set()
    for record in records:
        key = prompt_key(record)
        if key not in seen:
            seen.add(key)
            converted.append(_without(record, *fields))
    merged = "" if len(converted) == len(records) else f" of {len(records):,} records, each once"
    return converted, f"{len(converted):,} prompts{merged} are used, their answers are not."


CONVERSIONS: dict[tuple[str, str], Callable[[list[Record]], tuple[list[Record], str]]] = {
    ("preference", "feedback"): _preference_to_feedback,
    ("preference", "demonstration"): _preference_to_demonstration,
    ("preference", "ranking"): _preference_to_ranking,
    ("preference", "prompt"): _to_prompt,
    ("ranking", "preference"): _ranking_to_preference,
    ("ranking", "demonstration"): _ranking_to_demonstration,
    ("ranking", "prompt"): _to_prompt,
    ("feedback", "demonstration"): _feedback_to_demonstration,
    ("feedback", "prompt"): _to_prompt,
    ("demonstration", "prompt"): _to_prompt,
    ("stepwise", "prompt"): _to_prompt,
}
