"""A trial: what an aim makes is hit at planned targets, goes on each time, and must end as if it had not been."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.testing.chaos.aims import Aim
from zoo.testing.chaos.events import WRITES
from zoo.testing.chaos.phases import BACKGROUND, STARTING, Trace
from zoo.testing.chaos.processes import SIGNALS, Process, Target, import_what_was, start, wait

FAULTS = ("kill", "sigterm", "sigint", "full", "damage")
"""What may happen: signals, a full disk, and a kill after which a checkpoint is damaged."""
EVENTS_SHARE = 0.5
"""Of the targets the share that are file events, the rest are moments."""


@dataclass
class Trial:
    """What happened in a trial. hits: one for each process that was hit; lost: what differs, or ""."""

    aim: str
    processes: int
    fault: str
    seed: int
    hits: list[dict[str, Any]] = field(default_factory=list)
    lost: str = ""
    seconds: float = 0.0
    when: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))


@dataclass(frozen=True)
class Unbroken:
    """What an aim makes when nothing happens: what was read back, and the traces of its processes."""

    made: Mapping[str, Any]
    traces: Sequence[Trace]

    @property
    def steps(self) -> int:
        return self.traces[0].steps

    @property
    def phases(self) -> list[str]:
        """In the order of their first beginning."""
        return list(dict.fromkeys(entry.phase for trace in self.traces for entry in trace.entries))


class Trials:
    """Makes the trials of one aim in folders below `place`. files: a glob of the files whose events count.

    tmpdir: where the processes put temporary files; phases: those to hit, none for all. Raises ZooError when the aim
    cannot even be made unbroken.
    """

    def __init__(self, aim: Aim, place: Path, files: str = "*", tmpdir: str | None = None, phases: Sequence[str] = ()):
        self.aim, self.place, self.files, self.phases = aim, place, files, phases
        self.environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if tmpdir:
            self.environment["TMPDIR"] = tmpdir
        self._made = 0
        self.unbroken = self._unbroken()
        if phases and not set(phases) & set(known := self.unbroken.phases):
            raise ZooError(f"{aim.name} has no phase {' or '.join(phases)}.", f"It has: {', '.join(known)}.")

    def _unbroken(self) -> Unbroken:
        folder = self._folder("unbroken")
        processes = self._go(folder, None)
        if bad := next((process for process in processes if process.status), None):
            raise ZooError(f"{self.aim.name} cannot be made at all:\n{bad.said()}", "Nothing was killed yet.")
        made = self.aim.read(folder)
        import_what_was(processes[0].trace.modules)
        self.aim.warm(folder)
        return Unbroken(made, [process.trace for process in processes])

    # -- targets -------------------------------------------------------------------------------------------------

    def moments(self) -> list[Target]:
        """A target for every phase that a process was in, in the order of the run; its moment is to be drawn."""
        return [
            Target(entry.phase, entry.step, entry.number, moment=0.5, seconds=entry.seconds, ranks=(rank,))
            for rank, trace in enumerate(self.unbroken.traces) for entry in trace.entries if self._wanted(entry.phase)
        ]  # fmt: skip

    def events(self, fault: str = "kill") -> list[Target]:
        """A target for every file event of the first process; of a full disk, for every write."""
        return [
            Target(event.phase, event.step, event=event.number, fault="full" if fault == "full" else "kill")
            for event in self.unbroken.traces[0].events
            if self._wanted(event.phase) and (fault != "full" or event.what in WRITES)
        ]  # fmt: skip

    def _wanted(self, phase: str) -> bool:
        return phase in self.phases if self.phases else phase != BACKGROUND

    def plan(self, source: random.Random, count: int, fault: str, so_far: Counter[str]) -> list[Target]:
        """Targets in the order of the run, in the phases that were hit least.

        Each is at a later step than the one before it, so that a process makes a step before it is hit.
        """
        counts, chosen = Counter(so_far), list[Target]()
        for _ in range(count):
            steps = {target.step for target in chosen} - {self.unbroken.steps}
            target = self._target(source, fault, counts, steps)
            if target is not None:
                counts[target.phase] += 1
                chosen.append(target)
        places = [(entry.phase, entry.step) for entry in self.unbroken.traces[0].entries]
        order = {place: number for number, place in reversed(list(enumerate(places)))}
        return sorted(chosen, key=lambda target: (target.step, order.get((target.phase, target.step), 0)))

    def _target(
        self, source: random.Random, fault: str, counts: Counter[str], taken: Container[int]
    ) -> Target | None:  # fmt: skip
        """A target at a step that is not taken, in the phase with the lowest count; None if there is none."""
        by_event = fault == "full" or (fault in ("kill", "damage") and source.random() < EVENTS_SHARE)
        targets = [target for target in (self.events(fault) if by_event else []) if target.step not in taken]
        targets = targets or [target for target in self.moments() if target.step not in taken]
        if not targets:
            return None
        least = min(targets, key=lambda target: (counts[target.phase], source.random())).phase
        target = source.choice([target for target in targets if target.phase == least])
        if target.event is not None:
            return target
        sent = fault if fault in SIGNALS else "kill"
        ranks = source.choice([target.ranks, target.ranks, tuple(range(self.aim.processes))])
        # The first of the ranks is the one whose phase is waited for.
        ranks = (*target.ranks, *(rank for rank in ranks if rank not in target.ranks))
        return replace(target, moment=source.random(), ranks=ranks, fault=sent)

    # -- a trial ---------------------------------------------------------------------------------------------------

    def trial(self, targets: Sequence[Target], fault: str, seed: int) -> Trial:
        """Hit the targets one after the other, each in a process that goes on after the one before; then compare."""
        began, source = time.monotonic(), random.Random(seed)
        trial = Trial(self.aim.name, self.aim.processes, fault, seed)
        folder, reached = self._folder(), 0
        for target in [*targets, None]:
            processes = self._go(folder, target)
            _count(trial, processes)
            reached = max(reached, processes[0].trace.step)
            hit = [process for process in processes if process.hit]
            if trial.lost or (lost := _wrong_end(processes, target)):
                trial.lost = trial.lost or lost
                break
            for process in (hit or [p for p in processes if target and p.status])[:1]:
                none_left = reached >= self.unbroken.steps
                trial.hits.append(_hit(process, target, none_left, [p.status for p in processes if p is not process]))
            if hit and fault == "damage" and self.aim.damage:
                trial.hits[-1]["damaged"] = self.aim.damage(folder, source)
            if target is not None and not any(process.status for process in processes):
                break
        trial.lost = trial.lost or self._difference(folder)
        trial.seconds = round(time.monotonic() - began, 2)
        if not trial.lost:
            shutil.rmtree(folder)
        return trial

    def _folder(self, name: str = "") -> Path:
        self._made += 1
        place = f"{self.aim.name.replace(' ', '').replace('/', '_')}-{self.aim.processes}"
        folder = self.place / f"{place}-{name or self._made}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _go(self, folder: Path, target: Target | None) -> list[Process]:
        environment = {**self.environment, "ZOO_CACHE": str(folder / "cache")}
        processes = start(self.aim, folder, target, self.files, environment)
        wait(processes, target)
        return processes

    def _difference(self, folder: Path) -> str:
        """What is not as in the unbroken making; "" for nothing."""
        try:
            made = self.aim.read(folder)
        except Exception as error:
            return f"{folder}: what was made cannot be read: {type(error).__name__}: {error}"
        unbroken = self.unbroken.made
        names = {
            "missing": unbroken.keys() - made.keys(), "left over": made.keys() - unbroken.keys(),
            "different": {
                name for name in made.keys() & unbroken.keys() if not self.aim.same(made[name], unbroken[name])
            },
        }  # fmt: skip
        told = [f"{what}: {', '.join(sorted(some))}" for what, some in names.items() if some]
        return f"{folder}: {'; '.join(told)}" if told else ""


def _hit(process: Process, target: Target | None, none_left: bool, others: list[int | None]) -> dict[str, Any]:
    """What is kept of a hit: where it was planned, where it fell, and how this process and the others ended."""
    trace, event = process.trace, ""
    phase = target.phase if target is not None and trace.is_in(target.phase) else trace.phase
    if target is not None and target.event is not None and trace.events:
        phase, event = trace.events[-1].phase, f"{trace.events[-1].what} {trace.events[-1].file}"
    return {
        "target": str(target), "phase": phase, "step": trace.step, "rank": process.rank, "status": process.status,
        "event": event,
        "others": others, "none_left": none_left, "steps_after": None, "counts": False,
    }  # fmt: skip


def _count(trial: Trial, processes: Sequence[Process]) -> None:
    """By the processes that follow it, a hit counts if they made a step, or if none was left and they ended well."""
    made, ended = processes[0].trace.steps, not any(process.status for process in processes)
    for hit in trial.hits:
        if hit["steps_after"] is None:
            hit["steps_after"] = made
            went_on = made > 0 or (hit["none_left"] and ended)
            # A run whose first process ended well was not interrupted; the others end before it.
            whole = hit["rank"] != 0 and hit["others"][0] == 0
            hit["counts"] = went_on and hit["status"] == -signal.SIGKILL and not whole


def _wrong_end(processes: Sequence[Process], target: Target | None) -> str:
    """Why the processes ended as they must not; "" if they ended well, or as the target wants it."""
    if any(process.hit for process in processes):
        processes = [process for process in processes if process.hit]
    for process in processes:
        expected = _expected(target) if process.hit or (target and target.fault != "kill") else {0}
        if target and target.fault == "sigterm" and process.trace.phase == STARTING:
            # Nobody listens yet, and there is nothing to save.
            expected |= {-signal.SIGTERM}
        if process.told or process.status not in expected:
            how = "hung" if process.told else f"ended with status {process.status}"
            return f"It {how} in {process.trace.phase}:\n{process.said()}"
    return ""


def _expected(target: Target | None) -> set[int | None]:
    """Exit statuses after a fault; 0 where it came too late, or where the process can do without the file."""
    if target is None:
        return {0}
    if target.fault == "full":
        return {0, 1, 2}
    number = SIGNALS[target.fault]
    return {-number} if number == signal.SIGKILL else {0, 128 + number}
