"""Conformance of an optimizer: what the core relies on when it gives one a run's weights, on a small made-up model.

    from zoo.testing.optimizers import check_optimizer

    def test_my_optimizer():
        assert not [result for result in check_optimizer("mine") if result.result == "failed"]

`zoo check NAME` shows the same as a table.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from zoo.contract import registry
from zoo.contract.plugin_files import import_file, is_file_name
from zoo.errors import ZooError
from zoo.optimizers import ParameterGroup
from zoo.optimizers.bundled import refuse_missing
from zoo.optimizers.chosen import OPTIMIZERS, Chosen, Kind
from zoo.options.config import TrainConfig
from zoo.options.spelling import name_in, parse
from zoo.paths import typed_path
from zoo.testing.steps import Failed, reloaded
from zoo.testing.suite import Result, results_of
from zoo.training.step.schedule import make_optimizer, parameter_groups

Weights = dict[str, torch.Tensor]
STEPS = 6
LONG, CUTS = 24, (3, 5)
"""Steps of a run that is resumed, and after which of them: what happens every k steps and is forgotten shows."""
LR, DECAY = 0.01, 0.1


def find_optimizer(name: str) -> Chosen | None:
    """The optimizer that a text names; None if it names none.

    name: a registered optimizer, with options in brackets if it needs some, or `./file.py:function`, whose first
    parameter is called `groups`.
    """
    return find_chosen(name, OPTIMIZERS, "groups")


def find_chosen(name: str, kind: Kind, first: str) -> Chosen | None:
    """An optimizer or schedule; first: the name of the first parameter, by which it is told from others in a file."""
    if is_file_name(name):
        return _in_file(name, kind, first)
    functions = kind.available(registry.contributions(registry.manager(), f"{kind.what}s"))
    return kind.choose(name, functions) if name_in(name) in functions else None


def _in_file(text: str, kind: Kind, first: str) -> Chosen | None:
    """A function in a file, found in its text, so that no other file is imported."""
    path, _, wanted = name_in(text).partition(":")
    file = typed_path(path)
    if not file.is_file():
        return None
    try:
        nodes = [node for node in ast.parse(file.read_bytes()).body if isinstance(node, ast.FunctionDef)]
    except (SyntaxError, ValueError):
        return None
    names = [node.name for node in nodes if [a.arg for a in node.args.posonlyargs + node.args.args][:1] == [first]]
    wanted = wanted or (names[0] if len(names) == 1 else "")
    if wanted not in names:
        return None
    given = parse(f"{wanted}{text[len(name_in(text)) :]}", kind.what, kind.example)[1]
    return kind.bound(wanted, getattr(import_file(file), wanted), given)


def check_optimizer(name: str, only: Sequence[str] = ()) -> Iterator[Result]:
    """The result of each check of an optimizer, in order. Raises ZooError if there is no such optimizer or check."""
    optimizer = find_optimizer(name)
    if optimizer is None:
        raise ZooError(f"No optimizer is called '{name}'.", "`zoo optimizers` lists them.")
    return results_of(CHECKS, optimizer, only, _lacking(optimizer))


def _lacking(optimizer: Chosen) -> str:
    """What an optimizer of zoo needs and this machine has not; empty for nothing, and for others' optimizers."""
    try:
        if OPTIMIZERS.bundled.get(optimizer.name) is optimizer.function:
            refuse_missing(optimizer.name)
    except ZooError as error:
        return error.message
    return ""


# -- the checks ----------------------------------------------------------------------------------------------------


def described(optimizer: Chosen) -> None:
    """Its docstring says in one line what it does."""
    if not (optimizer.function.__doc__ or "").strip():
        raise Failed("The function has no docstring; its first line is shown by `zoo optimizers`.")


def groups(optimizer: Chosen) -> None:
    """It can be made, takes every trained weight once, and has no group with weights of two roles."""
    trial = Trial(optimizer)
    role_of = {id(p): group.role for group in trial.groups for p in group.parameters}
    for group in trial.optimizer.param_groups:
        roles = {role_of[id(p)] for p in group["params"]}
        if len(roles) > 1:
            raise Failed(f"A group has weights of {' and '.join(sorted(roles))}, whose learning rates may differ.")


def moves(optimizer: Chosen) -> None:
    """A step moves every weight that has a gradient, and the critic's by its own rate."""
    trial = Trial(optimizer)
    before = trial.weights()
    trial.run(1)
    if still := [name for name, value in trial.weights().items() if torch.equal(value, before[name])]:
        raise Failed(f"A step with a gradient does not move {still[0]}.")
    other = Trial(optimizer, critic_lr=2 * LR)
    other.run(1)
    for name, same in trial.same(other).items():
        if same == name.startswith("critic"):
            raise Failed(f"Twice the learning rate of the critic {'does not change' if same else 'changes'} {name}.")


