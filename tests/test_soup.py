"""Model soups: means of weights, uniform and greedy, as models that every program reads."""

import json

import pytest
import torch
from tiny_runs import cli, trainer, weights
from transformers import AutoModelForCausalLM

from zoo.errors import ZooError
from zoo.evals import Score
from zoo.evals.soup import NamedSoups, Soup


@pytest.fixture
def runs(tmp_path, tiny_folder, monkeypatch):
    """Three runs from the same model with other learning rates."""
    monkeypatch.chdir(tmp_path)
    train = trainer(tmp_path, tiny_folder)
    return [train("sft", name=f"sft-{i}", lr=lr, max_steps=2) for i, lr in enumerate((1e-3, 3e-3, 1e-2))]


def silent(text):
    pass


def mean(runs):
    each = [weights(run) for run in runs]
    return {name: sum(one[name].double() for one in each) / len(each) for name in each[0]}


def test_a_uniform_soup_is_the_mean_of_the_weights(runs, tmp_path):
    status, out, err = cli("soup", *(str(run.path) for run in runs), "--to", "mean")
    assert status == 0 and "the mean of" in out, err
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "mean").state_dict()
    for name, value in mean(runs).items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-6, atol=1e-7)
    assert cli("eval", "mean", "--eval", "heldout_loss(limit=4)")[0] == 0


def test_a_greedy_soup_keeps_what_does_not_lower_the_score(runs):
    """The score asks how near a weight is to that of the second run: the mean with another one is further away."""
    target = weights(runs[1])["model.embed_tokens.weight"]
    asked = []

    def score(model):
        distance = float((model.get_input_embeddings().weight.detach() - target).abs().mean())
        asked.append(distance)
        return Score("near", -distance, 1, -distance, -distance)

    soup = Soup([str(run.path) for run in runs], "runs", silent)
    model, ingredients = soup.greedy(score)
    assert [i.taken for i in ingredients] == [True, False, False] and ingredients[0].name == str(runs[1].path)
    assert len(asked) == 3 + 2 and asked[1] == 0
    torch.testing.assert_close(model.get_input_embeddings().weight.detach(), target)

    def always(model):
        return Score("same", 1.0, 1, 1.0, 1.0)

    model, ingredients = soup.greedy(always)
    assert all(i.taken for i in ingredients)
    wanted = mean(runs)["model.embed_tokens.weight"].float()
    torch.testing.assert_close(model.get_input_embeddings().weight.detach(), wanted, rtol=1e-5, atol=1e-6)


def test_less_may_be_better(runs):
    def norm(model):
        value = float(model.get_input_embeddings().weight.detach().norm())
        return Score("norm", value, 1, value, value, higher_is_better=False)

    _, ingredients = Soup([str(run.path) for run in runs], "runs", silent).greedy(norm)
    assert [i.score for i in ingredients] == sorted(i.score for i in ingredients)


def test_the_command_says_what_it_took(runs):
    status, out, err = cli(
        "soup", *(str(run.path) for run in runs), "--to", "best", "--greedy", "heldout_loss(limit=4)", "--json"
    )
    rows = json.loads(out)
    assert status == 0 and len(rows) == 3 and rows[0]["taken"] and rows[0]["score"] <= rows[-1]["score"], err


def test_adapters_are_merged_before(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = trainer(tmp_path, tiny_folder)
    runs = [
        train("sft", name=f"lora-{i}", lora=True, lora_rank=2, lr=lr, max_steps=2) for i, lr in enumerate((1e-2, 5e-2))
    ]
    for run in runs:
        assert cli("export", str(run.path), f"merged-{run.name}", "--merge")[0] == 0
    assert cli("soup", *(str(run.path) for run in runs), "--to", "mean")[0] == 0
    found = AutoModelForCausalLM.from_pretrained("mean").state_dict()
    each = [AutoModelForCausalLM.from_pretrained(f"merged-{run.name}").state_dict() for run in runs]
    for name in found:
        torch.testing.assert_close(found[name], (each[0][name] + each[1][name]) / 2, rtol=1e-5, atol=1e-6)


def test_a_soup_is_a_model_by_its_name(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    said = []
    folder = NamedSoups()(",".join(str(run.path) for run in runs), said.append)
    assert NamedSoups()(",".join(str(run.path) for run in runs), said.append) == folder and len(said) == 1
    found = AutoModelForCausalLM.from_pretrained(folder).state_dict()["model.embed_tokens.weight"]
    torch.testing.assert_close(found, mean(runs)["model.embed_tokens.weight"].float(), rtol=1e-5, atol=1e-6)
    named = f"soup:heldout_loss(limit=2) of {runs[0].path}, {runs[1].path}"
    assert cli("eval", named, "--eval", "heldout_loss(limit=2)")[0] == 0


@pytest.mark.parametrize("text", ["", "runs/a", "heldout_loss of runs/a"])
def test_a_soup_of_one_is_refused_before_anything_is_read(text):
    with pytest.raises(ZooError, match="names no two models"):
        NamedSoups().check(text)


def test_models_that_do_not_mix_are_refused(runs, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    first = AutoModelForCausalLM.from_pretrained(runs[0].model_path)
    settings = first.config.to_dict() | {"hidden_size": first.config.hidden_size * 2}
    other = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in settings.items() if k not in ("model_type", "dtype")}))
    other.save_pretrained(tmp_path / "wide")
    for file in runs[0].model_path.glob("token*"):
        (tmp_path / "wide" / file.name).write_bytes(file.read_bytes())
    status, _, err = cli("soup", str(runs[0].path), "wide", "--to", "mixed")
    assert status == 2 and "are models of two shapes: they differ in" in err and not (tmp_path / "mixed").exists()
    status, _, err = cli("soup", str(runs[0].path), "--to", "mixed")
    assert status == 2 and "needs two models or more" in err
    (tmp_path / "there").mkdir()
    status, _, err = cli("soup", str(runs[0].path), str(runs[1].path), "--to", "there")
    assert status == 2 and "there already exists" in err and "such as there-2." in err
