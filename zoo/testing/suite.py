"""Conformance: checks of everything that the core relies on, generated from what an algorithm declares.

    from zoo.testing import conformance

    test_mine = conformance("mine")

is a pytest function with one case for each check; `zoo check mine` shows the same as a table.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.contract.algorithm import Algorithm
from zoo.contract.faults import describe_error
from zoo.errors import PluginError, ZooError, was_asked
from zoo.testing.declared import declared, find_check

CHECKS = {
    "loads quietly": "declaration.loads_quietly",
    "hook arguments": "declaration.hook_arguments",
    "described": "declaration.described",
    "options": "declaration.options",
    "defaults": "declaration.defaults",
    "collation": "contract.collation",
    "declared roles": "contract.declared_roles",
    "gradients": "contract.gradients",
    "frozen roles": "contract.frozen_roles",
    "metrics explained": "contract.metrics_explained",
    "padding invariance": "cuts.padding_invariance",
    "layout invariance": "cuts.layout_invariance",
    "micro-batch invariance": "cuts.micro_batch_invariance",
    "process invariance": "cuts.process_invariance",
    "order invariance": "cuts.order_invariance",
    "one-sided steps": "contract.one_sided_steps",
    "rollout invariance": "rollouts.rollout_invariance",
    "missing rewards": "rollouts.missing_rewards",
    "flat rewards": "rollouts.flat_rewards",
    "kept experience": "rollouts.kept_experience",
    "environment tokens": "episodes.environment_tokens",
    "finite numbers": "numbers.finite_numbers",
    "step-one identities": "numbers.step_one_identities",
    "known values": "numbers.known_values",
    "learns": "learning.learns",
    "right direction": "learning.right_direction",
    "repeatable": "training.repeatable",
    "killed and resumed": "training.killed_and_resumed",
    "two processes": "processes.two_processes",
    "tensor group": "processes.tensor_group",
}
"""Every check in the order of a report, and its function in `zoo.testing.checks`."""
NAMES = tuple(CHECKS)


@dataclass(frozen=True)
class Result:
    """The result of a check: passed, failed, exception (failed as declared) or skipped; `detail` says why."""

    check: str
    result: str
    detail: str = ""

    @classmethod
    def of(cls, check: str, run: Callable[[], None]) -> Result:
        """The result of a check that is one function: it fails by raising anything."""
        from zoo.testing.steps import Failed

        try:
            run()
            return cls(check, "passed")
        except (Failed, ZooError) as failure:
            return cls(check, "failed", str(failure))
        except Exception as error:
            return cls(check, "failed", describe_error(error))


def results_of(
    checks: Mapping[str, Callable[[Any], None]], subject: Any, only: Sequence[str], lacking: str = ""
) -> Iterator[Result]:
    """The result of each check of a guard, an optimizer or a schedule, in order; only: names, or none for all.

    lacking: what this machine lacks, so that every check is skipped; empty for nothing.
    """
    wanted = {find_check(check, tuple(checks)) for check in only} or set(checks)
    chosen = {name: check for name, check in checks.items() if name in wanted}
    if lacking:
        return (Result(name, "skipped", f"It cannot be checked here: {lacking}") for name in chosen)
    return (Result.of(name, functools.partial(check, subject)) for name, check in chosen.items())


def conformance(algorithm: str | type[Algorithm], **known: Any) -> Callable[..., None]:
    """A pytest function that checks an algorithm, one case for each check.

    algorithm: a registered name, `./file.py:Class`, or the class; known: fields of `zoo.testing.declared.Declared`,
    which override those of the class. Raises ZooError for fields and checks that do not exist.
    """
    import pytest

    declared(known, checks=NAMES)
    suite = functools.cache(lambda: Suite(algorithm, **known))

    @pytest.mark.parametrize("check", NAMES, ids=lambda name: name.replace(" ", "-"))
    def test(check: str) -> None:
        result = suite().run(check)
        if result.result == "failed":
            pytest.fail(result.detail, pytrace=False)
        elif result.result == "skipped":
            pytest.skip(result.detail)
        elif result.result == "exception":
            pytest.xfail(result.detail)

    return test


class Suite:
    """The checks of one algorithm. Raises ZooError when there is no such algorithm."""

    def __init__(self, algorithm: str | type[Algorithm], **declarations: Any):
        self.broken: Result | None = None
        self.name = algorithm if isinstance(algorithm, str) else algorithm.__name__.lower()
        try:
            self.name, cls = load(algorithm)
        except PluginError as error:
            # An error with a cause is a failed import; one without is a class that does not fit.
            self.broken = Result("loads quietly" if error.__cause__ else "hook arguments", "failed", str(error))
            return
        from zoo.testing.bench import Bench

        self.known = declared(cls.conformance, declarations, checks=NAMES)
        self.bench = Bench(self.name, cls, self.known, algorithm)

    def results(self, only: Sequence[str] = ()) -> Iterator[Result]:
        """All checks, or `only` some of them, in order. Raises ZooError for one that does not exist."""
        wanted = {find_check(name, NAMES) for name in only} or set(NAMES)
        for name in NAMES:
            if name in wanted:
                yield self.run(name)

    def run(self, name: str) -> Result:
        """One check, quietly, without changing the process's random state."""
        if self.broken is not None:
            other = Result(name, "skipped", f"the algorithm cannot be used: see '{self.broken.check}'")
            return self.broken if name == self.broken.check else other
        result = self._tried(name)
        reason = self.known.exceptions.get(name)
        if reason is None:
            return result
        if result.result == "failed":
            return Result(name, "exception", f"{reason} ({result.detail})")
        if result.result == "passed":
            return Result(
                name, "failed", f"It passes, although an exception is declared ({reason}): remove the exception."
            )
        return result

    def _tried(self, name: str) -> Result:
        from zoo.randomness import restore_rng, rng_state
        from zoo.testing.steps import Failed, NotApplicable

        before = rng_state()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _function(name)(self.bench)
            return Result(name, "passed")
        except Failed as failure:
            return Result(name, "failed", str(failure))
        except NotApplicable as reason:
            return Result(name, "skipped", str(reason))
        except Exception as error:
            if was_asked(error):
                # Ctrl-C was pressed during a run.
                raise
            return Result(name, "failed", explain(error))
        finally:
            restore_rng(before)


