"""The same seed gives the same bits, and a killed and resumed run ends like an uninterrupted one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file

from zoo.contract.hookspecs import hookimpl
from zoo.libraries.quiet import quiet_libraries
from zoo.randomness import seed_everything
from zoo.runs import Run
from zoo.terminal import Console
from zoo.testing.bench import Bench
from zoo.testing.networks import source
from zoo.testing.rolling import TinyReward
from zoo.testing.steps import Failed, Stage, adjust, step, with_options
from zoo.training.execution import Execution
from zoo.training.online.rollouts import Rollouts

STEPS = 2
KILLED_AFTER = 6
"""In steps; the last checkpoint is that of step 5, so that one step is repeated, and what happens every 2, 3 or 4 steps
and is forgotten shows."""
KILLS_ONLINE = (1, 3, None)
"""Between two minibatches, in the second pass over a rollout, and (None) inside the second rollout."""


def repeatable(bench: Bench) -> None:
    """The same seed gives the same losses and weights, bit for bit."""
    for options in bench.variants:
        first, again = (list(_seeded_steps(bench, options)) for _ in range(2))
        for number, (one, other) in enumerate(zip(first, again, strict=True), start=1):
            # NaN is not equal to itself, its text is.
            if repr(one) != repr(other):
                raise Failed(
                    f"With the same seed, step {number} has the loss {one[0]!r} and then {other[0]!r}"
                    f"{with_options(options)}, or different gradients. Use only torch's generator for random numbers."
                )


def _seeded_steps(bench: Bench, options: Mapping[str, Any]) -> Iterator[tuple[float, float, dict[str, float]]]:
    """Loss, sum of all gradients and metrics of a few steps after seeding."""
    seed_everything(0)
    stage: Stage = bench.stage(options, own=True)
    optimizer = torch.optim.AdamW([p for _, p in stage.weights()], lr=1e-3)
    for number in range(STEPS):
        made = bench.roll(stage, options, iteration=number).batch if bench.cls.online() else bench.batch(stage, options)
        outcome = step([(stage, [made])])
        yield outcome.loss, sum(float(g.double().sum()) for g in outcome.gradients.values()), outcome.metrics
        adjust(stage, optimizer, outcome)


# -- through a real run ----------------------------------------------------------------------------------------------


class Kill(BaseException):
    """Ends a run like a signal that cannot be caught."""


class Killer:
    """A listener that ends the run after a step."""

    def __init__(self, after: int):
        self.after = after

    @hookimpl
    def step_end(self, step: int) -> None:
        if step == self.after:
            raise Kill


class KillerInside:
    """Ends the run inside a rollout, after the algorithm has made it and before it is used."""

    def __init__(self, rollout: int):
        self.left = rollout

    def __call__(self, batch: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise Kill


def killed_and_resumed(bench: Bench) -> None:
    """A killed and resumed run ends with the same weights and metrics, wherever in a rollout it was killed."""
    quiet_libraries()
    # These runs have their own reference cache, and changes to the environment are undone.
    own = tempfile.TemporaryDirectory(prefix="zoo-conformance-")
    with contextlib.ExitStack() as held:
        folder = held.enter_context(own)
        held.enter_context(mock.patch.dict(os.environ, ZOO_CACHE=str(Path(folder) / "cache")))
        rewards = {"reward": TinyReward()}
        held.enter_context(mock.patch("zoo.training.online.assembly.make_rewards", lambda *given: rewards))
        whole = _execution(bench, folder, "whole").go()
        run: Run | None = None
        for after in KILLS_ONLINE if bench.cls.online() else (KILLED_AFTER,):
            run = _killed(_execution(bench, folder, "broken", resumed=run), after)
        _compare(whole, _execution(bench, folder, "broken", resumed=run).go(), _unsaved(bench))


def _killed(broken: Execution, after: int | None) -> Run:
    """The run, killed after a step or inside its next rollout."""
    inside: Any = contextlib.nullcontext()
    if after is None:
        # The checkpoint holds the experience of the previous rollout.
        inside = mock.patch.object(Rollouts, "_check", KillerInside(1))
    else:
        broken.plugins.register(Killer(after), "killer")
    with inside:
        try:
            broken.go()
        except Kill:
            return broken.run
    raise Failed("The run ended before it could be killed.")


def _execution(bench: Bench, folder: str, name: str, **more: Any) -> Execution:
    core = {
        "model": source().name, "data": str(bench.file({}, 12)), "out": folder, "name": name, "batch_size": 5,
        "epochs": 3, "save_every": 5, "reference_cache": "auto", "lr": 1e-3, "max_steps": 8, "keep_checkpoints": False,
    }  # fmt: skip
    if bench.cls.online():
        # Rollouts of two minibatches with two passes.
        each = bench.resolved({}).core.answers_per_prompt
        core |= {
            "batch_size": 4 * each, "minibatches": 2, "rollout_epochs": 2, "save_every": 1,
        }  # fmt: skip
    return Execution(bench.resolved({}, **core), bench.cls(), Console(quiet=True), **more)


def _unsaved(bench: Bench) -> str:
    """What to do about the attributes that a step changes and that `saved` does not name."""
    stage = bench.stage({}, own=True)
    before = {name: repr(value) for name, value in vars(stage.algorithm).items()}
    batch = bench.roll(stage, {}).batch if bench.cls.online() else bench.batch(stage, {})
    step([(stage, [batch])])
    changed = [name for name, value in vars(stage.algorithm).items() if before.get(name) != repr(value)]
    lost = [name for name in changed if name not in bench.cls.saved]
    if not lost:
        return "Name everything that the next step depends on in `saved`."
    names = ", ".join(f'"{name}"' for name in lost)
    return f"A step changes self.{' and self.'.join(lost)}: saved = ({names},) brings such attributes back."


def _compare(whole: Run, resumed: Run, advice: str) -> None:
    if whole.log_history != resumed.log_history:
        pairs = zip(whole.log_history, resumed.log_history, strict=False)
        number = next(
            (i for i, (a, b) in enumerate(pairs) if a != b), min(len(whole.log_history), len(resumed.log_history))
        )
        raise Failed(
            f"After a kill and a resume, line {number + 1} of metrics.jsonl differs in "
            f"{_differing(whole.log_history[number:], resumed.log_history[number:])}. {advice}"
        )
    for file in whole.model_path.glob("*.safetensors"):
        first, again = load_file(file), load_file(resumed.model_path / file.name)
        for name in first:
            if name not in again or not torch.equal(first[name], again[name]):
                raise Failed(f"After a kill and a resume, the weight {name} differs. {advice}")


def _differing(whole: Sequence[Mapping[str, Any]], resumed: Sequence[Mapping[str, Any]]) -> str:
    """The numbers of the first two rows that are not the same, with both values; only their first one, if many are."""
    if not whole or not resumed:
        return f"being there only {'without' if whole else 'with'} the kill"
    one, other = whole[0], resumed[0]
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    first = f"{names[0]} ({one.get(names[0])} and {other.get(names[0])})"
    return f"{first} and {len(names) - 1} more" if len(names) > 1 else first
