"""Episodes, each in a process of its own: an environment that hangs, dies or floods costs its own episode alone."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from typing import Any

from zoo.contract.own_process import GRACE, LOADING, Failure, Target, end, ending, interpreter, memory_limit, place_in
from zoo.environments import Turn
from zoo.environments.channel import MOST, Channel
from zoo.environments.zygote import END, FAREWELL, FORK, ORDER, WHY

__all__ = ["Episode", "Failure", "Pool"]


class Pool:
    """The episodes of one environment. Raises Failure if it cannot be imported or made.

    label: its name in errors; target: the class, or a function that makes one; options: its keyword arguments, of which
    texts get the types that it declares; timeout: seconds for each of its answers.
    """

    def __init__(self, label: str, target: Target, options: Mapping[str, Any], timeout: float):
        self.label, self.target, self.options, self.timeout = label, target, dict(options), timeout
        self.open: set[Episode] = set()
        self._zygote = ZygoteProcess(label, target, options)
        try:
            about = self._about()
        except Failure:
            self.close()
            raise
        self.tools: list[dict[str, Any]] = about["tools"]
        """The tools of an environment with these options, as schemas."""
        self.data: str = about["data"]
        """The source of prompts for a run that names none."""

    def start(self, record: Mapping[str, Any], seed: int) -> Episode:
        """An episode that begins; `receive` has what the environment says first. Does not wait."""
        if self._zygote.has_ended():
            self._zygote = ZygoteProcess(self.label, self.target, self.options)
        episode = Episode(self, self._zygote)
        episode.order("begin", (dict(record), seed), self.timeout)
        return episode

    def close(self) -> None:
        """End all episodes and all processes."""
        for episode in list(self.open):
            episode.close()
        self._zygote.close()

    def _about(self) -> dict[str, Any]:
        episode = Episode(self, self._zygote)
        episode.order("describe", (), LOADING)
        try:
            return episode.reply()
        finally:
            episode.close()


class Episode:
    """An environment in a process of its own. `fileno` lets `select` wait for several at a time."""

    def __init__(self, pool: Pool, zygote: ZygoteProcess):
        self._pool, self._zygote = pool, zygote
        self._number, self._channel = zygote.fork()
        self._seconds = self._until = 0.0
        self.halves = False
        """Whether it has said halves of characters, which are replaced."""
        pool.open.add(self)

    def step(self, message: Mapping[str, Any]) -> None:
        """Give the environment a turn of the policy. Does not wait."""
        self.order("step", (dict(message),), self._pool.timeout)

    def cut(self, message: Mapping[str, Any]) -> None:
        """Ask for the reward of an episode that a limit ends with or after this turn. Does not wait."""
        self.order("cut", (dict(message),), self._pool.timeout)

    def receive(self) -> Turn:
        """What the environment says to that, or at its begin.

        Raises Failure: "late", with the line at which it hung; "raised", with the traceback, also for a wrong answer;
        "messages" for what is no message; "ended", if its process died; "memory". After all of these the episode can
        only be closed.
        """
        reply = self.reply()
        for message in reply.get("messages", ()):
            # A text with halves of characters can be neither tokenised nor written.
            whole = message["content"].encode("utf-8", "replace").decode()
            self.halves = self.halves or whole != message["content"]
            message["content"] = whole
        return Turn(**reply)

    def close(self) -> None:
        """Have the environment close itself, and end its process soon. Does not wait."""
        if self not in self._pool.open:
            return
        self._pool.open.remove(self)
        with contextlib.suppress(OSError):
            self._channel.send(pickle.dumps(("close", b"", 0.0, 1)), time.monotonic())
        self._zygote.end(self._number)

    def closed(self) -> str:
        """Close it, and wait for its process: what went wrong, or ""."""
        with contextlib.suppress(OSError, EOFError):
            self._channel.send(pickle.dumps(("close", b"", 0.0, 1)), time.monotonic() + GRACE)
            self._channel.receive(time.monotonic() + 2 * GRACE)
        known = self._zygote.why(self._number)
        self.close()
        return ending(known["status"], known["printed"], self._pool.target) if known["status"] else ""

    def fileno(self) -> int:
        return self._channel.end.fileno()

    def order(self, order: str, arguments: tuple[Any, ...], seconds: float) -> None:
        """Have something done in so many seconds from now."""
        self._seconds, self._until = seconds, time.monotonic() + seconds
        body = (order, pickle.dumps(arguments), self._until, len(self._pool.open))
        # Whatever keeps it from being sent, the reply tells.
        with contextlib.suppress(OSError):
            self._channel.send(pickle.dumps(body), self._until)

    def reply(self) -> dict[str, Any]:
        """What the process says to the order. Raises Failure."""
        try:
            reply = json.loads(self._channel.receive(self._until + GRACE, MOST))
        except (EOFError, OSError, ValueError):
            failure = self._ending()
            self.close()
            raise failure from None
        if "failed" not in reply:
            return dict(reply)
        if reply["failed"] == "memory":
            self.close()
        raise Failure(reply["failed"], reply["reason"], traceback=reply.get("traceback", ""))

    def _ending(self) -> Failure:
        """Why there is no reply."""
        try:
            known = self._zygote.why(self._number)
        except (EOFError, OSError):
            return Failure("ended", "its process ended, with that of all episodes")
        target, printed = self._pool.target, known["printed"]
        # The clock of the process that ends itself is a little off.
        if known["at"] >= self._until - 0.01:
            return Failure("late", f"no answer within {self._seconds:g} s{place_in(printed, target)}")
        return Failure("ended", ending(known["status"], printed, target))


class ZygoteProcess:
    """The process from which episodes are forked, seen from the run. Raises Failure if it cannot import its target."""

    def __init__(self, label: str, target: Target, options: Mapping[str, Any]):
        self._numbers = itertools.count()
        self._lines: dict[int, Channel] = {}
        printed = tempfile.TemporaryFile("a+b")  # noqa: SIM115 (lives as long as the process)
        ours, theirs = socket.socketpair()
        self._control = Channel(ours)
        with theirs:
            arguments = f"{theirs.fileno()}, {memory_limit()}"
            # An environment that goes through a set does so in the same order in each process.
            self._process = interpreter(
                "zoo.environments.zygote", arguments, theirs.fileno(), printed, PYTHONHASHSEED="0"
            )
        self.close = weakref.finalize(self, _end, self._process, self._control, self._lines, os.getpid())
        until = time.monotonic() + LOADING
        try:
            self._control.send(pickle.dumps((target, dict(options), label)), until)
            reply = json.loads(self._control.receive(until + GRACE))
        except (EOFError, OSError):
            end(self._process)
            printed.seek(0)
            text = printed.read().decode(errors="replace")
            if time.monotonic() >= until:
                reply = {"failed": "late", "reason": f"not imported within {LOADING:g} s{place_in(text, target)}"}
            else:
                reply = {"failed": "ended", "reason": ending(self._process.returncode, text, target)}
        if reply:
            self.close()
            raise Failure(reply["failed"], reply.get("reason", ""), reply.get("names", ()))

    def fork(self) -> tuple[int, Channel]:
        """The number of a new process, and the line to it. Does not wait."""
        number = next(self._numbers)
        ours, theirs = socket.socketpair()
        with theirs, contextlib.suppress(OSError):
            self._control.end.settimeout(GRACE)
            socket.send_fds(self._control.end, [ORDER.pack(FORK, number)], [theirs.fileno()])
        self._lines[number] = Channel(ours)
        return number, self._lines[number]

    def why(self, number: int) -> dict[str, Any]:
        """How a process ended; it is ended if it has not. Raises OSError or EOFError if the zygote has."""
        self._control.end.settimeout(GRACE)
        self._control.end.sendall(ORDER.pack(WHY, number))
        return dict(json.loads(self._control.receive(time.monotonic() + 4 * GRACE)))

    def end(self, number: int) -> None:
        """Close the line to a process, and have it ended after a grace."""
        self._lines.pop(number).close()
        with contextlib.suppress(OSError):
            self._control.end.settimeout(GRACE)
            self._control.end.sendall(ORDER.pack(END, number))

    def has_ended(self) -> bool:
        return self._process.poll() is not None


def _end(process: subprocess.Popen[bytes], control: Channel, lines: Mapping[int, Channel], owner: int) -> None:
    """Close all lines, upon which the processes end. A fork of this process leaves them alone."""
    if os.getpid() == owner:
        for line in (*lines.values(), control):
            line.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(FAREWELL + GRACE)
        end(process)