def load(algorithm: str | type[Algorithm]) -> tuple[str, type[Algorithm]]:
    """Short name and class of the algorithm to check."""
    from zoo.contract import registry
    from zoo.contract.algorithm import validate

    if isinstance(algorithm, str):
        return registry.load_algorithm(algorithm)
    name = algorithm.__name__.lower()
    return name, validate(algorithm, name)


def _function(name: str) -> Callable[[Any], None]:
    """The function of a check. Its module is imported only now, because training takes seconds to import."""
    from importlib import import_module

    module, _, function = CHECKS[name].partition(".")
    return getattr(import_module(f"zoo.testing.checks.{module}"), function)


def explanation(name: str) -> str:
    """One sentence: the requirement of a check."""
    return (_function(name).__doc__ or "").strip().split("\n")[0]


def explain(error: Exception) -> str:
    """An error in the plugin with its line; only the message if it is written for users."""
    from zoo.contract.faults import describe_error, fault_of_plugin, placed
    from zoo.errors import ZooError

    if isinstance(error, ZooError):
        return str(placed(error))
    fault = fault_of_plugin(error)
    return fault.text() if fault else describe_error(error)


def summary(results: Sequence[Result]) -> Mapping[str, int]:
    """The number of checks with each result, passed ones first."""
    order = ("passed", "failed", "exception", "skipped")
    return {name: count for name in order if (count := sum(result.result == name for result in results))}
