"""BCO: worked numbers of the first step, and δ: once a step, over the whole step, and never from held-out data."""

import random
import statistics

import pytest
import torch
from formulas import backward, close, evaluate, metric, options, tensor, together

from zoo.api import Answer
from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError
from zoo.values.records import ListedRecords

BCO = load_algorithm("bco")[1]
PAIR = ("chosen", "rejected")


def answers(vectors):
    """The pairs of the worked example as eight answers, four of them good."""
    inputs = vectors["bco.first_step"]["inputs"]

    def both(role):
        return tensor([value for side in PAIR for value in inputs[f"{role}_{side}_logps"]])

    return both("policy").requires_grad_(), both("ref"), torch.tensor([True] * 4 + [False] * 4)


def step(algorithm, policy, reference, label, **options):
    return evaluate(algorithm, {"completion": policy}, {"completion": reference}, fields={"label": label}, **options)


def test_the_worked_numbers_of_the_first_step(vectors):
    expected = vectors["bco.first_step"]["expected"]
    policy, reference, label = answers(vectors)
    algorithm = BCO()
    loss = step(algorithm, policy, reference, label)
    close(algorithm.delta, expected["delta"])
    close(metric(loss, "delta"), expected["delta"])
    close(loss.values, expected["losses"])
    close(loss.mean(), expected["loss"])
    # −β σ(−z)/8 of a good answer, with z = r − δ; δ has no gradient.
    backward(loss)
    reward = 0.1 * (policy - reference).detach()
    sign = torch.where(label, tensor(1.0), tensor(-1.0))
    close(policy.grad, -sign * 0.1 * torch.sigmoid(-sign * (reward - expected["delta"])) / 8)


def test_the_threshold_is_the_mean_of_all_rewards_so_far():
    algorithm, zero, label = BCO(), tensor([0.0, 0.0]), torch.tensor([True, False])
    seen = []
    for number, rewards in enumerate(([1.0, 2.0], [4.0, 5.0], [0.5, -0.5])):
        step(algorithm, tensor(rewards), zero, label, beta=1.0, step=number)
        seen += rewards
        assert algorithm.delta == pytest.approx(sum(seen) / len(seen))


def test_a_step_counts_once_however_it_is_cut(vectors):
    policy, reference, label = answers(vectors)
    expected = vectors["bco.first_step"]["expected"]
    known = {"rewards": 0.1 * (policy - reference).sum().detach(), "answers": tensor(8.0)}
    for parts in ([[0, 1, 2, 3, 4, 5, 6, 7]], [[7, 0], [1, 2, 3], [4, 5, 6]]):
        algorithm = BCO()
        losses = [step(algorithm, policy[p], reference[p], label[p], known=known) for p in parts]
        close(algorithm.delta, expected["delta"])
        close(together(losses), expected["loss"])


def test_held_out_data_is_judged_by_the_threshold_and_leaves_it_alone():
    algorithm, zero, label = BCO(), tensor([0.0, 0.0]), torch.tensor([True, False])
    step(algorithm, tensor([1.0, 2.0]), zero, label, beta=1.0)
    before = algorithm.state()
    loss = step(algorithm, tensor([7.0, 9.0]), zero, label, beta=1.0, step=1, training=False)
    assert algorithm.state() == before
    # δ is 1.5: both answers lie above it, which is the side of the good one.
    assert metric(loss, "accuracies") == 0.5
    swapped = step(algorithm, tensor([1.0, 2.0]), zero, label, beta=1.0, step=1, training=False)
    assert metric(swapped, "accuracies") == 0.0
    sound = step(algorithm, tensor([2.0, 1.0]), zero, label, beta=1.0, step=1, training=False)
    assert metric(sound, "accuracies") == 1.0
    close(loss.values[0], -torch.nn.functional.logsigmoid(tensor(7.0 - 1.5)))


def test_the_threshold_survives_a_resume():
    algorithm, zero, label = BCO(), tensor([0.0, 0.0]), torch.tensor([True, False])
    step(algorithm, tensor([1.0, 2.0]), zero, label, beta=1.0)
    again = BCO()
    again.load_state(algorithm.state())
    for one in (algorithm, again):
        step(one, tensor([3.0, 3.0]), zero, label, beta=1.0, step=1)
    assert algorithm.delta == again.delta == 9 / 4


