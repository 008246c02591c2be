"""How surprising a model finds the rows of a data set: for `zoo data filter` and its rule of perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from zoo.data.curation.rows import Row, good_answers, text_of
from zoo.data.encoding.encode import encode
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
    """exp of the mean negative log-probability a token, by row number, of the answer that a row is there to teach.

    Of a text or a bare prompt: of all of it. Longer rows are cut at max_length tokens; rows that the chat template
    refuses or cuts away are absent, and so are those without a good answer.
    """
    found: dict[int, float] = {}
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = [record for row in rows[start : start + ROWS_AT_ONCE] if (record := _scored_as(row, kind))]
        encoded = encode(part, "text" if kind in ("text", "prompt") else "demonstration", subject.template,
                         max_length=max_length, long_rows="cut")  # fmt: skip
        scored = score_all(subject, [record["completion"] for record in encoded.records])
        for record, logps in zip(encoded.records, scored, strict=True):
            # Beyond e^700 a float ends.
            found[record["row"]] = math.exp(min(-float(logps.mean()), 700.0))
        if progress is not None:
            progress(min(start + ROWS_AT_ONCE, len(rows)), len(rows))
    return found


def _scored_as(row: Row, kind: str) -> dict[str, Any] | None:
    """A demonstration of the good answer, or the text."""
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
    tools = {"tools": record["tools"]} if record.get("tools") else {}
    return {"prompt": record["prompt"], "completion": answer, "row": row.number, **tools}
