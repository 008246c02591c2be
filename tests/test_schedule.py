"""The learning rate, step by step, and which weights decay."""

import pytest
import torch
from transformers.optimization import get_inverse_sqrt_schedule

from zoo.errors import PluginError
from zoo.optimizers.chosen import OPTIMIZERS, SCHEDULES, Chosen
from zoo.optimizers.schedules import decay_begin
from zoo.options.config import TrainConfig
from zoo.training.step import schedule as step_schedule
from zoo.training.step.schedule import parameter_groups


def lr_factor(schedule, total, warmup, floor):
    return step_schedule.lr_factor(SCHEDULES.choose(schedule, SCHEDULES.bundled), total, warmup, floor)


def make_optimizer(learners, text="adamw", **options):
    groups = parameter_groups(learners, TrainConfig(**options))
    return step_schedule.make_optimizer(OPTIMIZERS.choose(text, OPTIMIZERS.bundled), groups)


@pytest.mark.parametrize("schedule", SCHEDULES.bundled)
def test_the_warmup_rises_linearly_and_never_starts_at_zero(schedule):
    factor = lr_factor(schedule, total=100, warmup=4, floor=0.0)
    assert [factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_warmup_below_one_is_a_share_of_all_steps():
    share, count = lr_factor("linear", 50, 0.1, 0.0), lr_factor("linear", 50, 5, 0.0)
    assert [share(step) for step in range(50)] == [count(step) for step in range(50)]


def test_without_warmup_the_first_step_has_the_full_rate():
    assert lr_factor("cosine", 10, 0, 0.0)(0) == 1.0


@pytest.mark.parametrize(("schedule", "middle"), [("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)])
def test_the_rate_falls_to_the_floor(schedule, middle):
    factor = lr_factor(schedule, total=100, warmup=0, floor=0.1)
    assert factor(50) == pytest.approx(middle)
    assert factor(100) == pytest.approx(1.0 if schedule == "constant" else 0.1)
    assert factor(1000) == factor(100), "past the end it stays where it is"


def test_cosine_is_flat_at_both_ends_and_linear_is_not():
    cosine, linear = lr_factor("cosine", 100, 0, 0.0), lr_factor("linear", 100, 0, 0.0)
    assert 1 - cosine(10) < 0.03 < 0.09 < 1 - linear(10)
    assert cosine(90) < 0.03 < 0.09 < linear(90)


def test_warmup_stable_decay_is_constant_until_its_last_steps_and_falls_there_in_a_line():
    factor = lr_factor("wsd(decay_share=0.25)", total=100, warmup=10, floor=0.2)
    assert [factor(step) for step in (9, 10, 40, 75)] == pytest.approx([10 / 11, 1.0, 1.0, 1.0])
    # A line from 1 at step 75 to 0.2 at step 100.
    assert [factor(step) for step in (80, 90, 100, 200)] == pytest.approx([0.84, 0.52, 0.2, 0.2])


@pytest.mark.parametrize(("total", "share", "begin"), [(100, 0.1, 90), (10, 0.01, 9), (1, 0.1, 0), (8, 1.0, 0)])
def test_the_decay_phase_is_a_share_of_the_steps_and_at_least_one(total, share, begin):
    assert decay_begin(total, share) == begin


def test_a_warmup_that_lasts_into_the_decay_phase_leaves_it_the_rest():
    factor = lr_factor("wsd(decay_share=0.5)", total=10, warmup=8, floor=0.0)
    assert [factor(step) for step in (7, 8, 9)] == pytest.approx([8 / 9, 1.0, 0.5])


def test_a_run_of_one_step_has_a_rate():
    for schedule in SCHEDULES.bundled:
        assert lr_factor(schedule, total=1, warmup=0.1, floor=0.0)(0) == 1.0


def test_the_inverse_square_root_falls_from_the_warmup_on_as_transformers_has_it():
    factor = lr_factor("inverse_sqrt", total=400, warmup=100, floor=0.0)
    assert [factor(step) for step in (100, 200, 400)] == pytest.approx([1, 2**-0.5, 0.5])
    weight = torch.nn.Parameter(torch.zeros(1))
    theirs = get_inverse_sqrt_schedule(torch.optim.SGD([weight], lr=1.0), 100).lr_lambdas[0]
    assert [factor(step) for step in range(100, 400)] == pytest.approx([theirs(step) for step in range(100, 400)])
    assert lr_factor("inverse_sqrt(timescale=50)", 400, 100, 0.0)(250) == pytest.approx(0.5)
    assert lr_factor("inverse_sqrt", 400, 0, 0.0)(300) == pytest.approx((1 + 300 / 10_000) ** -0.5)


@pytest.mark.parametrize("share", [-0.1, float("nan"), float("inf"), None])
def test_a_schedule_of_a_plugin_that_gives_no_share_is_named(share):
    odd = Chosen("odd", lambda step, total, warmup: share, {})
    with pytest.raises(PluginError, match="The schedule 'odd' gives .* for step 0"):
        step_schedule.lr_factor(odd, 10, 0, 0.0)(0)


def test_matrices_decay_and_norms_and_biases_do_not():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    optimizer = make_optimizer({"policy": model}, "adamw(beta1=0.5)", weight_decay=0.1, lr=1.0)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0,
    }  # fmt: skip
    assert optimizer.defaults["betas"] == (0.5, 0.999)


def test_a_model_with_matrices_only_has_one_group():
    assert len(make_optimizer({"policy": torch.nn.Linear(2, 2, bias=False)}).param_groups) == 1


def test_a_critic_has_a_learning_rate_of_its_own():
    both = {role: torch.nn.Linear(2, 2, bias=False) for role in ("policy", "critic")}
    rates = [
        [group["lr"] for group in make_optimizer(both, lr=1.0, **options).param_groups]
        for options in ({"critic_lr": 3.0}, {}, {"critic": "head"})
    ]
    assert rates == [[1.0, 3.0], [1.0, 1.0], [1.0, 5.0]]
