"""Milliseconds that a program of the reward `code` takes: the interpreter, its limits, and the fences in the kernel.

    python benchmarks/sandbox.py

The program adds two numbers and has one test. The ways alternate, so that what else the machine does meets all of them;
the median of the rounds counts, on the wall clock and as CPU time of all processes.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from zoo.rewards.sandbox import Limits, lacking, verdicts

PROGRAM, TEST = "def add(a, b):\n    return a + b\n", "assert add(1, 2) == 3"


def bare() -> None:
    subprocess.run([sys.executable, "-I", "-S", "-c", f"{PROGRAM}\n{TEST}"], check=True)


def judged(**how: bool) -> Callable[[], None]:
    def run() -> None:
        assert verdicts(PROGRAM, [TEST], Limits(), **how) == [True]

    return run


WAYS = {
    "python -I -S, and nothing around it": bare,
    "code(unsafe=yes) without namespaces": judged(namespaces=False, unsafe=True),
    "code": judged(),
}


def milliseconds(run: Callable[[], None]) -> tuple[float, float]:
    """On the wall clock, and of CPU time in processes that have ended."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * wall, 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    if lacking():
        raise SystemExit(f"This machine has no boundary around programs: {lacking()}")
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, run in WAYS.items():
            taken[name].append(milliseconds(run))
    print(f"{'median of ' + str(rounds) + ' programs':38} wall ms  CPU ms")
    for name, times in taken.items():
        wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:38} {wall:7.0f} {processor:7.0f}")


if __name__ == "__main__":
    main()