def rates(optimizer: Chosen) -> None:
    """It obeys the `lr` of its groups in each step: 0 moves nothing."""
    trial = Trial(optimizer)
    trial.run(1)
    before = trial.weights()
    for group in trial.optimizer.param_groups:
        group["lr"] = 0.0
    trial.run(1, begin=1)
    if moved := [name for name, value in trial.weights().items() if not torch.equal(value, before[name])]:
        raise Failed(f"With a learning rate of 0 a step moves {moved[0]}: read group['lr'] in each step.")


def decay(optimizer: Chosen) -> None:
    """Weight decay shrinks matrices, and leaves norms and biases as they would be without it."""
    without, trial = Trial(optimizer, weight_decay=0.0), Trial(optimizer)
    for each in (without, trial):
        each.run(STEPS)
    for name, same in trial.same(without).items():
        if same == (trial.parameters[name].ndim >= 2):
            raise Failed(f"Weight decay {'leaves' if same else 'changes'} {name}: read weight_decay of each group.")


def left_alone(optimizer: Chosen) -> None:
    """A weight without a gradient stays as it is, though it had one in the steps before."""
    trial = Trial(optimizer)
    trial.run(2)
    before = trial.weights()
    trial.run(1, begin=2, roles=("policy",))
    for name, value in trial.weights().items():
        if name.startswith("critic") and not torch.equal(value, before[name]):
            raise Failed(f"A step moves {name}, which has no gradient in it (its grad is None).")


def repeatable(optimizer: Chosen) -> None:
    """Two runs with the same gradients end with the same weights, bit for bit."""
    first, second = Trial(optimizer), Trial(optimizer)
    for trial in (first, second):
        trial.run(STEPS)
    _equal(first, second, "The same gradients from the same weights give another")


def restored(optimizer: Chosen) -> None:
    """A run that is resumed from the state of a checkpoint ends with the same weights, bit for bit."""
    whole = Trial(optimizer)
    whole.run(LONG)
    for cut in CUTS:
        killed, resumed = Trial(optimizer), Trial(optimizer)
        killed.run(cut)
        resumed.load(killed.weights(), reloaded(killed.optimizer.state_dict()))
        resumed.run(LONG - cut, begin=cut)
        _equal(whole, resumed, f"Resumed after step {cut} with what state_dict() gave, a run has another")


CHECKS: dict[str, Callable[[Chosen], None]] = {
    "described": described,
    "groups": groups,
    "moves": moves,
    "rates": rates,
    "decay": decay,
    "left alone": left_alone,
    "repeatable": repeatable,
    "restored": restored,
}
NAMES = tuple(CHECKS)


# -- the parts -----------------------------------------------------------------------------------------------------


class Trial:
    """An optimizer on the weights of a small policy and a critic, with made-up gradients."""

    def __init__(self, optimizer: Chosen, weight_decay: float = DECAY, critic_lr: float = LR):
        learners = {"policy": network(0), "critic": network(1)}
        core = TrainConfig(lr=LR, critic_lr=critic_lr, weight_decay=weight_decay)
        self.groups: list[ParameterGroup] = parameter_groups(learners, core)
        self.parameters = {f"{role}.{name}": p for role in learners for name, p in learners[role].named_parameters()}
        self.optimizer = make_optimizer(optimizer, self.groups)

    def run(self, steps: int, begin: int = 0, roles: Sequence[str] = ("policy", "critic")) -> None:
        """Take steps, of which the first has the number `begin`; only weights of these roles have a gradient."""
        for step in range(begin, begin + steps):
            source = torch.Generator().manual_seed(step)
            for name, parameter in self.parameters.items():
                gradient = torch.randn(parameter.shape, generator=source)
                parameter.grad = gradient if name.split(".")[0] in roles else None
            self.optimizer.step()

    def weights(self) -> Weights:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def load(self, weights: Mapping[str, torch.Tensor], state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
        self.optimizer.load_state_dict(state)

    def same(self, other: Trial) -> dict[str, bool]:
        """For each weight whether it is the same in another trial."""
        own, others = self.weights(), other.weights()
        return {name: torch.equal(own[name], others[name]) for name in own}


def network(seed: int) -> torch.nn.Module:
    """An embedding, two layers with a norm between them, and a head: matrices and vectors of every sort.

    One has the 4,096 weights from which on bitsandbytes has moments of 8 bits.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(
            torch.nn.Embedding(4, 64), torch.nn.Linear(64, 64), torch.nn.LayerNorm(64), torch.nn.Linear(64, 8),
            torch.nn.Linear(8, 1, bias=False),
        )  # fmt: skip
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1)
    return model


def _equal(one: Trial, other: Trial, what: str) -> None:
    if differing := [name for name, same in one.same(other).items() if not same]:
        raise Failed(f"{what} {differing[0]}.")
