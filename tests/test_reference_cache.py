"""The cache knows answers and weights by content, and nothing else."""

import pytest
import torch

from zoo.models.reference_cache import ReferenceCache, answer_key, fingerprint
from zoo.testing.tiny import make_model
from zoo.values.types import Answer

ANSWER = Answer.of([1, 2], [3, 4])


@pytest.mark.parametrize(
    "other",
    [
        Answer.of([1], [2, 3, 4], mask=[False, True, True]),
        Answer.of([1, 2], [3, 5]),
        Answer.of([0, 2], [3, 4]),
        Answer.of([1, 2], [3, 4], mask=[True, False]),
        Answer.of([1, 2], [3]),
    ],
)
def test_any_other_token_boundary_or_mask_is_another_answer(other):
    assert answer_key(other) != answer_key(ANSWER)


def test_the_same_tokens_are_the_same_answer_whatever_else_is_known_of_them():
    assert answer_key(Answer.of([1, 2], [3, 4], ended=False, cut=True)) == answer_key(ANSWER)


def test_weights_are_known_by_their_values_and_not_by_how_they_lie_in_memory():
    one = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.5)}
    strided = {"a": torch.arange(6.0).reshape(3, 2).t().contiguous().t().reshape(2, 3), "b": torch.tensor(1.5)}
    assert fingerprint(one.items()) == fingerprint(strided.items())
    moved = {**one, "a": one["a"] + torch.eye(2, 3) * 1e-6}
    assert fingerprint(one.items()) != fingerprint(moved.items())
    renamed = {"c": one["a"], "b": one["b"]}
    assert fingerprint(one.items()) != fingerprint(renamed.items())
    reshaped = {**one, "a": one["a"].reshape(3, 2)}
    assert fingerprint(one.items()) != fingerprint(reshaped.items())
    assert fingerprint(one.items(), "bf16-mixed") != fingerprint(one.items(), "32-true")


def test_models_of_other_seeds_have_other_fingerprints_and_bfloat16_has_its_own():
    same, again, other = make_model(20, 0), make_model(20, 0), make_model(20, 0, seed=1)
    assert fingerprint(same.named_parameters()) == fingerprint(again.named_parameters())
    assert fingerprint(same.named_parameters()) != fingerprint(other.named_parameters())
    assert fingerprint(same.named_parameters()) != fingerprint(again.bfloat16().named_parameters())


def test_values_come_back_bit_for_bit_from_the_file_in_another_process(tmp_path):
    values = {answer_key(ANSWER): torch.tensor([-0.1, -3.25e-7]), b"empty": torch.zeros(0)}
    ReferenceCache(tmp_path / "new" / "folder", "ab" * 32).put(values)
    found = ReferenceCache(tmp_path / "new" / "folder", "ab" * 32).get([*values, b"unknown"])
    assert found.keys() == values.keys()
    assert all(torch.equal(found[key], values[key]) for key in values)


def test_other_weights_have_a_file_of_their_own(tmp_path):
    ReferenceCache(tmp_path, "a" * 64).put({b"key": torch.zeros(1)})
    assert ReferenceCache(tmp_path, "b" * 64).get([b"key"]) == {}
    assert ReferenceCache(None, "a" * 64).get([b"key"]) == {}, "without a folder it lives in memory only"


def test_many_keys_are_looked_up_at_once(tmp_path):
    cache = ReferenceCache(tmp_path, "a" * 64)
    values = {str(i).encode(): torch.tensor([float(i)]) for i in range(1203)}
    cache.put(values)
    assert {key: float(value) for key, value in cache.get(list(values)).items()} == {
        key: float(value) for key, value in values.items()
    }


def test_two_runs_may_use_one_file_at_the_same_time(tmp_path):
    one, two = ReferenceCache(tmp_path, "a" * 64), ReferenceCache(tmp_path, "a" * 64)
    one.put({b"x": torch.zeros(1)})
    two.put({b"x": torch.ones(1), b"y": torch.ones(1)})
    assert float(one.get([b"x"])[b"x"]) == 1.0 and b"y" in one.get([b"y"])


def test_a_failed_write_keeps_nothing_of_it_and_the_next_one_works(tmp_path):
    cache = ReferenceCache(tmp_path, "a" * 64)

    class Broken:
        def float(self):
            raise RuntimeError("no value")

    with pytest.raises(RuntimeError, match="no value"):
        cache.put({b"good": torch.zeros(1), b"bad": Broken()})
    assert cache.get([b"good", b"bad"]) == {}
    cache.put({b"good": torch.zeros(1)})
    assert b"good" in cache.get([b"good"])
