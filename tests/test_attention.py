"""The CPU attention gives what torch's own gives."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from zoo.models import attention
from zoo.models.attention import LONGEST, SegmentMask, cpu_attention, use_cpu_attention
from zoo.models.layout import Rows, arrange
from zoo.models.scoring import score_answers
from zoo.values.types import Answer


class Module:
    num_key_value_groups = 3


def tensors(length, heads=6, groups=2, size=16, value_size=16):
    generator = torch.Generator().manual_seed(length)
    shapes = [(2, heads, length, size), (2, groups, length, size), (2, groups, length, value_size)]
    return [torch.randn(shape, generator=generator).bfloat16().requires_grad_() for shape in shapes]


def reference(query, key, value, mask):
    """Float32, keys and values repeated for every head."""
    key, value = (part.float().repeat_interleave(3, 1) for part in (key, value))
    found = scaled_dot_product_attention(query.float(), key, value, attn_mask=mask, is_causal=mask is None)
    return found.transpose(1, 2)


@pytest.mark.parametrize("length", [2, 33, LONGEST, LONGEST + 1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("value_size", [16, 8, 24])
def test_values_and_gradients_are_those_of_torch(length, masked, value_size):
    """Latent attention has values of another width than queries and keys."""
    torch.manual_seed(0)
    query, key, value = tensors(length, value_size=value_size)
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


def segments_and_mask(lengths):
    """Groups of (prompt, answer, answer, …) lengths in one row, and who sees whom as a general mask."""
    answers = [
        Answer.of([100 + group] * prompt, [7] * size)
        for group, (prompt, *sizes) in enumerate(lengths)
        for size in sizes
    ]
    rows = arrange(answers, "shared", one_row=True)
    assert len(rows.ids) == 1 and int((rows.group < 0).sum()) == 0, "one row, no padding"
    return rows.segments, rows.mask()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "tile, kept, padding", [(256, 512, 1.4), (4, 512, 1.4), (4, 6, 1.0), (256, 6, 9.0), (4, 512, 9.0)]
)
@pytest.mark.parametrize("lengths", [[(5, 3, 6, 1)], [(9,), (0, 7), (4, 2)], [(1, 1), (6, 6, 6)], [(3, 30)]])
@pytest.mark.parametrize("value_size", [16, 8])
def test_segments_give_what_their_mask_gives(monkeypatch, dtype, tile, kept, padding, lengths, value_size):
    """Whatever is cut into tiles, kept for the backward pass, or padded to be one product with others."""
    lengths = [group if len(group) > 1 else (*group, 1) for group in lengths]
    monkeypatch.setattr(attention, "TILE", tile)
    monkeypatch.setattr(attention, "KEPT", kept)
    monkeypatch.setattr(attention, "PADDING", padding)
    segments, mask = segments_and_mask(lengths)
    parts = tensors(mask.shape[-1], value_size=value_size)
    query, key, value = (part.detach()[:1].to(dtype).requires_grad_() for part in parts)
    expected = reference(query, key, value, mask)
    found, _ = cpu_attention(Module(), query, key, value, SegmentMask(segments, lambda: pytest.fail("it was read")))
    tolerance = 0.03 if dtype == torch.bfloat16 else 1e-5
    assert found.shape == expected.shape and found.dtype == dtype
    assert (found.float() - expected).abs().max() < tolerance
    weight = torch.randn(expected.shape)
    for one, other in zip(
        torch.autograd.grad((found.float() * weight).sum(), [query, key, value]),
        torch.autograd.grad((expected * weight).sum(), [query, key, value]),
        strict=True,
    ):
        assert (one.float() - other.float()).norm() / other.float().norm() < tolerance


def test_what_reads_the_mask_of_segments_gets_it_whole():
    segments, mask = segments_and_mask([(5, 3, 6), (2, 4)])
    query, key, value = tensors(mask.shape[-1])
    late = SegmentMask(segments, lambda: mask)
    assert (late.shape, late.dtype, late.device) == (mask.shape, mask.dtype, mask.device)
    assert torch.equal(late[:, :, :3], mask[:, :, :3]) and torch.equal(~late, ~mask)
    two_rows = cpu_attention(Module(), query, key, value, mask)[0]
    assert torch.equal(cpu_attention(Module(), query, key, value, late)[0], two_rows)
    alone = cpu_attention(Module(), query[:1], key[:1], value[:1], late)[0]
    assert (alone - two_rows[:1]).abs().max() < 0.03


def test_a_row_of_segments_is_scored_without_its_mask(tiny_model, monkeypatch):
    answers = [Answer.of([1, 5, 7], [8, 9]), Answer.of([1, 5, 7], [9, 9, 4])]
    expected = score_answers(tiny_model, answers, "shared").per_token
    use_cpu_attention(tiny_model)
    monkeypatch.setattr(Rows, "mask", lambda rows: pytest.fail("the mask was made"))
    torch.testing.assert_close(score_answers(tiny_model, answers, "shared").per_token, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["shared", "packed"])
def test_a_model_gives_the_same_gradients_in_one_row_as_in_padded_ones(tiny_model, dtype, layout):
    answers = [Answer.of([1, 5, 7], list(range(8, 30))), Answer.of([1, 5, 7], [9, 9, 4]), Answer.of([2], [3, 4])]

    def gradients(layout):
        tiny_model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            scored = score_answers(tiny_model, answers, layout).sum()
        (scored * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
        return scored.detach(), torch.cat([p.grad.flatten() for p in tiny_model.parameters()])

    expected, path = gradients("padded")
    use_cpu_attention(tiny_model)
    found, other = gradients(layout)
    exact = dtype == torch.float32
    assert torch.allclose(found, expected, rtol=1e-5 if exact else 0.02)
    assert (other - path).norm() / path.norm() < (1e-5 if exact else 0.05)
