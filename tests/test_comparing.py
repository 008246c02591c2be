"""The policy's divergence from another model: the same however the answers lie, in one part or several."""

import copy

import pytest
import torch
from test_scoring import counted_alone, gradients, ragged

from zoo.errors import ZooError
from zoo.libraries.heads import distrust_head
from zoo.models.comparing import top_logps
from zoo.models.layout import LAYOUTS
from zoo.models.reference import Reference
from zoo.models.roles import Policy
from zoo.testing.tiny import make_model
from zoo.values.top_logps import TopLogps
from zoo.values.types import Answer, Answers, Batch

KINDS = [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.1)]


@pytest.fixture
def teacher_model(tiny_model):
    return make_model(tiny_model.config.vocab_size, tiny_model.config.eos_token_id, seed=1).requires_grad_(False)


def frozen(model, layout="padded"):
    return Reference(lambda: model, layout, None)


def logits(model, answer):
    """Log-probs of every word at each completion token that something predicts, in a forward pass of its own."""
    ids = torch.cat([answer.prompt, answer.completion])
    start = max(len(answer.prompt), 1)
    return model(input_ids=ids[None]).logits[0, start - 1 : len(ids) - 1]


def alone(model, teacher, answer, kind, beta, temperature=1.0):
    """The definition, at each token of an answer [C]."""
    log_p = (logits(model, answer) / temperature).log_softmax(-1)
    log_q = (logits(teacher, answer) / temperature).log_softmax(-1).detach()
    if kind == "jsd":
        mixture = (beta * log_q.exp() + (1 - beta) * log_p.exp()).log()
        values = beta * log_q.exp() * (log_q - mixture) + (1 - beta) * log_p.exp() * (log_p - mixture)
    else:
        first, second = (log_q, log_p) if kind == "forward_kl" else (log_p, log_q)
        values = first.exp() * (first - second)
    values = values.sum(-1)
    values = torch.cat([torch.zeros(len(answer.completion) - len(values)), values])
    return values * counted_alone(answer)


def agree(values, expected):
    assert values.shape == (len(expected), max(map(len, expected)))
    for row, wanted in zip(values, expected, strict=True):
        torch.testing.assert_close(row[: len(wanted)], wanted, rtol=2e-5, atol=2e-5)
        assert row[len(wanted) :].abs().sum() == 0


@pytest.mark.parametrize("kind, beta", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of_teacher", LAYOUTS)
def test_every_layout_of_both_gives_the_values_and_gradients_of_separate_passes(
    tiny_model, teacher_model, layout, of_teacher, kind, beta
):
    answers = Answers(ragged())
    weights = [0.5 - 0.3 * i for i in range(len(answers))]
    expected = [alone(tiny_model, teacher_model, answer, kind, beta, 0.7) for answer in answers]
    sum(w * row.sum() for w, row in zip(weights, expected, strict=True)).backward()
    expected_gradients = gradients(tiny_model)
    policy, teacher = Policy(tiny_model, layout), frozen(teacher_model, of_teacher)
    assert teacher.model is teacher_model
    policy.balance = teacher.balance = 10**9
    values = policy.divergence(answers, teacher, kind=kind, beta=beta, temperature=0.7)
    agree(values, expected)
    (torch.tensor(weights) * values.sum(-1)).sum().backward()
    for name, gradient in gradients(tiny_model).items():
        scale = float(expected_gradients[name].abs().max())
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5 * scale)
    assert all(parameter.grad is None for parameter in teacher_model.parameters())


def test_models_whose_head_is_not_trusted_are_compared_by_their_own_logits(tiny_model, teacher_model):
    answers = Answers(ragged())
    expected = [alone(tiny_model, teacher_model, answer, "jsd", 0.3).detach() for answer in answers]
    distrust_head(teacher_model)
    agree(Policy(tiny_model, "shared").divergence(answers, frozen(teacher_model), kind="jsd", beta=0.3), expected)
    distrust_head(tiny_model)
    agree(Policy(tiny_model, "padded").divergence(answers, frozen(teacher_model), kind="jsd", beta=0.3), expected)


@pytest.mark.parametrize("kind, beta", KINDS)
def test_the_likeliest_words_of_a_teacher_in_memory_are_those_that_were_stored(tiny_model, teacher_model, kind, beta):
    answers, count = Answers(ragged()), 5
    ids, log_q = [], []
    for answer in answers:
        log_p = logits(teacher_model, answer).log_softmax(-1)
        top = log_p.topk(count)
        rest = (1 - top.values.exp().sum(-1, keepdim=True)).log()
        missing = len(answer.completion) - len(log_p)
        ids.append(torch.cat([torch.zeros(missing, count, dtype=torch.long), top.indices]))
        log_q.append(torch.cat([torch.zeros(missing, count + 1), torch.cat([top.values, rest], -1)]))
    policy, stored = Policy(tiny_model, "shared"), TopLogps(ids, log_q)
    values = policy.divergence(answers, frozen(teacher_model), kind=kind, beta=beta, top_k=count)
    torch.testing.assert_close(
        policy.divergence(answers, stored, kind=kind, beta=beta), values, rtol=1e-4, atol=1e-5
    )  # fmt: skip
    whole = policy.divergence(answers, frozen(teacher_model), kind=kind, beta=beta)
    assert bool((values <= whole + 1e-5).all()) and bool((values < whole - 1e-3).any())
    several = policy.divergence(answers, frozen(teacher_model), kind=kind, beta=beta, top_k=10**6)
    torch.testing.assert_close(several, whole)
    # A part of a batch has its own part of the words.
    batch = Batch(answers=answers, top=stored).select([6, 1, 3])
    part = policy.divergence(batch.answers, batch.top, kind=kind, beta=beta)
    torch.testing.assert_close(part, values[[6, 1, 3], : part.shape[1]], rtol=1e-4, atol=1e-5)


