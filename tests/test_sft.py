"""SFT: the mean over trained tokens, the same whatever the rows and micro-batches."""

import math

import pytest
import torch

from zoo.contract.registry import load_algorithm
from zoo.data.loader import micro_batches
from zoo.models.layout import LAYOUTS
from zoo.models.roles import Models, Policy
from zoo.options.fields import build
from zoo.testing import stand_ins
from zoo.training.step.sums import Sums
from zoo.values.types import Answer, Answers, Batch, metric_sums

SFT = load_algorithm("sft")[1]


def options(**values):
    return build(SFT.Config, values, what="sft")


def test_the_loss_is_the_mean_over_all_trained_tokens_of_the_step(vectors):
    case = vectors["sft.token_normalised_loss"]
    rows = [torch.tensor(part) for rank in case["inputs"]["token_nll"].values() for part in rank]
    sums = Sums()
    for nll in rows:
        logps = (-nll[None]).double().requires_grad_()
        batch, models = stand_ins(policy={"completion": logps})
        loss = SFT().loss(batch, models, options())
        sums.add({"loss": (loss.numerator, loss.denominator)})
        loss.numerator.backward()
        scaled = -logps.grad / case["expected"]["n_tokens_global"]
        assert scaled.flatten().tolist() == pytest.approx([0.1] * len(nll), rel=1e-12)
    assert sums.means()["loss"] == pytest.approx(case["expected"]["loss"], rel=1e-10)
    assert sums.count("loss") == case["expected"]["n_tokens_global"]


def test_tokens_outside_the_mask_do_not_count():
    logps = torch.tensor([[-1.0, -50.0, -3.0]], requires_grad=True)
    batch, models = stand_ins(policy={"completion": logps}, masks={"completion": torch.tensor([[1, 0, 1]])})
    loss = SFT().loss(batch, models, options())
    assert float(loss.mean().detach()) == 2.0
    loss.numerator.backward()
    assert logps.grad.tolist() == [[-1.0, 0.0, -1.0]]


def test_the_worked_sequence(vectors):
    expected = vectors["prim.seq_logps"]["expected"]
    batch, models = stand_ins(policy={"completion": torch.tensor([expected["token_logps"]], dtype=torch.float64)})
    assert float(SFT().loss(batch, models, options()).mean()) == pytest.approx(expected["nll_mean"], rel=1e-10)


def records():
    def answer(prompt, completion, mask=None):
        return Answer.of(prompt, completion, mask)

    return [
        {
            "row": row,
            "completion": answer([1, 2], [3, 4]),
            "conversation": answer([1], [2, 3, 4], mask=[True, False, True]),
        }
        for row in (1, 2)
    ]


@pytest.mark.parametrize(("train_on", "tokens"), [("turns", [2, 4]), ("completion", [3, 4])])
def test_every_turn_or_the_last_answer_only_is_learned(train_on, tokens):
    batch = SFT().collate(records(), options(train_on=train_on))
    assert batch.row.tolist() == [1, 2]
    for answer in batch.completion:
        assert answer.completion[answer.mask].tolist() == tokens


def real_batch():
    generator = torch.Generator().manual_seed(0)

    def ids(count):
        return torch.randint(0, 250, (count,), generator=generator).tolist()

    sizes = [(5, 3), (1, 9), (0, 4), (12, 1), (5, 5), (2, 2)]
    return Batch(completion=Answers([Answer.of(ids(p), ids(c)) for p, c in sizes]))


def step(model, parts, layout, config):
    """Loss and gradients of one optimizer step, as the core adds them up."""
    models, sums = Models(policy=Policy(model, layout)), Sums()
    for part in parts:
        loss = SFT().loss(part, models, config)
        sums.add({"loss": (loss.numerator, loss.denominator), **metric_sums(loss.metrics)})
        loss.numerator.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()]) / sums.count("loss")
    model.zero_grad()
    return sums.means(), gradient


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("micro_tokens", [1, 12, 10**6])
def test_packing_and_micro_batches_do_not_change_the_step(tiny_model, layout, micro_tokens):
    batch = real_batch()
    expected, expected_gradient = step(tiny_model, [batch], "padded", options())
    found, gradient = step(tiny_model, micro_batches(batch, micro_tokens), layout, options())
    assert found == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_the_loss_on_a_real_model_is_its_own_cross_entropy(tiny_model):
    answer = Answer.of([5, 6, 7], [8, 9, 10, 11])
    labels = torch.tensor([[-100, -100, -100, 8, 9, 10, 11]])
    expected = tiny_model(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10, 11]]), labels=labels).loss
    loss = SFT().loss(Batch(completion=Answers([answer])), Models(policy=Policy(tiny_model, "shared")), options())
    assert float(loss.mean().detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_accuracy_is_the_share_of_tokens_that_greedy_decoding_would_have_made(tiny_model):
    prompt = torch.tensor([5, 6, 7])
    first = int(tiny_model(input_ids=prompt[None]).logits[0, -1].argmax())
    batch = Batch(completion=Answers([Answer.of(prompt.tolist(), [first]), Answer.of([5, 6, 7], [(first + 1) % 250])]))
    loss = SFT().loss(batch, Models(policy=Policy(tiny_model, "shared")), options())
    total, count = metric_sums(loss.metrics)["mean_token_accuracy"]
    assert (float(total), float(count)) == (1.0, 2.0)
    assert set(loss.metrics) == set(SFT.metrics)


def test_noise_belongs_to_training_and_not_to_validation(tiny_model):
    batch, models = real_batch(), Models(policy=Policy(tiny_model, "shared"))
    plain = SFT().loss(batch, models, options()).mean()
    noisy = SFT().loss(batch, models, options(neftune_alpha=5.0)).mean()
    assert not math.isclose(float(plain.detach()), float(noisy.detach()), rel_tol=1e-3)
    models.training = False
    assert torch.equal(SFT().loss(batch, models, options(neftune_alpha=5.0)).mean(), plain)


def test_a_hundred_steps_learn_an_answer_by_heart(tiny_model):
    batch, models = real_batch(), Models(policy=Policy(tiny_model, "shared"))
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2)
    for _ in range(100):
        loss = SFT().loss(batch, models, options()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = SFT().loss(batch, models, options())
    assert float(found.mean().detach()) < 0.05
    total, count = metric_sums(found.metrics)["mean_token_accuracy"]
    assert float(total) == float(count)
