"""The rows that guards object to, written whole, and the checkpoint that a rollback goes back to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from zoo.data.encoding.template import ChatTemplate
from zoo.errors import ZooError
from zoo.guards.watch import Objection
from zoo.processes import gathered, is_first
from zoo.runs import Run
from zoo.training.record.checkpoints import FolderCheckpoints, anchors
from zoo.values.loss import Loss
from zoo.values.types import Answers, Batch

OFFENDING = "offending.jsonl"


class Loader(Protocol):
    """The loader of a run's optimizer steps."""

    def records_of(self, step: int) -> list[dict[str, Any]]: ...


class Keeper:
    """Writes offending.jsonl, a line for each row of a step that a guard objects to.

    checkpoints: what the run writes its checkpoints with; say: called with what is wrong with one.
    """

    def __init__(
        self, run: Run, template: ChatTemplate, loader: Loader, save_every: int, checkpoints: FolderCheckpoints,
        say: Callable[[str], None],
    ):  # fmt: skip
        self.run, self.template, self.loader, self.save_every = run, template, loader, save_every
        self.checkpoints, self.say = checkpoints, say

    def keep(
        self, step: int, objections: Sequence[Objection], parts: Sequence[tuple[Batch, Loss]], back_to: int | None
    ) -> None:
        """Write the rows of a step, those of all processes. back_to: the step of the checkpoint that is restored."""
        mine = [row for part, loss in parts for row in self._rows(part, loss)]
        rows = [row for share in gathered(mine) for row in share]
        if not is_first():
            return
        records = {
            record["row"]: record.get("record") for record in self.loader.records_of(step - 1) if "row" in record
        }
        about = [{"guard": one.guard, "action": one.action, "why": one.why} for one in objections]
        facts = {"step": step, "objections": about, **({} if back_to is None else {"back_to": back_to})}
        with (self.run.path / OFFENDING).open("a", encoding="utf-8") as stream:
            for row in rows:
                line = {**facts, **row, "record": records.get(row["row"])}
                stream.write(json.dumps(line, default=str) + "\n")

    def _rows(self, part: Batch, loss: Loss) -> Iterator[dict[str, Any]]:
        """Number, loss and texts of each row of a micro-batch."""
        numbers = part["row"].tolist() if isinstance(part.fields.get("row"), Tensor) else part.fields.get("row")
        losses = _losses(loss) if len(loss.values) == len(part) else [None] * len(part)
        for i in range(len(part)):
            answers = {name: field[i] for name, field in part.fields.items() if isinstance(field, Answers)}
            row = numbers[i] if numbers is not None else next((a.row for a in answers.values()), None)
            yield {"row": row, "loss": losses[i], "texts": {name: self._text(one) for name, one in answers.items()}}

    def _text(self, answer: Any) -> str:
        return self.template.tokenizer.decode([*answer.prompt.tolist(), *answer.completion.tolist()])

    def good(self, step: int) -> dict[str, Any] | None:
        """The last checkpoint with a step between it and the one after `step`; None if there is none.

        That of `step` itself would not do: its weights may be what is bad about the next step.
        """
        self.checkpoints.settle()
        for folder in anchors(Path(gathered(str(self.run.checkpoints))[0]), self.save_every, max(0, step - 1)):
            try:
                return self.checkpoints.load_checkpoint(folder)
            except (ZooError, OSError) as error:
                self.say(f"{error} Trying the checkpoint before it.")
        return None


def _losses(loss: Loss) -> list[float | str]:
    """The loss of each example, the mean over its weights; what JSON has no number for as text."""
    values, weights = (part.double().reshape(len(part), -1) for part in (loss.values, loss.weights))
    means = ((values * weights).sum(1) / weights.sum(1)).tolist()
    return [mean if math.isfinite(mean) else str(mean) for mean in means]
