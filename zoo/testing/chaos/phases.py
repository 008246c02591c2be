"""What a process is doing, told to the process that watches it: one line for each phase, step and file event.

A phase is a function; the innermost one counts. The lines go through a pipe, which a kill does not empty.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import ZooError

STARTING, ENDING = "loading", "ending"
"""What a process does where no function is known: before its first step, and after it."""
BACKGROUND = "in the background"
"""The phase of a thread of which no function is known."""
MAIN = "main"


class Teller:
    """In the watched process: keeps the phase of each thread and the step, and writes them to the pipe."""

    def __init__(self, pipe: int):
        self._pipe, self._write = pipe, os.write
        self._places: dict[str, list[tuple[str, int]]] = {MAIN: [(STARTING, 0)]}
        self.step = 0

    @property
    def place(self) -> tuple[str, int]:
        """This thread's phase, and the last step; in the background the step at which the phase began."""
        stack = self._stack()
        return (outermost(stack[-1][0], self.step), self.step) if _thread() == MAIN else stack[-1]

    def _stack(self) -> list[tuple[str, int]]:
        return self._places.setdefault(_thread(), [(BACKGROUND, 0)])

    def tell(self, *words: object) -> None:
        self._write(self._pipe, ("\t".join(map(str, words)) + "\n").encode())

    def enter(self, phase: str) -> None:
        self._stack().append((phase, self.step))
        self.tell("enter", _thread(), phase, self.step, time.monotonic())

    def leave(self) -> None:
        self._stack().pop()
        self.tell("leave", _thread(), time.monotonic())

    def stepped(self, step: int) -> None:
        self.step = step
        self.tell("step", step)

    def happened(self, number: int, what: str, file: str) -> None:
        """A file event, and its number in this place."""
        self.tell("event", *self.place, number, what, file)

    def install(self, phases: Mapping[str, str], steps: str) -> None:
        """Put a marker around each function, and one that counts around the function that makes a step."""
        for name, phase in phases.items():
            replace(name, functools.partial(self._marked, phase))
        if steps:
            replace(steps, self._counted)

    def _marked(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def marked(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase.format(**signature.bind(*args, **kwargs).arguments))
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        return marked

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(module: Any, *args: Any, **kwargs: Any) -> Any:
            result = function(module, *args, **kwargs)
            self.stepped(module.steps_done)
            return result

        return counted


def outermost(phase: str, step: int) -> str:
    """The phase, or the one at the end of a run where no other one is known."""
    return ENDING if phase == STARTING and step else phase


def _thread() -> str:
    thread = threading.current_thread()
    return MAIN if thread is threading.main_thread() else f"{thread.name} {thread.ident}"


def replace(name: str, wrapped: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put a wrapped function in the place of "module:Class.method". Raises ZooError where there is none."""
    module, _, path = name.partition(":")
    *owners, last = path.split(".")
    try:
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        function = getattr(owner, last)
    except (ImportError, AttributeError) as error:
        raise ZooError(f"There is no {name}, which a phase is named after: {error}.", "Rename it there too.") from None
    setattr(owner, last, wrapped(function))


# -- on the other side of the pipe ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """A file event, and its number among those of its phase and step."""

    phase: str
    step: int
    number: int
    what: str
    file: str


@dataclass
class Entry:
    """A phase from its beginning to its end, and its number among those of the same name and step."""

    phase: str
    step: int
    number: int
    begin: float
    seconds: float = 0.0


@dataclass
class Trace:
    """What a process has told so far."""

    step: int = 0
    steps: int = 0
    """How many steps this process made."""
    entries: list[Entry] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    modules: tuple[str, ...] = ()
    """What the process had imported at its end."""
    _rest: bytes = b""
    _open: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    _seen: Counter[tuple[str, int]] = field(default_factory=Counter)

    @property
    def phase(self) -> str:
        """What the main thread is doing."""
        return outermost(self._open[MAIN][-1].phase, self.step)

    def is_in(self, phase: str) -> bool:
        """Whether any thread is doing this."""
        return any(entry.phase == phase for stack in self._open.values() for entry in stack[-1:])

    def feed(self, told: bytes) -> list[Entry]:
        """Add what was told; gives the phases that began."""
        *lines, self._rest = (self._rest + told).split(b"\n")
        before = len(self.entries)
        for line in lines:
            kind, *words = line.decode(errors="replace").split("\t")
            getattr(self, f"_{kind}")(*words)
        return self.entries[before:]

    def begin(self, clock: float) -> None:
        """The phase that a process is in before it tells anything."""
        self._enter(MAIN, STARTING, "0", str(clock))

    def end(self, clock: float) -> None:
        """Give a length to what has not ended."""
        for entry in (entry for stack in self._open.values() for entry in stack):
            entry.seconds = entry.seconds or clock - entry.begin

    def _enter(self, thread: str, phase: str, step: str, clock: str) -> None:
        place = phase, int(step)
        entry = Entry(*place, self._seen[place], float(clock))
        self._seen[place] += 1
        if len(self.entries) == 1:
            # Loading is over.
            self.entries[0].seconds = entry.begin - self.entries[0].begin
        self.entries.append(entry)
        self._open[thread].append(entry)

    def _leave(self, thread: str, clock: str) -> None:
        entry = self._open[thread].pop()
        entry.seconds = float(clock) - entry.begin

    def _step(self, step: str) -> None:
        self.step = int(step)
        self.steps += 1

    def _event(self, phase: str, step: str, number: str, what: str, file: str) -> None:
        self.events.append(Event(phase, int(step), int(number), what, file))

    def _loaded(self, *modules: str) -> None:
        self.modules = modules
