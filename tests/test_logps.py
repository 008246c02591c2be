"""Chunked log-probabilities: the same values and gradients as log_softmax over all logits at once."""

import pytest
import torch

from zoo.models import logps as module
from zoo.models.logps import Head, token_logps

POSITIONS, WIDTH, VOCABULARY = 13, 6, 11
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.3},
    "softcap": {"softcap": 3.0},
    "everything": {"bias": True, "scale": 1.7, "softcap": 5.0},
}


@pytest.fixture(params=[(1, 1), (4, 3), (100, 4), (5, 100)], ids=lambda size: f"chunks of {size[0]} by {size[1]}")
def chunk(request, monkeypatch):
    monkeypatch.setattr(module, "POSITIONS", request.param[0])
    monkeypatch.setattr(module, "COLUMNS", request.param[1])


def make(name="plain", dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64) * 1.5
    bias = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)
    options = dict(HEADS[name])
    with_bias = options.pop("bias", False)
    hidden, weight, bias = (t.to(dtype).requires_grad_() for t in (hidden, weight, bias))
    targets = torch.randint(VOCABULARY, (POSITIONS,), generator=generator)
    return hidden, Head(weight, bias if with_bias else None, **options), targets


def plain(hidden, head, targets, temperature=1.0):
    """The definition, in float64, with all logits at once; gradients by autograd."""
    hidden, weight = hidden.detach().double().requires_grad_(), head.weight.detach().double().requires_grad_()
    bias = None if head.bias is None else head.bias.detach().double().requires_grad_()
    logits = hidden @ weight.t() + (0 if bias is None else bias)
    logits = logits * head.scale
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    log_p = torch.log_softmax(logits / temperature, -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return log_p.gather(-1, targets[:, None]).squeeze(-1), entropy, log_p, (hidden, weight, bias)


def close(found, expected, tolerance=2e-5):
    torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("name", HEADS)
def test_values_and_gradients_are_those_of_log_softmax(chunk, name, temperature):
    hidden, head, targets = make(name)
    found, likeliest, entropy = token_logps(hidden, head, targets, temperature)
    expected, _, log_p, (hidden64, weight64, bias64) = plain(hidden, head, targets, temperature)
    assert found.dtype == torch.float32 and entropy is None
    close(found, expected)
    assert torch.equal(likeliest, log_p.argmax(-1) == targets)
    uneven = torch.linspace(-1, 2, POSITIONS)
    (found * uneven).sum().backward()
    (expected * uneven.double()).sum().backward()
    close(hidden.grad, hidden64.grad)
    close(head.weight.grad, weight64.grad)
    if head.bias is not None:
        close(head.bias.grad, bias64.grad)


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_entropy_and_its_gradient(chunk, name):
    hidden, head, targets = make(name)
    found, _, entropy = token_logps(hidden, head, targets, 0.7, entropy=True)
    expected, expected_entropy, _, (hidden64, weight64, _) = plain(hidden, head, targets, 0.7)
    close(entropy, expected_entropy)
    uneven = torch.linspace(-1, 2, POSITIONS)
    (found * 0.3 + entropy * uneven).sum().backward()
    (expected * 0.3 + expected_entropy * uneven.double()).sum().backward()
    close(hidden.grad, hidden64.grad)
    close(head.weight.grad, weight64.grad)


def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_the_same_one():
    hidden, head, targets = make()
    token_logps(hidden, head, targets)[0].sum().backward()
    with_head = hidden.grad.clone()
    hidden.grad = None
    frozen = Head(head.weight.detach())
    token_logps(hidden, frozen, targets)[0].sum().backward()
    assert torch.equal(hidden.grad, with_head) and frozen.weight.grad is None


def test_frozen_hidden_states_leave_the_gradient_to_the_head():
    hidden, head, targets = make()
    token_logps(hidden.detach(), head, targets)[0].sum().backward()
    assert hidden.grad is None and head.weight.grad.abs().sum() > 0


def test_the_chunk_size_does_not_change_the_values(monkeypatch):
    hidden, head, targets = make()
    whole = token_logps(hidden, head, targets)[0]
    monkeypatch.setattr(module, "COLUMNS", 1)
    close(token_logps(hidden, head, targets)[0], whole, 1e-6)


def test_no_chunk_is_larger_than_its_budget(monkeypatch):
    monkeypatch.setattr(module, "POSITIONS", 8)
    monkeypatch.setattr(module, "COLUMNS", 6)
    seen = []
    original = module.part_logits

    def noted(rows, matrix, *rest):
        seen.append((len(rows), len(matrix)))
        return original(rows, matrix, *rest)

    monkeypatch.setattr(module, "part_logits", noted)
    hidden, head, targets = make()
    token_logps(hidden, head, targets)[0].sum().backward()
    once = [(8, 6), (8, 5), (5, 6), (5, 5)]
    assert seen == once * 2, "thirteen positions by eleven words forward, and once more backward"


def test_no_position_gives_no_value_and_a_zero_gradient():
    hidden, head, targets = make()
    found, likeliest, entropy = token_logps(hidden[:0], head, targets[:0], entropy=True)
    assert found.shape == likeliest.shape == entropy.shape == (0,)
    (found.sum() + entropy.sum()).backward()
    assert head.weight.grad.abs().sum() == 0 and hidden.grad.abs().sum() == 0


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_bfloat16_under_autocast_stays_close_and_comes_out_in_float32(chunk, name):
    hidden, head, targets = make(name)
    with torch.autocast("cpu", torch.bfloat16):
        found = token_logps(hidden, head, targets)[0]
    found.sum().backward()
    expected, _, _, (hidden64, weight64, _) = plain(hidden, head, targets)
    expected.sum().backward()
    assert found.dtype == hidden.grad.dtype == head.weight.grad.dtype == torch.float32
    close(found, expected, 0.05)
    close(hidden.grad, hidden64.grad, 0.1)
    close(head.weight.grad, weight64.grad, 0.1)


def test_bfloat16_weights_are_multiplied_in_bfloat16_and_normalised_in_float32_with_an_exact_target():
    hidden, head, targets = make(dtype=torch.bfloat16)
    found = token_logps(hidden, head, targets)[0]
    rounded, exact = (hidden @ head.weight.t()).float(), hidden.float() @ head.weight.float().t()
    logits = rounded.scatter(-1, targets[:, None], exact.gather(-1, targets[:, None]))
    expected = torch.log_softmax(logits, -1).gather(-1, targets[:, None]).squeeze(-1)
    assert found.dtype == torch.float32
    close(found, expected, 1e-6)
    found.sum().backward()
    assert hidden.grad.dtype == head.weight.grad.dtype == torch.bfloat16


def test_extreme_logits_stay_finite():
    head = Head(torch.tensor([[1000.0], [-1000.0], [0.0]]))
    hidden = torch.tensor([[10.0], [10.0]], requires_grad=True)
    found, _, entropy = token_logps(hidden, head, torch.tensor([0, 1]), entropy=True)
    assert found.tolist() == [0.0, -20000.0] and entropy.tolist() == [0.0, 0.0]
    (found.sum() + entropy.sum()).backward()
    assert torch.isfinite(hidden.grad).all()


def test_the_worked_numbers(vectors):
    """Position t − 1 predicts token t, the last row of logits predicts nothing, labels count after the shift."""
    case = vectors["prim.seq_logps"]
    logits, expected = torch.tensor(case["inputs"]["logits"]), case["expected"]
    labels = torch.tensor(case["inputs"]["labels"])
    position = (labels[1:] >= 0).nonzero().squeeze(-1)
    identity = Head(torch.eye(3))
    found, _, entropy = token_logps(logits[position], identity, labels[1:][position], entropy=True)
    assert len(found) == expected["n_tokens"]
    assert found.tolist() == pytest.approx(expected["token_logps"], rel=1e-5)
    assert float(found.sum()) == pytest.approx(expected["sum"], rel=1e-5)
    assert float(found.mean()) == pytest.approx(expected["mean"], rel=1e-5)
    assert entropy.tolist() == pytest.approx(expected["entropy_at_predicting_positions"], rel=1e-5)
    warm, _, _ = token_logps(logits[position], identity, labels[1:][position], case["inputs"]["temperature"])
    assert warm.tolist() == pytest.approx(expected["token_logps_with_temperature"], rel=1e-5)
    assert float(warm.sum()) == pytest.approx(expected["sum_with_temperature"], rel=1e-5)


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_a_head_that_is_called_as_it_is_gives_the_same_values_entropies_and_gradients(monkeypatch, name):
    """As one with adapters is, for a few positions at a time."""
    monkeypatch.setattr(module, "WHOLE_LOGITS", 4 * VOCABULARY)
    hidden, head, targets = make(name)
    layer = torch.nn.Linear(WIDTH, VOCABULARY, bias=head.bias is not None)
    layer.weight.data.copy_(head.weight.detach())
    if head.bias is not None:
        layer.bias.data.copy_(head.bias.detach())
    called = Head(layer.weight, layer.bias, head.scale, head.softcap, layer)
    found, likeliest, entropy = token_logps(hidden, called, targets, 0.7, entropy=True)
    expected, expected_entropy, log_p, (hidden64, weight64, _) = plain(hidden, head, targets, 0.7)
    close(found, expected)
    close(entropy, expected_entropy)
    assert torch.equal(likeliest, log_p.argmax(-1) == targets)
    uneven = torch.linspace(-1, 2, POSITIONS)
    (found * uneven + entropy * 0.3).sum().backward()
    (expected * uneven.double() + expected_entropy * 0.3).sum().backward()
    close(hidden.grad, hidden64.grad)
    close(layer.weight.grad, weight64.grad)
    found, _, _ = token_logps(hidden[:0], called, targets[:0])
    assert found.shape == (0,)
