"""`zoo check`: the conformance suite as a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from zoo.cli.listings import Json
from zoo.errors import ZooError, nearest
from zoo.optimizers.chosen import OPTIMIZERS, SCHEDULES, Kind
from zoo.options.spelling import name_in
from zoo.terminal import Console, fitting, print_json

COLOURS = {"passed": "green", "failed": "red", "exception": "yellow", "skipped": "dim"}


def check(
    name: Annotated[
        str | None,
        typer.Argument(
            help="An algorithm: a name from `zoo algos`, or ./file.py:Class. Or a guard, an optimizer or a schedule."
        ),
    ] = None,
    environment: Annotated[
        str | None, typer.Option(help="Instead, an environment: a name from `zoo environments`, or ./file.py:Class.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Prompts for an environment, as --data of a run; by default its own.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run only this check; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Check an algorithm, guard, optimizer, schedule or environment against everything that the core relies on.

    It runs on a tiny model and without the network. The exit status is 1 if a check fails. docs/conformance.md explains
    the checks of algorithms; docs/guards.md, docs/optimizers.md and docs/environments.md explain those of guards, of
    optimizers and schedules, and of environments.
    """
    if (name is None) == (environment is None):
        raise ZooError("`zoo check` takes one thing to check.", "Type zoo check NAME, or zoo check --environment NAME.")
    if data is not None and environment is None:
        raise ZooError("--data is of environments.", "Add --environment, or leave it out.")
    if environment is not None:
        from zoo.testing.environments import check_environment

        what, short = "environment", environment
        results = list(check_environment(environment, only or (), data or ""))
        _end(what, short, results, as_json)
        return
    assert name is not None
    if (guard := _guard_of(name)) is not None:
        from zoo.testing.guards import check_guard

        what, short, results = "guard", guard, list(check_guard(name, only or ()))
    elif (optimizer := _optimizer_of(name)) is not None:
        from zoo.testing.optimizers import check_optimizer

        what, short, results = "optimizer", optimizer, list(check_optimizer(name, only or ()))
    elif (schedule := _schedule_of(name)) is not None:
        from zoo.testing.schedules import check_schedule

        what, short, results = "schedule", schedule, list(check_schedule(name, only or ()))
    else:
        what, (short, results) = "algorithm", _checked(name, only or (), quiet=as_json)
    _end(what, short, results, as_json)


def _end(what: str, short: str, results: list[Any], as_json: bool) -> None:
    """Show the results; the exit status is 1 if a check failed."""
    from zoo.testing.suite import summary

    passed = not any(result.result == "failed" for result in results)
    if as_json:
        print_json({what: short, "passed": passed, "checks": [asdict(result) for result in results]})
    else:
        _show(short, results, summary(results))
    if not passed:
        raise typer.Exit(1)


def _guard_of(name: str) -> str | None:
    """The short name of the guard that a text names; None if it names none. A wrong name needs no torch to be seen."""
    from zoo.contract.plugin_files import is_file_name
    from zoo.training.outlook import guards

    if not is_file_name(name) and name_in(name) not in guards():
        return None
    from zoo.testing.guards import find_guard

    guard = find_guard(name)
    return None if guard is None else guard[0]


def _optimizer_of(name: str) -> str | None:
    """The same for an optimizer."""
    if not _may_name(name, OPTIMIZERS):
        return None
    from zoo.testing.optimizers import find_optimizer

    optimizer = find_optimizer(name)
    return None if optimizer is None else optimizer.name


def _schedule_of(name: str) -> str | None:
    """The same for a schedule."""
    if not _may_name(name, SCHEDULES):
        return None
    from zoo.testing.schedules import find_schedule

    schedule = find_schedule(name)
    return None if schedule is None else schedule.name


def _may_name(name: str, kind: Kind) -> bool:
    """Whether a text may name one of a kind: a file, or a name that is registered."""
    from zoo.contract.plugin_files import is_file_name
    from zoo.training.outlook import named

    return is_file_name(name) or name_in(name) in named(kind)


def _refuse_unknown(name: str) -> None:
    """Raises ZooError, with the nearest name of all that can be checked, for a name that nothing has."""
    from zoo.contract import registry
    from zoo.contract.plugin_files import is_file_name
    from zoo.training.outlook import guards, named

    entries = registry.algorithms()
    if is_file_name(name) or any(name in (entry.name, entry.full_name) for entry in entries):
        return
    names = sorted({entry.name for entry in entries} | {*guards(), *named(OPTIMIZERS), *named(SCHEDULES)})
    raise ZooError(
        f"Nothing that can be checked is called '{name}'.{nearest(name_in(name), names)}",
        "`zoo algos`, `zoo guards`, `zoo optimizers` and `zoo schedules` list what there is; ./file.py:NAME is a "
        "class or function in a file.",
    )


def _checked(name: str, only: Sequence[str], quiet: bool) -> tuple[str, list[Any]]:
    """The short name of an algorithm, and the results of its checks, which take minutes.

    A terminal shows which one runs. Elsewhere each is told when it is done, unless quiet.
    """
    from zoo.cards import described

    _refuse_unknown(name)
    described(name)
    from zoo.testing.declared import find_check
    from zoo.testing.suite import NAMES, Suite
    from zoo.training.record.progress import duration

    wanted = {find_check(check_name, NAMES) for check_name in only or NAMES}
    names = [check_name for check_name in NAMES if check_name in wanted]
    console = Console(stderr=True)
    with console.status("Preparing") as status:
        suite = Suite(name)
        results = []
        for number, check_name in enumerate(names, start=1):
            place, began = f"{number}/{len(names)} {check_name}", time.monotonic()
            status.update(place)
            results.append(suite.run(check_name))
            if not (console.is_terminal or quiet):
                console.say(f"{place}: {results[-1].result}, {duration(time.monotonic() - began)}")
    return suite.name, results


def _show(name: str, results: list[Any], counts: Any) -> None:
    table = Table("check", "result", "", box=None, pad_edge=False)
    first: dict[str, str] = {}
    for result in results:
        colour = COLOURS[result.result]
        # One mistake fails many checks: it is told once.
        told = (
            first.setdefault(" ".join(result.detail.split()), result.check)
            if result.result == "failed"
            else result.check
        )
        detail = result.detail if told == result.check else f"as {told}"
        table.add_row(result.check, Text(result.result, style=colour), detail)
    Console().print(fitting(table, Console()))
    Console().print(f"\n{name}: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}.")
