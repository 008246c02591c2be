"""The same seed gives the same bits, and a run that is killed and resumed ends like one that was not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from safetensors.torch import load_file

from zoo.hookspecs import hookimpl
from zoo.runs import Run
from zoo.testing.bench import Bench, source
from zoo.testing.steps import Failed, Stage, step, with_options
from zoo.training.execution import Execution
from zoo.training.run import quiet_libraries
from zoo.training.setup import seed_everything

STEPS = 2
KILLED_AFTER = 3
"""Steps; the checkpoint before it is that of step 2, so that one step is made again."""


def repeatable(bench: Bench) -> None:
    """The same seed gives the same losses and weights, bit for bit."""
    for options in bench.variants:
        first, again = (list(_seeded_steps(bench, options)) for _ in range(2))
        for number, (one, other) in enumerate(zip(first, again, strict=True), start=1):
            # NaN is not equal to itself, its text is.
            if repr(one) != repr(other):
                raise Failed(
                    f"With the same seed step {number} has the loss {one[0]!r} and then {other[0]!r}"
                    f"{with_options(options)}, or other gradients. Draw random numbers from torch's generator only."
                )


def _seeded_steps(bench: Bench, options: Mapping[str, Any]) -> Iterator[tuple[float, float, dict[str, float]]]:
    """Loss, sum of all gradients and metrics of a few steps after the seed was set."""
    seed_everything(0)
    stage: Stage = bench.stage(options, own=True)
    optimizer = torch.optim.AdamW(stage.policy.parameters(), lr=1e-3)
    for _ in range(STEPS):
        outcome = step([(stage, [bench.batch(stage, options)])])
        yield outcome.loss, sum(float(g.double().sum()) for g in outcome.gradients.values()), outcome.metrics
        for name, parameter in stage.policy.named_parameters():
            parameter.grad = outcome.gradients.get(name)
        optimizer.step()


# -- through a real run ----------------------------------------------------------------------------------------------


class Kill(BaseException):
    """Ends a run as a signal that nobody can catch would."""


class Killer:
    """A listener that ends the run after a step."""

    @hookimpl
    def step_end(self, step: int) -> None:
        if step == KILLED_AFTER:
            raise Kill


def killed_and_resumed(bench: Bench) -> None:
    """A run of five steps that is killed after the third and resumed ends with the same weights and metrics."""
    quiet_libraries()
    # Reference log-probs of these runs are theirs alone, and what a run leaves in the environment goes with it.
    own = tempfile.TemporaryDirectory(prefix="zoo-conformance-")
    with own as folder, mock.patch.dict(os.environ, ZOO_CACHE=str(Path(folder) / "cache")):
        whole = _execution(bench, folder, "whole").go()
        broken = _execution(bench, folder, "broken")
        broken.plugins.register(Killer(), "killer")
        try:
            broken.go()
            raise Failed(f"The run had fewer than {KILLED_AFTER} steps.")
        except Kill:
            pass
        resumed = _execution(bench, folder, "broken", resumed=broken.run).go()
        _compare(whole, resumed)


def _execution(bench: Bench, folder: str, name: str, **more: Any) -> Execution:
    core = {
        "model": source().name, "data": str(bench.file({}, 12)), "out": folder, "name": name, "batch_size": 5,
        "epochs": 2, "save_every": 2, "reference_cache": "auto", "lr": 1e-3, "max_steps": 5, "keep_checkpoints": False,
    }  # fmt: skip
    return Execution(bench.resolved({}, **core), bench.cls(), Console(quiet=True), **more)


def _compare(whole: Run, resumed: Run) -> None:
    if whole.metrics != resumed.metrics:
        pairs = zip(whole.metrics, resumed.metrics, strict=False)
        number = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(whole.metrics), len(resumed.metrics)))
        raise Failed(
            f"Line {number + 1} of metrics.jsonl is another one after a kill and a resume: "
            f"{whole.metrics[number : number + 1]} and {resumed.metrics[number : number + 1]}. "
            "What the next step depends on must be named in `saved`."
        )
    for file in whole.model_path.glob("*.safetensors"):
        first, again = load_file(file), load_file(resumed.model_path / file.name)
        for name in first:
            if name not in again or not torch.equal(first[name], again[name]):
                raise Failed(f"The weight {name} is another one after a kill and a resume.")
