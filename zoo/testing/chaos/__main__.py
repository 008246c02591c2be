"""`python -m zoo.testing.chaos`: kills, and what they cost. docs/chaos.md explains it."""

from __future__ import annotations

import argparse
import itertools
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from zoo.errors import ZooError
from zoo.testing.chaos.aims import Aim, find_aim
from zoo.testing.chaos.processes import Target, one_thread
from zoo.testing.chaos.results import Results
from zoo.testing.chaos.store import stored
from zoo.testing.chaos.training import algorithms, resumed_on, training
from zoo.testing.chaos.trials import FAULTS, Trial, Trials


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m zoo.testing.chaos", description=__doc__)
    add = parser.add_argument
    add("--algo", action="append", help="an algorithm, as for zoo train; may be repeated (default: all)")
    add("--lora", action=argparse.BooleanOptionalAction, help="only with adapters, or only without (default: both)")
    add("--mixture", action="store_true", help="train on a mixture of two files")
    add("--store", action="store_true", help="keep the encoded rows in files, and hit that too")
    add("--stream", action="store_true", help="train on three files that are read as they come")
    add("--environment", default="", help="an environment that episodes are in, as for zoo train")
    add("--processes", type=int, default=1, help="processes of a run (default: 1)")
    add("--strategy", default="", help="how the processes share a model, as for zoo train (default: as there)")
    add("--resumed", type=int, default=0, help="processes that go on after a kill (default: as many as before)")
    add("--aim", help="kill something else than training: an Aim, as module:name")
    add("--fault", choices=FAULTS, default="kill", help="what happens (default: kill)")
    add("--kills", type=int, help="stop after so many kills that count (default: 20; 0 only counts)")
    add("--each", type=int, default=3, help="kills in one run (default: 3)")
    add("--every-event", action="store_true", help="a kill at each file event, in a run of its own")
    add("--files", default="*", help="a glob of the files whose events count, relative to the folder of a trial")
    add("--phase", action="append", help="hit only in this phase; may be repeated (default: in all)")
    add("--at", action="append", help="repeat one trial: a target as it was printed; may be repeated")
    add("--minutes", type=float, help="stop after so many minutes")
    add("--append", type=Path, metavar="FILE", help="add to the results in this file, and count all of them")
    add("--seed", type=int, help="of the random choices (default: another one each time)")
    add("--folder", type=Path, help="where the trials work (default: a temporary folder)")
    add("--tmpdir", help="the TMPDIR of the processes, for example on another file system")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 if nothing was lost, 1 if something was, 2 for a mistake in the options."""
    given = options().parse_args(arguments)
    place = given.folder or Path(tempfile.mkdtemp(prefix="zoo-chaos-"))
    try:
        results = Results(given.append)
        with one_thread():
            for trial in trials(given, place.absolute(), results):
                results.add(trial)
                print(_line(trial), flush=True)
    except ZooError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_status
    print(f"\n{results.tables()}")
    if not given.folder and not any(row["lost"] for row in results.now):
        shutil.rmtree(place, ignore_errors=True)
    return 1 if results.lost else 0


def trials(given: argparse.Namespace, place: Path, results: Results) -> Iterator[Trial]:
    """The trials that the options ask for."""
    end = time.monotonic() + 60 * (given.minutes if given.minutes is not None else 1e9)
    enough = given.kills if given.kills is not None else 20 if given.minutes is None and not given.every_event else 1e9
    before = len(results.kills(given.processes))
    if enough <= 0:
        return
    aims = _aims(given)
    place.mkdir(parents=True, exist_ok=True)
    aims[0].prepare(place)
    ready: dict[str, Trials] = {}

    def of(aim: Aim) -> Trials:
        if aim.name not in ready:
            ready[aim.name] = Trials(aim, place, given.files, given.tmpdir, given.phase or ())
        return ready[aim.name]

    for aim_trials, targets, seed in _repeated(given, of(aims[0])) if given.at else _planned(given, aims, of, results):
        yield aim_trials.trial(targets, given.fault, seed)
        hits = sum(len(row["hits"]) for row in results.now)
        done = len(results.kills(given.processes)) - before if given.fault in ("kill", "damage") else hits
        if time.monotonic() > end or done >= enough:
            return


Planned = Iterator[tuple[Trials, list[Target], int]]


def _planned(given: argparse.Namespace, aims: list[Aim], of, results: Results) -> Planned:  # type: ignore[no-untyped-def]
    """Always the aim with the fewest kills so far, and in it the phases with the fewest."""
    if given.every_event:
        yield from ((of(aim), [target], 0) for aim in aims for target in of(aim).events(given.fault))
        return
    first = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 30)
    for seed in itertools.count(first):
        source = random.Random(seed)
        done = Counter(row["aim"] for row in results.rows if row["processes"] == given.processes)
        aim = min(aims, key=lambda one: (done[one.name], source.random()))
        yield of(aim), of(aim).plan(source, given.each, given.fault, results.phases(given.processes)), seed


def _repeated(given: argparse.Namespace, aim_trials: Trials) -> Planned:
    """The one trial whose targets are spelled out."""
    targets = [_target(text, given.fault, aim_trials) for text in given.at]
    yield aim_trials, targets, given.seed or 0


def _target(text: str, fault: str, aim_trials: Trials) -> Target:
    """The target that was printed so. Raises ZooError."""
    moment = re.search(r"\+([0-9.]+)", text)
    for target in [*aim_trials.events(fault), *aim_trials.moments()]:
        if moment and target.moment is not None:
            target = replace(target, moment=float(moment[1]))
        if str(target) == text:
            return target
    raise ZooError(f"{aim_trials.aim.name} has no target '{text}'.", "Copy one from what a trial printed.")


def _aims(given: argparse.Namespace) -> list[Aim]:
    if given.aim:
        return [replace(find_aim(given.aim), processes=given.processes)]
    with_lora = (False, True) if given.lora is None else (given.lora,)
    aims = [
        training(algo, lora, given.processes, given.mixture, given.stream, given.strategy, given.environment)
        for algo in given.algo or algorithms()
        for lora in with_lora
    ]
    aims = [stored(aim) for aim in aims] if given.store else aims
    return [resumed_on(aim, given.resumed) for aim in aims] if given.resumed else aims


def _line(trial: Trial) -> str:
    hits = ", ".join(
        f"{hit['target']}{' (' + hit['event'] + ')' if hit['event'] else ''}{'' if hit['counts'] else ' –'}"
        for hit in trial.hits
    )
    end = f"LOST: {trial.lost}" if trial.lost else "equal"
    return f"{trial.aim}: {trial.fault} {hits or 'came too late'}: {end} ({trial.seconds:.1f} s, seed {trial.seed})"


if __name__ == "__main__":
    sys.exit(main())
