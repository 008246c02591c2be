"""LM: every token of a text from those before it, long texts in pieces, other data in the decay phase."""

import math
import random
from unittest import mock

import pytest
import torch
from tiny_runs import WORDS, losses, same_bytes, sentence, trainer, weights, write_rows

import zoo
from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError
from zoo.testing import stand_ins
from zoo.training.step.module import PostTraining

LM = load_algorithm("lm")[1]


class Killed(Exception):
    pass


@pytest.fixture
def train(tmp_path, tiny_folder):
    return trainer(tmp_path, tiny_folder)


def texts(folder, name="texts.jsonl", count=16, words=None):
    source = random.Random(len(name))
    make = (lambda: " ".join(source.choice(words) for _ in range(6))) if words else (lambda: sentence(source, 4, 12))
    return write_rows(folder / name, [{"text": f"{make()} {i}"} for i in range(count)])


def test_the_loss_is_the_mean_over_all_tokens_of_the_step():
    logps = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, 0.0, 0.0]], requires_grad=True)
    masks = torch.tensor([[1, 1, 1], [1, 0, 0]])
    batch, models = stand_ins(policy={"completion": logps}, masks={"completion": masks})
    loss = LM().loss(batch, models)
    assert float(loss.mean().detach()) == 2.5
    loss.numerator.backward()
    assert logps.grad.tolist() == [[-1.0, -1.0, -1.0], [-1.0, 0.0, 0.0]]


def test_a_run_pretrains_on_text_with_the_schedule_of_its_paper(train, tmp_path):
    run = train("lm", data=texts(tmp_path), schedule="wsd(decay_share=0.5)", warmup=0, epochs=2, lr=1e-3)
    assert [row["lr"] for row in run.log_history if "lr" in row] == pytest.approx(
        [1e-3 * factor for factor in (1, 1, 1, 1, 1, 0.75, 0.5, 0.25)]
    )
    assert losses(run)[-1] < losses(run)[0]


def test_the_first_loss_is_that_of_the_model_itself(train, tmp_path, tiny_model, tiny_tokenizer):
    file = write_rows(tmp_path / "one.jsonl", [{"text": "red blue green"}])
    run = train("lm", data=file, batch_size=1)
    ids = torch.tensor([[*tiny_tokenizer("red blue green").input_ids, tiny_tokenizer.eos_token_id]])
    expected = tiny_model(input_ids=ids, labels=ids).loss
    assert losses(run)[0] == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_decay_phase_reads_its_own_data_and_is_resumed_in_it(train, tmp_path):
    plain = texts(tmp_path)
    other = texts(tmp_path, "other.jsonl", words=WORDS[:2])
    options = {"data": plain, "schedule": "wsd(decay_share=0.5)", "epochs": 2, "save_every": 1}
    alone, switched = train("lm", **options), train("lm", decay_data=other, **options)
    assert losses(alone)[:4] == losses(switched)[:4]
    assert losses(alone)[4] != losses(switched)[4]
    facts = switched.read_json("data.json")
    assert facts["decay"]["rows"] == 16 and facts["decay"]["fingerprint"] != facts["train"]["fingerprint"]


def test_a_run_killed_in_its_decay_phase_ends_with_the_same_bits(tmp_path, tiny_folder, train):
    options = {
        "data": texts(tmp_path), "decay_data": texts(tmp_path, "other.jsonl"), "schedule": "wsd(decay_share=0.5)",
        "decay_mix": 0.5, "epochs": 2, "save_every": 1, "keep_checkpoints": False,
    }  # fmt: skip
    whole = train("lm", name="whole", **options)
    real = PostTraining.training_step

    def dies(self, batch, index):
        if self.steps_done == 6:
            raise Killed
        return real(self, batch, index)

    with mock.patch.object(PostTraining, "training_step", dies), pytest.raises(Killed):
        train("lm", name="broken", **options)
    broken = zoo.resume(tmp_path / "runs" / "broken", quiet=True)
    assert same_bytes(whole, broken, "metrics.jsonl")
    assert all(torch.equal(value, weights(broken)[name]) for name, value in weights(whole).items())


def test_a_long_text_is_split_and_no_token_is_lost(train, tmp_path):
    text = " ".join(WORDS * 5)
    file = write_rows(tmp_path / "long.jsonl", [{"text": text}, {"text": "red blue"}])
    whole, split = (
        train("lm", data=file, max_length=length, epochs=1, batch_size=64, long_rows="split") for length in (512, 16)
    )
    a, b = (run.read_json("data.json")["train"]["encoded"] for run in (whole, split))
    assert a["trained_tokens"] == b["trained_tokens"]
    pieces = math.ceil((a["answer_lengths"]["max"] - 1) / 15)
    assert f"1 text longer than 16 tokens became {pieces} pieces." in b["notes"]
    assert b["dropped"] == 0


@pytest.mark.parametrize(
    ("algo", "options", "says"),
    [
        ("lm", {"schedule": "cosine"}, "decay phase of the schedule wsd, but the schedule is cosine"),
        ("lm", {"schedule": "wsd(decay_share=0)"}, "option decay_share = 0: Input should be greater than 0"),
        ("grpo", {"schedule": "wsd"}, "GRPO writes its own answers"),
    ],
)
def test_what_cannot_be_meant_is_refused(train, tmp_path, algo, options, says):
    with pytest.raises(ZooError, match=says):
        train(algo, data=texts(tmp_path), decay_data=texts(tmp_path, "other.jsonl"), **options)


def test_only_text_is_split(train):
    with pytest.raises(ZooError, match="Only text can be split, and the data is of kind 'demonstration'"):
        train("sft", long_rows="split")
