"""OPD: worked advantages and losses, what the rollout asks for, and a policy that comes to its teacher."""

import math
import sys

import pytest
import torch
from formulas import backward, close, evaluate, metric, options, tensor
from online_roles import Told, Written, start_run, written
from tiny_runs import differences

from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError
from zoo.libraries.pretrained import save
from zoo.models.roles import Models
from zoo.testing.tiny import make_model, make_tokenizer

OPD = load_algorithm("opd")[1]
MATHS = sys.modules[OPD.__module__]
# log π_old and log π_T of two answers of three and two tokens.
OLD = [[-1.0, -0.5, -2.0], [-0.1, -3.0, 0.0]]
TEACHER = [[-0.7, -1.5, -2.0], [-0.4, -1.0, 0.0]]
LENGTHS = [3, 2]


def roll(discount=0.0):
    policy = Written(written(OLD, LENGTHS))
    models = Models(policy=policy, teacher=Told(tensor(TEACHER)))
    return OPD().rollout([{"row": 0}, {"row": 1}], models, options(OPD, discount=discount))


def test_the_advantage_of_a_token_is_what_the_teacher_finds_it_likelier():
    # log π_T − log π_old, by hand.
    batch = roll()
    close(batch.advantage, [[0.3, -1.0, 0.0], [-0.3, 2.0, 0.0]])
    close(batch.reverse_kl, [[-0.3, 1.0, 0.0], [0.3, -2.0, 0.0]])


def test_a_discount_lets_a_token_answer_for_those_behind_it():
    # −0.3 + 1.0/2 + 0/4 = 0.2 and 1.0 + 0/2; 0.3 − 2.0/2 = −0.7, as tinker-cookbook's discounted_future_sum_vectorized
    # gives them.
    close(roll(0.5).advantage, [[-0.2, -1.0, 0.0], [0.7, 2.0, 0.0]])


def test_tokens_that_do_not_count_are_no_steps_of_the_discount():
    # 1 + (2 + 0/2)/2 = 2 and 2, whatever stands between.
    mask = torch.tensor([[True, False, False, True]])
    close(MATHS.discounted(tensor([[1.0, 0.0, 0.0, 2.0]]), mask, 0.5), [[2.0, 2.0, 2.0, 2.0]])


def fields(advantage):
    return {"advantage": tensor(advantage), "reverse_kl": -tensor(advantage)}


def loss_of(policy, advantage, **how):
    masks = {"answers": torch.tensor([[True] * 3, [True, True, False]])}
    return evaluate(
        OPD(), {"answers": policy}, masks=masks, behaviour={"answers": tensor(OLD)}, fields=fields(advantage), **how
    )  # fmt: skip


def test_the_first_step_is_a_policy_gradient():
    advantage = [[0.3, -1.0, 0.0], [-0.3, 2.0, 0.0]]
    policy = tensor(OLD).requires_grad_()
    loss = loss_of(policy, advantage, on_policy=True)
    # −(0.3 − 1.0 + 0.0 − 0.3 + 2.0)/5.
    close(loss.mean(), -0.2)
    for name, value in OPD.conformance["start"].items():
        close(metric(loss, name), value)
    close(metric(loss, "reverse_kl"), -0.2)
    close(metric(loss, "teacher_logp"), (-0.7 - 1.5 - 2.0 - 0.4 - 1.0) / 5)
    backward(loss)
    close(policy.grad, -tensor(advantage) / 5)


def test_later_steps_weigh_each_token_by_its_ratio():
    advantage = [[0.3, -1.0, 0.0], [-0.3, 2.0, 0.0]]
    policy = (tensor(OLD) + math.log(2.0)).requires_grad_()
    loss = loss_of(policy, advantage)
    close(loss.mean(), -0.4)
    close(metric(loss, "ratio"), 2.0)
    backward(loss)
    close(policy.grad, -2.0 * tensor(advantage) / 5)


def test_a_discount_is_a_share():
    with pytest.raises(ZooError, match="discount must be from 0 to 1"):
        options(OPD, discount=1.5)


@pytest.fixture
def teacher_folder(tmp_path):
    tokenizer, folder = make_tokenizer(), tmp_path / "teacher"
    save(make_model(len(tokenizer), tokenizer.eos_token_id, seed=1), folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_run_does_not_depend_on_the_cut_and_needs_no_reward(tmp_path, tiny_folder, teacher_folder):
    train = start_run(tmp_path, tiny_folder)
    how = {"teacher": teacher_folder, "reward": None, "answers_per_prompt": 2}
    whole, cut = train("opd", **how), train("opd", **how, micro_tokens=40)
    assert differences(whole, cut) < 1e-4
    assert not any("rollout/reward" in row for row in whole.log_history) and "rollout/length" in whole.log_history[0]
    assert "rollout/reward" in train("opd", teacher=teacher_folder, answers_per_prompt=2).log_history[0]


def test_a_policy_comes_to_its_teacher(tmp_path, tiny_folder, teacher_folder):
    run = start_run(tmp_path, tiny_folder)("opd", teacher=teacher_folder, lr=1e-2, epochs=28, answers_per_prompt=4)
    distance = [row["reverse_kl"] for row in run.log_history if "reverse_kl" in row]
    # Of few answers it is noisy: 20 steps of it are compared.
    assert sum(distance[-20:]) < 0.7 * sum(distance[:20])
