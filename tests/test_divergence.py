"""Divergences of two models at each token: numbers of TRL and of torch, by parts as at once."""

import pytest
import torch
from torch.nn.functional import kl_div

from zoo.errors import ZooError
from zoo.models import divergence as module
from zoo.models import logps
from zoo.models.divergence import Divergence, States, class_divergence, class_logits, likeliest, token_divergence
from zoo.models.logps import Head

POSITIONS, WIDTH, OTHER_WIDTH, VOCABULARY = 13, 6, 4, 11
KINDS = [
    Divergence("forward_kl"),
    Divergence("reverse_kl"),
    Divergence("jsd", 0.1),
    Divergence("jsd", 0.5),
    Divergence("jsd", 0.9),
]
HEADS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "everything": {"bias": True, "scale": 1.7, "softcap": 5.0},
}
STUDENT = [[1.5, -0.5, 0.25, 2.0, -3.0], [0.0, 0.1, -0.2, 0.3, 4.0], [-1.0, 2.5, 0.5, 0.0, 1.0]]
TEACHER = [[0.5, 0.5, -1.0, 1.0, -2.0], [3.0, -1.0, 0.0, 0.5, 2.0], [-1.0, 2.5, 0.5, 0.0, 1.0]]
# TRL 1.16.0, trl.experimental.gkd.gkd_trainer.GKDTrainer.generalized_jsd_loss(student, teacher, beta=β,
# temperature=T, reduction="none").sum(-1) of these logits in float64, and the gradient of its sum by the student's:
# (β, T, values, gradient of the first two positions; that of the last, where both agree, is 0).
TRL = [
    (0.0, 1.0, [0.283997694, 2.153557192, 0.0],
     [[0.071586829, -0.208996303, 0.036538208, 0.118026727, -0.017155461],
      [-0.641746361, 0.006707361, -0.01888937, -0.031143306, 0.685071676]]),
    (0.1, 1.0, [0.023429788, 0.149659355, 0.0],
     [[0.0052291, -0.015559619, 0.002986402, 0.008621329, -0.001277211],
      [-0.02453072, -7.1137e-05, -0.00210217, -0.003465892, 0.030169919]]),
    (0.5, 1.0, [0.052153825, 0.307103134, 0.0],
     [[0.008752903, -0.028120699, 0.007244986, 0.014431098, -0.002308288],
      [-0.028465059, -0.001544431, -0.006116459, -0.010084336, 0.046210285]]),
    (0.9, 1.0, [0.016401102, 0.103641549, 0.0],
     [[0.002258908, -0.007976174, 0.002647681, 0.003724309, -0.000654724],
      [-0.007621046, -0.001019829, -0.002405677, -0.003966291, 0.015012843]]),
    (1.0, 1.0, [0.177440386, 1.159209873, 0.0],
     [[0.023298887, -0.084679259, 0.029917898, 0.038413371, -0.006950897],
      [-0.081824014, -0.013462412, -0.02805228, -0.04625039, 0.169589096]]),
    (0.0, 0.7, [0.443731328, 4.000469291, 0.0],
     [[0.095847792, -0.31600256, 0.033248509, 0.195790879, -0.00888462],
      [-1.107232575, 0.001689779, -0.011813672, -0.024132108, 1.141488577]]),
    (0.5, 0.7, [0.066454252, 0.414048008, 0.0],
     [[0.006717996, -0.026007994, 0.006298199, 0.013723032, -0.000731232],
      [-0.012258771, -0.000852884, -0.002583456, -0.005277295, 0.020972405]]),
    (1.0, 0.7, [0.214355159, 1.613253502, 0.0],
     [[0.014543503, -0.070864474, 0.028604964, 0.029708408, -0.001992401],
      [-0.032933661, -0.006612584, -0.010789052, -0.02203909, 0.072374387]]),
]  # fmt: skip


def named(divergence):
    return divergence.kind if divergence.kind != "jsd" else f"jsd {divergence.beta}"


