"""The process from which episodes are forked: it imports the environment once, so that a fork takes milliseconds.

A fresh interpreter with a single thread. It knows how each episode's process ended and what that printed last, and ends
what the process started. When the run is gone, it ends all of them and itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import json
import os
import pickle
import select
import signal
import socket
import struct
import time
import traceback
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from zoo.contract.own_process import GRACE, LOADING, Target, describe, ends_with, file_of, limit_memory
from zoo.environments import Environment
from zoo.environments.channel import Channel
from zoo.environments.worker import Life, held, live
from zoo.errors import ZooError
from zoo.options.spelling import bind
from zoo.processes import adopt_orphans, children, end_with_parent

ORDER = struct.Struct("!cQ")
"""What the run sends: FORK with a descriptor, WHY or END, and the number of an episode."""
FORK, WHY, END = b"f", b"w", b"e"
KEPT = 20_000
"""Bytes of what a process printed last; a deep stack has its innermost line first."""
FAREWELL = 1.0
"""Seconds in which episodes may close when the run is gone."""
TICK = 0.25
"""Seconds between two looks at what has ended."""


@dataclass
class Child:
    """The process of an episode. printed: the pipe with what it prints, -1 once that is closed."""

    pid: int
    printed: int
    tail: bytes = b""
    status: int | None = None
    """As `Popen.returncode`; None while it lives."""
    at: float = 0.0
    """When it ended, on the monotonic clock."""
    doomed: float = float("inf")
    """When it is killed, because the run has closed the episode."""

    def read(self) -> None:
        """Take what it has printed, at most what a pipe holds."""
        with contextlib.suppress(BlockingIOError):
            part = os.read(self.printed, 1 << 16)
            self.tail = (self.tail + part)[-KEPT:]
            if not part:
                self.release()

    def release(self) -> None:
        if self.printed >= 0:
            os.close(self.printed)
        self.printed = -1

    def kill(self) -> None:
        """End it and the processes that it started."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    def ended(self, wait: float = 0.0) -> bool:
        """Whether it has ended, at the latest in so many seconds; the processes that it started then end too."""
        until = time.monotonic() + wait
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status, self.at = os.waitstatus_to_exitcode(status), time.monotonic()
                self.kill()
                if self.printed >= 0:
                    self.read()
                self.release()
            elif time.monotonic() >= until:
                return False
            else:
                time.sleep(0.005)
        return True


