"""How an algorithm treats batches, roles, gradients and metrics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.errors import nearest
from zoo.options.roles import ROLES
from zoo.testing.bench import Bench
from zoo.testing.rolling import Worth
from zoo.testing.steps import Failed, NotApplicable, Stage, loss_of, measure, role_of, step, with_options
from zoo.testing.tiny import tiny_reward
from zoo.values.answers import answers_in
from zoo.values.types import Answers, Batch, Ragged, metric_sums

CORE_METRICS = ("loss", "grad_norm", "lr", "num_tokens", "tokens", "step", "epoch", "skipped")
"""Metrics that the core logs itself."""


def collation(bench: Bench) -> None:
    """Collation gives a batch that can be split and reordered, and does not change the records; so do rollouts."""
    for options in bench.variants:
        if bench.cls.online():
            _check_experience(bench, options)
            continue
        stage = bench.stage(options)
        records = bench.records(stage, options)
        before = copy.deepcopy(records)
        batch = bench.batch(stage, options)
        if not isinstance(batch, Batch):
            raise Failed(f"collate returned {type(batch).__name__}, not a Batch{with_options(options)}.")
        if not same(records, before):
            raise Failed(f"collate changes its input records{with_options(options)}.")
        if not same(dict(batch), dict(bench.batch(stage, options))):
            raise Failed(
                f"collate gives a different batch when it is called again with the same records{with_options(options)}."
            )
        if "row" not in list(batch):
            raise Failed("The batch has no field 'row', which messages about bad steps need to name the rows. Keep it.")
        if not answers_in(batch):
            raise Failed("The batch has no Answers, so the core cannot count its tokens or split it.")
        backwards = list(reversed(range(len(batch))))
        again = batch.select(backwards).select(backwards)
        if not same(dict(batch), dict(again)):
            raise Failed(f"Reversing the batch twice does not give the same batch{with_options(options)}.")


def _check_experience(bench: Bench, options: Mapping[str, Any]) -> None:
    stage = bench.stage(options)
    prompts = bench.prompts(stage, options)
    before = copy.deepcopy(prompts)
    batch = bench.roll(stage, options, prompts=prompts).batch
    if not same(prompts, before):
        raise Failed(f"rollout changes its input prompts{with_options(options)}.")
    if not any(isinstance(batch[name], Answers) for name in batch):
        raise Failed("The batch of a rollout has no Answers, so the core cannot count its tokens or split it.")
    backwards = list(reversed(range(len(batch))))
    if not same(dict(batch), dict(batch.select(backwards).select(backwards))):
        raise Failed(f"Reversing the batch twice does not give the same batch{with_options(options)}.")


def one_sided_steps(bench: Bench) -> None:
    """Steps with only one example, one label or one prompt have a finite loss and gradient."""
    for options in bench.variants:
        for what, only in _one_sided(bench, options):
            stage = bench.stage(options)
            try:
                outcome = step([(stage, [only(stage) if callable(only) else bench.batch(stage, options, only)])])
            except Failed:
                raise
            except Exception as error:
                text = f"A step with {what} raises {type(error).__name__}{with_options(options)}: {error}"
                raise Failed(text) from error
            if not outcome.finite:
                raise Failed(
                    f"A step with {what}{with_options(options)} has the loss {outcome.loss:.4g}; the loss or a "
                    "gradient is not finite."
                )


def _one_sided(bench: Bench, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """A description, and the examples of the batch or a function from a stage to the batch."""

    def rollout(count: int | None = None, worth: Worth = tiny_reward) -> Callable[[Stage], Batch]:
        return lambda stage: bench.roll(
            stage, options, prompts=bench.prompts(stage, options)[:count], worth=worth
        ).batch  # fmt: skip

    if bench.cls.online():
        yield "one example", [0]
        yield "another single example", [1]
        yield "a rollout of one prompt", rollout(1)
        yield "equal rewards", rollout(worth=lambda texts, records: [0.5] * len(texts))
        return
    records = bench.encoded(options)
    yield "one example", [0]
    yield "another single example", [1]
    yield "one prompt", [0, 1]
    if all(isinstance(record.get("label"), bool) for record in records):
        for label in (True, False):
            yield f"only the label {label}", [i for i, record in enumerate(records) if record["label"] is label]


def declared_roles(bench: Bench) -> None:
    """The roles in `needs` are exactly those that are used, with every choice of options."""
    for options in bench.variants:
        stage = bench.stage(options)
        # A batch of experience records the roles that its rollout used.
        step([(stage, [bench.batch(stage, options)])])
        roles = stage.algorithm.roles(stage.config)
        for role in roles:
            if role not in stage.models.used:
                raise Failed(
                    f"needs names the role '{role}', which is never used{with_options(options)}. Remove it, so that "
                    f"it is not loaded for nothing.{nearest(role, stage.models.used)}"
                )


def gradients(bench: Bench) -> None:
    """Every trained weight gets a gradient, frozen weights and weights of the loss get none, nothing else changes."""
    for options in bench.variants:
        stage = bench.stage(options, own=True)
        batch = bench.batch(stage, options)
        weights = {name: p.detach().clone() for name, p in stage.weights()}
        frozen = _let_gradients_flow(stage)
        _loss_alone(stage, batch, options)
        outcome = step([(stage, [batch])])
        for name, parameter in stage.weights():
            if not torch.equal(parameter, weights[name]):
                raise Failed(f"The loss changes the weight {name}{with_options(options)}; only the optimizer may.")
            if not parameter.requires_grad:
                raise Failed(f"The loss freezes the weight {name}{with_options(options)}.")
            # A choice such as a hinge may have no gradient on these rows; the defaults should.
            moves = not options and role_of(name) in outcome.trains
            if moves and (name not in outcome.gradients or not bool(outcome.gradients[name].any())):
                others = [role for role in outcome.trains if role != role_of(name)]
                alone = not any(role_of(one) == role_of(name) for one in outcome.gradients)
                advice = f" If this step is not to move the {role_of(name)}, say so: Loss(…, trains={tuple(others)})."
                raise Failed(f"The weight {name} gets no gradient.{advice if alone and others else ''}")
        for name, parameter in frozen:
            if parameter.grad is not None:
                raise Failed(f"The {name} gets a gradient{with_options(options)}, although its role is frozen.")


def _let_gradients_flow(stage: Stage) -> list[tuple[str, Any]]:
    """Let the weights of frozen roles take gradients, so that a gradient that reaches them is noticed."""
    return [
        (f"{role}'s weight {name}", parameter)
        for role, frozen in stage.models.frozen().items()
        if frozen.model is not stage.policy
        for name, parameter in frozen.model.requires_grad_(True).named_parameters()
    ]


def frozen_roles(bench: Bench) -> None:
    """A rollout and a step leave the weights of frozen roles as they are, unless the role takes the policy's."""
    if not bench.stage({}).models.frozen():
        raise NotApplicable("it has no frozen role that scores answers")
    for options in bench.variants:
        stage = bench.stage(options, own=True)
        frozen = {name: role.model for name, role in stage.models.frozen().items()}
        before = {name: copy.deepcopy(model.state_dict()) for name, model in frozen.items()}
        step([(stage, [bench.roll(stage, options).batch if bench.cls.online() else bench.batch(stage, options)])])
        for name, model in frozen.items():
            _check_frozen(name, model, before[name], options)


