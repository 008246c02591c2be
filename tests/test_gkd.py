"""GKD: whose answers, which divergence, the mean of equation 2, and stored log-probs in the teacher's place."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from formulas import backward, close, loss_of, metric, options, tensor
from online_roles import Written
from tiny_runs import cli, demonstrations, differences, trainer, write_rows

from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError
from zoo.libraries.pretrained import save
from zoo.models.divergence import Divergence, States, token_divergence
from zoo.models.loading import load_model
from zoo.models.logps import Head
from zoo.models.names import read_config, resolve_model
from zoo.models.roles import Models
from zoo.testing import stand_ins
from zoo.testing.tiny import make_model, make_tokenizer
from zoo.values.types import Answer

GKD = load_algorithm("gkd")[1]
MASK = torch.tensor([[True, True, False], [True] * 3])


def given(own):
    """A batch of two answers with two and three tokens, their divergences, and models that give these."""
    values = tensor([[0.3, 0.6, 0.0], [0.2, 0.4, 0.9]]).requires_grad_()
    zeros = {"answers": torch.zeros(2, 3, dtype=torch.float64)}
    batch, models = stand_ins(
        policy=zeros, teacher=zeros, masks={"answers": MASK}, fields={"own": torch.tensor(own)},
        divergence={"answers": values},
    )  # fmt: skip
    return values, batch, models


def test_the_mean_is_over_the_tokens_of_an_answer_and_then_over_answers():
    values, batch, models = given([True, False])
    loss = loss_of(GKD(), batch, models, options(GKD))
    # (0.3 + 0.6)/2 and (0.2 + 0.4 + 0.9)/3.
    close(loss.values, [0.45, 0.5])
    assert metric(loss, "divergence/own") == pytest.approx(0.45)
    assert metric(loss, "divergence/given") == pytest.approx(0.5)
    assert metric(loss, "own") == 0.5
    backward(loss)
    close(values.grad, [[0.25, 0.25, 0.0], [1 / 6] * 3])


@pytest.mark.parametrize("beta, kind", [(0.0, "forward_kl"), (1.0, "reverse_kl"), (0.1, "jsd")])
def test_the_ends_of_beta_are_the_two_kls(vectors, beta, kind):
    asked = {}
    _, batch, models = given([False, False])
    divergence = models.policy.divergence
    models.policy.divergence = lambda answers, teacher, **how: asked.update(how) or divergence(answers, teacher)
    loss_of(GKD(), batch, models, options(GKD, beta=beta, teacher_top_k=7))
    assert asked == {"kind": kind, "beta": beta, "top_k": 7} and models.used == {"policy", "teacher"}
    if (name := f"beta_{beta:g}".replace(".", "_")) in (case := vectors["gkd.jsd"])["expected"]:
        states = [States(tensor(case["inputs"][f"{who}_logits"]), Head(torch.eye(3))) for who in ("student", "teacher")]
        states = [States(hidden.float(), head) for hidden, head in states]
        value = token_divergence(*states, Divergence(kind, beta or 0.5))
        assert float(value.mean()) == pytest.approx(case["expected"][name], rel=1e-5)


def rolled(own_share, prompts=200):
    """A rollout whose own answers are token 9, and those of the data token 7."""

    class Policy(Written):
        def generate(self, prompts, n=None, **how):
            return [Answer.of([1], [9], row=prompt["row"]) for prompt in prompts]

    records = [{"row": i, "completion": Answer.of([1], [7], row=i), "record": {}} for i in range(prompts)]
    return GKD().rollout(records, Models(policy=Policy(), teacher=None), options(GKD, own_share=own_share))


def test_a_share_of_the_prompts_is_answered_by_the_policy():
    torch.manual_seed(0)
    for share in (0.0, 0.25, 1.0):
        batch = rolled(share)
        tokens = torch.tensor([int(answer.completion[0]) for answer in batch.answers])
        assert torch.equal(batch.own, tokens == 9)
        assert float(batch.own.float().mean()) == pytest.approx(share, abs=0.08 if 0 < share < 1 else 0)
        # Every prompt has one answer.
        assert sorted(answer.row for answer in batch.answers) == list(range(200))


def test_stored_log_probs_are_for_given_answers_alone():
    assert GKD().roles(options(GKD, stored=True, own_share=0.0)) == ("policy",)
    assert GKD().roles(options(GKD)) == ("policy", "teacher")
    with pytest.raises(ZooError, match="stored needs own_share 0"):
        options(GKD, stored=True)
    with pytest.raises(ZooError, match="have a top_k of their own"):
        options(GKD, stored=True, own_share=0.0, teacher_top_k=3)


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path, tiny_folder):
    """The start of a run on a few demonstrations, the file of these, and a teacher."""
    tokenizer, teacher = make_tokenizer(), tmp_path / "teacher"
    save(make_model(len(tokenizer), tokenizer.eos_token_id, seed=1), teacher)
    tokenizer.save_pretrained(teacher)
    start, data = trainer(tmp_path, tiny_folder), write_rows(tmp_path / "rows.jsonl", demonstrations(10))
    how = {"batch_size": 4, "max_new_tokens": 6, "lr": 1e-2}

    def train(**options):
        return start("gkd", **{**how, "data": data, **options})

    return train, data, str(teacher)


def test_a_run_comes_to_its_teacher_and_does_not_depend_on_the_cut(runs):
    train, _, teacher = runs
    whole, cut = (train(teacher=teacher, epochs=6, **more) for more in ({}, {"micro_tokens": 60}))
    assert differences(whole, cut) < 1e-4
    losses = [row["loss"] for row in whole.log_history]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert {row["own"] for row in whole.log_history} - {0.0, 1.0} and not any(
        "rollout/reward" in r for r in whole.log_history
    )


def test_the_parts_of_a_mixture_count_given_answers_and_own_ones(runs, tmp_path):
    train, _, teacher = runs
    files = [write_rows(tmp_path / f"{name}.jsonl", demonstrations(6, seed=i)) for i, name in enumerate("ab")]
    done = train(teacher=teacher, data=" + ".join(map(str, files)), batch_size=12, max_steps=1, eval_fraction=0.0)
    (row,) = done.log_history
    assert 0 < row["own"] < 1
    for name in ("loss", "own"):
        assert (row[f"{name}/a"] + row[f"{name}/b"]) / 2 == pytest.approx(row[name], rel=1e-4)


def test_stored_log_probs_make_the_run_of_the_teacher_in_memory(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.evals.subject.choose_precision", lambda *how: ("32-true", ""))
    train, data, teacher = runs
    out = str(tmp_path / "taught.jsonl")
    assert cli("label", data, "--teacher", teacher, "--top-k", "5", "--out", out)[0] == 0
    live = train(teacher=teacher, own_share=0.0, teacher_top_k=5, epochs=2, beta=0.3)
    stored = train(data=out, stored=True, own_share=0.0, epochs=2, beta=0.3)
    assert differences(live, stored) < 1e-4
    for one, other in zip(live.log_history, stored.log_history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    rows = [json.loads(line) for line in (tmp_path / "taught.jsonl").read_text().splitlines()]
    write_rows(tmp_path / "other.jsonl", [{**row, "completion": "another answer"} for row in rows])
    with pytest.raises(ZooError, match="of other tokens than training has"):
        train(data=str(tmp_path / "other.jsonl"), stored=True, own_share=0.0)
    with pytest.raises(ZooError, match=r"stored log-probs are those at temperature 1, .* at 0\.7"):
        train(data=out, stored=True, own_share=0.0, temperature=0.7)


def test_a_teacher_of_the_family_with_a_padded_vocabulary_teaches_as_one_without(runs, tmp_path):
    train, _, teacher = runs
    wide = str(shutil.copytree(teacher, tmp_path / "wide"))
    model = load_model(resolve_model(wide), torch.float32)
    words = model.config.vocab_size
    model.resize_token_embeddings(words + 64, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[words:] = model.get_output_embeddings().weight[3]
    save(model, Path(wide))
    plain, padded = (train(teacher=name, max_steps=2, beta=0.3) for name in (teacher, wide))
    assert read_config(Path(wide) / "config.json")["vocab_size"] == words + 64
    for one, other in zip(plain.log_history, padded.log_history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
