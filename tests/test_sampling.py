"""The next token: what temperature, top-k, top-p and stop strings mean, and where randomness comes from."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from zoo.errors import ZooError
from zoo.rollout.sampling import Sampling, StopStrings, choose, lowest_kept, seeds, uniform_stream


@pytest.fixture
def logits():
    return torch.randn(20, 997, generator=torch.Generator().manual_seed(3)) * 3


@pytest.mark.parametrize(
    "temperature, top_k, top_p",
    [
        (1.0, 5, 1.0),
        (0.7, 1, 1.0),
        (1.0, 0, 0.9),
        (2.5, 0, 0.5),
        (1.0, 0, 0.999),
        (1.3, 40, 0.8),
        (1.0, 5000, 0.01),
    ],
)
def test_kept_tokens_are_those_of_the_processors_of_transformers(logits, temperature, top_k, top_p):
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    probabilities = (logits / temperature).softmax(-1)
    kept = probabilities >= lowest_kept(probabilities, top_k, top_p)
    assert torch.equal(kept, expected > -torch.inf)


def test_wide_and_narrow_nuclei_in_one_batch_are_both_exact():
    logits = torch.linspace(0, 1, 100_000).repeat(2, 1)
    logits[1, 7] = 30.0
    probabilities = logits.softmax(-1)
    wide, narrow = (probabilities >= lowest_kept(probabilities, 0, 0.9)).sum(-1).tolist()
    expected = int((TopPLogitsWarper(0.9)(None, logits[:1]) > -torch.inf).sum())
    assert narrow == 1 and expected > 80_000
    assert abs(wide - expected) < 50, "beyond what sums of 80,000 terms in another order explain"


def test_drawn_frequencies_are_the_distribution():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf]).expand(20_000, 5)
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sampling in (Sampling(), Sampling(temperature=0.5), Sampling(top_k=2), Sampling(top_p=0.8)):
        ids, _ = choose(logits, uniforms, sampling)
        expected = (logits[0] / sampling.temperature).softmax(-1)
        expected = expected * (expected >= lowest_kept(expected[None], sampling.top_k, sampling.top_p)[0])
        found = torch.bincount(ids, minlength=5) / len(ids)
        # Four standard errors of a frequency over 20,000 draws are at most 0.0142.
        assert (found - expected / expected.sum()).abs().max() < 0.015
        assert (found[expected == 0] == 0).all()


def test_extreme_uniform_numbers_never_draw_an_impossible_token():
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]] * 2)
    ids, logps = choose(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), Sampling())
    assert set(ids.tolist()) <= {1, 2} and torch.isfinite(logps).all()


def test_log_probs_are_those_before_the_filters_at_the_temperature(logits):
    for filters in ({}, {"top_k": 3}, {"top_p": 0.4}):
        sampling = Sampling(temperature=0.7, **filters)
        ids, logps = choose(logits, torch.linspace(0, 0.99, 20, dtype=torch.float64), sampling)
        expected = (logits / 0.7).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        torch.testing.assert_close(logps, expected, atol=1e-5, rtol=0)


def test_temperature_zero_takes_the_likeliest_token_with_its_log_prob_at_one(logits):
    ids, logps = choose(logits, torch.zeros(20), Sampling(temperature=0))
    assert torch.equal(ids, logits.argmax(-1))
    torch.testing.assert_close(logps, logits.log_softmax(-1).amax(-1), atol=1e-5, rtol=0)


def test_streams_depend_on_their_place_alone():
    few = seeds(3, torch.Generator().manual_seed(9))
    many = seeds(5, torch.Generator().manual_seed(9))
    assert many[:3] == few and len(set(many)) == 5
    assert uniform_stream(few[0], 10)[:4] == uniform_stream(few[0], 4)


class Bytes:
    """A tokenizer of one byte per token, which decodes half a character to a replacement mark."""

    def decode(self, ids, **options):
        return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize(
    "text, stop", [("one\n\ntwo", "\n\n"), ("say ###", "###"), ("grüße", "üß"), ("x" * 99 + "é", "é")]
)
def test_a_stop_string_is_found_at_the_token_that_completes_it(text, stop):
    stopped = StopStrings([stop, "never"], Bytes())
    ids = list(text.encode())
    first = next(end for end in range(1, len(ids) + 1) if stopped(ids[:end]))
    assert bytes(ids[:first]).decode().endswith(stop)


def test_settings_without_meaning_are_refused_by_name():
    for wrong in (
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"budget": -1},
    ):
        with pytest.raises(ZooError, match=next(iter(wrong))):
            Sampling(**wrong)
    with pytest.raises(ZooError, match="list of strings"):
        Sampling(stop="###")
    with pytest.raises(ZooError, match="tokenizer"):
        StopStrings(["###"], None)
