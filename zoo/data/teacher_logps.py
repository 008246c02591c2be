"""A teacher's log-probabilities beside a row: the column that `zoo label` writes and training reads.

The column `teacher_logps` holds, for C completion tokens and K words:

    prompt   16 hexadecimal digits, of sha256 over the prompt's token ids
    tokens   the completion's token ids, [C]
    ids      the likeliest words at each token, [C, K]
    logps    their log-probs, and that of all other words together, [C, K + 1]

Arrays are base64 of little-endian int32 and float32, row by row.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.values.records import Records
from zoo.values.top_logps import TopLogps
from zoo.values.types import Answer

COLUMN = "teacher_logps"
ROUNDING = 1e-4
"""What a log-probability may be above 0; NaN is not below it."""
ARRAYS = {"tokens": "<i4", "ids": "<i4", "logps": "<f4"}


def column_of(answer: Answer, ids: Tensor, logps: Tensor) -> dict[str, str]:
    """The column for an answer; ids [C, K], logps [C, K + 1]."""
    arrays = {"tokens": answer.completion, "ids": ids, "logps": logps}
    return {"prompt": _digest(answer.prompt), **{name: _text(array, ARRAYS[name]) for name, array in arrays.items()}}


def stored_logps(records: Sequence[Mapping[str, Any]]) -> TopLogps:
    """The teacher's log-probs of encoded demonstrations.

    Raises ZooError for a row without them, and for one whose tokens are not those that the teacher was given.
    """
    pairs = [_of_record(record) for record in records]
    _require_one_number({ids.shape[1] for ids, _ in pairs})
    return TopLogps([ids for ids, _ in pairs], [logps for _, logps in pairs])


def check_stored_logps(records: Records) -> None:
    """Look at the log-probs of all records before training, one after another; at the first ones of a stream.

    Raises ZooError as `stored_logps` does.
    """
    # A stream has a slice with an end, but no iterator.
    _require_one_number({_of_record(record)[0].shape[1] for record in records[: sys.maxsize]})


def _require_one_number(words: set[int]) -> None:
    if len(words) > 1:
        raise ZooError(
            "The rows have log-probs of different numbers of words.",
            "Label them with one --top-k: zoo label DATA --teacher MODEL.",
        )


def _of_record(record: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    answer: Answer = record["completion"]
    column = record["record"].get(COLUMN)
    if column is None:
        raise ZooError(
            f"Row {record['row']} has no teacher's log-probs, the column {COLUMN}.",
            "Write them first: zoo label DATA --teacher MODEL.",
        )
    arrays = arrays_of(column, record["row"])
    count = len(answer.completion)
    # The end of a long answer may be cut off in training.
    if column["prompt"] != _digest(answer.prompt) or arrays["tokens"][:count].tolist() != answer.completion.tolist():
        raise ZooError(
            f"Row {record['row']}: the teacher's log-probs are of other tokens than training has.",
            "Label the rows again with a teacher that has this model's tokenizer and chat template.",
        )
    words = len(arrays["ids"]) // len(arrays["tokens"])
    ids, logps = arrays["ids"].view(-1, words)[:count], arrays["logps"].view(-1, words + 1)[:count]
    return ids.long(), logps


def arrays_of(column: Any, row: Any) -> dict[str, Tensor]:
    """The arrays of the column, flat. Raises ZooError for one that is not whole."""
    try:
        arrays = {name: _array(column[name], kind) for name, kind in ARRAYS.items()}
        words, rest = divmod(len(arrays["ids"]), len(arrays["tokens"]))
        complete = rest == 0 and words > 0 and len(arrays["logps"]) == len(arrays["ids"]) + len(arrays["tokens"])
        complete = complete and bool((arrays["ids"] >= 0).all()) and bool((arrays["logps"] <= ROUNDING).all())
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        complete = False
    if not complete or not isinstance(column.get("prompt"), str):
        raise ZooError(f"Row {row}: the column {COLUMN} is damaged.", "Write it again: zoo label DATA --teacher MODEL.")
    return arrays


def _digest(ids: Tensor) -> str:
    return hashlib.sha256(ids.cpu().numpy().astype("<i4").tobytes()).hexdigest()[:16]


def _text(array: Tensor, kind: str) -> str:
    return base64.b64encode(array.cpu().numpy().astype(kind).tobytes()).decode()


def _array(text: str, kind: str) -> Tensor:
    return torch.from_numpy(numpy.frombuffer(base64.b64decode(text, validate=True), kind).copy())