# -- prompts of another distribution ---------------------------------------------------------------------------------


def rows_of(draws):
    """Records of (topic, label): a prompt is its topic's token among others that say nothing."""
    source = random.Random(0)
    noise = lambda: [source.randrange(100, 140) for _ in range(4)]  # noqa: E731
    return [
        {"completion": Answer.of([topic] * 3 + noise(), [7]), "label": label, "row": i}
        for i, (topic, label) in enumerate(draws)
    ]


def weights_of(records):
    return [one["weight"] for one in BCO().prepare(ListedRecords(records), options(BCO, density_weights=True))]


def test_bad_answers_are_weighted_by_how_much_likelier_their_prompt_is_among_good_ones():
    """Topic 1 makes 4/5 of the good and 2/5 of the bad prompts: its ratio is 2. That of topic 2 is 1/3, held at 1/2."""
    draws = [(1, True)] * 160 + [(2, True)] * 40 + [(1, False)] * 320 + [(2, False)] * 480
    records = rows_of(draws)
    found = weights_of(records)
    mean = {
        draw: statistics.mean(w for w, one in zip(found, draws, strict=True) if one == draw)
        for draw in dict.fromkeys(draws)
    }
    assert mean[1, True] == mean[2, True] == 1.0
    assert mean[1, False] == pytest.approx(2.0, rel=0.1) and mean[2, False] == pytest.approx(0.5, rel=0.05)
    assert weights_of(records[::-1]) == pytest.approx(found[::-1], rel=1e-4), "the order of the rows does not matter"


def test_the_weight_stands_before_the_loss_of_its_answer():
    policy, zero, label = tensor([1.0, 2.0, -3.0]), tensor([0.0] * 3), torch.tensor([True, False, False])
    plain = step(BCO(), policy, zero, label)
    fields = {"completion": policy}, {"completion": zero}
    found = evaluate(BCO(), *fields, fields={"label": label, "weight": tensor([1.0, 0.5, 4.0])})
    close(found.values, plain.values * tensor([1.0, 0.5, 4.0]))
    assert (metric(found, "density_weight"), metric(plain, "density_weight")) == (2.25, 1.0)


def test_where_the_prompts_are_the_same_all_weights_are_1():
    records = [{**one, "label": label} for one in rows_of([(1, True), (2, True)] * 10) for label in (True, False)]
    assert weights_of(records) == pytest.approx([1.0] * 40)
    assert BCO().prepare(records, options(BCO)) is records


def test_prompts_of_which_nothing_can_be_told_leave_the_weights_at_1():
    with pytest.warns(UserWarning, match="Too few prompts"):
        assert weights_of(rows_of([(1, True), (2, True), (1, False)])) == [1.0] * 3


# -- one mark, start, extremes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [True, False])
def test_answers_of_one_mark_only_give_a_finite_loss_and_no_number_for_the_other(good):
    policy = tensor([-3.0, -4.0]).requires_grad_()
    loss = step(BCO(), policy, tensor([-3.5, -3.0]), torch.tensor([good, good]))
    backward(loss)
    assert loss.values.isfinite().all() and policy.grad.isfinite().all()
    missing = "undesirable" if good else "desirable"
    assert loss.metrics[f"rewards/{missing}"].isnan().all() and metric(loss, "desirable") == float(good)


def test_where_policy_and_reference_agree_it_starts_at_log_2():
    same = tensor([-3.0, -40.0])
    loss = step(BCO(), same, same, torch.tensor([True, False]))
    close(loss.mean(), torch.log(tensor(2.0)))


def test_far_apart_answers_stay_finite():
    far = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    loss = step(BCO(), far, torch.zeros(4), torch.tensor([True, True, False, False]))
    loss.numerator.backward()
    assert loss.values.isfinite().all() and far.grad.isfinite().all()


def test_a_beta_that_means_nothing_is_refused():
    with pytest.raises(ZooError, match="beta must be above 0"):
        options(BCO, beta=0.0)
