"""A plugin's loss on given log-probs, in float64, and how its numbers are compared: not a test file itself."""

import pytest
import torch

from zoo.options.fields import build
from zoo.testing import stand_ins
from zoo.values.types import metric_sums


def tensor(values):
    return torch.as_tensor(values, dtype=torch.float64)


def options(cls, **values):
    return build(cls.Config, values, what=cls.__name__)


def measured(algorithm, batch, models, config):
    """What `measure` finds over this batch as the core adds it up, but in float64."""
    if not hasattr(algorithm, "measure"):
        return {}
    given = {"batch": batch, "models": models, "config": config}
    names = algorithm.measure.__code__.co_varnames[1 : algorithm.measure.__code__.co_argcount]
    found = algorithm.measure(**{name: given[name] for name in names})
    return {
        name: tensor(value[0] / value[1] if isinstance(value, tuple) else value).detach()
        for name, value in found.items()
    }


def evaluate(
    algorithm,
    policy,
    reference=None,
    *,
    lengths=None,
    masks=None,
    fields=None,
    step=0,
    known=None,
    training=True,
    critic=None,
    behaviour=None,
    entropy=None,
    on_policy=False,
    **values,
):
    """The loss of one whole step: policy and reference are {field: log-probs}.

    known: what was measured, where this is a part of a step; training: False for held-out data; on_policy: no step was
    made since the answers were written.
    """
    given = {"policy": policy, "reference": reference, "critic": critic}
    roles = {role: values for role, values in given.items() if values is not None}
    batch, models = stand_ins(
        **roles, lengths=lengths, masks=masks, fields=fields, behaviour=behaviour, entropy=entropy
    )
    batch.on_policy = on_policy
    config = options(type(algorithm), **values)
    models.training = training
    batch.measured = measured(algorithm, batch, models, config) if known is None else known
    return loss_of(algorithm, batch, models, config, step)


def loss_of(algorithm, batch, models, config, step=0):
    given = {"batch": batch, "models": models, "config": config, "step": step}
    names = algorithm.loss.__code__.co_varnames[1 : algorithm.loss.__code__.co_argcount]
    loss = algorithm.loss(**{name: given[name] for name in names})
    assert set(loss.metrics) == set(algorithm.metrics), "every metric is explained, and none that is not reported"
    return loss


def sides(case, *fields, role="policy", suffix="_logps", grad=True):
    """{field: tensor} of a worked example's inputs `policy_chosen_logps`, …"""
    return {field: tensor(case["inputs"][f"{role}_{field}{suffix}"]).requires_grad_(grad) for field in fields}


def lengths_of(case, *fields):
    given = {field: case["inputs"].get(f"{field}_lengths") for field in fields}
    return {field: [int(n) for n in counts] for field, counts in given.items() if counts is not None}


def backward(loss):
    (loss.numerator / loss.denominator).backward()


def metric(loss, name):
    """A metric as it is reported."""
    total, count = metric_sums(loss.metrics)[name]
    return float(total / count)


def close(found, expected, relative=1e-10):
    found = found.detach().flatten().tolist() if isinstance(found, torch.Tensor) else [found]
    assert found == pytest.approx(tensor(expected).flatten().tolist(), rel=relative, abs=1e-15)


def together(losses):
    """The loss of a step that was cut into parts: numerators and denominators added up."""
    return sum(loss.numerator for loss in losses) / sum(loss.denominator for loss in losses)