def test_stored_log_probs_are_of_temperature_1_alone(tiny_model):
    answers = Answers([Answer.of([3], [4, 5])])
    stored = TopLogps([torch.tensor([[7], [3]])], [torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()])
    policy = Policy(tiny_model, "shared")
    at_1 = policy.divergence(answers, stored, kind="forward_kl")
    assert torch.equal(policy.divergence(answers, stored, kind="forward_kl", temperature=1.0), at_1)
    with pytest.raises(ZooError, match=r"at temperature 1, and the policy's are to be at 0\.5") as told:
        policy.divergence(answers, stored, kind="forward_kl", temperature=0.5)
    assert "Leave --temperature out" in told.value.hint


def test_a_rollout_compares_in_parts(tiny_model, teacher_model):
    answers = Answers(ragged())
    policy, teacher = Policy(tiny_model, "shared"), frozen(teacher_model)
    whole = policy.divergence(answers, teacher, kind="forward_kl").detach()
    stored = TopLogps(*zip(*[(torch.tensor([[7, 3]]).expand(len(a.completion), 2),
                              torch.tensor([0.5, 0.3, 0.2]).log().expand(len(a.completion), 3)) for a in answers],
                           strict=True))  # fmt: skip
    whole_stored = policy.divergence(answers, stored, kind="forward_kl").detach()
    policy.micro_tokens = 12
    with torch.no_grad():
        torch.testing.assert_close(policy.divergence(answers, teacher, kind="forward_kl"), whole)
        torch.testing.assert_close(policy.divergence(answers, stored, kind="forward_kl"), whole_stored)


def test_no_answers_have_no_divergence(tiny_model, teacher_model):
    value = Policy(tiny_model, "shared").divergence(Answers([]), frozen(teacher_model), kind="reverse_kl")
    assert value.shape == (0, 1)


def padded(model, rows):
    """The same model with more rows, whose words are likely, so that they would be seen."""
    wide = copy.deepcopy(model)
    wide.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        wide.get_output_embeddings().weight[model.config.vocab_size :] = wide.get_output_embeddings().weight[3]
    return wide


@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("trusted", [True, False])
def test_words_that_pad_one_of_the_vocabularies_are_left_out(tiny_model, teacher_model, top_k, trusted):
    answers, how = Answers(ragged()), {"kind": "jsd", "beta": 0.3, "top_k": top_k}
    words = tiny_model.config.vocab_size
    expected = Policy(tiny_model, "shared").divergence(answers, frozen(teacher_model), **how)
    expected.sum().backward()
    expected_gradients = gradients(tiny_model)
    wide_teacher, wide_policy = padded(teacher_model, words + 40), padded(tiny_model, words + 40)
    if not trusted:
        distrust_head(wide_teacher)
        distrust_head(wide_policy)
    values = Policy(tiny_model, "shared", words=words).divergence(answers, frozen(wide_teacher), **how)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    values = Policy(wide_policy, "shared", words=words).divergence(answers, frozen(teacher_model), **how)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    values.sum().backward()
    for name, gradient in gradients(wide_policy).items():
        own = expected_gradients[name]
        torch.testing.assert_close(gradient[: len(own)], own, rtol=1e-4, atol=1e-5 * float(own.abs().max()))
        assert not gradient[len(own) :].any()


def test_a_teacher_s_stored_words_are_none_that_pad_its_vocabulary(teacher_model):
    answers, words = Answers(ragged()), teacher_model.config.vocab_size
    plain = top_logps(frozen(teacher_model), answers, 5, words)
    wide = top_logps(frozen(padded(teacher_model, words + 40)), answers, 5, words)
    assert all(map(torch.equal, plain.ids, wide.ids))
    for a, b in zip(plain.logps, wide.logps, strict=True):
        torch.testing.assert_close(a, b)


def test_another_vocabulary_is_refused_with_both_sizes(tiny_model):
    other = frozen(make_model(300, 1))
    with pytest.raises(ZooError, match=r"probabilities of 300 words and the policy of 258") as refusal:
        Policy(tiny_model, "padded").divergence(Answers([Answer.of([1], [2])]), other, kind="reverse_kl")
    assert "model family" in refusal.value.hint
    # Of 270 words the policy has no row for some.
    with pytest.raises(ZooError, match=r"probabilities of 300 words and the policy of 258"):
        Policy(tiny_model, "padded", words=270).divergence(Answers([Answer.of([1], [2])]), other, kind="reverse_kl")


def test_the_temperature_is_that_of_the_run(tiny_model, teacher_model):
    answers, teacher = Answers(ragged()), frozen(teacher_model)
    warm, plain = Policy(tiny_model, "padded", temperature=0.7), Policy(tiny_model, "padded")
    torch.testing.assert_close(
        warm.divergence(answers, teacher, kind="reverse_kl"),
        plain.divergence(answers, teacher, kind="reverse_kl", temperature=0.7),
    )
