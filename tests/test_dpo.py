"""DPO's formulas against worked numbers, values and gradients, and what each option means."""

import math

import pytest
import torch

from zoo.contract.registry import load_algorithm
from zoo.options.fields import build
from zoo.testing import stand_ins
from zoo.values.types import metric_sums

SIDES = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
DPO = load_algorithm("dpo")[1]


def options(**values):
    return build(DPO.Config, values, what="dpo")


def evaluate(numbers, lengths=None, masks=None, fields=None, **values):
    """The loss of DPO for given log-probs, float64; returns it with the policy's tensors, for their gradients."""
    tensors = [torch.tensor(numbers[side], dtype=torch.float64) for side in SIDES]
    chosen, rejected = tensors[0].requires_grad_(), tensors[1].requires_grad_()
    roles = {"policy": {"chosen": chosen, "rejected": rejected}}
    if not values.get("reference_free"):
        roles["reference"] = {"chosen": tensors[2], "rejected": tensors[3]}
    batch, models = stand_ins(**roles, lengths=lengths, masks=masks, fields=fields)
    return DPO().loss(batch, models, options(**values)), chosen, rejected


def inputs_of(case, suffix="_logps"):
    return {side: case["inputs"][f"{side}{suffix}"] for side in SIDES}


def backward(loss):
    (loss.numerator / loss.denominator).backward()


def close(found, expected, relative=1e-10):
    assert found.detach().flatten().tolist() == pytest.approx(
        torch.tensor(expected, dtype=torch.float64).flatten().tolist(), rel=relative, abs=1e-18
    )


CASES = {
    "dpo.sigmoid_beta0.1": {},
    "dpo.cdpo": {"label_smoothing": 0.1},
    "dpo.hinge_beta0.5": {"loss": "hinge"},
    "dpo.f_forward_kl": {"divergence": "forward_kl"},
    "dpo.f_alpha_0.5": {"divergence": "alpha", "divergence_alpha": 0.5},
    "dpo.f_alpha_0.25": {"divergence": "alpha", "divergence_alpha": 0.25},
    "dpo.reference_free": {"reference_free": True},
    "dpo.rpo_nll": {"nll_weight": 1.0},
    "dpo.apo_zero": {"loss": "apo_zero"},
    "dpo.apo_down": {"loss": "apo_down"},
    "dpo.sppo_hard": {"loss": "sppo"},
}


@pytest.mark.parametrize("name", CASES)
def test_the_worked_numbers_of_every_variant(vectors, name):
    case, expected = vectors[name], vectors[name]["expected"]
    lengths = None
    if "chosen_lengths" in case["inputs"]:
        lengths = {"chosen": [int(n) for n in case["inputs"]["chosen_lengths"]]}
    loss, chosen, rejected = evaluate(inputs_of(case), lengths, beta=case["inputs"]["beta"], **CASES[name])
    backward(loss)
    close(loss.values, expected["losses"])
    close(loss.mean(), expected["loss"])
    close(chosen.grad, expected["grad_policy_chosen"])
    close(rejected.grad, expected["grad_policy_rejected"])


def test_sppo_with_soft_labels_has_the_gradient_of_its_authors_code(vectors):
    case, expected = vectors["dpo.sppo_soft"], vectors["dpo.sppo_soft"]["expected"]
    beta, p = case["inputs"]["beta"], torch.tensor(case["inputs"]["p_chosen"], dtype=torch.float64)
    loss, chosen, rejected = evaluate(inputs_of(case), fields={"p_chosen": p}, beta=beta, loss="sppo")
    backward(loss)
    # Theirs is half of the sum over both answers, without a part that no weight moves.
    close((loss.values - 2 * p * (1 - p) / beta**2) / 2, expected["losses"], 1e-9)
    close(chosen.grad / 2, expected["grad_policy_chosen"])
    close(rejected.grad / 2, expected["grad_policy_rejected"])


def test_the_metrics_of_the_worked_numbers(vectors):
    case = vectors["dpo.sigmoid_beta0.1"]
    metrics = evaluate(inputs_of(case), beta=0.1)[0].metrics
    close(metrics["rewards/chosen"], case["expected"]["chosen_rewards"])
    close(metrics["rewards/rejected"], case["expected"]["rejected_rewards"])
    close(metrics["rewards/margins"], case["expected"]["margins"])
    total, count = metric_sums(metrics)["rewards/accuracies"]
    assert float(total / count) == case["expected"]["accuracy"]
    assert set(metrics) == set(DPO.metrics), "every metric is explained, and none that is not reported"


