"""The values of a loss: worked numbers, those of the first step, extreme ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import nearest
from zoo.models.scalar import StepScores
from zoo.options.fields import build
from zoo.testing.bench import Bench
from zoo.testing.rolling import answers_of
from zoo.testing.stand_ins import stand_ins
from zoo.testing.steps import Failed, NotApplicable, Stage, hooks, step, with_options
from zoo.values.types import Batch, Loss, TokenLogps, metric_sums, pad

CASE_KEYS = ("given", "options", "measured", "loss", "metrics", "gradients")
LISTS = {"lengths": 2, "fields": 1}
"""Arguments of `stand_ins` in which lists of lists, or all lists, stay lists, as in a batch."""
ROUNDING = 1e-4
SIZES = ((0.0, 1.0), (1e-6, 1.0), (1e3, 1.0), (1.0, 1e3), (1e3, 1e3))
"""Factors of the policy's and the reference's log-probabilities or scores: certain, almost certain, one far off, both
far off."""


def step_one_identities(bench: Bench) -> None:
    """While the policy still equals its reference, loss and metrics have the values that the author states."""
    expected = bench.declared.start
    if not expected:
        raise NotApplicable("no start values are declared")
    stage = bench.stage({}, start=True)
    batch = bench.batch(stage, {})
    if bench.cls.online():
        _check_engine(stage, batch)
    outcome = step([(stage, [batch])])
    actual = {**outcome.metrics, "loss": outcome.loss}
    for name, value in expected.items():
        if name not in actual:
            raise Failed(f"The first step has no metric '{name}', only {', '.join(actual)}.")
        if not abs(actual[name] - value) <= 1e-4 + 1e-4 * abs(value):
            raise Failed(f"In the first step {name} is {actual[name]:.6g}, but should be {value:.6g}.")


@torch.no_grad()
def _check_engine(stage: Stage, batch: Batch) -> None:
    """The log-probabilities with which answers were sampled are those that the policy gives them now."""
    for answers in answers_of(batch):
        logps = stage.models.built("policy").logps(answers)
        gap = float(((logps.per_token - answers.behaviour) * logps.mask).abs().max())
        if not gap <= ROUNDING:
            raise Failed(
                f"Before any step, a token's log-probability differs by {gap:.3g} from that of its sampling: do not "
                "change the answers that generate returns."
            )


# -- known values ----------------------------------------------------------------------------------------------------


def known_values(bench: Bench) -> None:
    """The loss, metrics and gradients equal the worked numbers that the author gives."""
    if not bench.declared.values:
        raise NotApplicable("no worked numbers are declared")
    for number, case in enumerate(bench.declared.values, start=1):
        _check_keys(case, f"Case {number}")
        arguments, leaves = _given(case["given"])
        batch, models = stand_ins(**arguments)
        batch.measured = {name: torch.tensor(value) for name, value in case.get("measured", {}).items()}
        loss = _loss(bench, batch, models, case.get("options", {}))
        loss.mean().backward()
        means = {name: float(a / b) for name, (a, b) in metric_sums(loss.metrics).items() if b}
        actual = {"loss": float(loss.mean().detach()), **means}
        for name, value in {"loss": case.get("loss"), **case.get("metrics", {})}.items():
            _check_number(actual.get(name), value, f"Case {number}: {name}")
        for name, values in case.get("gradients", {}).items():
            _check_number(_gradient(leaves[name]), values, f"Case {number}: the gradient of {name}")


def _check_keys(case: Mapping[str, Any], what: str) -> None:
    """Refuses unknown keys, because a misspelt key would check nothing."""
    for key in case:
        if key not in CASE_KEYS:
            raise Failed(f"{what} has no key '{key}'.{nearest(key, CASE_KEYS)} It takes: {', '.join(CASE_KEYS)}.")
    if "given" not in case or not {"loss", "metrics", "gradients"} & set(case):
        raise Failed(f"{what} needs `given`, and the expected `loss`, `metrics` or `gradients`.")


def _loss(bench: Bench, batch: Batch, models: Any, options: Mapping[str, Any]) -> Loss:
    config = build(bench.cls.Config, options, what=bench.name)
    loss = hooks(bench.cls()).loss(batch=batch, models=models, config=config, step=0)
    assert isinstance(loss, Loss)
    return loss


def _given(case: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of `stand_ins`, and the leaves of the gradients by field: a tensor, or one for each list of scores.

    Lists of scores, which may differ in length, are for several answers to a prompt, or for the steps of an answer if
    `fields` says at which tokens the steps end.
    """
    arguments = {name: _tensors(value, LISTS.get(name, 0)) for name, value in case.items() if name != "scores"}
    if "scores" not in case:
        return arguments, {name: value.requires_grad_() for name, value in arguments["policy"].items()}
    leaves: dict[str, Any] = {}
    for name, values in case["scores"].items():
        rows = [_tensors(row).requires_grad_() for row in (values if _is_nested(values) else [values])]
        leaves[name] = rows if _is_nested(values) else rows[0]
    of_steps = "step_ends" in case.get("fields", {})
    joined = {name: pad(leaf, 0.0) if of_steps and isinstance(leaf, list) else leaf for name, leaf in leaves.items()}
    return {**arguments, "scores": joined}, leaves


