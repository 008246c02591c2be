"""RLAIF: grades become rewards and rewards advantages, ungraded answers weigh nothing, gold is only shown."""

import math

import pytest
import torch
from formulas import backward, close, evaluate, loss_of, metric, options, tensor, together
from online_roles import Told, Written, rolled, start_run, written
from tiny_runs import differences

from zoo.contract.registry import load_algorithm
from zoo.errors import TrainingStopped, ZooError
from zoo.judges.judge import Judge, Response
from zoo.judges.local import LocalModel
from zoo.models.roles import Models

RLAIF = load_algorithm("rlaif")[1]
MATHS = RLAIF.rollout.__globals__
LENGTHS = [3, 2, 1, 4]
BEHAVIOUR = [[-1.0, -0.5, -2.0, 0.0], [-0.7, -1.5, 0.0, 0.0], [-0.3, 0.0, 0.0, 0.0], [-0.4, -0.6, -0.8, -1.0]]
REFERENCE = [[-1.5, -1.0, -1.0, 0.0], [-0.7, -1.0, 0.0, 0.0], [-0.8, 0.0, 0.0, 0.0], [-0.9, -0.6, -0.8, -0.5]]
# Σ log π − log π_ref of each answer.
KL = [0.0, -0.5, 0.5, 0.0]


class Grader:
    """A judge that has made up its mind."""

    def __init__(self, grades):
        self.grades, self.asked = grades, []

    def rate(self, prompts, answers, chain_of_thought=False):
        self.asked.append(([prompt["row"] for prompt in prompts], list(answers), chain_of_thought))
        return tensor(self.grades)


class Writing(Written):
    def texts(self, answers):
        return [f"answer {one.row}" for one in answers]


def roll(grades, gold=(0.0,) * 4, prompts=2, values=None, judge=None, **config):
    roles = {"judge": judge or Grader(grades), "reference": Told(tensor(REFERENCE))}
    if values is not None:
        roles["critic"] = Told(tensor(values))
    policy = Writing(written(BEHAVIOUR, LENGTHS))
    return rolled(RLAIF(), options(RLAIF, **config), policy, list(gold), prompts, **roles)


# -- the parts -----------------------------------------------------------------------------------------------------


def test_the_objective(vectors):
    case = vectors["rlaif.objective"]
    given = {name: tensor(value) for name, value in case["inputs"].items()}
    close(MATHS["objective"](given["r"], given["kl"], given["beta"]), case["expected"]["J"])


def test_grades_from_1_to_10_become_rewards_from_minus_1_to_1():
    close(MATHS["reward_of"](tensor([1.0, 5.5, 10.0])), [-1.0, 0.0, 1.0])
    assert MATHS["reward_of"](tensor([math.nan])).isnan().all()


def test_what_is_to_come_begins_with_the_whole_objective(vectors):
    given = vectors["rlaif.objective"]["inputs"]
    kl, mask = tensor([[1.0, 0.5, 2.5, 9.0]]), torch.tensor([[True, True, True, False]])
    found = MATHS["still_to_come"](tensor([given["r"]]), kl, mask, given["beta"])
    # (1 − β) r = 0.76, of which each token pays for itself and those after it.
    close(found, [0.76 - 0.2, 0.76 - 0.15, 0.76 - 0.125, 0.0])


# -- a rollout -----------------------------------------------------------------------------------------------------


def test_every_answer_is_graded_beside_its_prompt():
    judge = Grader([5.5] * 4)
    roll(None, judge=judge, chain_of_thought=True)
    assert judge.asked == [([0, 0, 1, 1], ["answer 0", "answer 1", "answer 2", "answer 3"], True)]


def test_an_answer_is_compared_with_the_others_to_its_prompt():
    batch = roll([10.0, 1.0, 5.5, 10.0])
    goals = [0.95 - 0.05 * KL[0], -0.95 - 0.05 * KL[1], -0.05 * KL[2], 0.95 - 0.05 * KL[3]]
    close(batch.objective, goals)
    close(batch.kl, KL)
    first, second = goals[0] - goals[1], goals[2] - goals[3]
    close(batch.advantage[:, 0], [first, -first, second, -second])
    assert ((batch.advantage != 0) == batch.answers.mask).all()


def test_equal_objectives_teach_exactly_nothing():
    assert (roll([7.3] * 4, beta=0.0).advantage == 0).all()


