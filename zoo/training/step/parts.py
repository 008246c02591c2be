"""The parts of a mixture in a step: the loss and the metrics of each beside those of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from zoo.training.step.sums import Pair
from zoo.values.loss import LARGEST, Loss, Metric, metric_sums
from zoo.values.types import Answers, Batch


@dataclass(frozen=True)
class Parts:
    """The labels of the parts of a mixture, and the number of rows before the first of each."""

    labels: Sequence[str]
    before: Sequence[int]

    def owners(self, rows: Any) -> numpy.ndarray[Any, Any]:
        """The index of the part of each row, [N]."""
        return numpy.searchsorted(numpy.asarray(self.before), numpy.asarray(rows), side="left") - 1

    def label(self, row: int) -> str:
        """The label of the part of a row."""
        return self.labels[int(self.owners([row])[0])]

    def means(self, columns: Mapping[str, Sequence[float]], rows: Sequence[int | None]) -> dict[str, float]:
        """The mean of each column over the rows of each part, as `NAME/LABEL`; values that are NaN do not count.

        columns: a value for each row, by name.
        """
        owners = self.owners([0 if row is None else row for row in rows])
        sums: dict[str, Pair] = {}
        for number, label in enumerate(self.labels):
            values = {name: torch.tensor(column)[owners == number] for name, column in columns.items()}
            sums |= {f"{name}/{label}": pair for name, pair in metric_sums(values).items()}
        return {name: float(total / count) for name, (total, count) in sums.items() if count}

    def sums(self, loss: Loss, batch: Batch) -> dict[str, Pair]:
        """Sums and counts of a micro-batch for each part, as `loss/LABEL`; empty where its rows are not known.

        A metric that is the largest value of a step has none, and neither has one with other values than one for each
        example or answer.
        """
        rows = _rows(batch)
        if rows is None:
            return {}
        sums: dict[str, Pair] = {}
        owners = self.owners(rows)
        for number, label in enumerate(self.labels):
            chosen = torch.as_tensor(numpy.flatnonzero(owners == number), device=loss.values.device)
            sums |= {f"{name}/{label}": pair for name, pair in _sums_of(loss, batch, chosen).items()}
        return sums


def _sums_of(loss: Loss, batch: Batch, examples: Tensor) -> dict[str, Pair]:
    """The sums of some examples of a micro-batch."""
    taken: dict[str, Metric] = {}
    for name, metric in {"loss": (loss.values.detach(), loss.weights), **loss.metrics}.items():
        columns = metric if isinstance(metric, tuple) else (metric,)
        if name.endswith(LARGEST) or any(column.ndim == 0 or len(column) != len(batch) for column in columns):
            continue
        chosen = tuple(column[examples.to(column.device)] for column in columns)
        taken[name] = (chosen[0], chosen[1]) if isinstance(metric, tuple) else chosen[0]
    return metric_sums(taken)


def _rows(batch: Batch) -> list[int] | None:
    """The row of each example of a batch; None where that is not known."""
    rows = batch.fields.get("row")
    if isinstance(rows, Tensor):
        return rows.tolist()
    if rows is None:
        fields = [field for field in batch.fields.values() if isinstance(field, Answers)]
        rows = [answer.row for answer in fields[0]] if fields else None
    known = isinstance(rows, list) and all(isinstance(row, int) for row in rows)
    return rows if known else None
