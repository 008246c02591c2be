"""`zoo check`: the conformance suite as a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from zoo.cli.listings import Json
from zoo.terminal import Console, print_json

COLOURS = {"passed": "green", "failed": "red", "exception": "yellow", "skipped": "dim"}


def check(
    name: Annotated[str, typer.Argument(help="An algorithm: a name from `zoo algos`, or ./file.py:Class.")],
    only: Annotated[list[str] | None, typer.Option(help="Run only this check; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Check an algorithm against everything that the core relies on, on a tiny model and without the network.

    The exit status is 1 if a check fails. docs/conformance.md explains the checks.
    """
    from zoo.cards import described

    described(name)
    from zoo.testing.declared import find_check
    from zoo.testing.suite import NAMES, Suite, summary

    wanted = {find_check(check_name, NAMES) for check_name in only or NAMES}
    names = [check_name for check_name in NAMES if check_name in wanted]
    with Console(stderr=True).status("Preparing") as status:
        suite = Suite(name)
        results = []
        for number, check_name in enumerate(names, start=1):
            status.update(f"{number}/{len(names)} {check_name}")
            results.append(suite.run(check_name))
    passed = not any(result.result == "failed" for result in results)
    if as_json:
        print_json({"algorithm": suite.name, "passed": passed, "checks": [asdict(result) for result in results]})
    else:
        _show(suite.name, results, summary(results))
    if not passed:
        raise typer.Exit(1)


def _show(name: str, results: list[Any], counts: Any) -> None:
    table = Table("check", "result", "", box=None, pad_edge=False)
    for result in results:
        colour = COLOURS[result.result]
        table.add_row(result.check, Text(result.result, style=colour), result.detail)
    Console().print(table)
    Console().print(f"\n{name}: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}.")