def test_the_nll_term_is_a_mean_for_each_answer_and_not_over_the_tokens_of_the_batch(vectors):
    case = vectors["dpo.rpo_nll"]
    lengths = {"chosen": [int(n) for n in case["inputs"]["chosen_lengths"]]}
    loss = evaluate(inputs_of(case), lengths, nll_weight=1.0)[0]
    close(loss.metrics["nll"].mean(), case["expected"]["nll_per_sequence_mean"])
    assert abs(float(loss.mean().detach()) - case["expected"]["loss_with_token_mean_nll"]) > 0.01


def test_ld_dpo_makes_the_tail_of_the_longer_answer_lighter_in_policy_and_reference(vectors):
    case, expected = vectors["dpo.ld_dpo"], vectors["dpo.ld_dpo"]["expected"]
    masks = {side: torch.tensor(case["inputs"][f"{side}_mask"]) for side in ("chosen", "rejected")}
    numbers = inputs_of(case, "_token_logps")
    loss, chosen, rejected = evaluate(numbers, masks=masks, ld_alpha=0.5, beta=0.1)
    backward(loss)
    close(loss.values, expected["losses"])
    close(chosen.grad, expected["grad_policy_chosen_tokens"])
    close(rejected.grad, expected["grad_policy_rejected_tokens"])
    assert abs(float(loss.mean().detach()) - expected["alt_reference_not_desensitised_TRL_0_28"]) > 1e-3
    close(evaluate(numbers, masks=masks, ld_alpha=1.0)[0].mean(), expected["plain_dpo"])


def margins(h):
    """Log-probs whose h is as given, with nothing else in them."""
    zeros = [0.0] * len(h)
    return dict(zip(SIDES, (h, zeros, zeros, zeros), strict=True))


def test_extreme_margins_stay_finite_in_value_and_gradient(vectors):
    case = vectors["dpo.stability"]
    loss, chosen, _ = evaluate(margins(case["inputs"]["h"]), beta=case["inputs"]["beta"])
    loss.numerator.backward()
    close(loss.values, case["expected"]["losses"], 1e-6)
    close(chosen.grad, case["expected"]["grad_h_per_example"], 1e-6)


ALL = [
    {}, {"label_smoothing": 0.2}, {"loss": "robust", "label_smoothing": 0.2}, {"loss": "hinge"},
    {"loss": "apo_zero"}, {"loss": "apo_down"}, {"loss": "sppo"},
    {"divergence": "forward_kl"}, {"divergence": "js"}, {"divergence": "alpha"},
    {"divergence": "alpha", "divergence_alpha": 1.0}, {"divergence": "alpha", "divergence_alpha": 0.0},
    {"length_normalized": True}, {"ld_alpha": 0.3}, {"nll_weight": 0.5}, {"reference_free": True},
]  # fmt: skip


@pytest.mark.parametrize("values", ALL, ids=str)
@pytest.mark.parametrize("size", [1e4, -1e4, 500.0, -500.0])
def test_no_option_overflows(values, size):
    for kind in (torch.float64, torch.float32):
        chosen = torch.tensor([[size, 0.0]], dtype=kind, requires_grad=True)
        rejected = torch.tensor([[-size]], dtype=kind, requires_grad=True)
        roles = {"policy": {"chosen": chosen, "rejected": rejected}}
        if "reference_free" not in values:
            roles["reference"] = {"chosen": torch.zeros(1, 2, dtype=kind), "rejected": torch.zeros(1, 1, dtype=kind)}
        batch, models = stand_ins(**roles)
        loss = DPO().loss(batch, models, options(**values))
        loss.numerator.backward()
        assert torch.isfinite(loss.values).all() and torch.isfinite(chosen.grad).all()
        assert torch.isfinite(rejected.grad).all()


START = {
    **{str(values): math.log(2) for values in ALL},
    str({"loss": "hinge"}): 1.0,
    str({"loss": "apo_zero"}): 1.0,
    str({"loss": "apo_down"}): 1.0,
    str({"loss": "sppo"}): 2 * (1 / (2 * 0.1)) ** 2,
    str({"nll_weight": 0.5}): math.log(2) + 0.5 * 3.0,
    # With an even margin both terms are log 2: ((1 − ε) log 2 − ε log 2) / (1 − 2ε) = log 2.
    str({"loss": "robust", "label_smoothing": 0.2}): math.log(2),
}


@pytest.mark.parametrize("values", [v for v in ALL if "reference_free" not in v], ids=str)
def test_where_policy_and_reference_agree_the_loss_is_its_start_value(values):
    same = {"policy_chosen": [-12.0], "policy_rejected": [-30.0], "ref_chosen": [-12.0], "ref_rejected": [-30.0]}
    loss = evaluate(same, {"chosen": [4], "rejected": [7]}, **values)[0]
    assert float(loss.mean()) == pytest.approx(START[str(values)], rel=1e-12)
    assert float(loss.metrics["rewards/margins"]) == 0.0


