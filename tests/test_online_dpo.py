"""Online DPO: which answers become a pair, what is dropped, and DPO's own numbers on what is left."""

import math

import pytest
import torch
from formulas import backward, close, evaluate, metric, options, sides, tensor
from online_roles import Told, Written, rolled, start_run, written
from tiny_runs import differences

from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError

OnlineDPO = load_algorithm("online-dpo")[1]
chosen_and_rejected = OnlineDPO.rollout.__globals__["chosen_and_rejected"]


def roll(scores, prompts, lengths=None, ended=True, alike=False, **config):
    lengths = lengths or list(range(1, len(scores) + 1))
    answers = written([[-1.0] * max(lengths)] * len(scores), lengths, ended=ended)
    if not alike:
        for i, one in enumerate(answers):
            one.completion[0] = 10 + i
    reference = Told(torch.full((len(scores), max(lengths)), -1.5, dtype=torch.float64))
    return rolled(OnlineDPO(), options(OnlineDPO, **config), Written(answers), scores, prompts, reference=reference)


def test_the_better_answer_is_chosen(vectors):
    case = vectors["online_dpo.pairing"]
    first, second = (tensor(case["inputs"][f"scores_{name}"]) for name in ("first", "second"))
    scores = torch.stack([first, second], 1)
    chosen, rejected, usable = chosen_and_rejected(scores, "first")
    assert (chosen == 0).tolist() == case["expected"]["first_is_chosen"]
    assert (chosen + rejected == 1).all() and usable.all()
    dropped = chosen_and_rejected(scores)
    assert dropped[0].tolist() == chosen.tolist() and dropped[2].tolist() == [True, False, True]


def test_the_pairs_of_a_rollout():
    batch = roll([0.3, 0.5, -0.2, -0.9], 2)
    assert [one.row for one in batch.chosen] == [1, 2] and [one.row for one in batch.rejected] == [0, 3]
    close(batch.margins, [0.2, 0.7])
    # −1.5 for each of 2 and 3 tokens, and of 1 and 4.
    close(batch.reference_chosen, [-3.0, -4.5])
    close(batch.reference_rejected, [-1.5, -6.0])
    assert batch.usable.tolist() == [True, True]


def test_of_more_answers_the_best_and_the_worst_make_the_pair():
    batch = roll([0.3, 0.9, math.nan, 0.1, 0.4, math.nan, math.nan, math.nan], 2)
    assert (batch.chosen[0].row, batch.rejected[0].row) == (1, 3)
    assert batch.usable.tolist() == [True, False]


@pytest.mark.parametrize("ties", ["drop", "first"])
def test_missing_rewards_make_no_pair(ties):
    for scores in ([math.nan, 1.0], [1.0, math.nan], [math.nan, math.nan]):
        assert roll(scores, 1, ties=ties).usable.tolist() == [False]


def test_equal_answers_make_no_pair_whatever_a_noisy_reward_says():
    assert roll([0.0, 1.0], 1, lengths=[2, 2], alike=True).usable.tolist() == [False]
    assert roll([0.0, 1.0], 1, lengths=[2, 2]).usable.tolist() == [True]


def test_an_answer_without_end_scores_less_by_the_penalty():
    answers = [*written([[-1.0]], [1], ended=False), *written([[-1.0] * 2], [2], rows=[1])]
    batch = rolled(
        OnlineDPO(), options(OnlineDPO, missing_eos_penalty=1.0), Written(answers), [0.9, 0.2],
        reference=Told(torch.zeros(2, 2, dtype=torch.float64)),
    )  # fmt: skip
    assert batch.chosen[0].row == 1
    close(batch.margins, [0.3])


def test_one_answer_a_prompt_is_a_mistake_that_is_named():
    with pytest.raises(ZooError, match="answers_per_prompt is 1"):
        roll([0.3, 0.5], 2)


def loss_on(case, usable):
    policy = sides(case, "chosen", "rejected")
    count = len(usable)
    fields = {f"reference_{field}": tensor(case["inputs"][f"ref_{field}_logps"]) for field in ("chosen", "rejected")}
    fields |= {"usable": torch.tensor(usable), "margins": torch.ones(count, dtype=torch.float64)}
    behaviour = {field: values.detach()[:, None] for field, values in policy.items()}
    return evaluate(OnlineDPO(), policy, behaviour=behaviour, fields=fields, beta=0.1), policy


def test_the_loss_is_that_of_dpo(vectors):
    case = vectors["dpo.sigmoid_beta0.1"]
    loss, policy = loss_on(case, [True] * len(case["inputs"]["policy_chosen_logps"]))
    close(loss.values, case["expected"]["losses"])
    backward(loss)
    close(policy["chosen"].grad, case["expected"]["grad_policy_chosen"])
    close(policy["rejected"].grad, case["expected"]["grad_policy_rejected"])


def test_what_is_no_pair_weighs_nothing_and_is_counted(vectors):
    case = vectors["dpo.sigmoid_beta0.1"]
    count = len(case["inputs"]["policy_chosen_logps"])
    loss, policy = loss_on(case, [False, *[True] * (count - 1)])
    close(loss.mean(), tensor(case["expected"]["losses"][1:]).mean())
    close(metric(loss, "dropped"), 1 / count)
    backward(loss)
    assert policy["chosen"].grad[0] == 0 and policy["rejected"].grad[0] == 0
    none, _ = loss_on(case, [False] * count)
    assert none.numerator.item() == none.denominator.item() == 0.0


def test_where_policy_and_reference_agree_it_starts_at_log_2(vectors):
    same = tensor([-3.0, -4.0])
    fields = {"reference_chosen": same, "reference_rejected": same, "usable": torch.ones(2).bool(), "margins": same}
    both = {"chosen": same, "rejected": same}
    behaviour = {field: values[:, None] for field, values in both.items()}
    loss = evaluate(OnlineDPO(), both, behaviour=behaviour, fields=fields)
    for name, value in OnlineDPO.conformance["start"].items():
        close(loss.mean() if name == "loss" else metric(loss, name), value)
    assert metric(loss, "kl") == 0.0


def test_beta_must_be_above_0():
    with pytest.raises(ZooError, match="beta must be above 0"):
        options(OnlineDPO, beta=0.0)


def test_a_run_goes_on_over_steps_without_a_pair_and_does_not_depend_on_the_cut(tmp_path, tiny_folder):
    train = start_run(tmp_path, tiny_folder)
    whole, cut = train("online-dpo"), train("online-dpo", micro_tokens=20)
    assert differences(whole, cut) < 1e-4
    dropped = [row["dropped"] for row in whole.log_history if "dropped" in row]
    assert max(dropped) == 1.0 > min(dropped)
    for row in whole.log_history:
        assert ("loss" in row) == (row["dropped"] < 1)
    first = next(row for row in whole.log_history if "loss" in row)
    assert whole.summary["skipped_steps"] == sum(row["dropped"] == 1 for row in whole.log_history)
    assert first["step"] > 1 or first["loss"] == pytest.approx(math.log(2), abs=1e-5)
