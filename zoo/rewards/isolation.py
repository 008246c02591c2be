"""Rewards that can neither hang nor end the run: each has a process of its own, with a time limit for every batch.

A batch that fails is repeated one answer at a time, so that only the bad answers have no reward; an answer that cannot
be scored gets `Missing`, with the reason.
"""

from __future__ import annotations

import json
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import Pipe
from typing import Any

from zoo.contract.own_process import GRACE, LOADING, Failure, Target, end, ending, interpreter, memory_limit, place_in
from zoo.numbers import amount
from zoo.rewards.functions import Parameter, facts_of
from zoo.rewards.missing import Missing, from_json

Value = float | None | Missing
HUNG = 3
"""If this many answers hang one after another, and no answer has been scored, the rest of a batch is given up."""


class Isolated:
    """A reward function in a process of its own. Raises Failure if it cannot be loaded.

    timeout: seconds for a batch of answers. `miscounted`: a message if the last batch had more or fewer values than
    answers, else "".
    """

    details: Mapping[str, list[float | None]] = {}

    def __init__(self, name: str, target: Target, timeout: float, say: Callable[[str], None] = print):
        self.name, self.target, self.timeout, self.say = name, target, timeout, say
        self.options: dict[str, Any] = {}
        self.miscounted = ""
        self._worker: Worker | None = None
        self._said = False
        loaded = self._started().loaded
        self.parameters = [Parameter(*parameter) for parameter in loaded["takes"]]
        """The function's parameters, as the process reported them."""
        self.in_process = loaded["in_process"]
        """Whether the function is marked as one that may run in the run's own process."""

    def __call__(
        self,
        completions: Sequence[str],
        records: Sequence[Mapping[str, Any]],
        facts: Mapping[str, Sequence[Any] | None],
    ) -> list[Value]:
        """One value for each answer."""
        wanted = {name: facts[name] for name in facts_of(self.parameters)}
        self.miscounted = ""
        if not completions:
            return []
        try:
            return self._asked(completions, records, wanted, self.timeout)
        except Failure as failure:
            self.miscounted = failure.reason if failure.kind == "count" else ""
            if len(completions) == 1:
                return [Missing(failure.reason)]
            return self._one_by_one(completions, records, wanted, failure)

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _one_by_one(
        self, completions: Sequence[str], records: Sequence[Any], facts: Mapping[str, Any], failure: Failure
    ) -> list[Value]:
        """The values of a batch that failed, scored one by one, so that a bad answer costs only its own reward."""
        # Each hanging answer could take the whole limit; together they get at most twice the limit more.
        limit = self.timeout / 4 if failure.kind == "late" else self.timeout
        time_left = 2 * self.timeout
        values: list[Value] = []
        late, began = 0, time.monotonic()
        for i, (text, record) in enumerate(zip(completions, records, strict=True)):
            if time_left <= 0 or (late == i and late >= HUNG):
                values.append(Missing(f"not reached, because of other answers in its batch: {failure.reason}"))
                continue
            own_facts = {name: None if column is None else [column[i]] for name, column in facts.items()}
            try:
                # A new process imports the function first; this time does not count for the answer.
                self._started()
                began = time.monotonic()
                values += self._asked([text], [record], own_facts, min(limit, time_left))
            except Failure as own_failure:
                late += own_failure.kind == "late"
                values.append(Missing(own_failure.reason))
            time_left -= time.monotonic() - began
        if failure.kind == "late" and not late and not self._said:
            self._said = True
            self.say(
                f"The reward '{self.name}' took more than {self.timeout:g} s for {len(values)} answers, so they were "
                "scored one by one. With a longer --reward-timeout they would be scored together."
            )
        return values

    def _asked(
        self, completions: Sequence[str], records: Sequence[Any], facts: Mapping[str, Any], seconds: float
    ) -> Any:
        worker = self._started()
        try:
            arguments = (list(completions), list(records), {**facts, **self.options}, seconds)
            values = worker.ask("score", arguments, seconds)["values"]
        except Failure as failure:
            if failure.kind in ("late", "ended", "memory"):
                self.close()
            raise
        if len(values) != len(completions):
            raise Failure("count", f"gave {amount(len(values), 'value')} for {amount(len(completions), 'answer')}")
        return [from_json(value) for value in values]

    def _started(self) -> Worker:
        if self._worker is None:
            self._worker = Worker(self.target)
        return self._worker


class Worker:
    """The process: a fresh interpreter that shares only a pipe and the module path with this one.

    Raises Failure if the function cannot be loaded. loaded: what the process reports about the function.
    """

    def __init__(self, target: Target):
        self.target = target
        self._printed: Any = tempfile.TemporaryFile("a+b")  # noqa: SIM115 (lives as long as the process)
        self._pipe, theirs = Pipe()
        with theirs:
            arguments = f"{theirs.fileno()}, {memory_limit()}"
            self._process = interpreter("zoo.rewards.worker", arguments, theirs.fileno(), self._printed)
        self._end = weakref.finalize(self, end, self._process)
        try:
            self.loaded = self.ask("load", (target, LOADING), LOADING)
        except Failure:
            self.close()
            raise

    def ask(self, order: str, arguments: tuple[Any, ...], seconds: float) -> dict[str, Any]:
        """The reply to an order. Raises Failure if it does not come in time, or if it reports a failure."""
        self._printed.truncate(0)
        began = time.monotonic()
        try:
            self._pipe.send((order, arguments))
            reply = json.loads(self._pipe.recv_bytes()) if self._pipe.poll(seconds + GRACE) else None
        except (EOFError, OSError):
            reply = None
        if reply is None:
            raise self._ending(time.monotonic() - began >= seconds, seconds)
        if "failed" in reply:
            raise Failure(reply["failed"], reply.get("reason", ""), reply.get("names", ()))
        return dict(reply)

    def close(self) -> None:
        """End the process and every process that it started."""
        self._end()
        self._pipe.close()
        self._printed.close()

    def _ending(self, late: bool, seconds: float) -> Failure:
        """Why there is no reply, judged by how the process ended and what it printed last."""
        end(self._process)
        self._printed.seek(0)
        printed = self._printed.read().decode(errors="replace")
        if late:
            return Failure("late", f"no reward within {seconds:g} s{place_in(printed, self.target)}")
        return Failure("ended", ending(self._process.returncode, printed, self.target))
