"""The three commands of curation: each reads rows, writes the rows it keeps, and accounts for every row it removes."""

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
from zoo.numbers import amount

Progress = Callable[[int, int], None]
"""Called with the numbers of rows read and removed so far."""
Perplexities = Callable[[Sequence[Row], str], Mapping[int, float]]
"""Takes rows and their kind and gives the perplexity of each by row number; rows that cannot be scored are absent."""
ROWS_A_REPORT = 500
SHOWN_PAIRS = 5
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""The quantiles of the perplexity that are printed."""


def _nothing(rows: int, removed: int) -> None:
    pass


def _usable(rows: Rows, removals: Removals, progress: Progress) -> Iterator[tuple[Row, dict[str, Any]]]:
    """The rows that have a record, with that record; counts all rows and removes the others for the loader's reason."""
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
    """The finished account; raises ZooError for a damaged source, or if no row is left."""
    judge(rows.report, rows.report.kept, strict, share=1.0)
    removals.notes = [*rows.report.notes, *removals.notes]
    if file.converted:
        removals.notes.append(f"Written as text, for JSON cannot represent it: {amount(file.converted, 'value')}.")
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
    """Keep the first of several equal rows; with `near` also the first of several similar rows."""
    check_part(exact.part, rows.kind)
    removals, reason = Removals(), "the same" if not exact.normalised else "the same but for case and punctuation"
    for row, record in _usable(rows, removals, progress):
        if same := exact.earlier(record):
            removals.remove(row.number, reason, f"as {removals.where(same.row)}", _example(record, rows.kind))
        elif near is not None and (same := near.earlier(record)):
            why = f"similarity {same.likeness:.3f} with {removals.where(same.row)}"
            removals.remove(row.number, "nearly the same", why, _example(record, rows.kind))
        else:
            removals.kept += 1
            file.write(row.columns)
    if exact.contradictions:
        shown = ", ".join(f"{row} and {earlier}" for row, earlier in exact.contradictions[:SHOWN_PAIRS])
        more = ", …" if len(exact.contradictions) > SHOWN_PAIRS else ""
        removals.notes.append(
            f"The data contradicts itself: {amount(len(exact.contradictions), 'kept row')} with the texts of an "
            f"earlier row but another judgement (rows {shown}{more})."
        )
    if near is not None:
        removals.notes.append(
            f"Hashing finds {near.found:.1%} of the pairs with similarity {near.threshold:g}, and more of closer pairs."
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
    """Keep the rows that break no rule; a removed row counts under the first rule that it breaks.

    Rows that only the perplexity rule has still to judge are held in memory and scored together.
    """
    removals = Removals()
    last = rules.get(PERPLEXITY)
    if last is not None and perplexities is None:
        raise ZooError("The rule perplexity needs a model.", "Name a model with --model.")
    waiting: list[Row] = []
    for row, record in _usable(rows, removals, progress):
        texts = Texts(record, rows.kind)
        broken = next(((rule.name, *reason) for rule in rules.values() if (reason := rule.broken(texts))), None)
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
            # A row without an answer to be learned has no perplexity to limit.
            why = "the model cannot read it" if good_answers(row.record or {}, kind) else ""
        else:
            why = rule.why(value)
        if why:
            removals.remove(row.number, PERPLEXITY, why, _example(row.record or {}, kind))
        else:
            removals.kept += 1
            file.write(row.columns)
    if values:
        quantiles = numpy.quantile(list(values.values()), SHARES)
        shown = ", ".join(f"{share:.0%} up to {value:,.4g}" for share, value in zip(SHARES, quantiles, strict=True))
        removals.notes.append(f"Perplexity of {amount(len(values), 'row')}: {shown}.")


def contamination(
    rows: Rows,
    file: KeptRows,
    evaluation: Evaluation,
    *,
    strict: bool = False,
    progress: Progress = _nothing,
) -> Removals:
    """Keep the rows that contain nothing of the evaluation sets."""
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
            f"Ignored: {amount(evaluation.ignored, 'n-gram')} that occur in more than "
            f"{amount(evaluation.common, 'evaluation text')}."
        )
    return _ended(rows, removals, file, strict)


def _shared(matches: Sequence[Match], evaluation: Evaluation) -> str:
    best = matches[0]
    more = f" and {len(matches) - 1:,} more" if len(matches) > 1 else ""
    return (
        f"{best.grams:,} of {best.item.grams:,} n-grams of {best.item.source}, row {best.item.row}{more}: "
        f"“{best.words}”"
    )