class Zygote:
    """control: the line to the run; life: makes what lives in a fork; memory: bytes for all forks together."""

    def __init__(self, control: Channel, life: Life, memory: int | None):
        self.control, self.life, self.memory, self.held = control, life, memory, held()
        self.children: dict[int, Child] = {}
        self.own = children()
        """What its module started when it was imported: that stays for all episodes."""
        self._reaped = 0.0

    def serve(self) -> None:
        """Until the run closes the line, or is gone."""
        run = os.getppid()
        self.control.end.settimeout(None)
        while os.getppid() == run:
            waiting = select.poll()
            waiting.register(self.control.end, select.POLLIN)
            for child in self.children.values():
                if child.printed >= 0:
                    waiting.register(child.printed, select.POLLIN)
            ready = {descriptor for descriptor, _ in waiting.poll(1000 * TICK)}
            for child in self.children.values():
                if child.printed in ready:
                    child.read()
                    if child.printed < 0:
                        child.ended()
            if time.monotonic() >= self._reaped + TICK:
                self._reap()
            if self.control.end.fileno() in ready:
                orders, descriptors, _, _ = socket.recv_fds(self.control.end, ORDER.size, 1)
                if not orders:
                    break
                self._obey(*ORDER.unpack(orders), *descriptors)
        self._farewell()

    def _obey(self, order: bytes, number: int, descriptor: int = -1) -> None:
        if order == FORK:
            # Not for what an environment starts: the line would stay open behind it.
            os.set_inheritable(descriptor, False)
            self._fork(number, descriptor)
        elif order == WHY:
            self.control.send(json.dumps(self._why(number)).encode())
        elif number in self.children:
            self.children[number].doomed = time.monotonic() + GRACE

    def _fork(self, number: int, descriptor: int) -> None:
        printed, prints = os.pipe()
        os.set_blocking(printed, False)
        zygote = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            pid = -1
            self.children[number] = Child(pid, -1, f"none could be started: {error}".encode(), 1, time.monotonic())
            os.close(printed)
        if pid == 0:
            self._child(descriptor, prints, zygote, [printed, *(child.printed for child in self.children.values())])
        os.close(prints)
        os.close(descriptor)
        if pid > 0:
            self.children[number] = Child(pid, printed)

    def _child(self, descriptor: int, prints: int, zygote: int, others: list[int]) -> None:
        """What the fork does; it does not return."""
        status = 1
        try:
            end_with_parent()
            if os.getppid() != zygote:
                os._exit(0)
            os.setsid()
            adopt_orphans()
            os.dup2(prints, 1)
            os.dup2(prints, 2)
            self.control.close()
            for other in (prints, *others):
                if other >= 0:
                    os.close(other)
            live(Channel(socket.socket(fileno=descriptor)), self.life, self.memory, self.held)
            status = 0
        except BaseException:
            # Into the pipe, of which the zygote keeps the end.
            os.write(2, traceback.format_exc().encode(errors="replace"))
        finally:
            os._exit(status)

    def _why(self, number: int) -> dict[str, Any]:
        """How a process ended, which is ended now if it has not."""
        if (child := self.children.get(number)) is None:
            return {"status": 1, "at": 0.0, "printed": "it was never started"}
        if not child.ended(wait=0.5):
            child.kill()
            child.ended(wait=GRACE)
        status = -signal.SIGKILL if child.status is None else child.status
        return {"status": status, "at": child.at, "printed": child.tail.decode(errors="replace")}

    def _reap(self) -> None:
        self._reaped, over = time.monotonic(), False
        for number, child in list(self.children.items()):
            if not child.ended():
                if time.monotonic() >= child.doomed:
                    child.kill()
            elif child.doomed < float("inf"):
                del self.children[number]
                over = True
        if over:
            self._end_orphans(self.own)

    def _end_orphans(self, spared: Set[int] = frozenset()) -> None:
        """End what episodes left behind in sessions of their own: it has become a child of this process.

        What that started becomes a child in turn. An episode that goes on adopts its orphans itself.
        """
        seen = spared | {child.pid for child in self.children.values()}
        while left := children() - seen:
            seen |= left
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    Child(pid, -1).ended(wait=GRACE)

    def _farewell(self) -> None:
        until = time.monotonic() + FAREWELL
        for child in self.children.values():
            if not child.ended(wait=max(until - time.monotonic(), 0.0)):
                child.kill()
                child.ended(wait=GRACE)
        self._end_orphans()


def main(descriptor: int, memory: int | None) -> None:
    """Serve the run behind `descriptor`. memory: bytes for all episodes together, None for no limit."""
    limit_memory(memory)
    faulthandler.enable()
    os.set_inheritable(descriptor, False)
    control = Channel(socket.socket(fileno=descriptor))
    with ends_with(os.getppid()), contextlib.suppress(EOFError):
        life, reply = _load(*pickle.loads(control.receive()))
        control.send(json.dumps(reply).encode())
    if life is not None:
        gc.collect()
        gc.freeze()
        adopt_orphans()
        Zygote(control, life, memory).serve()


def _load(target: Target, options: Mapping[str, Any], label: str) -> tuple[Life | None, dict[str, Any]]:
    """What lives in the forks, or None and what is wrong. Options that are text get the types that it declares."""
    faulthandler.dump_traceback_later(LOADING, exit=True)
    try:
        found = target.find()
        if isinstance(found, list):
            return None, {"failed": "attribute", "names": found}
        texts = {name: value for name, value in options.items() if isinstance(value, str)}
        typed = bind(found, texts, f"environment '{label}'", fixed=0) if texts else {}
        if isinstance(found, type) and issubclass(found, Environment):
            found.prepare()
        made = functools.partial(found, **{**options, **typed})
        return Life(made, file_of(found)), {}
    except ZooError as error:
        return None, {"failed": "options", "reason": str(error)}
    except BaseException as error:
        return None, {"failed": "import", "reason": describe(error, target.place)}
    finally:
        faulthandler.cancel_dump_traceback_later()
