"""The CPU attention gives what torch's own gives."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from zoo.models.attention import LONGEST, cpu_attention, use_cpu_attention
from zoo.models.scoring import score_answers
from zoo.types import Answer


class Module:
    num_key_value_groups = 3


def tensors(length, heads=6, groups=2, size=16):
    generator = torch.Generator().manual_seed(length)
    shapes = [(2, heads, length, size), (2, groups, length, size), (2, groups, length, size)]
    return [torch.randn(shape, generator=generator).bfloat16().requires_grad_() for shape in shapes]


def reference(query, key, value, mask):
    """Float32, keys and values repeated for every head."""
    key, value = (part.float().repeat_interleave(3, 1) for part in (key, value))
    found = scaled_dot_product_attention(query.float(), key, value, attn_mask=mask, is_causal=mask is None)
    return found.transpose(1, 2)


@pytest.mark.parametrize("length", [2, 33, LONGEST, LONGEST + 1])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_those_of_torch(length, masked):
    query, key, value = tensors(length)
    mask = None
    if masked:
        mask = (torch.rand(2, 1, length, length) > 0.3).tril() | torch.eye(length, dtype=torch.bool)
    found, _ = cpu_attention(Module(), query, key, value, mask)
    expected = reference(query, key, value, mask)
    assert found.shape == expected.shape
    assert (found.float() - expected).abs().max() < 0.03
    weight = torch.randn(expected.shape)
    for one, other in zip(
        torch.autograd.grad((found.float() * weight).sum(), [query, key, value]),
        torch.autograd.grad((expected * weight).sum(), [query, key, value]),
        strict=True,
    ):
        assert (one.float() - other.float()).norm() / other.float().norm() < 0.02


def test_a_later_token_is_never_seen():
    query, key, value = tensors(20)
    before = cpu_attention(Module(), query, key, value, None)[0][:, :10]
    with torch.no_grad():
        key[:, :, 10:], value[:, :, 10:] = 5.0, 5.0
    assert torch.equal(cpu_attention(Module(), query, key, value, None)[0][:, :10], before)


def test_padding_that_sees_nothing_stays_finite():
    query, key, value = tensors(8)
    mask = torch.ones(2, 1, 8, 8, dtype=torch.bool).tril()
    mask[:, :, :3] = False
    assert cpu_attention(Module(), query, key, value, mask)[0].isfinite().all()


def test_a_model_scores_the_same_with_it_and_saves_an_ordinary_configuration(tiny_model, tmp_path):
    answers = [Answer.of([1, 5, 7], list(range(8, 30))), Answer.of([1, 5, 7], [9, 9, 4])]
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        expected = score_answers(tiny_model, answers, "shared").per_token
        use_cpu_attention(tiny_model)
        assert tiny_model.config._attn_implementation == "zoo_cpu"
        found = score_answers(tiny_model, answers, "shared").per_token
    assert torch.allclose(found, expected, atol=0.05)
    tiny_model.save_pretrained(tmp_path)
    assert "zoo_cpu" not in (tmp_path / "config.json").read_text()
    tiny_model.set_attn_implementation("sdpa")
