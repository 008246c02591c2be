"""The perplexity of the rows of a data set under a model, for the perplexity rule of `zoo data filter`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from zoo.data.curation.rows import Row, good_answers, text_of
from zoo.data.encoding.encode import encode
from zoo.data.kinds import EXTRAS
from zoo.evals import Subject
from zoo.evals.answers import score_all

ROWS_AT_ONCE = 256


def perplexities(
    subject: Subject,
    rows: Sequence[Row],
    kind: str,
    max_length: int = 1024,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, float]:
    """exp of the mean negative log-probability per token of the answer that a row teaches, by row number.

    For a text or a bare prompt it is that of the whole. Longer rows are cut at max_length tokens. Rows that the chat
    template refuses, rows without tokens left after the cut, and rows without a good answer are absent.
    """
    values: dict[int, float] = {}
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = [record for row in rows[start : start + ROWS_AT_ONCE] if (record := _scored_as(row, kind))]
        encoded = encode(part, "text" if kind in ("text", "prompt") else "demonstration", subject.template,
                         max_length=max_length, long_rows="cut")  # fmt: skip
        scored = score_all(subject, [record["completion"] for record in encoded.records])
        for record, logps in zip(encoded.records, scored, strict=True):
            # Above e^700 a float overflows.
            values[record["row"]] = math.exp(min(-float(logps.mean()), 700.0))
        if progress is not None:
            progress(min(start + ROWS_AT_ONCE, len(rows)), len(rows))
    return values


def _scored_as(row: Row, kind: str) -> dict[str, Any] | None:
    """A demonstration with the good answer, or the text."""
    record = row.record or {}
    if kind == "text":
        return {"text": record["text"], "row": row.number}
    if kind == "prompt":
        return {"text": text_of(record["prompt"]), "row": row.number}
    if not (names := list(good_answers(record, kind))):
        return None
    name, _, index = names[0].partition("[")
    answer = record[name][int(index[:-1])] if index else record[name]
    answer = "\n".join(answer) if name == "steps" else answer
    extras = {name: record[name] for name in EXTRAS if record.get(name)}
    return {"prompt": record["prompt"], "completion": answer, "row": row.number, **extras}