def test_the_reward_of_the_run_is_shown_and_never_trained_on():
    grades = [9.0, 2.0, 4.0, 6.0]
    plain, other = roll(grades), roll(grades, gold=[5.0, math.nan, -3.0, 1.0])
    assert (plain.advantage == other.advantage).all()
    close(other.gold[2:], [-3.0, 1.0])


def test_a_critic_is_what_answers_are_compared_with_in_the_paper():
    values = [[0.1, 0.2, 0.3, 0.0], [0.0, 0.4, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1]]
    batch = roll([10.0, 1.0, 5.5, math.nan], values=values, baseline="value")
    # First answer: log-ratios 0.5, 0.5, −1.0.
    close(batch.returns[0, :3], [0.95, 0.95 + 0.05 * 0.5, 0.95 + 0.05])
    close(batch.advantage[0, :3], [0.95 - 0.1, 0.975 - 0.2, 1.0 - 0.3])
    assert (batch.advantage[3] == 0).all() and not batch.known[3]
    mask = batch.answers.mask & batch.known[:, None]
    returns, wrong = batch.returns[mask], batch.advantage[mask]
    close(batch.explained[0], 1 - wrong.var(correction=0) / returns.var(correction=0))


def test_what_the_judge_cannot_grade_is_left_out_of_the_baseline_and_of_the_loss():
    batch = roll([10.0, math.nan, math.nan, math.nan], gold=[1.0, 2.0, 3.0, 4.0])
    assert batch.known.tolist() == [True, False, False, False]
    assert (batch.advantage == 0).all(), "alone in its group an answer cannot be better than the others"
    of_three = roll([10.0, 1.0, math.nan, 5.5], prompts=1, beta=0.0)
    # Rewards 1, −1 and 0, each less the mean of the two others.
    close(of_three.advantage[:, 0], [1.5, -1.5, 0.0, 0.0])
    loss = evaluated(of_three, beta=0.0)
    assert loss.denominator == 3
    close(metric(loss, "ungraded"), 0.25)


def test_a_judge_that_grades_length_is_found_out():
    lengths = tensor(LENGTHS)
    close(roll(2 * lengths + 1, prompts=1).length, torch.ones(4))
    assert roll([5.0] * 4).length.isnan().all()


def test_one_answer_a_prompt_needs_a_critic():
    with pytest.raises(ZooError, match="answers_per_prompt is 1"):
        roll([5.0] * 4, prompts=4)
    roll([5.0] * 4, prompts=4, baseline="value", values=[[0.0] * 4] * 4)


# -- the loss ------------------------------------------------------------------------------------------------------


def evaluated(batch, values=None, on_policy=True, policy=None, **config):
    batch.on_policy = on_policy
    roles = {"policy": policy or Told(tensor(BEHAVIOUR))}
    if values is not None:
        roles["critic"] = Told(values)
    return loss_of(RLAIF(), batch, Models(**roles), options(RLAIF, **config))


def test_the_loss_is_reinforce_in_value_and_gradient():
    logps = tensor([[-1.0, -0.5], [-0.7, -0.2]]).requires_grad_()
    advantage = tensor([[0.4, 0.4], [-0.4, 0.0]])
    fields = {
        "known": torch.tensor([True, True]), "advantage": advantage, "kl_k3": torch.zeros(2, 2),
        **{name: torch.zeros(2) for name in ("grade", "reward", "gold", "objective", "kl", "length")},
    }  # fmt: skip
    loss = evaluate(
        RLAIF(), {"answers": logps}, fields=fields, behaviour={"answers": logps.detach()},
        masks={"answers": torch.tensor([[True, True], [True, False]])}, on_policy=True,
    )  # fmt: skip
    # −0.4 (−1.0 − 0.5) and 0.4 · −0.7.
    close(loss.values, [0.6, -0.28])
    backward(loss)
    close(logps.grad, [-0.2, -0.2, 0.2, 0.0])


def test_the_first_step_is_on_policy():
    loss = evaluated(roll([10.0, 1.0, 5.5, 9.0]), policy=Told(tensor(BEHAVIOUR) + 0.3))
    assert metric(loss, "ratio") == RLAIF.conformance["start"]["ratio"]
    later = evaluated(roll([10.0, 1.0, 5.5, 9.0]), policy=Told(tensor(BEHAVIOUR) + 0.3), on_policy=False)
    close(metric(later, "ratio"), math.exp(0.3))