@pytest.mark.parametrize("values", ALL, ids=str)
def test_the_gradient_is_the_slope_of_the_value(values):
    generator = torch.Generator().manual_seed(0)

    def logps(*shape):
        return -torch.rand(*shape, generator=generator, dtype=torch.float64)

    frozen = {"chosen": logps(3, 4), "rejected": logps(3, 6)}
    masks = {
        "chosen": torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]),
        "rejected": torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]),
    }

    def value(chosen, rejected):
        roles = {"policy": {"chosen": chosen, "rejected": rejected}}
        if "reference_free" not in values:
            roles["reference"] = frozen
        batch, models = stand_ins(**roles, masks=masks)
        return DPO().loss(batch, models, options(beta=0.7, **values)).values

    given = (logps(3, 4).requires_grad_(), logps(3, 6).requires_grad_())
    # α is a Python number and β too: nothing in the formula may fall back to float32.
    assert torch.autograd.gradcheck(value, given, atol=1e-6, rtol=1e-5)


def test_robust_dpo_is_unbiased_under_flipped_labels():
    """E over flips of the robust loss is the plain loss of the clean pair (arXiv:2403.00409, lemma 3.1)."""
    pair = {"policy_chosen": [-3.0], "policy_rejected": [-5.0], "ref_chosen": [-4.0], "ref_rejected": [-4.0]}
    flipped = {"policy_chosen": [-5.0], "policy_rejected": [-3.0], "ref_chosen": [-4.0], "ref_rejected": [-4.0]}
    e = 0.2
    clean, dirty = (float(evaluate(p, loss="robust", label_smoothing=e, beta=0.5)[0].mean()) for p in (pair, flipped))
    assert (1 - e) * clean + e * dirty == pytest.approx(float(evaluate(pair, beta=0.5)[0].mean()), rel=1e-10)


def test_cdpo_has_no_gradient_at_its_own_margin(vectors):
    at = vectors["dpo.cdpo"]["expected"]["zero_gradient_at_beta_h"]
    loss, chosen, _ = evaluate(margins([at / 0.1]), beta=0.1, label_smoothing=0.1)
    loss.numerator.backward()
    assert abs(float(chosen.grad)) < 1e-12


def test_a_soft_label_of_nine_tenths_is_a_tenth_of_flipped_labels(vectors):
    case, expected = vectors["dpo.cdpo"], vectors["dpo.cdpo"]["expected"]
    share = 1 - case["inputs"].get("label_smoothing", 0.1)
    fields = {"p_chosen": torch.full((len(case["inputs"]["policy_chosen_logps"]),), share, dtype=torch.float64)}
    loss, chosen, rejected = evaluate(inputs_of(case), fields=fields, beta=case["inputs"]["beta"])
    backward(loss)
    close(loss.values, expected["losses"])
    close(chosen.grad, expected["grad_policy_chosen"])
    close(rejected.grad, expected["grad_policy_rejected"])


def test_a_pair_without_a_soft_label_is_sure(vectors):
    case = vectors["dpo.sigmoid_beta0.1"]
    missing = {"p_chosen": torch.full((len(case["inputs"]["policy_chosen_logps"]),), math.nan)}
    close(evaluate(inputs_of(case), fields=missing, beta=0.1)[0].values, case["expected"]["losses"])


