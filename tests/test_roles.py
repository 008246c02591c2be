"""Roles: only declared ones exist, the reference is frozen, computed once, and the same function at the start."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from zoo.errors import ZooError
from zoo.models.reference import Reference
from zoo.models.reference_cache import ReferenceCache
from zoo.models.roles import Models, Policy
from zoo.models.snapshot import Snapshot
from zoo.values.answers import answers_in
from zoo.values.types import Answer, Answers, Batch

CHOSEN = Answers([Answer.of([1, 2, 3], [4, 5, 6]), Answer.of([7], [8])])
REJECTED = Answers([Answer.of([1, 2, 3], [9]), Answer.of([7], [10, 11], mask=[False, True])])


class Counting:
    """A model loader that counts how often it is asked, and how many answers were really scored."""

    def __init__(self, model, monkeypatch):
        from zoo.models import reference

        self.model, self.loads, self.scored = model, 0, 0
        original = reference.score_answers

        def score(model, answers, *rest, **options):
            self.scored += len(answers)
            assert not torch.is_grad_enabled()
            return original(model, answers, *rest, **options)

        monkeypatch.setattr(reference, "score_answers", score)

    def __call__(self):
        self.loads += 1
        return self.model


@pytest.fixture
def counting(tiny_model, monkeypatch):
    return Counting(tiny_model, monkeypatch)


def test_one_argument_gives_one_result_and_several_a_tuple(tiny_model):
    policy = Policy(tiny_model, "shared")
    chosen, rejected = policy.logps(CHOSEN, REJECTED)
    assert chosen.per_token.shape == (2, 3) and rejected.per_token.shape == (2, 2)
    torch.testing.assert_close(policy.logps(CHOSEN).per_token, chosen.per_token, rtol=1e-5, atol=1e-5)
    assert rejected.mask.tolist() == [[True, False], [False, True]]


def test_entropy_and_temperature_are_passed_on(tiny_model):
    policy = Policy(tiny_model, "shared")
    warm = policy.logps(CHOSEN, temperature=2.0, entropy=True)
    assert (warm.entropy[warm.mask] > 0).all()
    assert not torch.allclose(warm.sum(), policy.logps(CHOSEN).sum())


def test_a_reference_that_follows_a_snapshot_leaves_the_policy_and_its_gradient_alone(tiny_model):
    model = copy.deepcopy(tiny_model).train()
    policy = Policy(model, "shared")
    reference = Reference(lambda: None, "shared", None, policy=policy)
    before = policy.logps(CHOSEN).per_token.detach()
    reference.renew()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)

    def gradient(between):
        model.zero_grad()
        scored = policy.logps(CHOSEN).sum().sum()
        between()
        scored.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    seen = []
    plain, with_reference = gradient(lambda: None), gradient(lambda: seen.append(reference.logps(CHOSEN).per_token))
    assert all(torch.equal(a, b) for a, b in zip(plain, with_reference, strict=True))
    torch.testing.assert_close(seen[0], before)
    assert not torch.allclose(policy.logps(CHOSEN).per_token, before) and model.training
    with torch.autocast("cpu", torch.bfloat16):
        policy.logps(CHOSEN)
        rounded = reference.logps(CHOSEN).per_token
    assert (rounded - before).abs().max() < 0.1 < (policy.logps(CHOSEN).per_token - before).abs().max()


def test_a_snapshot_is_copied_into_the_memory_of_the_weights(tiny_model):
    model = copy.deepcopy(tiny_model)
    snapshot, first = Snapshot(model), [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    present = [p.detach().clone() for p in model.parameters()]
    places = [p.data_ptr() for p in model.parameters()]
    with snapshot.restored():
        assert [p.data_ptr() for p in model.parameters()] == places
        assert all(torch.equal(p, one) for p, one in zip(model.parameters(), first, strict=True))
    assert all(torch.equal(p, one) for p, one in zip(model.parameters(), present, strict=True))


def test_noise_changes_the_scores_and_only_when_it_is_asked_for(tiny_model):
    policy = Policy(tiny_model, "shared")
    assert torch.equal(policy.logps(CHOSEN).per_token, policy.logps(CHOSEN, noise=0.0).per_token)
    assert not torch.allclose(policy.logps(CHOSEN).per_token, policy.logps(CHOSEN, noise=5.0).per_token)


def test_the_reference_carries_no_gradient_and_equals_the_policy_at_the_start(tiny_model):
    reference = Reference(lambda: copy.deepcopy(tiny_model), "shared", cache=None)
    found = reference.logps(CHOSEN, REJECTED)[0]
    assert not found.per_token.requires_grad
    assert torch.equal(found.per_token, Policy(tiny_model, "shared").logps(CHOSEN, REJECTED)[0].per_token)


def test_the_reference_is_not_loaded_before_it_is_needed_and_not_at_all_when_everything_is_known(counting, tmp_path):
    first = Reference(counting, "shared", ReferenceCache(tmp_path, "w" * 64))
    assert counting.loads == 0
    expected = first.logps(CHOSEN, REJECTED)
    assert (counting.loads, counting.scored) == (1, 4)
    second = Reference(counting, "padded", ReferenceCache(tmp_path, "w" * 64))
    found = second.logps(CHOSEN, REJECTED)
    assert (counting.loads, counting.scored) == (1, 4)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.per_token, b.per_token) and torch.equal(a.mask, b.mask)


def test_only_new_answers_are_scored_and_duplicates_once(counting, tmp_path):
    reference = Reference(counting, "shared", ReferenceCache(tmp_path, "w" * 64))
    reference.logps(CHOSEN)
    reference.logps(Answers([*CHOSEN, *REJECTED, *REJECTED]))
    assert counting.scored == 4


def test_cached_scores_lie_where_the_computed_ones_do(counting, tmp_path, tiny_model):
    answers = Answers([
        Answer.of([1], [2, 3, 4, 5], mask=[True, False, True, False]), Answer.of([], [6, 7]),
        Answer.of([1, 1], [2], mask=[False]), Answer.of([9], [1, 2, 3]),
    ])  # fmt: skip
    reference = Reference(counting, "shared", ReferenceCache(tmp_path, "w" * 64))
    expected = Reference(lambda: tiny_model, "shared", None).logps(answers)
    for _ in range(2):
        found = reference.logps(answers)
        assert torch.equal(found.mask, expected.mask)
        torch.testing.assert_close(found.per_token, expected.per_token, rtol=1e-5, atol=1e-5)


def test_scores_at_another_temperature_are_not_taken_from_the_cache(counting, tmp_path):
    reference = Reference(counting, "shared", ReferenceCache(tmp_path, "w" * 64))
    plain = reference.logps(CHOSEN)
    warm = reference.logps(CHOSEN, temperature=2.0)
    assert not torch.allclose(plain.sum(), warm.sum())
    assert torch.equal(reference.logps(CHOSEN).sum(), plain.sum())


def test_warming_scores_every_answer_once_within_the_token_budget(counting, tmp_path):
    reference = Reference(counting, "shared", ReferenceCache(tmp_path, "w" * 64))
    answers = [Answer.of([1] * (i % 5 + 1), [i, 2]) for i in range(20)]
    progress = list(reference.warm([*answers, *answers], micro_tokens=12))
    assert counting.scored == 20
    assert progress[-1] == (20, 20) and len(progress) > 5
    assert list(reference.warm(answers, micro_tokens=12)) == []
    reference.release()
    reference.logps(Answers(answers))
    assert counting.loads == 1 and counting.scored == 20


def test_the_policy_stands_in_for_the_reference_until_it_is_released(counting, tiny_model, tmp_path):
    reference = Reference(counting, "shared", ReferenceCache(tmp_path, "w" * 64))
    reference.stand_in(tiny_model)
    reference.logps(CHOSEN)
    assert counting.loads == 0
    reference.release()
    reference.logps(REJECTED)
    assert counting.loads == 1


def test_with_adapters_the_reference_is_the_policy_without_them(tiny_model):
    before = Policy(tiny_model, "shared").logps(CHOSEN).sum().detach()
    adapted = get_peft_model(tiny_model, LoraConfig(target_modules="all-linear", r=2, task_type="CAUSAL_LM")).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    reference = Reference(lambda: adapted, "shared", None, borrow=adapted.disable_adapter)
    policy = Policy(adapted, "shared")
    assert not torch.allclose(policy.logps(CHOSEN).sum(), before)
    torch.testing.assert_close(reference.logps(CHOSEN).sum(), before)
    policy.logps(CHOSEN).sum().sum().backward()
    assert any(p.grad is not None for p in adapted.parameters()), "the adapters are on again"


def test_touching_an_undeclared_role_says_what_to_declare(tiny_model):
    models = Models(policy=Policy(tiny_model, "shared"))
    assert models.policy is models.policy and models.used == {"policy"}
    assert "policy" in models and "reference" not in models
    with pytest.raises(ZooError, match=r"uses models.reference, but declares needs = \('policy',\)") as caught:
        _ = models.reference
    assert caught.value.hint == 'Add "reference" to its needs.'
    with pytest.raises(ZooError, match="Did you mean 'policy'"):
        _ = models.polcy


def test_answers_are_found_in_every_field_of_a_batch():
    batch = Batch(row=torch.tensor([1, 2]), chosen=CHOSEN, rejected=REJECTED, ranked=[REJECTED, CHOSEN])
    assert [id(answer) for answer in answers_in(batch)] == list(map(id, [*CHOSEN, *REJECTED, *REJECTED, *CHOSEN]))


def test_answers_are_found_in_every_field_of_a_record():
    first, second = CHOSEN[0], CHOSEN[1]
    record = {"row": 1, "record": {"prompt": "x"}, "completion": first, "completions": [second, first], "ranks": [1, 2]}
    assert [id(answer) for answer in answers_in(record)] == list(map(id, [first, second, first]))


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_a_loaded_model_is_the_same_function_in_training_as_in_evaluation(name, tmp_path):
    """However an architecture keeps its dropout, it is off: else policy and reference differ before the first step."""
    import transformers

    from zoo.models.loading import load_model
    from zoo.models.names import Source

    config = {
        "llama": lambda: transformers.LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            attention_dropout=0.5,
        ),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2),
        "opt": lambda: transformers.OPTConfig(
            vocab_size=50, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
            word_embed_proj_dim=16, dropout=0.5, layerdrop=0.5,
        ),
    }[name]()  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = load_model(Source(str(tmp_path), tmp_path), torch.float32)
    before = Policy(model.eval(), "padded").logps(CHOSEN).per_token
    for _ in range(3):
        assert torch.equal(Policy(model.train(), "padded").logps(CHOSEN).per_token, before)
