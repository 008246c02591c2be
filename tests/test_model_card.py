"""The card in every folder of a model: its base, data, scores and licence, how to load it; no path of the machine."""

import re
import shutil
from pathlib import Path

import pytest
from test_startup import PLUGIN
from tiny_runs import cli, data_for, trainer

from zoo.libraries import hub
from zoo.models.card import Base, base_named, base_of, without_folders, write_card
from zoo.models.names import Source
from zoo.options.strict_yaml import read_front


@pytest.fixture
def base(tmp_path, tiny_folder):
    """A copy of the tiny model with a card of its own, as the hub's models have."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_folder, folder)
    card = "---\nlicense: other\nlicense_name: plum-1\nlicense_link: LICENSE\nbase_model: someone/seed\n---\n\n# Base\n"
    (folder / "README.md").write_text(card)
    return folder


@pytest.fixture
def train(tmp_path, base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return trainer(tmp_path, base)


def card_in(folder):
    return (Path(folder) / "README.md").read_text(encoding="utf-8")


def front_of(folder):
    return read_front(card_in(folder))


def exported(*typed):
    status, _, error = cli("export", *map(str, typed))
    assert status == 0, error


def run_code(folder):
    """What the card's own Python prints."""
    [code] = re.findall(r"```python\n(.*?)```", card_in(folder), re.DOTALL)
    said = []
    exec(code.replace('"FOLDER"', repr(str(folder))).replace("=100", "=3"), {"print": said.append})
    return said


def test_the_card_of_a_run(train, tmp_path):
    options = {"eval_data": data_for("dpo", tmp_path, 4), "score": "heldout_loss(limit=4)", "out": str(tmp_path / "o")}
    run = train("dpo", max_steps=2, beta=0.25, **options)
    card = card_in(run.model_path)
    assert front_of(run.model_path) == {
        "base_model": "someone/seed", "base_model_relation": "finetune", "library_name": "transformers",
        "license": "other", "license_name": "plum-1", "license_link": "LICENSE", "pipeline_tag": "text-generation",
        "tags": ["post-training-zoo", "dpo", "arxiv:2305.18290"],
    }  # fmt: skip
    assert f"# {run.name}\n" in card and "for 2 steps" in card
    assert run.read_json("data.json")["train"]["fingerprint"] in card and "| dpo-12.jsonl |" in card
    assert "| beta | `0.25` |" in card and "| seed | `0` |" in card and "lora" not in card
    score = run.summary["scores"]["after"]["heldout_loss(limit=4)"]
    assert f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}] | 4 |" in card
    assert "| val/loss |" in card
    assert str(tmp_path) not in card and "plum-1 (LICENSE)" in card


@pytest.mark.parametrize("kind", ["whole", "adapter", "raw", "reward", "reward adapter"])
def test_its_code_loads_the_model(train, tmp_path, kind):
    lora = {"lora": True, "lora_rank": 2} if "adapter" in kind else {}
    raw = {"template": "none"} if kind == "raw" else {}
    rm = {"data": data_for("dpo", tmp_path)} if "reward" in kind else {}
    run = train("rm" if rm else "sft", max_steps=1, **lora, **raw, **rm)
    card = card_in(run.model_path)
    assert len(run_code(run.model_path)) == 1
    assert ("apply_chat_template" in card) == (kind != "raw")
    assert "[More Information Needed]" not in card and str(tmp_path) not in card
    exported(run.path, tmp_path / "copy", *(["--merge"] if lora else []))
    assert len(run_code(tmp_path / "copy")) == 1
    assert front_of("copy")["library_name"] == "transformers"


def test_a_stage_names_the_stage_before_and_keeps_its_licence(train):
    first = train("sft", max_steps=2, lora=True, lora_rank=2, keep_every=1)
    assert front_of(first.model_path)["base_model_relation"] == "adapter"
    second = train("dpo", model=str(first.path), max_steps=1)
    assert f"trained from `{first.name}` (from [someone/seed]" in card_in(second.model_path)
    third = train("dpo", model=f"{first.path}@step-1", max_steps=1)
    assert f"trained from `{first.name}@step-1`" in card_in(third.model_path)
    for run in (second, third):
        assert front_of(run.model_path)["license_name"] == "plum-1"


def test_an_exported_checkpoint_tells_its_step_and_no_score_of_the_end(train):
    run = train("sft", max_steps=3, keep_every=1, score="heldout_loss(limit=4)")
    exported(f"{run.path}@step-1", "early")
    card = card_in("early")
    assert "for 1 step" in card and "## Scores" not in card and front_of("early")["license"] == "other"
    exported(run.path, "late", "--dtype", "bfloat16")
    assert "for 3 steps" in card_in("late") and "## Scores" in card_in("late")


