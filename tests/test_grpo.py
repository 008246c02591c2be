"""GRPO: worked numbers of the paper's loss and of its relatives; groups with nothing to learn; missing rewards."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from formulas import backward, close, evaluate, loss_of, metric, options, tensor, together
from online_roles import Told, Written, rolled, start_run, written
from tiny_runs import differences

from zoo.api import (
    Answer,
    Answers,
    Batch,
    clipped_surrogate,
    group_advantages,
    kl_estimate,
    sequence_log_ratio,
    step_advantages,
    step_rewards,
)
from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError
from zoo.models.roles import Models
from zoo.options.config import resolve
from zoo.rollout.writer import Writer, turn_ends
from zoo.values.types import Episode

GRPO = load_algorithm("grpo")[1]
overlong_punishment = GRPO.rollout.__globals__["overlong_punishment"]
selected_tokens = GRPO.rollout.__globals__["selected_tokens"]
PLAIN = {"beta": 0.0, "scale": "none"}


def step(case, *, rows=None, on_policy=False, kept=None, **values):
    """The loss of a worked example, or of some rows of it, and its log-probs under the policy."""
    given = case["inputs"]
    rows = list(range(len(given["mask"]))) if rows is None else rows
    mask = tensor(given["mask"]).bool()[rows]
    width = int(mask.sum(-1).max())
    mask = mask[:, :width]
    new = tensor(given["old_logps"] if on_policy else given["new_logps"])[rows, :width].requires_grad_()
    advantage = tensor(given["advantages"])[rows]
    advantage = advantage[:, None] if advantage.ndim == 1 else advantage[:, :width]
    every = torch.ones(len(rows), dtype=torch.float64)
    fields = {
        "advantage": advantage * mask,
        "kept": every.bool() if kept is None else torch.tensor(kept),
        "constant": every * values.pop("constant", 4),
        "overlong": every * 0,
        "resampled": every,
    }
    if values.get("covariance", "none") != "none":
        fields["selected"] = selected(case, **values)[rows].double()
    if "ref_logps" in given:
        fields["reference"] = tensor(given["ref_logps"])[rows, :width]
    behaviour = {"answers": tensor(given["old_logps"])[rows, :width]}
    found = evaluate(
        GRPO(), {"answers": new}, masks={"answers": mask}, behaviour=behaviour, fields=fields, on_policy=on_policy,
        **values,
    )  # fmt: skip
    return found, new


def selected(case, kept=None, **values):
    """The tokens of a worked example that covariance acts on."""
    given, mask = case["inputs"], tensor(case["inputs"]["mask"]).bool()
    answers = Answers(written(given["old_logps"], mask.sum(-1).tolist()))
    advantage = tensor(given["advantages"])[:, None] * mask
    counted = mask if kept is None else mask & torch.tensor(kept)[:, None]
    return selected_tokens(answers, advantage, counted, options(GRPO, **values))


def clip_of(case):
    given = case["inputs"]
    return {"beta": given["beta"], "clip_low": given["eps_low"], "clip_high": given["eps_high"]}


# -- the loss ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("grpo.loss_deepseekmath", {}),
        ("grpo.loss_trl_kl_bias_correction", {"kl_estimator": "k3_ratio"}),
        ("grpo.loss_dapo", {"reduction": "token_mean"}),
        ("grpo.loss_token_mean_kl", {"reduction": "token_mean"}),
    ],
)
def test_the_worked_numbers(vectors, name, values):
    case, expected = vectors[name], vectors[name]["expected"]
    loss, new = step(case, **clip_of(case), **values)
    close(loss.mean(), expected["loss"])
    close(metric(loss, "clip_low"), expected["clip_low_frac"])
    close(metric(loss, "clip_high"), expected["clip_high_frac"])
    if case["inputs"]["beta"]:
        close(metric(loss, "kl_k3"), expected["kl_k3_token_mean"])
    backward(loss)
    close(new.grad, expected["grad_new_logps"])


def test_the_default_is_the_paper_s_and_not_what_trl_does_by_itself(vectors):
    case = vectors["grpo.loss_deepseekmath"]
    found = step(case)[0].mean().item()
    assert found == pytest.approx(case["expected"]["loss"], rel=1e-10)
    assert found != pytest.approx(vectors["grpo.loss_trl_kl_bias_correction"]["expected"]["loss"], rel=1e-4)


def test_a_mean_over_tokens_does_not_depend_on_how_the_step_is_cut(vectors):
    case, expected = vectors["grpo.loss_dapo"], vectors["grpo.grad_accum_token_mean"]["expected"]
    parts = vectors["grpo.grad_accum_token_mean"]["inputs"]["micro_batches"]
    losses = [step(case, rows=rows, **clip_of(case), reduction="token_mean")[0] for rows in parts]
    close(together(losses), expected["loss"])
    wrong = sum(loss.mean() for loss in losses) / len(losses)
    close(wrong, expected["WRONG_mean_of_microbatch_token_means"])
    assert float(together(losses)) != pytest.approx(expected["WRONG_mean_of_microbatch_token_means"])


def test_in_the_first_step_the_ratio_is_exactly_1_and_the_loss_minus_the_mean_advantage(vectors):
    case = vectors["grpo.on_policy_value"]
    loss, new = step(case, on_policy=True, beta=0.0)
    assert float(loss.mean()) == case["expected"]["loss"] == 0.0
    for name, value in GRPO.conformance["start"].items():
        assert metric(loss, name) == value
    backward(loss)
    close(new.grad, case["expected"]["grad"])
    over_tokens = step(case, on_policy=True, beta=0.0, reduction="token_mean")[0]
    close(over_tokens.mean(), case["expected"]["token_mean_loss"])


def test_the_ratio_is_exactly_1_whatever_the_sampler_said(vectors):
    case = vectors["grpo.on_policy_value"]
    moved = {**case, "inputs": {**case["inputs"], "new_logps": case["inputs"]["old_logps"]}}
    moved["inputs"]["old_logps"] = (tensor(case["inputs"]["old_logps"]) + 0.1).tolist()
    assert metric(step(moved, on_policy=True, beta=0.0)[0], "ratio") == 1.0
    assert metric(step(moved, beta=0.0)[0], "ratio") < 0.95


@pytest.mark.parametrize("ratio", ["sequence", "sequence_token"])
def test_gspo_and_gspo_token_have_the_same_value_and_gradient(vectors, ratio):
    case, expected = vectors["grpo.gspo_paper_eps"], vectors["grpo.gspo_paper_eps"]["expected"]
    given = case["inputs"]
    loss, new = step(case, beta=0.0, ratio=ratio, clip_low=given["eps_low"], clip_high=given["eps_high"])
    close(loss.mean(), expected["loss"])
    mask, clipped = tensor(given["mask"]), tensor(expected["clipped"])
    close(metric(loss, "clip_low") + metric(loss, "clip_high"), (mask * clipped[:, None]).sum() / mask.sum())
    backward(loss)
    close(new.grad, expected["grad_new_logps"], 1e-9)
    assert (new.grad == 0).all(1).tolist() == expected["clipped"]


def rloo_case(vectors):
    """The worked example with the advantages that our `group_advantages` gives it."""
    case = vectors["grpo.rloo"]
    given = case["inputs"]
    policy = Written(written(given["old_logps"], [4, 2, 3, 1]))
    batch = rolled(
        GRPO(), options(GRPO, **{**GRPO.variants["rloo"], "beta": given["beta"]}), policy, given["rewards"],
        reference=Told(tensor(given["ref_logps"])),
    )  # fmt: skip
    close(batch.advantage[:, 0], case["expected"]["advantages"])
    assert ((batch.advantage != 0) == batch.answers.mask).all()
    return {**case, "inputs": {**given, "advantages": batch.advantage[:, 0].tolist()}}


def test_rloo_as_its_paper_and_as_trl_have_it(vectors):
    case, expected = rloo_case(vectors), vectors["grpo.rloo"]["expected"]
    preset = {name: value for name, value in GRPO.variants["rloo"].items() if name != "length_constant"}
    loss, new = step(case, constant=1, **preset)
    close(loss.mean(), expected["loss_reinforce_form"])
    backward(loss)
    close(new.grad, expected["grad_new_logps_reinforce_form"])

    loss, new = step(case, **{**preset, "surrogate": "clip", "ratio": "sequence_sum", "reduction": "sequence_mean"})
    close(loss.mean(), expected["loss_ppo_form"])
    backward(loss)
    close(new.grad, expected["grad_new_logps_ppo_form"])


def test_the_constant_reduction_divides_sums_of_tokens_by_answers_and_constant(vectors):
    case, inputs = vectors["grpo.loss_dapo"], vectors["grpo.grad_accum_token_mean"]["inputs"]
    loss, _ = step(case, constant=20, **clip_of(case), reduction="constant")
    close(loss.mean(), tensor(inputs["token_losses"]).sum() / (4 * 20))


def test_cispo_keeps_the_gradient_of_tokens_that_a_clip_would_silence(vectors):
    case = vectors["grpo.loss_dapo"]
    given, mask = case["inputs"], tensor(case["inputs"]["mask"])
    loss, new = step(case, beta=0.0, surrogate="cispo", clip_low=1.0, clip_high=0.28, reduction="token_mean")
    ratio = (tensor(given["new_logps"]) - tensor(given["old_logps"])).exp().clamp(max=1.28)
    backward(loss)
    close(new.grad, -tensor(given["advantages"])[:, None] * ratio * mask / mask.sum())
    assert (new.grad[mask.bool()] != 0).all() and (tensor(case["expected"]["grad_new_logps"])[mask.bool()] == 0).any()
    # With a bound below, small ratios are raised to it.
    held = (tensor(given["new_logps"]) - tensor(given["old_logps"])).exp().clamp(0.9, 1.28)
    assert (held > ratio)[mask.bool()].any()
    loss, new = step(case, beta=0.0, surrogate="cispo", clip_low=0.1, clip_high=0.28, reduction="token_mean")
    backward(loss)
    close(new.grad, -tensor(given["advantages"])[:, None] * held * mask / mask.sum())


def test_sapo_fades_where_a_clip_would_stop(vectors):
    case, expected = vectors["grpo.sapo"], vectors["grpo.sapo"]["expected"]
    gates = {"gate_positive": case["inputs"]["tau_pos"], "gate_negative": case["inputs"]["tau_neg"]}
    loss, new = step(case, beta=0.0, surrogate="sapo", **gates)
    close(loss.mean(), expected["loss"])
    close(loss.mean(), expected["loss_TRL"], 1e-7)
    backward(loss)
    close(new.grad, expected["grad_new_logps"])
    plain = step(case, beta=0.0)
    backward(plain[0])
    stopped = (plain[1].grad == 0) & (tensor(case["inputs"]["mask"]) > 0)
    assert stopped.any() and (new.grad[stopped] != 0).all()


def test_at_a_ratio_of_1_the_gradient_of_sapo_is_that_of_a_clip_whatever_its_temperatures(vectors):
    case = vectors["grpo.on_policy_value"]
    loss, new = step(case, on_policy=True, beta=0.0, surrogate="sapo", gate_positive=3.0, gate_negative=0.5)
    backward(loss)
    close(new.grad, case["expected"]["grad"])


def test_clip_cov_takes_the_gradient_from_tokens_between_its_bounds(vectors):
    case, expected = vectors["grpo.clip_cov"], vectors["grpo.clip_cov"]["expected"]
    given = case["inputs"]
    values = {
        "clip_low": given["eps_low"], "clip_high": given["eps_high"], "covariance": "clip",
        "covariance_share": given["share"], "covariance_low": given["cov_lb"], "covariance_high": given["cov_ub"],
    }  # fmt: skip
    assert selected(case, **values).tolist() == expected["selected"]
    loss, new = step(case, beta=0.0, reduction="token_mean", **values)
    # The authors' mean divides by the number of tokens + 1e-8.
    close(loss.mean(), expected["loss"], 1e-8)
    close(metric(loss, "high_covariance"), 0.2)
    backward(loss)
    close(new.grad, expected["grad_new_logps"], 1e-8)


def test_kl_cov_charges_the_tokens_with_the_largest_covariance(vectors):
    case, expected = vectors["grpo.kl_cov"], vectors["grpo.kl_cov"]["expected"]
    values = {"covariance": "kl", "covariance_share": case["inputs"]["share"]}
    loss, new = step(
        case,
        beta=0.0,
        surrogate="unclipped",
        reduction="token_mean",
        covariance_weight=case["inputs"]["beta"],
        **values,
    )
    close(loss.mean(), expected["loss"], 1e-8)
    backward(loss)
    close(new.grad, expected["grad_new_logps"], 1e-8)


def test_clip_cov_draws_the_same_tokens_in_any_order_and_no_more_than_its_share(vectors):
    case = {"inputs": dict(vectors["grpo.clip_cov"]["inputs"])}
    values = {"covariance": "clip", "covariance_low": 0.0, "covariance_high": 9.0}
    every = selected(case, covariance_share=1.0, **values)
    drawn = selected(case, covariance_share=0.2, **values)
    assert int(every.sum()) == 6 and int(drawn.sum()) == 2 and (every | ~drawn).all()
    back = {"inputs": {name: case["inputs"][name][::-1] for name in ("old_logps", "mask", "advantages")}}
    assert torch.equal(selected(back, covariance_share=0.2, **values).flip(0), drawn)
    assert int(selected(case, covariance_share=1e-6, **values).sum()) == 1, "the authors' code takes one token at least"


@pytest.mark.parametrize("covariance", ["clip", "kl"])
def test_covariance_leaves_answers_without_a_reward_and_equal_rewards_alone(vectors, covariance):
    case = {"inputs": dict(vectors["grpo.clip_cov"]["inputs"])}
    between = {"covariance_low": 0.0, "covariance_high": 9.0} if covariance == "clip" else {}
    values = {"covariance": covariance, "covariance_share": 1.0, **between}
    kept = [True, False, True, True]
    some, rows = selected(case, kept=kept, **values), [0, 2, 3]
    part = {"inputs": {name: [case["inputs"][name][i] for i in rows] for name in ("old_logps", "mask", "advantages")}}
    assert torch.equal(some[rows], selected(part, **values)) and not some[1].any()
    assert not selected(case, kept=[False] * 4, **values).any()
    case["inputs"]["advantages"] = [0.0] * 4
    assert not selected(case, **values).any()


@pytest.mark.parametrize("kind", ["token", "sequence", "sequence_token", "sequence_sum"])
def test_an_answer_without_tokens_has_the_ratio_one(kind):
    log_ratio, mask = tensor([[0.5, 0.1], [0.0, 0.0]]), torch.tensor([[True, True], [False, False]])
    assert (sequence_log_ratio(log_ratio, mask, kind)[1] == 0).all()


def test_an_answer_without_tokens_costs_nothing():
    mask, every = torch.tensor([[True, True], [False, False]]), torch.ones(2, dtype=torch.float64)
    reduced = GRPO.rollout.__globals__["reduced"]
    close(reduced(tensor([[1.0, 3.0], [5.0, 5.0]]), mask, every.bool(), "sequence_mean", every, {}).values, [2.0, 0.0])


def test_the_dual_clip_bounds_the_loss_of_unwanted_answers_alone():
    log_ratio, advantage = tensor([10.0, 10.0, 0.5]), tensor([-1.0, 1.0, -1.0])
    found = clipped_surrogate(log_ratio, advantage, 0.2, 0.2, dual=3.0)
    close(found.loss, [3.0, -1.2, math.exp(0.5)])
    close(clipped_surrogate(log_ratio, advantage, 0.2, 0.2).loss, [math.exp(10), -1.2, math.exp(0.5)])


def test_weights_for_a_foreign_engine_multiply_the_loss_of_each_token():
    """An answer of two tokens whose second the engine drew half as willingly as the trainer would have."""
    answers = Answers([replace(one, correction=torch.tensor([1.0, 2.0])) for one in written([[-1.0, -1.0]], [2])])
    every = torch.ones(1, dtype=torch.float64)
    batch = Batch(
        answers=answers, advantage=tensor([[3.0, 3.0]]), kept=every.bool(), constant=every, overlong=every,
        resampled=every,
    )  # fmt: skip
    policy = Told(tensor([[-1.0, -1.0]]))
    close(loss_of(GRPO(), batch, Models(policy=policy), options(GRPO, beta=0.0)).values, -3.0 * (1 + 2) / 2)


def test_tokens_far_off_policy_give_finite_numbers():
    far = {"old_logps": [[0.0, -200.0]], "new_logps": [[-200.0, 0.0]], "mask": [[1, 1]], "ref_logps": [[0.0, -200.0]]}
    loss, new = step({"inputs": {**far, "advantages": [-1.0]}})
    backward(loss)
    assert loss.values.isfinite().all() and new.grad.isfinite().all()


# -- KL ----------------------------------------------------------------------------------------------------------


def test_the_estimates_of_kl_and_their_gradients(vectors):
    case, expected = vectors["ppo.kl_estimators"], vectors["ppo.kl_estimators"]["expected"]
    for kind in ("k1", "k2", "k3"):
        logps = tensor(case["inputs"]["logps"]).requires_grad_()
        found = kl_estimate(logps, tensor(case["inputs"]["ref_logps"]), kind)
        close(found, expected[kind])
        found.sum().backward()
        close(logps.grad, expected[f"grad_{kind}"])


@pytest.mark.parametrize(
    ("kind", "gradient"),
    [("k1", None), ("k2", "grad_reverse_kl"), ("k3", "grad_forward_kl"), ("k3_ratio", "grad_reverse_kl")],
)
def test_the_gradient_that_each_estimate_gives_in_the_loss_is_the_one_that_help_states(vectors, kind, gradient):
    """Every token of a vocabulary of 3, weighted by its probability: the expectation itself."""
    case = vectors["grpo.kl_gradient_semantics"]
    logits = tensor(case["inputs"]["theta_logits"]).requires_grad_()
    logps = logits.log_softmax(0)
    reference = tensor(case["inputs"]["ref_probs"]).log()
    every = torch.ones(3, dtype=torch.float64)
    fields = {"kept": every.bool(), "constant": every, "overlong": every, "resampled": every}
    fields |= {"advantage": torch.zeros(3, 1, dtype=torch.float64), "reference": reference[:, None]}
    loss = evaluate(
        GRPO(), {"answers": logps[:, None]}, behaviour={"answers": logps.detach()[:, None]}, fields=fields,
        on_policy=True, beta=1.0, kl_estimator=kind,
    )  # fmt: skip
    (loss.values * logps.detach().exp()).sum().backward()
    expected = case["expected"][gradient] if gradient else [0.0, 0.0, 0.0]
    assert logits.grad.tolist() == pytest.approx(expected, rel=1e-10, abs=1e-15)


# -- advantages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("centered_dr_grpo", {"scale": "none"}),
        ("sample_std_eps_1e4_TRL", {}),
        ("sample_std_eps_1e6_verl", {"epsilon": 1e-6}),
        ("sample_std_eps_1e9_OpenRLHF", {"epsilon": 1e-9}),
        ("batch_std_TRL", {"scale": "batch"}),
        ("rloo", {"scale": "none", "baseline": "leave_one_out"}),
    ],
)
def test_the_worked_advantages(vectors, name, values):
    case = vectors["grpo.advantages"]
    found = group_advantages(tensor(case["inputs"]["rewards_groups"]), **values)
    close(found, case["expected"][name])
    assert (found == 0).all(1).tolist() == case["expected"]["zero_std_groups"]


@pytest.mark.parametrize("epsilon", [1e-4, 1e-9, 0.0])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("baseline", ["group", "leave_one_out"])
def test_equal_rewards_give_exactly_0(epsilon, scale, baseline):
    """In float32 the mean of 64 times 0.7 is not 0.7."""
    equal = torch.full((2, 64), 0.7)
    assert (group_advantages(equal, baseline, scale, epsilon) == 0).all()
    assert (equal - equal.mean(1, keepdim=True) != 0).any()


def test_missing_rewards_are_in_no_mean_and_no_deviation():
    some = tensor([[1.0, math.nan, 0.0, 1.0, 0.5]])
    for values in ({}, {"scale": "none"}, {"scale": "none", "baseline": "leave_one_out"}, {"scale": "batch"}):
        found = group_advantages(some, **values)
        close(found[:, [0, 2, 3, 4]], group_advantages(some[:, [0, 2, 3, 4]], **values))
        assert found[0, 1] == 0
    alone = tensor([[math.nan, 0.3], [math.nan, math.nan]])
    for baseline in ("group", "leave_one_out"):
        assert (group_advantages(alone, baseline) == 0).all()
    assert group_advantages(alone, "none", "none").tolist() == [[0.0, 0.3], [0.0, 0.0]]


def test_process_supervision(vectors):
    case = vectors["grpo.process_supervision"]
    rewards = [tensor(row) for row in case["inputs"]["step_rewards"]]
    found = step_advantages(rewards, case["inputs"]["step_end_token_index"], epsilon=0.0)
    for row, expected in zip(found, case["expected"]["advantages"], strict=True):
        close(row, expected)
    assert all((row == 0).all() for row in step_advantages([tensor([0.7] * 3), tensor([0.7])], [[0, 1, 2], [0]], 0.0))


def test_steps_are_lines_and_the_score_of_the_answer_so_far_is_their_reward(vectors):
    case = vectors["grpo.process_supervision"]
    ends, lengths = case["inputs"]["step_end_token_index"], case["inputs"]["lengths"]
    answers = written([[-1.0] * 4] * 3, lengths)
    for answer, places in zip(answers, ends, strict=True):
        answer.completion[places[:-1]] = 0
    seen = []

    def score(some, unfinished=False):
        assert unfinished == bool(seen)
        seen.append([(one.row, len(one.completion), one.ended) for one in some])
        step_of = [ends[one.row].index(len(one.completion) - 1) for one in some]
        return tensor([case["inputs"]["step_rewards"][one.row][j] for one, j in zip(some, step_of, strict=True)])

    config = options(GRPO, beta=0.0, step_rewards=True, scale_epsilon=0.0)
    batch = rolled(GRPO(), config, Written(answers), score)
    # Whole answers first, then what comes before their last step.
    assert seen == [[(0, 4, True), (1, 2, True), (2, 3, True)], [(0, 2, False), (2, 1, False), (2, 2, False)]]
    for row, expected in zip(batch.advantage, case["expected"]["advantages"], strict=True):
        close(row, expected + [0.0] * (4 - len(expected)))


def test_in_an_environment_the_rewards_of_turns_are_those_of_steps():
    mask = [True, True, False, True, False, True]
    played = Episode([], 3.5, [(1, 1.0), (3, 0.5), (5, 1.5), (5, 0.5)])
    failed = Episode([], None, [(1, 1.0)], "it fell over")
    answers = Answers([Answer.of([1], [0] * 6, mask, episode=one) for one in (played, failed)])
    ends = [turn_ends(answers[0]), [1, 5]]
    assert ends[0] == [1, 3, 5]

    def score(some, unfinished):
        assert unfinished and [one.episode for one in some] == [None] and len(some[0].completion) == 2
        return tensor([math.nan])

    # Whatever else is in the reward, here 0.25, comes with the last step.
    rows = step_rewards(answers, tensor([3.75, math.nan]), ends, score)
    close(rows[0], [1.0, 0.5, 2.25])
    assert rows[1].isnan().all() and len(rows[1]) == 2


def test_lines_end_with_their_break_and_blank_ones_belong_to_the_line_before(tiny_tokenizer):
    def ends(text):
        ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = Answer.of([1], [*ids, tiny_tokenizer.eos_token_id])
        (found,) = Writer.line_ends(SimpleNamespace(template=SimpleNamespace(tokenizer=tiny_tokenizer)), [answer])
        pieces = [0, *(end + 1 for end in found)]
        cut = [tiny_tokenizer.decode(answer.completion[a:b]) for a, b in zip(pieces, pieces[1:], strict=False)]
        assert found[-1] == len(answer.completion) - 1
        return [one.replace(tiny_tokenizer.eos_token, "") for one in cut]

    assert ends("one two\n\nthree\nfour") == ["one two\n\n", "three\n", "four"]
    assert ends("\n one two\n") == ["\n one two\n"]
    assert ends("one") == ["one"] and ends("") == [""] and ends("\n\n") == ["\n\n"]


def test_reinforce_plus_plus(vectors):
    case, expected = vectors["grpo.reinforce_pp"], vectors["grpo.reinforce_pp"]["expected"]
    given = case["inputs"]
    assert GRPO.variants["reinforce++"]["beta"] == given["beta"]
    reference = Told(tensor(given["ref_logps"]))

    def advantages(**values):
        config = options(GRPO, **{k: v for k, v in values.items() if k != "answers_per_prompt"})
        policy = Written(written(given["old_logps"], [4, 2, 3, 1]))
        return rolled(GRPO(), config, policy, given["rewards"], prompts=4, reference=reference).advantage

    close(advantages(**{**GRPO.variants["reinforce++"], "whiten": False}), expected["returns"])
    found = advantages(**GRPO.variants["reinforce++"])
    close(found, expected["advantages_population_std"])
    assert found.flatten().tolist() != pytest.approx(
        tensor(expected["advantages_sample_std_verl"]).flatten().tolist(), rel=1e-3
    )


def test_whitened_advantages_have_mean_0_and_deviation_1_over_the_tokens_of_the_rollout():
    config = options(GRPO, **{**GRPO.variants["reinforce++-baseline"], "beta": 0.0})
    answers = written([[-1.0] * 3] * 4, [3, 1, 2, 3])
    batch = rolled(GRPO(), config, Written(answers), [1.0, 0.0, math.nan, 0.2], prompts=2)
    tokens = batch.advantage[[0, 1, 3]][batch.answers.mask[[0, 1, 3]]]
    close(tokens.mean(), 0.0)
    close(tokens.std(correction=0), 1.0, 1e-6)
    assert (batch.advantage[2] == 0).all()


# -- rollouts ----------------------------------------------------------------------------------------------------


def groups(lengths=(1, 1, 1, 1), **rest):
    return written([[-1.0] * max(lengths)] * len(lengths), lengths, **rest)


def test_an_answer_without_a_reward_weighs_nothing_in_any_reduction():
    batch = rolled(GRPO(), options(GRPO, **PLAIN), Written(groups((2, 1, 3, 1))), [1.0, math.nan, 0.0, 0.5])
    assert batch.kept.tolist() == [True, False, True, True]
    close(batch.advantage[:, 0], [0.5, 0.0, -0.5, 0.0])
    case = {"inputs": {"old_logps": [[-1.0] * 3] * 4, "new_logps": [[-1.2] * 3] * 4,
                       "mask": batch.answers.mask.tolist(), "advantages": batch.advantage.tolist()}}  # fmt: skip
    for reduction in ("sequence_mean", "token_mean", "constant"):
        found, new = step(case, kept=batch.kept.tolist(), reduction=reduction, **PLAIN)
        close(found.mean(), step(case, rows=[0, 2, 3], reduction=reduction, **PLAIN)[0].mean())
        backward(found)
        assert (new.grad[1] == 0).all()
        assert metric(found, "kept") == 0.75


def test_a_step_without_any_reward_is_a_loss_of_0():
    case = {"inputs": {"old_logps": [[-1.0]], "new_logps": [[-1.2]], "mask": [[1]], "advantages": [0.0]}}
    for reduction in ("sequence_mean", "token_mean", "constant"):
        loss, new = step(case, kept=[False], reduction=reduction, **PLAIN)
        loss.numerator.backward()
        assert (float(loss.numerator), float(loss.denominator), new.grad.tolist()) == (0.0, 0.0, [[0.0]])


def test_dynamic_sampling_keeps_the_groups_that_the_paper_keeps(vectors):
    case = vectors["grpo.dapo_dynamic_sampling"]
    correct = [float(one) for group in case["inputs"]["correct"] for one in group]
    first, again = groups((1,) * 20), groups((2,) * 8)
    calls = iter([correct, [0.0] * 4 + [0.0, 1.0, 0.0, 1.0], [1.0] * 4])
    replaced = []

    def score(answers, instead_of=()):
        replaced.append([len(one.completion) for one in instead_of])
        return tensor(next(calls))

    policy = Written(first, again, groups((3,) * 4), more=[2, 7, 8])
    config = options(GRPO, **PLAIN, resample=2)
    batch = rolled(GRPO(), config, policy, score, prompts=5)
    assert policy.asked == [[0, 1, 2, 3, 4], [7, 8], [7]], "others in place of flat ones, the same where none are left"
    assert [len(one.completion) for one in batch.answers] == [3] * 4 + [2] * 4 + [1] * 12
    assert replaced == [[], [1] * 8, [2] * 4], "the reward knows what is not learned from"
    assert batch.kept.view(5, 4).all(1).tolist() == [False, True, True, True, True]
    assert batch.resampled[0] == pytest.approx((5 + 2 + 1) / 5)

    once = rolled(GRPO(), options(GRPO, **PLAIN), Written(first), correct, prompts=5)
    assert (once.advantage.view(5, 4) != 0).any(1).tolist() == case["expected"]["keep"]
    assert once.kept.all() and once.resampled[0] == 1


def test_dynamic_sampling_is_judged_before_the_length_is_punished():
    """All wrong, and of different lengths: with the punishment their rewards would differ."""
    config = options(GRPO, **PLAIN, resample=1, overlong_cache=0.5)
    wrong = groups((8, 1), rows=[0, 0])
    batch = rolled(GRPO(), config, Written(wrong, wrong, longest=8), [0.0, 0.0])
    assert batch.kept.tolist() == [False, False]
    assert batch.overlong.tolist() == [-1.0, 0.0]


def test_the_soft_punishment_of_long_answers_has_three_branches():
    lengths = torch.tensor([1, 12, 13, 14, 16, 20])
    assert overlong_punishment(lengths, 16, 0.25).tolist() == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
    # DAPO's own numbers: 16,384 free tokens, a cache of 4,096.
    dapo = GRPO.variants["dapo"]["overlong_cache"]
    assert overlong_punishment(torch.tensor([16384, 18432, 20480, 20481]), 20480, dapo).tolist() == [0, -0.5, -1, -1]
    assert overlong_punishment(lengths, 16, 0.0).tolist() == [0.0] * 6
    batch = rolled(
        GRPO(), options(GRPO, **PLAIN, overlong_cache=0.5), Written(groups((8, 6, 4, 1)), longest=8), [1.0] * 4
    )
    close(batch.advantage[:, 0], tensor([0.0, 0.5, 1.0, 1.0]) - 0.625)


def test_the_overlong_filter_leaves_cut_answers_out_of_the_loss():
    answers = [*groups((3,), cut=True, ended=False), *groups((2,))]
    config = options(GRPO, **PLAIN, overlong_filter=True)
    assert rolled(GRPO(), config, Written(answers), [0.0, 1.0]).kept.tolist() == [False, True]
    assert rolled(GRPO(), options(GRPO, **PLAIN), Written(answers), [0.0, 1.0]).kept.tolist() == [True, True]


def test_the_longest_answer_is_the_constant_unless_another_is_given():
    for given, expected in ((None, 8), (3, 3)):
        config = options(GRPO, **PLAIN, reduction="constant", length_constant=given)
        assert rolled(GRPO(), config, Written(groups()), [1.0, 0.0, 0.0, 1.0]).constant.tolist() == [expected] * 4


def test_experience_may_be_cut_and_put_in_another_order(vectors):
    given = vectors["grpo.loss_deepseekmath"]["inputs"]
    policy = Written(written(given["old_logps"], given["lengths"]))
    batch = rolled(GRPO(), options(GRPO), policy, given["rewards"], reference=Told(tensor(given["ref_logps"])))
    part = batch.select([3, 1])
    close(part.advantage, [[given["advantages"][3], 0.0], [given["advantages"][1]] * 2])
    close(part.reference, [[-2.0, 0.0], [-0.9, -1.4]])


# -- options -----------------------------------------------------------------------------------------------------


def test_a_reference_is_loaded_for_the_kl_term_only():
    assert GRPO().roles(options(GRPO)) == ("policy", "reference")
    assert GRPO().roles(options(GRPO, beta=0.0)) == ("policy",)


@pytest.mark.parametrize("name", GRPO.variants)
def test_every_variant_is_made_of_options_that_go_together(name):
    found = resolve("grpo", GRPO, [("command line", {"variant": name, "data": "x"})])
    assert {option: getattr(found.algorithm, option, None) for option in GRPO.variants[name]} | {
        option: value for option, value in GRPO.variants[name].items() if hasattr(found.core, option)
    } == GRPO.variants[name]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"beta": -1.0}, "beta"),
        ({"clip_low": 0.0}, "clip_low"),
        ({"dual_clip": 1.0}, "dual_clip must be above 1"),
        ({"dual_clip": 3.0, "surrogate": "cispo"}, "surrogate=clip"),
        ({"gate_negative": 2.0}, "gate_negative has no effect without surrogate=sapo"),
        ({"gate_positive": 0.0, "surrogate": "sapo"}, "gate_positive and gate_negative must be above 0"),
        ({"covariance_share": 0.0}, "covariance_share must be above 0"),
        ({"covariance_low": 6.0}, "below covariance_high"),
        ({"covariance_weight": -1.0}, "covariance_weight"),
        ({"covariance_share": 0.01}, "covariance_share has no effect without covariance"),
        ({"covariance": "kl", "covariance_low": 0.5}, "without covariance=clip"),
        ({"covariance": "clip", "covariance_weight": 0.5}, "without covariance=kl"),
        ({"overlong_length": 9}, "without overlong_cache"),
        ({"overlong_cache": 0.2, "overlong_filter": True}, "overlong_filter is the alternative to overlong_cache"),
        ({"surrogate": "sapo", "clip_high": 0.3}, "clip_high has no effect without surrogate=clip or surrogate=cispo"),
        ({"surrogate": "unclipped", "clip_high": 0.3}, "clip_high has no effect"),
        ({"surrogate": "reinforce", "clip_low": 0.3}, "clip_low has no effect"),
        ({"surrogate": "reinforce", "ratio": "sequence"}, "ratio has no effect with surrogate=reinforce"),
        ({"kl_in": "reward", "kl_estimator": "k2"}, "kl_estimator has no effect without kl_in=loss"),
        ({"scale": "none", "scale_epsilon": 0.1}, "scale_epsilon has no effect with scale=none"),
        ({"step_rewards": True, "scale": "none"}, "scale has no effect with step_rewards"),
        ({"baseline": "none"}, "needs a baseline"),
        ({"length_constant": 3}, "without reduction=constant"),
        ({"overlong_cache": 2.0}, "from 0 to 1"),
        ({"step_rewards": True, "baseline": "leave_one_out"}, "group's mean"),
    ],
)
def test_options_that_mean_nothing_are_refused(values, says):
    with pytest.raises(ZooError, match=says):
        options(GRPO, **values)


@pytest.mark.parametrize(
    "values",
    [
        {"surrogate": "cispo", "clip_high": 0.3},
        {"surrogate": "reinforce", "ratio": "sequence", "kl_estimator": "k3_ratio"},
        {"step_rewards": True, "scale_epsilon": 0.1},
        # A sweep of beta may begin at 0.
        {"beta": 0.0, "kl_in": "reward"},
        {"beta": 0.0, "kl_estimator": "k2"},
    ],
)
def test_options_that_have_an_effect_are_not(values):
    config = options(GRPO, **values)
    assert {name: getattr(config, name) for name in values} == values


def test_the_numbers_of_the_papers():
    assert (GRPO.Config().beta, GRPO.Config().kl_estimator) == (0.04, "k3")
    assert GRPO.variants["dapo"]["clip_high"] == 0.28
    assert (GRPO.variants["gspo"]["clip_low"], GRPO.variants["gspo"]["clip_high"]) == (3e-4, 4e-4)
    assert (GRPO.Config().gate_positive, GRPO.Config().gate_negative) == (1.0, 1.05)
    assert (GRPO.Config().covariance_share, GRPO.Config().covariance_low, GRPO.Config().covariance_high) == (2e-4, 1, 5)
    assert (GRPO.variants["kl-cov"]["covariance_share"], GRPO.Config().covariance_weight) == (0.002, 1.0)


# -- whole runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [None, "dapo", "kl-cov", "reinforce++"])
def test_a_run_begins_with_the_identities_and_does_not_depend_on_the_cut(variant, tmp_path, tiny_folder):
    train = start_run(tmp_path, tiny_folder)
    given = {"variant": variant} if variant == "reinforce++" else {"variant": variant, "answers_per_prompt": 4}
    whole, cut = train("grpo", **given), train("grpo", **given, micro_tokens=20)
    assert differences(whole, cut) < 1e-4
    for name, value in GRPO.conformance["start"].items():
        assert whole.log_history[0][name] == value
    assert whole.log_history[1]["approx_kl"] > 0
    assert whole.log_history[0].get("kl_k3", 0.0) == pytest.approx(0.0, abs=1e-6)