@pytest.mark.parametrize(
    "values", [{}, {"loss": "hinge"}, {"loss": "robust", "label_smoothing": 0.1}, {"loss": "apo_down"}]
)
def test_a_soft_label_does_not_mind_which_answer_is_called_chosen(values):
    there = {"policy_chosen": [-2.0], "policy_rejected": [-3.5], "ref_chosen": [-2.5], "ref_rejected": [-2.7]}
    back = {"policy_chosen": [-3.5], "policy_rejected": [-2.0], "ref_chosen": [-2.7], "ref_rejected": [-2.5]}
    found = [
        evaluate(pair, fields={"p_chosen": torch.tensor([p], dtype=torch.float64)}, **values)[0].mean().item()
        for pair, p in ((there, 0.8), (back, 0.2))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_the_alpha_divergence_lies_between_reverse_and_forward_kl(vectors):
    numbers = inputs_of(vectors["dpo.sigmoid_beta0.1"])
    reverse = evaluate(numbers)[0].values
    assert torch.equal(evaluate(numbers, divergence="alpha", divergence_alpha=0.0)[0].values, reverse)
    torch.testing.assert_close(
        evaluate(numbers, divergence="alpha", divergence_alpha=1e-6)[0].values, reverse, rtol=1e-4, atol=1e-6
    )
    forward = evaluate(numbers, divergence="forward_kl")[0].values
    torch.testing.assert_close(evaluate(numbers, divergence="alpha", divergence_alpha=1.0)[0].values, forward)


def test_the_jensen_shannon_score_is_log_of_two_u_over_one_plus_u():
    u = 3.0
    numbers = {**margins([math.log(u)])}
    found = evaluate(numbers, divergence="js", beta=1.0)[0].values
    score = math.log(2 * u / (1 + u))
    assert float(found.detach()) == pytest.approx(math.log(1 + math.exp(-score)), rel=1e-12)


def test_length_normalisation_divides_each_log_ratio_by_its_own_length():
    numbers = {"policy_chosen": [-2.0], "policy_rejected": [-9.0], "ref_chosen": [-4.0], "ref_rejected": [-6.0]}
    found = evaluate(numbers, {"chosen": [2], "rejected": [6]}, length_normalized=True, beta=5.0)[0]
    h = 2.0 / 2 - (-3.0) / 6
    assert float(found.mean()) == pytest.approx(math.log(1 + math.exp(-5 * h)), rel=1e-12)


def test_the_reference_is_needed_unless_it_is_left_out():
    assert DPO().roles(options()) == ("policy", "reference")
    assert DPO().roles(options(reference_free=True)) == ("policy",)


@pytest.mark.parametrize(
    "values", [{"loss": "robust", "label_smoothing": 0.5}, {"label_smoothing": -0.1}, {"label_smoothing": 1.5}]
)
def test_a_share_of_flipped_labels_that_means_nothing_is_refused(values):
    from zoo.errors import ZooError

    with pytest.raises(ZooError, match="label_smoothing"):
        options(**values)


def test_the_stable_logarithm_of_the_sigmoid(vectors):
    from zoo.api import logsigmoid

    case = vectors["prim.logsigmoid"]
    for kind, relative in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        close(logsigmoid(torch.tensor(case["inputs"]["x"], dtype=kind)), case["expected"]["value"], relative)


def test_on_a_real_model_the_first_loss_is_log_two_and_its_gradient_pulls_the_answers_apart(tiny_model):
    import copy

    from zoo.api import Answer, Answers, Batch
    from zoo.models.reference import Reference
    from zoo.models.roles import Models, Policy

    frozen = copy.deepcopy(tiny_model)
    models = Models(policy=Policy(tiny_model, "shared"), reference=Reference(lambda: frozen, "shared", None))
    batch = Batch(
        chosen=Answers([Answer.of([1, 2, 3], [4, 5]), Answer.of([6], [7, 8, 9])]),
        rejected=Answers([Answer.of([1, 2, 3], [10]), Answer.of([6], [11, 12])]),
    )
    loss = DPO().loss(batch, models, options())
    assert float(loss.mean()) == pytest.approx(math.log(2), abs=1e-6)
    backward(loss)
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter -= 0.05 * parameter.grad
    after = DPO().loss(batch, models, options())
    assert float(after.mean()) < math.log(2) and (after.metrics["rewards/margins"] > 0).all()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"beta": 0.0}, "beta must be above 0"),
        ({"beta": -0.1}, "beta must be above 0"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing has no meaning with loss=hinge"),
        ({"loss": "sppo", "label_smoothing": 0.1}, "label_smoothing has no meaning with loss=sppo"),
        ({"loss": "apo_zero", "divergence": "js"}, "loss=apo_zero takes no other divergence"),
        ({"loss": "apo_down", "reference_free": True}, "loss=apo_down needs the reference"),
        ({"loss": "robust"}, "loss=robust needs a label_smoothing above 0"),
        ({"divergence_alpha": 0.3}, "no effect without divergence=alpha"),
        ({"divergence": "alpha", "divergence_alpha": 1.2}, "divergence_alpha must be from 0 to 1"),
        ({"length_normalized": True, "ld_alpha": 0.5}, "length_normalized leaves ld_alpha no effect"),
        ({"ld_alpha": -0.1}, "ld_alpha must be from 0 to 1"),
        ({"nll_weight": -1.0}, "nll_weight must be at least 0"),
        ({"reference_free": True, "divergence": "js"}, "reference_free leaves no reference"),
    ],
    ids=str,
)
def test_options_without_sense_or_effect_are_refused(values, says):
    from zoo.errors import ZooError

    with pytest.raises(ZooError, match=says):
        options(**values)


@pytest.mark.parametrize("values", [{"divergence": "forward_kl"}, {"divergence": "alpha", "divergence_alpha": 0.5}])
def test_beyond_the_largest_exponent_there_is_no_gradient_as_the_help_says(values):
    alpha = values.get("divergence_alpha", 1.0)
    for distance, moves in ((-39.0 / alpha, True), (-41.0 / alpha, False)):
        loss, chosen, _ = evaluate(margins([distance]), beta=1e-18, **values)
        loss.numerator.backward()
        assert bool(chosen.grad.abs() > 0) == moves
