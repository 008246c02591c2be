"""Conformance of a schedule: what the core relies on when it asks one for the learning rate of a step.

    from zoo.testing.schedules import check_schedule

    def test_my_schedule():
        assert not [result for result in check_schedule("mine") if result.result == "failed"]

`zoo check NAME` shows the same as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from zoo.errors import ZooError
from zoo.optimizers.chosen import SCHEDULES, Chosen
from zoo.testing.optimizers import find_chosen
from zoo.testing.steps import Failed
from zoo.testing.suite import Result, results_of

RUNS = ((1, 0), (2, 1), (10, 0), (100, 10), (100, 99), (1000, 30))
"""Steps and warmup of the runs that a schedule is asked about."""
ROUNDING = 1e-9


def find_schedule(name: str) -> Chosen | None:
    """The schedule that a text names; None if it names none.

    name: a registered schedule, with options in brackets if it needs some, or `./file.py:function`, whose first
    parameter is called `step`.
    """
    return find_chosen(name, SCHEDULES, "step")


def check_schedule(name: str, only: Sequence[str] = ()) -> Iterator[Result]:
    """The result of each check of a schedule, in order. Raises ZooError if there is no such schedule or check."""
    schedule = find_schedule(name)
    if schedule is None:
        raise ZooError(f"No schedule is called '{name}'.", "`zoo schedules` lists them.")
    return results_of(CHECKS, schedule, only)


# -- the checks ----------------------------------------------------------------------------------------------------


def described(schedule: Chosen) -> None:
    """Its docstring says in one line what it does, and it is called with its options as they are by default."""
    if not (schedule.function.__doc__ or "").strip():
        raise Failed("The function has no docstring; its first line is shown by `zoo schedules`.")
    schedule(0, 1, 0)


def within(schedule: Chosen) -> None:
    """It gives a number from 0, the floor, to 1, the peak, in every step after the warmup."""
    for total, warmup in RUNS:
        for step in range(warmup, total):
            share = schedule(step, total, warmup)
            if not isinstance(share, (int, float)) or not -ROUNDING <= share <= 1 + ROUNDING:
                raise Failed(
                    f"Step {step} of {total} with a warmup of {warmup} gets {share!r}, which is not in [0, 1]."
                )


def trains(schedule: Chosen) -> None:
    """Some step after the warmup has a rate above the floor."""
    for total, warmup in RUNS:
        if not any(schedule(step, total, warmup) > 0 for step in range(warmup, total)):
            raise Failed(f"No step of {total} with a warmup of {warmup} has a rate above the floor.")


def resumed(schedule: Chosen) -> None:
    """A step has the same rate in a run that begins with it, after other runs, and when asked again."""
    for total, warmup in RUNS:
        steps = range(warmup, total)
        rates = {step: schedule(step, total, warmup) for step in steps}
        for step in reversed(steps):
            if (again := schedule(step, total, warmup)) != rates[step]:
                raise Failed(
                    f"Step {step} of {total} gets {rates[step]!r} at first and then {again!r}: a schedule remembers "
                    "nothing, and draws no random numbers."
                )


CHECKS: dict[str, Callable[[Chosen], None]] = {
    "described": described,
    "within": within,
    "trains": trains,
    "resumed": resumed,
}
NAMES = tuple(CHECKS)
