"""Real runs: two processes that exchange their shares must make the run of one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.testing.bench import Bench
from zoo.testing.checks.cuts import FEW_TOKENS, alike
from zoo.testing.networks import other_source, source
from zoo.testing.processes import Made, Order, make
from zoo.testing.steps import Failed, NotApplicable

STRATEGIES = ("ddp", "fsdp")
STEPS = 3
ROWS = 10
"""Steps of 4, 4 and 2 examples."""
FROM_THE_STEP = (
    "A number of the whole step comes from `measure`, as batch.measured; Loss.per_example, per_token and weighted take "
    "a value for each example or token, not their mean; random numbers come from the run's generators."
)
FROM_THE_LOSS = "Only the gradient of the loss may move what is trained."
SAME_STATE = "Compute it from batch.measured, which is the same in all processes, not from the process's own examples."


def two_processes(bench: Bench) -> None:
    """Real runs on two processes, with DDP and sharded, have the losses, metrics and weights of a run on one."""
    if bench.draws_in_loss({}):
        raise NotApplicable("its loss draws random numbers in training, of which each process draws its own")
    with tempfile.TemporaryDirectory(prefix="zoo-conformance-") as folder:
        one = make(_order(bench, Path(folder), "one"))
        for strategy in STRATEGIES:
            two = make(_order(bench, Path(folder), strategy))
            if difference := next(_differences(one, two), ""):
                raise Failed(f"With one process and with two (--strategy {strategy}), {difference}{_suspects(two)}")


def _order(bench: Bench, folder: Path, name: str) -> Order:
    """The run on one process, or with a strategy on two, which learns from the answers of the first."""
    options = {
        "model": source().name, "data": str(bench.file({}, ROWS)), "max_steps": STEPS, "micro_tokens": FEW_TOKENS,
    }  # fmt: skip
    if "reference" in bench.cls().roles(bench.resolved({}).algorithm):
        # Where policy and reference are equal, rounding decides which answer is likelier.
        options["reference"] = other_source().name
    if name not in STRATEGIES:
        return Order(bench.algorithm, options, folder, name)
    return Order(bench.algorithm, {**options, "strategy": name, "devices": 2}, folder, name, 2, answers="one")


def _differences(one: Made, two: Made) -> Iterator[str]:
    """What differs by more than rounding, the nearest to its cause first, each with how to mend it."""
    yield from _of_states(*two.states)
    yield from _of_metrics(one.run.metrics, two.run.metrics)
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