def test_the_critic_learns_what_is_to_come():
    values = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    batch = roll([10.0, 1.0, 5.5, math.nan], values=[[0.0] * 4] * 4, baseline="value", beta=0.0)
    loss = evaluated(batch, values=values, baseline="value", beta=0.0, value_weight=0.5)
    backward(loss)
    # (V − G) · 0.5 / tokens / answers, with G = 1 for the first answer.
    close(values.grad[0], [-1 * 0.5 / 3 / 3] * 3 + [0.0])
    assert (values.grad[3] == 0).all()
    close(metric(loss, "value_loss"), (3 * 0.5 + 2 * 0.5) / 6)


def test_a_rollout_goes_into_the_loss_part_by_part():
    batch = roll([10.0, 1.0, 5.5, 9.0])
    parts = [evaluated(batch.select([2, 0])), evaluated(batch.select([3, 1]))]
    close(together(parts), evaluated(batch).mean())


# -- options and whole runs ----------------------------------------------------------------------------------------


def test_roles_follow_the_options():
    assert RLAIF().roles(options(RLAIF)) == ("policy", "judge", "reference")
    assert RLAIF().roles(options(RLAIF, baseline="value", beta=0.0)) == ("policy", "judge", "critic")


@pytest.mark.parametrize("values", [{"beta": 1.0}, {"beta": -0.1}, {"value_weight": -1.0}], ids=str)
def test_options_that_mean_nothing_are_refused(values):
    with pytest.raises(ZooError, match="must be at least 0"):
        options(RLAIF, **values)
    with pytest.raises(ZooError, match="value_weight has no effect without baseline=value"):
        options(RLAIF, value_weight=0.5)


@pytest.mark.parametrize("baseline", ["group", "value"])
def test_the_model_judges_itself_without_any_reward_of_the_run(tmp_path, tiny_folder, baseline, capsys):
    train = start_run(tmp_path, tiny_folder)
    given = {"reward": None, "minibatches": 1, "rollout_epochs": 1, "answers_per_prompt": 4, "baseline": baseline}
    whole, cut = train("rlaif", **given, quiet=False), train("rlaif", **given, micro_tokens=20)
    assert "no reward" not in capsys.readouterr().out, "there is none that could be missing"
    assert differences(whole, cut) < 1e-4
    rows = [row for row in whole.log_history if "grade" in row]
    assert rows and all(1 <= row["grade"] <= 10 and row["ratio"] == 1.0 for row in rows)
    assert all("rollout/length" in row and "rollout/reward" not in row and "gold" not in row for row in rows)
    assert ("value_loss" in rows[0]) == (baseline == "value")


def test_the_run_shows_grades_and_gold_of_held_out_prompts(tmp_path, tiny_folder):
    train = start_run(tmp_path, tiny_folder)
    data = str(tmp_path / "prompts.jsonl")
    run = train("rlaif", minibatches=1, rollout_epochs=1, answers_per_prompt=4, eval_data=data, eval_every=1)
    last = [row for row in run.log_history if "val/grade" in row][-1]
    assert 1 <= last["val/grade"] <= 10 and {"val/reward", "val/kl"} <= last.keys()
    assert any("gold" in row for row in run.log_history)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_judge_reads_a_question_once_for_all_its_grades(precision, tmp_path, tiny_folder, monkeypatch):
    """Its weights may be rounded, after which a test of its own would see too little: it has the run's layout."""
    layouts, chosen = [], LocalModel._chosen_layout
    monkeypatch.setattr(LocalModel, "_chosen_layout", lambda *given: layouts.append(chosen(*given)) or layouts[-1])
    train = start_run(tmp_path, tiny_folder)
    train("rlaif", answers_per_prompt=2, minibatches=1, rollout_epochs=1, max_steps=1, precision=precision)
    assert layouts and set(layouts) == {"shared"}


def test_a_judge_that_grades_nothing_ends_the_run(tmp_path, tiny_folder, monkeypatch, capsys):
    def mute(self, questions, thinking):
        return [Response(problem="it says nothing") for _ in questions]

    monkeypatch.setattr(Judge, "_ask", mute)
    train = start_run(tmp_path, tiny_folder)
    with pytest.raises(TrainingStopped, match="3 rollouts one after the other.*it says nothing"):
        train("rlaif", reward=None, minibatches=1, rollout_epochs=1, answers_per_prompt=4, epochs=4, quiet=False)
    assert "judgements are missing: it says nothing" in capsys.readouterr().out
