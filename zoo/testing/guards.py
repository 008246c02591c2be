"""Conformance of a guard: what the core relies on when it asks one, with made-up numbers of a run.

    from zoo.testing.guards import check_guard

    def test_my_guard():
        assert not [result for result in check_guard("mine") if result.result == "failed"]

`zoo check NAME` shows the same as a table.
"""

from __future__ import annotations

import ast
import functools
import math
import random
from collections.abc import Callable, Iterator, Sequence

from zoo.contract import registry
from zoo.contract.plugin_files import import_file, is_file_name
from zoo.errors import ZooError
from zoo.guards import Guard, GuardSetup
from zoo.guards.chosen import EXAMPLE, Factory, available, fits
from zoo.guards.watch import asked_of
from zoo.options.spelling import bound, parse
from zoo.paths import typed_path
from zoo.testing.steps import Failed, reloaded
from zoo.testing.suite import Result, results_of

Make = Callable[[], Guard]
Rows = Sequence[dict[str, float]]
SETUPS = (GuardSetup(online=False, rewarded=False), GuardSetup(online=True, rewarded=True))
LENGTH, CUTS = 80, (1, 15, 40, 61)
"""Steps of the made-up run, and those after which it is resumed."""


def find_guard(name: str) -> tuple[str, Factory] | None:
    """Short name and factory of the guard that a text names; None if it names none.

    name: a registered guard, with options in brackets if it needs some, or `./file.py:Class`.
    """
    if is_file_name(name):
        return _in_file(name)
    if "(" not in name and name in (entry.name for entry in registry.algorithms()):
        return None
    factories = available(registry.contributions(registry.manager(), "guards"))
    short = name.partition("(")[0].strip()
    if short not in factories:
        return None
    short, given = parse(name, "guard", EXAMPLE)
    options = bound("guard", short, factories[short], given)
    if not options:
        return short, factories[short]
    return short, functools.update_wrapper(functools.partial(factories[short], **options), factories[short])


def _in_file(name: str) -> tuple[str, Factory] | None:
    """A class in a file whose base is a Guard; found in its text, so that no other file is imported."""
    path, _, wanted = name.partition(":")
    file = typed_path(path)
    if not file.is_file():
        return None
    try:
        nodes = [node for node in ast.parse(file.read_bytes()).body if isinstance(node, ast.ClassDef)]
    except (SyntaxError, ValueError):
        return None
    found = [node.name for node in nodes if any(ast.unparse(base).endswith("Guard") for base in node.bases)]
    wanted = wanted or (found[0] if len(found) == 1 == len(nodes) else "")
    return (wanted.lower(), getattr(import_file(file), wanted)) if wanted in found else None


def check_guard(name: str, only: Sequence[str] = ()) -> Iterator[Result]:
    """The result of each check of a guard, in order. Raises ZooError if there is no such guard or check."""
    found = find_guard(name)
    if found is None:
        raise ZooError(f"No guard is called '{name}'.", "`zoo guards` lists them.")
    return results_of(CHECKS, found[1], only)


# -- the checks ----------------------------------------------------------------------------------------------------


def described(factory: Factory) -> None:
    """Its docstring says in one line what it demands of a step, and it is made without options."""
    if not (factory.__doc__ or "").strip():
        raise Failed("The guard has no docstring; its first line is shown by `zoo guards`.")
    for make in _makes(factory):
        if not isinstance(guard := make(), Guard):
            raise Failed(f"It makes {type(guard).__name__}, no zoo.api.Guard.")


def answers(factory: Factory) -> None:
    """`look` returns a text for any numbers: none at all, NaN, infinite ones, other metrics."""
    odd = [{}, {"loss": math.nan}, {"loss": math.inf, "grad_norm": math.inf}, {"other": -1.0}]
    for make in _makes(factory):
        _said(make(), [*odd, *rows(), *odd])


def leaves_numbers(factory: Factory) -> None:
    """`look` leaves the numbers of the step as they are."""
    for make in _makes(factory):
        guard = make()
        for step, row in enumerate(rows(), start=1):
            shown = dict(row)
            guard.look(step, shown)
            if shown != row:
                changed = {name for name in {*shown, *row} if shown.get(name) != row.get(name)}
                raise Failed(f"In step {step} look() changes {', '.join(sorted(changed))}.")


def repeatable(factory: Factory) -> None:
    """Two guards that see the same numbers object to the same steps, with the same words."""
    for make in _makes(factory):
        _same(_said(make(), rows()), _said(make(), rows()), 0, "A second guard that sees the same numbers")


def restored(factory: Factory) -> None:
    """A guard that is restored from a checkpoint goes on as one that was not interrupted."""
    for make in _makes(factory):
        whole = _said(make(), rows())
        for cut in CUTS:
            guard = make()
            _said(guard, rows()[:cut])
            stored, again = reloaded(state := guard.state()), make()
            before = repr(state)
            _said(guard, rows()[cut:], cut)
            if repr(state) != before:
                raise Failed("What state() returned changes as the guard goes on: return a copy.")
            again.load_state(stored)
            _same(whole[cut:], _said(again, rows()[cut:], cut), cut, f"A guard that is restored after step {cut}")


CHECKS: dict[str, Callable[[Factory], None]] = {
    "described": described,
    "answers": answers,
    "leaves numbers": leaves_numbers,
    "repeatable": repeatable,
    "restored": restored,
}
NAMES = tuple(CHECKS)


# -- the parts -----------------------------------------------------------------------------------------------------


def rows() -> list[dict[str, float]]:
    """The numbers of a run with spikes, a collapse, flat rewards, and steps with nothing to learn from."""
    source = random.Random(0)
    made = []
    for step in range(1, LENGTH + 1):
        late = step > LENGTH // 2
        row = {
            "grad_norm": 50.0 if step in (20, 60) else 1 + source.random(),
            "kl": 1000.0 if step == 30 else source.random(), "entropy": (0.01 if late else 3.0) + source.random() / 9,
            "lr": 1e-5, "rollout/reward": 0.0 if late else source.random(),
            "rollout/reward_std": 0.0 if late else 0.3, "rollout/flat_groups": 1.0 if late else source.random() / 2,
            "rollout/cut": float(step == 25), "rollout/missing": float(step == 35), "rollout/length": float(step),
            "rollout/engine_gap": 3.0 if step == 45 else 0.001,
        }  # fmt: skip
        if step % 7:
            row["loss"] = 90.0 if step in (19, 59) else math.nan if step == 50 else 2 + source.random()
        made.append(row)
    return made


def _makes(factory: Factory) -> list[Make]:
    """Functions that make the guard for each sort of run that it can watch."""
    fitting = [setup for setup in SETUPS if fits(factory, setup)]
    return [functools.partial(factory, setup) for setup in fitting]


def _said(guard: Guard, numbers: Rows, begin: int = 0) -> list[str]:
    return [asked_of(guard, type(guard).__name__, begin + i, dict(row)) for i, row in enumerate(numbers, start=1)]


def _same(expected: list[str], found: list[str], begin: int, who: str) -> None:
    for step, (one, other) in enumerate(zip(expected, found, strict=True), start=begin + 1):
        if one != other:
            raise Failed(f"{who} says {other or 'nothing'!r} of step {step}, and not {one or 'nothing'!r}.")