def _check_frozen(role: str, model: Any, before: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            raise Failed(f"The role {role} is frozen, but its weight {name} is trained{with_options(options)}.")
        if not torch.equal(parameter, before[name]):
            own = f'models["{role}"]' if role not in ROLES else 'a role of your own, models["opponent"]'
            raise Failed(
                f"The role {role} is frozen, but its weight {name} changes{with_options(options)}. To take the "
                f"policy's weights call renew() of {own}: checkpoints keep these."
            )


def _loss_alone(stage: Stage, batch: Batch, options: Mapping[str, Any]) -> None:
    measure([(stage, [batch])])
    loss = loss_of(stage, batch)
    if any(p.grad is not None for _, p in stage.weights()):
        raise Failed(f"The loss calls backward{with_options(options)}; only the core may.")
    if loss.weights.requires_grad:
        raise Failed(f"The weights of the loss carry a gradient{with_options(options)}: detach them.")


def metrics_explained(bench: Bench) -> None:
    """Every reported metric is explained and every explained metric is reported, in training and in validation."""
    reported: set[str] = set()
    nan: set[str] = set()
    for options in bench.variants:
        stage = bench.stage(options)
        batch = bench.batch(stage, options)
        outcome = step([(stage, [batch])])
        reported |= set(outcome.metrics)
        stage.models.training = False
        with torch.no_grad():
            measure([(stage, [batch])])
            again = loss_of(stage, batch)
        # Validation of an online run uses answers to held-out prompts, without a loss.
        held_out = {name for name, (_, weight) in metric_sums(again.metrics).items() if weight > 0}
        if not bench.cls.online() and held_out - set(outcome.metrics):
            raise Failed(f"The metrics {held_out - set(outcome.metrics)} are reported only in validation.")
        nan |= again.metrics.keys() - held_out
        for name, value in again.metrics.items():
            parts = value if isinstance(value, tuple) else (value,)
            if not all(isinstance(part, Tensor) for part in parts):
                raise Failed(f"The metric {name} is {type(value).__name__}, not a tensor or a pair of tensors.")
    explained = set(bench.cls.metrics)
    if clash := sorted(name for name in reported if name in CORE_METRICS or name.startswith(("rollout/", "val/"))):
        raise Failed(f"The metric name '{clash[0]}' is reserved for the core: choose another one.")
    if unknown := sorted(reported - explained):
        raise Failed(
            f"The metric '{unknown[0]}' is reported, but not explained in `metrics`.{nearest(unknown[0], explained)}"
        )
    if missing := sorted((explained - reported) & nan):
        raise Failed(f"The metric '{missing[0]}' is NaN for every example, whatever the options.")
    if unused := sorted(explained - reported):
        raise Failed(
            f"The metric '{unused[0]}' is explained in `metrics`, but no variant reports it."
            f"{nearest(unused[0], reported)} If it needs certain options, name them in conformance['variants']."
        )


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal bit for bit, recursively."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, Ragged):
        return isinstance(b, Ragged) and same(a.rows, b.rows)
    if isinstance(a, Answers | Batch):
        return type(a) is type(b) and len(a) == len(b) and same(_content(a), _content(b))
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "completion"):
        return hasattr(b, "completion") and same(vars(a), vars(b))
    return bool(a == b)


def _content(value: Any) -> Any:
    return dict(value) if isinstance(value, Batch) else list(value)