def test_a_soup_has_the_licence_of_all_or_none(train, tiny_folder, tmp_path):
    runs = [train("sft", max_steps=1, seed=seed) for seed in (0, 1)]
    assert cli("soup", *(str(run.path) for run in runs), "--to", "same")[0] == 0
    assert front_of("same")["base_model_relation"] == "merge" and front_of("same")["license_name"] == "plum-1"
    assert f"made from `{runs[0].name}`" in card_in("same") and f"`{runs[1].name}`" in card_in("same")
    assert cli("soup", str(runs[0].path), str(tiny_folder), "--to", "mixed")[0] == 0
    assert front_of("mixed")["license"] == "unknown" and "differ or have none" in card_in("mixed")


def test_the_paper_of_an_algorithm_in_a_file_is_kept_and_its_code_not_asked_again(train, tmp_path):
    file = tmp_path / "mine.py"
    told = PLUGIN.replace('data = "pref', 'paper = "arXiv:2401.00001"\n    data = "pref')
    file.write_text(told.replace("torch.zeros(len(batch))", "models.policy.logps(batch.chosen).mean()"))
    run = train(f"{file}:Mine", data=data_for("dpo", tmp_path), max_steps=1)
    assert "`mine.py:Mine` ([arXiv:2401.00001]" in card_in(run.model_path)
    file.write_text("raise SystemExit('read')")
    exported(run.path, "copy")
    assert "arXiv:2401.00001" in card_in("copy") and str(tmp_path) not in card_in("copy")


def test_a_model_of_the_hub_is_asked_for_its_card(monkeypatch):
    monkeypatch.setattr(hub, "card", lambda name: "---\nlicense: mit\n---\n" if name == "someone/model" else "")
    assert base_of(Source("someone/model", None)) == Base("someone/model", "someone/model", {"license": "mit"})
    cached = Path("/cache/models--someone--model/snapshots/abc")
    assert base_of(Source("someone/model", cached)).terms == {"license": "mit"}
    assert base_of(Source("someone/else", None)).terms == {}


def test_the_default_model_says_whether_it_is_the_hubs(tmp_path):
    unpacked = base_of(Source("smollm2-135m", tmp_path))
    fetched = base_of(Source("smollm2-135m", Path("/hub/models--HuggingFaceTB--SmolLM2-135M-Instruct/snapshots/abc")))
    assert unpacked.terms == fetched.terms == {"license": "apache-2.0"} and unpacked.hub == fetched.hub
    assert "in 4 bits" in unpacked.note and not fetched.note


def test_no_card_can_be_had_without_the_hub(monkeypatch, tmp_path):
    assert hub.card("nobody-of-this-name/nothing") == ""


def test_a_base_that_is_gone_or_circular_is_a_name(tmp_path):
    assert base_named("/home/me/models/gone", "runs") == Base("gone")
    run = tmp_path / "loop"
    (run / "model").mkdir(parents=True)
    (run / "run.yaml").write_text(f"algo: sft\nmodel: {run}\nout: runs\n")
    for name in ("config.json", "model.safetensors"):
        (run / "model" / name).write_text("{}")
    assert base_named(str(run), "runs") == Base("loop")


@pytest.mark.parametrize(
    "text", ["---\n: [\n---\n", "---\n- a\n---\n", "no front", "---\na: 1\na: 2\n---\n", "---\nno end"]
)
def test_a_card_that_cannot_be_read_says_nothing(tmp_path, tiny_folder, text):
    shutil.copytree(tiny_folder, tmp_path / "odd")
    (tmp_path / "odd" / "README.md").write_text(text)
    assert base_of(Source("odd", tmp_path / "odd")) == Base("odd")
    write_card(tmp_path / "odd", [Base("odd")])
    assert front_of(tmp_path / "odd")["license"] == "unknown"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/me/pairs.jsonl", "pairs.jsonl"),
        ("0.7*/data/a.jsonl + 0.3*chat.jsonl", "0.7*a.jsonl + 0.3*chat.jsonl"),
        ("~/secret/rewards.py:right", "rewards.py:right"),
        ("../up/runs/mine", "mine"),
        ("runs/mine@step-2", "runs/mine@step-2"),
        ("owner/name", "owner/name"),
        ("rm(model=/srv/models/rm, weight=0.5)", "rm(model=rm, weight=0.5)"),
        ("http(url=https://example.com/v1/score)", "http(url=https://example.com/v1/score)"),
        ("1/2", "1/2"),
        ("hf_abcdefghijklmnop0123", "hf_***"),
    ],
)
def test_folders_of_the_machine_are_left_out(text, left):
    assert without_folders(text) == left
