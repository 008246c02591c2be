"""Real runs: two processes that exchange their shares must make the run of one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import ZooError
from zoo.options.checks import check_tensor_parallel
from zoo.options.config import resolve
from zoo.testing.bench import Bench
from zoo.testing.checks.cuts import FEW_TOKENS, alike
from zoo.testing.networks import other_source, source, workplace
from zoo.testing.processes import OPTIONS, Made, Order, make
from zoo.testing.steps import Failed, NotApplicable

STEPS = 3
ROWS = 10
"""Steps of 4, 4 and 2 examples."""
FROM_THE_STEP = (
    "A number of the whole step comes from `measure`, as batch.measured; Loss.per_example, per_token and weighted take "
    "a value for each example or token, not their mean; random numbers come from the run's generators."
)
FROM_THE_LOSS = "Only the gradient of the loss may move what is trained."
SAME_STATE = "Compute it from batch.measured, which is the same in all processes, not from the process's own examples."
PARTS = (
    "In a tensor group log-probabilities, scores and rewards are whole in each process, but the weights and the hidden "
    "values inside of a block are parts: leave them to the core."
)


def two_processes(bench: Bench) -> None:
    """Real runs on two processes, with DDP and sharded, have the losses, metrics and weights of a run on one."""
    if bench.draws_in_loss({}):
        raise NotApplicable("its loss draws random numbers in training, of which each process draws its own")
    for strategy in ("ddp", "fsdp"):
        _compare(bench, f"--strategy {strategy}", {"strategy": strategy})


def tensor_group(bench: Bench) -> None:
    """A real run on two processes that compute every layer together is that of one, random numbers included."""
    cut = {"tensor_parallel": 2}
    try:
        check_tensor_parallel(resolve(bench.name, bench.cls, [("options", {**OPTIONS, **cut, "devices": 2})]).core)
    except ZooError as refused:
        raise NotApplicable(str(refused)) from refused
    _compare(bench, "--tensor-parallel 2", cut, f" {PARTS}")


def _compare(bench: Bench, flags: str, options: Mapping[str, Any], hint: str = "") -> None:
    """A run on two processes with that on one. Raises Failed for a difference beyond rounding."""
    one = _alone(bench)
    with tempfile.TemporaryDirectory(dir=one.run.path.parent) as name:
        chosen = {**_options(bench), **options, "devices": 2}
        two = make(Order(bench.algorithm, chosen, Path(name), "two", 2, answers=str(one.run.path)))
        if difference := next(_differences(one, two), ""):
            raise Failed(f"With one process and with two ({flags}), {difference}{hint}{_suspects(two)}")


@lru_cache(maxsize=1)
def _alone(bench: Bench) -> Made:
    """The run on one process, which the checks of an algorithm share."""
    return make(Order(bench.algorithm, _options(bench), Path(tempfile.mkdtemp(dir=workplace())), "one"))


def _options(bench: Bench) -> dict[str, Any]:
    options = {
        "model": source().name, "data": str(bench.file({}, ROWS)), "max_steps": STEPS, "micro_tokens": FEW_TOKENS,
    }  # fmt: skip
    resolved = bench.resolved({})
    for name in bench.cls().roles(resolved.algorithm):
        if resolved.roles[name].is_frozen_copy:
            # Where policy and reference are equal, rounding decides which answer is likelier.
            options[resolved.roles[name].option] = other_source().name
    if bench.cls.online():
        # The rows are few.
        options["minibatches"] = min(resolved.core.minibatches, 2)
    return options


def _differences(one: Made, two: Made) -> Iterator[str]:
    """What differs by more than rounding, the nearest to its cause first, each with how to mend it."""
    yield from _of_states(*two.states)
    yield from _of_metrics(one.run.log_history, two.run.log_history)
    for weights in two.weights:
        yield from _of_weights(one.weights[0], weights)
    yield from _of_weights(one.model, two.model)


def _of_states(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    for name in first:
        if not alike(first[name], second[name]):
            values = f"{first[name]} and {second[name]}"
            yield f"the two have different values of self.{name} after {STEPS} steps ({values}). {SAME_STATE}"


def _of_metrics(one: Sequence[Mapping[str, Any]], two: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if len(one) != len(two):
        yield f"metrics.jsonl has {len(one)} and {len(two)} rows. {FROM_THE_STEP}"
    for a, b in zip(one, two, strict=False):
        hint = FROM_THE_STEP if a["step"] <= 1 else f"{FROM_THE_LOSS} {FROM_THE_STEP}"
        for name in dict.fromkeys([*a, *b]):
            if not alike(a.get(name), b.get(name)):
                yield f"{name} of step {a['step']} differs ({_number(a, name)} and {_number(b, name)}). {hint}"


def _number(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.6g}" if isinstance(row.get(name), float) else str(row.get(name, "nothing"))


def _of_weights(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> Iterator[str]:
    for name in one:
        if name not in two or not alike(one[name], two[name]):
            yield f"the weight {name} differs. {FROM_THE_LOSS}"


def _suspects(two: Made) -> str:
    """What else is not the same in the two processes."""
    first, second = two.attributes
    names = [f"self.{name}" for name in first if first[name] != second.get(name)]
    return f" The two have different values of {', '.join(names)}." if names else ""
