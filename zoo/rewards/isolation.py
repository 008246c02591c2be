"""Rewards that can neither hang nor end the run: each in a process of its own, with a time limit for every batch.

A batch that fails is tried again one answer at a time, so that only the bad answers have no reward; what cannot be
scored is `Missing`, with its reason.
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
from zoo.rewards.functions import Parameter, Target, facts_of
from zoo.rewards.missing import Missing

Value = float | None | Missing
LOADING = 120.0
"""Seconds for the import of a function's module."""
GRACE = 2.0
"""Seconds that a process has, behind its limit, to say where it hung."""
HUNG = 3
"""Answers that hang one by one, with none that does not, before the rest of a batch is given up."""
SHOWN_ENDING = 200


class Failure(Exception):
    """A call without an answer. kind: import, attribute, memory, raised, values, late or ended."""

    def __init__(self, kind: str, reason: str, names: Sequence[str] = ()):
        super().__init__(reason)
        self.kind, self.reason, self.names = kind, reason, list(names)


class Isolated:
    """A reward function in a process of its own. Raises Failure where it cannot be loaded.

    timeout: seconds for a batch of answers. `miscounted` says of the last batch how it had another number of values
    than answers, if it had.
    """

    def __init__(self, name: str, target: Target, timeout: float, say: Callable[[str], None] = print):
        self.name, self.target, self.timeout, self.say = name, target, timeout, say
        self.options: dict[str, Any] = {}
        self.miscounted = ""
        self._worker: Worker | None = None
        self._said = False
        loaded = self._started().loaded
        self.parameters = [Parameter(*one) for one in loaded["takes"]]
        """What the function takes, as it says itself."""
        self.in_process = loaded["in_process"]
        """Whether the function is marked as one that need not be here."""

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
        """The values of a batch that failed as a whole, so that one bad answer costs one reward and not all."""
        # An answer that hangs would take the whole limit; together they get no more than another two of them.
        limit = self.timeout / 4 if failure.kind == "late" else self.timeout
        rest = 2 * self.timeout
        values: list[Value] = []
        late, began = 0, time.monotonic()
        for i, (text, record) in enumerate(zip(completions, records, strict=True)):
            if rest <= 0 or (late == i and late >= HUNG):
                values.append(Missing(f"not reached, because of others of its batch: {failure.reason}"))
                continue
            one = {name: None if column is None else [column[i]] for name, column in facts.items()}
            try:
                # A new process imports the function first, which is not the answer's fault.
                self._started()
                began = time.monotonic()
                values += self._asked([text], [record], one, min(limit, rest))
            except Failure as found:
                late += found.kind == "late"
                values.append(Missing(found.reason))
            rest -= time.monotonic() - began
        if failure.kind == "late" and not late and not self._said:
            self._said = True
            self.say(
                f"The reward '{self.name}' took more than {self.timeout:g} s for {len(values)} answers, so they were "
                "scored one by one. With more time (--reward-timeout) it would be done at once."
            )
        return values

    def _asked(
        self, completions: Sequence[str], records: Sequence[Any], facts: Mapping[str, Any], seconds: float
    ) -> Any:
        worker = self._started()
        try:
            given = (list(completions), list(records), {**facts, **self.options}, seconds)
            values = worker.ask("score", given, seconds)["values"]
        except Failure as failure:
            if failure.kind in ("late", "ended", "memory"):
                self.close()
            raise
        if len(values) != len(completions):
            raise Failure("count", f"gave {len(values)} values for {len(completions)} answers")
        return [Missing(value) if isinstance(value, str) else value for value in values]

    def _started(self) -> Worker:
        if self._worker is None:
            self._worker = Worker(self.target)
        return self._worker


class Worker:
    """The process: a fresh interpreter that has nothing of this one but a pipe and the path of its modules.

    Raises Failure where the function cannot be loaded. loaded: what it then tells of the function.
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
                # ctrl-C is for the run, which ends this process when it is done; and what it starts ends with it.
                start_new_session=True,
            )  # fmt: skip
        self._end = weakref.finalize(self, _end, self._process)
        try:
            self.loaded = self.ask("load", (target, LOADING), LOADING)
        except Failure:
            self.close()
            raise

    def ask(self, order: str, given: tuple[Any, ...], seconds: float) -> dict[str, Any]:
        """The reply to an order. Raises Failure where there is none in time, or where it tells of one."""
        self._printed.truncate(0)
        began = time.monotonic()
        try:
            self._pipe.send((order, given))
            reply = json.loads(self._pipe.recv_bytes()) if self._pipe.poll(seconds + GRACE) else None
        except (EOFError, OSError):
            reply = None
        if reply is None:
            raise self._ending(time.monotonic() - began >= seconds, seconds)
        if "failed" in reply:
            raise Failure(reply["failed"], reply.get("reason", ""), reply.get("names", ()))
        return dict(reply)

    def close(self) -> None:
        """End it and whatever it started."""
        self._end()
        self._pipe.close()
        self._printed.close()

    def _ending(self, late: bool, seconds: float) -> Failure:
        """Why there is no reply, from how the process ended and what it printed last."""
        _end(self._process)
        self._printed.seek(0)
        printed = self._printed.read().decode(errors="replace")
        place = self._place(printed)
        if late:
            return Failure("late", f"no reward within {seconds:g} s{place}")
        status = self._process.returncode
        how = f"with exit status {status}" if status >= 0 else f"by signal {-status}"
        how += ", perhaps because memory ran out" if status == -signal.SIGKILL else ""
        said = " ".join(printed.split())[-SHOWN_ENDING:] if not place else ""
        return Failure("ended", f"its process ended {how}{place}{f': {said}' if said else ''}")

    def _place(self, printed: str) -> str:
        """The line of the function's file that the process was at when it ended, as Python's faulthandler writes it."""
        lines = re.findall(r'^  File "(.+)", line (\d+) in (\S+)', printed, re.MULTILINE)
        own = [line for line in lines if self.target.place and Path(line[0]).name == Path(self.target.place).name]
        place = (own or [line for line in lines if "zoo/rewards/" not in line[0]])[:1]
        return "".join(f" ({shown(file)}, line {line}, in {name})" for file, line, name in place)


def _end(process: subprocess.Popen[bytes]) -> None:
    # Until it is waited for, nobody else can have its number.
    if process.returncode is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def memory_limit() -> int | None:
    """Bytes that a reward's process may hold: half of what the machine, or the container, has left."""
    left = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        left.append(int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) * 1024)  # type: ignore[index]
    with contextlib.suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup")
        left.append(int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text()))
    return max(1 << 28, min(left) // 2) if left else None
