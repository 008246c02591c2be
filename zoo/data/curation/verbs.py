"""The three verbs: rows in, kept rows to a file, and an account of every removed one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy

from zoo.data.curation.contamination import Evaluation, Match
from zoo.data.curation.dedup import Exact, Near
from zoo.data.curation.removal import KeptRows, Removals
from zoo.data.curation.rows import Row, Rows, check_part, fields_of, good_answers
from zoo.data.curation.rules import PERPLEXITY, Rule, Texts
from zoo.data.load import judge
from zoo.errors import ZooError

Progress = Callable[[int, int], None]
"""Gets the rows read and the rows removed so far."""
Perplexities = Callable[[Sequence[Row], str], Mapping[int, float]]
"""From rows and their kind to the perplexity of each, by row number; rows that cannot be scored are absent."""
ROWS_A_REPORT = 500
SHOWN_PAIRS = 5
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Of the rows, for which the perplexity is told."""


def _nothing(rows: int, removed: int) -> None:
    pass


def _usable(rows: Rows, removals: Removals, progress: Progress) -> Iterator[tuple[Row, dict[str, Any]]]:
    """The rows that have a record, counted, with that record; the others are removed with the loader's reason."""
    removals.where = rows.report.where
    for row in rows.rows:
        removals.rows += 1
        if row.record is None:
            removals.unusable(row.number, rows.report)
        else:
            yield row, row.record
        if removals.rows % ROWS_A_REPORT == 0:
            progress(removals.rows, removals.removed)
    progress(removals.rows, removals.removed)


def _ended(rows: Rows, removals: Removals, file: KeptRows, strict: bool) -> Removals:
    """Raise ZooError for a damaged source or when nothing is left."""
    judge(rows.report, rows.report.kept, strict, share=1.0)
    removals.notes = [*rows.report.notes, *removals.notes]
    if file.converted:
        removals.notes.append(f"{file.converted:,} values that JSON has no word for were written as text.")
    return removals


def _example(record: dict[str, Any], kind: str) -> str:
    return "  |  ".join(fields_of(record, kind).values())


def dedup(
    rows: Rows,
    file: KeptRows,
    exact: Exact,
    near: Near | None = None,
    *,
    strict: bool = False,
    progress: Progress = _nothing,
) -> Removals:
    """Keep the first of rows that are the same, and with `near` of those that are almost so."""
    check_part(exact.part, rows.kind)
    removals, reason = Removals(), "the same" if not exact.normalised else "the same but for case and punctuation"
    for row, record in _usable(rows, removals, progress):
        if same := exact.earlier(record):
            removals.remove(row.number, reason, f"as {removals.where(same.row)}", _example(record, rows.kind))
        elif near is not None and (same := near.earlier(record)):
            why = f"{same.likeness:.3f} like {removals.where(same.row)}"
            removals.remove(row.number, "nearly the same", why, _example(record, rows.kind))
        else:
            removals.kept += 1
            file.write(row.columns)
    if exact.contradictions:
        shown = ", ".join(f"{row} and {earlier}" for row, earlier in exact.contradictions[:SHOWN_PAIRS])
        more = ", …" if len(exact.contradictions) > SHOWN_PAIRS else ""
        removals.notes.append(
            f"{len(exact.contradictions):,} kept rows have the texts of an earlier one and judge them otherwise "
            f"(rows {shown}{more}): the data contradicts itself there."
        )
    if near is not None:
        removals.notes.append(
            f"Of pairs that are exactly {near.threshold:g} alike hashing finds {near.found:.1%}, of closer ones more."
        )
    return _ended(rows, removals, file, strict)


def filter_rows(
    rows: Rows,
    file: KeptRows,
    rules: Mapping[str, Rule],
    perplexities: Perplexities | None = None,
    *,
    strict: bool = False,
    progress: Progress = _nothing,
) -> Removals:
    """Keep the rows that hold to every rule; a removed one counts under the first that it breaks.

    Rows that come as far as the rule of perplexity are held in memory and scored together.
    """
    removals = Removals()
    last = rules.get(PERPLEXITY)
    if last is not None and perplexities is None:
        raise ZooError("The rule perplexity needs a model.", "Name one with --model.")
    waiting: list[Row] = []
    for row, record in _usable(rows, removals, progress):
        texts = Texts(record, rows.kind)
        broken = next(((rule.name, *found) for rule in rules.values() if (found := rule.broken(texts))), None)
        if broken is not None:
            removals.remove(row.number, *broken)
        elif last is not None:
            waiting.append(row)
        else:
            removals.kept += 1
            file.write(row.columns)
    if last is not None and perplexities is not None:
        _by_perplexity(waiting, rows.kind, last, perplexities(waiting, rows.kind), removals, file)
    return _ended(rows, removals, file, strict)


def _by_perplexity(
    waiting: Sequence[Row], kind: str, rule: Rule, values: Mapping[int, float], removals: Removals, file: KeptRows
) -> None:
    rule = rule.within(list(values.values()))
    for row in waiting:
        value = values.get(row.number)
        if value is None:
            # A row that teaches what not to say is not held to it.
            why = "the model cannot read it" if good_answers(row.record or {}, kind) else ""
        else:
            why = rule.why(value)
        if why:
            removals.remove(row.number, PERPLEXITY, why, _example(row.record or {}, kind))
        else:
            removals.kept += 1
            file.write(row.columns)
    if values:
        found = numpy.quantile(list(values.values()), SHARES)
        shown = ", ".join(f"{share:.0%} up to {value:,.4g}" for share, value in zip(SHARES, found, strict=True))
        removals.notes.append(f"Perplexity of {len(values):,} rows: {shown}.")


def contamination(
    rows: Rows,
    file: KeptRows,
    evaluation: Evaluation,
    *,
    strict: bool = False,
    progress: Progress = _nothing,
) -> Removals:
    """Keep the rows that hold nothing of the evaluation sets."""
    removals = Removals()
    for row, record in _usable(rows, removals, progress):
        matches = evaluation.matches(fields_of(record, rows.kind).values())
        if matches:
            why = _shared(matches, evaluation)
            removals.remove(row.number, "contaminated", why, _example(record, rows.kind))
        else:
            removals.kept += 1
            file.write(row.columns)
    if evaluation.ignored:
        removals.notes.append(
            f"{evaluation.ignored:,} n-grams that stand in more than {evaluation.common} evaluation texts were ignored."
        )
    return _ended(rows, removals, file, strict)


def _shared(matches: Sequence[Match], evaluation: Evaluation) -> str:
    best = matches[0]
    more = f" and {len(matches) - 1:,} more" if len(matches) > 1 else ""
    return (
        f"{best.grams:,} of {best.item.grams:,} n-grams of {best.item.source}, row {best.item.row}{more}: "
        f"“{best.words}”"
    )