@pytest.fixture(params=[(1, 1), (4, 3), (100, 4), (5, 100)], ids=lambda size: f"chunks of {size[0]} by {size[1]}")
def chunk(request, monkeypatch):
    monkeypatch.setattr(module, "POSITIONS", request.param[0])
    monkeypatch.setattr(logps, "COLUMNS", request.param[1])


def states(width, name="plain", seed=0, called=False):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(POSITIONS, width, generator=generator).requires_grad_()
    weight = (torch.randn(VOCABULARY, width, generator=generator) * 1.5).requires_grad_()
    bias = torch.randn(VOCABULARY, generator=generator).requires_grad_()
    options = dict(HEADS[name])
    bias = bias if options.pop("bias", False) else None
    layer = (lambda rows: torch.nn.functional.linear(rows, weight, bias)) if called else None
    return States(hidden, Head(weight, bias, **options, layer=layer))


def log_probs(given, temperature):
    """Of the whole vocabulary at once in float64, and the leaves of the graph."""
    hidden, head = given
    leaves = [None if t is None else t.detach().double().requires_grad_() for t in (hidden, head.weight, head.bias)]
    logits = head.scale * torch.nn.functional.linear(*leaves)
    logits = head.softcap * torch.tanh(logits / head.softcap) if head.softcap else logits
    return torch.log_softmax(logits / temperature, -1), leaves


def by_torch(divergence, log_p, log_q):
    """kl_div(input, target) of torch is KL(target ‖ input)."""

    def kl(target, of):
        return kl_div(of, target, reduction="none", log_target=True).sum(-1)

    if divergence.kind != "jsd":
        return kl(log_q, log_p) if divergence.kind == "forward_kl" else kl(log_p, log_q)
    mixture = (divergence.beta * log_q.exp() + (1 - divergence.beta) * log_p.exp()).log()
    return divergence.beta * kl(log_q, mixture) + (1 - divergence.beta) * kl(log_p, mixture)


