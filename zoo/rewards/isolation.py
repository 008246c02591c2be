"""Rewards that can neither hang nor end the run: each has a process of its own, with a time limit for every batch.

A batch that fails is repeated one answer at a time, so that only the bad answers have no reward; an answer that cannot
be scored gets `Missing`, with the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from zoo.contract.hook_arguments import shown
from zoo.processes import free_memory
from zoo.rewards.functions import Parameter, Target, facts_of
from zoo.rewards.missing import Missing, from_json
from zoo.secrets import scrubbed

Value = float | None | Missing
LOADING = 120.0
"""Seconds for the import of a function's module."""
GRACE = 2.0
"""Seconds that a process has after its limit to report where it hung."""
HUNG = 3
"""If this many answers hang one after another, and no answer has been scored, the rest of a batch is given up."""
SHOWN_ENDING = 200


class Failure(Exception):
    """A call that gave no values. kind: import, attribute, memory, raised, values, late or ended."""

    def __init__(self, kind: str, reason: str, names: Sequence[str] = ()):
        self.kind, self.reason, self.names = kind, scrubbed(reason), list(names)
        super().__init__(self.reason)


class Isolated:
    """A reward function in a process of its own. Raises Failure if it cannot be loaded.

    timeout: seconds for a batch of answers. `miscounted`: a message if the last batch had more or fewer values than
    answers, else "".
    """

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
            raise Failure("count", f"gave {len(values)} values for {len(completions)} answers")
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
        code = f"import sys; sys.path[:] = {sys.path!r}; from zoo.rewards.worker import main; "
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"{code}main({theirs.fileno()}, {memory_limit()})"],
                stdin=subprocess.DEVNULL, stdout=self._printed, stderr=self._printed, pass_fds=[theirs.fileno()],
                # A session of its own: ctrl-C reaches only the run, and the processes that this one starts end with it.
                start_new_session=True,
            )  # fmt: skip
        self._end = weakref.finalize(self, _end, self._process)
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
        _end(self._process)
        self._printed.seek(0)
        printed = self._printed.read().decode(errors="replace")
        place = self._place(printed)
        if late:
            return Failure("late", f"no reward within {seconds:g} s{place}")
        status = self._process.returncode
        how = f"with exit status {status}" if status >= 0 else f"by signal {-status}"
        how += ", perhaps because memory ran out" if status == -signal.SIGKILL else ""
        last_output = " ".join(printed.split())[-SHOWN_ENDING:] if not place else ""
        return Failure("ended", f"its process ended {how}{place}{f': {last_output}' if last_output else ''}")

    def _place(self, printed: str) -> str:
        """The line of the function's file at which the process ended, from the output of Python's faulthandler."""
        lines = re.findall(r'^  File "(.+)", line (\d+) in (\S+)', printed, re.MULTILINE)
        own = [line for line in lines if self.target.place and Path(line[0]).name == Path(self.target.place).name]
        place = (own or [line for line in lines if "zoo/rewards/" not in line[0]])[:1]
        return "".join(f" ({shown(file)}, line {line}, in {name})" for file, line, name in place)


def _end(process: subprocess.Popen[bytes]) -> None:
    # Until the process is waited for, no other process can get its id.
    if process.returncode is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def memory_limit() -> int | None:
    """Most bytes for a reward's process: half of the memory that the machine, or the container, has left."""
    left = free_memory()
    return None if left is None else max(1 << 28, left // 2)