def _is_nested(values: Any) -> bool:
    return bool(len(values)) and isinstance(values[0], Sequence)


def _tensors(value: Any, lists: int = 0) -> Any:
    """Lists of numbers as float64 tensors, of booleans as bool. lists: 1 keeps lists of lists, 2 keeps every list."""
    if isinstance(value, Mapping):
        return {name: _tensors(one, lists) for name, one in value.items()}
    if isinstance(value, Tensor) or lists > 1 or (lists and _is_nested(value)):
        return value
    tensor = torch.tensor(value)
    return tensor if tensor.dtype == torch.bool else tensor.double()


def _gradient(leaf: Any) -> Any:
    """The gradient as lists, None without one."""
    if isinstance(leaf, list):
        return [_gradient(row) for row in leaf]
    return None if leaf.grad is None else leaf.grad.tolist()


def _check_number(actual: Any, expected: Any, what: str) -> None:
    if expected is None:
        return
    if isinstance(expected, Sequence):
        if actual is None or len(actual) != len(expected):
            raise Failed(f"{what} is {actual}, but should be {expected}.")
        for number, wanted in zip(actual, expected, strict=True):
            _check_number(number, wanted, what)
    elif actual is None or not abs(actual - expected) <= 1e-9 + 1e-5 * abs(expected):
        raise Failed(f"{what} is {actual}, but should be {expected}.")


# -- extreme values --------------------------------------------------------------------------------------------------


class Sized:
    """A role whose log-probabilities and scores are multiplied by a number."""

    def __init__(self, role: Any, size: float):
        self._role, self._size = role, size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._role, name)

    def logps(self, *answers: Any, **options: Any) -> Any:
        found = self._role.logps(*answers, **options)
        return self._times(found) if isinstance(found, TokenLogps) else tuple(map(self._times, found))

    def values(self, answers: Any) -> Tensor:
        return self._role.values(answers) * self._size

    def _times(self, logps: TokenLogps) -> TokenLogps:
        return TokenLogps(logps.per_token * self._size, logps.mask, **logps.computed)

    def scores(self, *answers: Any, **options: Any) -> Any:
        found = self._role.scores(*answers, **options)
        if isinstance(found, StepScores):
            return StepScores(found.per_step * self._size, found.mask)
        return found * self._size if isinstance(found, Tensor) else tuple(one * self._size for one in found)


def finite_numbers(bench: Bench) -> None:
    """Loss and gradients are finite in bfloat16, and for log-probabilities and scores of any size."""
    for options in bench.variants:
        for precision in ("bf16-mixed", "bf16-true"):
            stage = bench.stage(options, precision=precision)
            _check_finite(stage, bench, options, f"in {precision}")
        for policy, reference in SIZES:
            stage = bench.stage(options)
            # Experience knows what the reference said.
            if (policy == 1.0 and not stage.models.frozen()) or (reference != 1.0 and bench.cls.online()):
                continue
            size = {"policy": policy, **dict.fromkeys(stage.models.frozen(), reference)}
            # What was learned from was written before: here the loss alone meets these numbers.
            for role, factor in {**size, "critic": policy}.items():
                stage.wrap(**{role: lambda given, factor=factor: Sized(given, factor)})
            _check_finite(stage, bench, options, f"when log-probabilities or scores are multiplied by {size}")


def _check_finite(stage: Stage, bench: Bench, options: Mapping[str, Any], when: str) -> None:
    outcome = step([(stage, [bench.batch(stage, options)])])
    if not outcome.finite:
        raise Failed(f"The loss is {outcome.loss:.4g} or its gradient is not finite {when}{with_options(options)}.")