def close(value, expected, tolerance=2e-5):
    torch.testing.assert_close(value.double(), expected.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", TRL, ids=lambda case: f"beta {case[0]}, temperature {case[1]}")
def test_values_and_gradients_are_those_of_trl(chunk, case):
    beta, temperature, values, gradient = case
    kind = {0.0: "forward_kl", 1.0: "reverse_kl"}.get(beta, "jsd")
    # Through the identity as head, the states are the logits.
    student, head = torch.tensor(STUDENT, requires_grad=True), Head(torch.eye(5))
    value = token_divergence(
        States(student, head), States(torch.tensor(TEACHER), head), Divergence(kind, beta), temperature
    )
    close(value, torch.tensor(values), 2e-6)
    value.sum().backward()
    close(student.grad, torch.tensor([*gradient, [0.0] * 5]), 2e-6)


@pytest.mark.parametrize("called", [False, True], ids=["plain", "called"])
@pytest.mark.parametrize("divergence", KINDS, ids=named)
@pytest.mark.parametrize("name", HEADS)
def test_values_and_gradients_are_those_of_kl_div(chunk, name, divergence, called):
    policy, teacher = states(WIDTH, name, called=called), states(OTHER_WIDTH, name, seed=1)
    value = token_divergence(policy, teacher, divergence, 0.7)
    log_p, leaves = log_probs(policy, 0.7)
    expected = by_torch(divergence, log_p, log_probs(teacher, 0.7)[0].detach())
    assert value.dtype == torch.float32
    close(value, expected)
    uneven = torch.linspace(-1, 2, POSITIONS)
    (value * uneven).sum().backward()
    (expected * uneven.double()).sum().backward()
    for leaf, wanted in zip((policy.hidden, policy.head.weight, policy.head.bias), leaves, strict=True):
        if wanted is not None:
            close(leaf.grad, wanted.grad)
    assert teacher.hidden.grad is None and teacher.head.weight.grad is None


@pytest.mark.parametrize("called", [False, True], ids=["plain", "called"])
@pytest.mark.parametrize("divergence", KINDS, ids=named)
def test_words_that_are_not_listed_are_one_class(chunk, divergence, called):
    policy, teacher = states(WIDTH, "everything", called=called), states(OTHER_WIDTH, seed=1)
    ids = likeliest(teacher, 4)
    log_q, _ = log_probs(teacher, 0.7)
    assert torch.equal(ids, log_q.topk(4).indices)

    def classes(of):
        listed = of.exp().gather(-1, ids)
        return torch.cat([listed, 1 - listed.sum(-1, keepdim=True)], -1).log()

    teacher_classes = class_logits(teacher, ids, 0.7).log_softmax(-1).detach()
    close(teacher_classes, classes(log_q))
    value = class_divergence(policy, ids, teacher_classes, divergence, 0.7)
    log_p, leaves = log_probs(policy, 0.7)
    expected = by_torch(divergence, classes(log_p), classes(log_q.detach()))
    close(value, expected)
    uneven = torch.linspace(-1, 2, POSITIONS)
    (value * uneven).sum().backward()
    (expected * uneven.double()).sum().backward()
    for leaf, wanted in zip((policy.hidden, policy.head.weight, policy.head.bias), leaves, strict=True):
        close(leaf.grad, wanted.grad)


def test_fewer_classes_never_say_that_models_differ_more():
    policy, teacher = states(WIDTH), states(OTHER_WIDTH, seed=1)
    for divergence in KINDS:
        whole, former = token_divergence(policy, teacher, divergence), torch.zeros(POSITIONS)
        for count in (1, 3, 6, 10):
            ids = likeliest(teacher, count)
            log_q = class_logits(teacher, ids, 1.0).log_softmax(-1)
            value = class_divergence(policy, ids, log_q, divergence, 1.0)
            assert bool((former - 1e-5 <= value).all()) and bool((value <= whole + 1e-5).all())
            former = value
        close(former, whole)  # Ten words, and a class of one word.


def test_no_chunk_is_larger_than_its_budget(monkeypatch):
    monkeypatch.setattr(module, "POSITIONS", 8)
    monkeypatch.setattr(logps, "COLUMNS", 6)
    sizes, original = [], module.part_logits

    def noted(rows, matrix, *rest):
        sizes.append((len(rows), len(matrix)))
        return original(rows, matrix, *rest)

    monkeypatch.setattr(module, "part_logits", noted)
    token_divergence(states(WIDTH), states(OTHER_WIDTH), KINDS[0]).sum().backward()
    assert set(sizes) == {(8, 6), (8, 5), (5, 6), (5, 5)}
    assert len(sizes) == 4 * 2 * 3, "both models: twice forward, once backward"


@pytest.mark.parametrize("divergence", KINDS, ids=named)
def test_bfloat16_under_autocast_stays_close_and_comes_out_in_float32(divergence):
    policy, teacher = states(WIDTH), states(OTHER_WIDTH, seed=1)
    exact = token_divergence(policy, teacher, divergence)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = token_divergence(policy, teacher, divergence)
    assert value.dtype == torch.float32
    close(value, exact, 0.1)
    value.sum().backward()
    assert policy.head.weight.grad.dtype == torch.float32


def test_no_position_gives_no_value_and_a_zero_gradient():
    policy, teacher = states(WIDTH), states(OTHER_WIDTH)
    policy = States(policy.hidden[:0], policy.head)
    value = token_divergence(policy, States(teacher.hidden[:0], teacher.head), KINDS[0])
    assert value.shape == (0,)
    value.sum().backward()
    assert policy.head.weight.grad.abs().sum() == 0


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5])
def test_a_beta_at_an_end_is_refused_with_what_to_take(beta):
    with pytest.raises(ZooError, match="forward_kl .0. and reverse_kl .1."):
        Divergence("jsd", beta)
    with pytest.raises(ZooError, match="Kinds: forward_kl, reverse_kl, jsd"):
        Divergence("kl")
