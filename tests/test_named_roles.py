"""Roles that a run names a model for: the teacher, and those that a plugin brings along."""

import copy
import json
import shutil

import pytest
import torch
from tiny_runs import cli, plugin_file, trainer, write_rows
from transformers import AutoTokenizer

from zoo.cards.algorithms import describe, stand_in
from zoo.contract.plugin_files import load_file
from zoo.errors import PluginError, ZooError
from zoo.models.reference import Reference
from zoo.models.roles import Policy
from zoo.models.several import Several
from zoo.options.fields import options_of
from zoo.testing.tiny import write_folder
from zoo.training.resuming import FILE, WEIGHTS
from zoo.values.types import Answer, Answers

BESIDE = """
class Beside(Algorithm):
    \"\"\"Learns how likely a frozen model finds the demonstrations.\"\"\"

    api_version = 2
    data = "demonstration"
    needs = ("policy", "ROLE")
    metrics = {"frozen": "Log-probability by the frozen model."}

    def loss(self, batch, models):
        frozen = models["ROLE"].logps(batch.completion).sum()
        gap = models.policy.logps(batch.completion).sum() - frozen
        return Loss.per_example(gap**2, {"frozen": frozen})
"""


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture
def beside(tmp_path, tiny_folder, monkeypatch):
    """`beside(role, **options)` trains beside a frozen model in that role."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": f"red {i}", "completion": "sun moon " * (i + 1)} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train = trainer(tmp_path, tiny_folder)

    def run(role, **options):
        algo = plugin_file(tmp_path, BESIDE.replace("ROLE", role), f"{role}.py") + ":Beside"
        return train(algo, **{"data": str(tmp_path / "rows.jsonl"), "score": "none", "max_steps": 2, **options})

    return run


def test_a_teacher_scores_as_a_reference_of_the_same_model_does(beside, other_folder):
    taught = beside("teacher", teacher=str(other_folder))
    anchored = beside("reference", reference=str(other_folder))
    assert taught.config["teacher"] == str(other_folder)
    assert [row["frozen"] for row in taught.log_history] == [row["frozen"] for row in anchored.log_history]
    assert [row["loss"] for row in taught.log_history] == [row["loss"] for row in anchored.log_history]


def test_what_a_teacher_said_is_cached_by_content(beside, other_folder, monkeypatch):
    first = beside("teacher", teacher=str(other_folder))

    def compute(*given, **options):
        raise AssertionError("computed again")

    monkeypatch.setattr(Reference, "_compute", compute)
    again = beside("teacher", teacher=str(other_folder), lr=1e-4)
    assert [row["frozen"] for row in again.log_history] == [row["frozen"] for row in first.log_history]


def test_without_a_teacher_a_run_says_what_to_type(beside):
    with pytest.raises(ZooError, match="learns from a model in the role teacher, and none was named") as told:
        beside("teacher")
    assert told.value.hint.startswith("Add --teacher MODEL: ")


def test_a_teacher_without_effect_is_told(beside, other_folder, capsys):
    beside("reference", teacher=str(other_folder), quiet=False)
    said = capsys.readouterr().out
    assert "Note: --teacher has no effect: " in said and "Beside with these options has no teacher." in said


@pytest.mark.parametrize("options", [{"base_dtype": "bfloat16"}, {"quantize": "int8"}])
def test_a_teacher_is_kept_as_frozen_matrices_are(beside, other_folder, options):
    if "quantize" in options:
        pytest.importorskip("bitsandbytes")
    plain = beside("teacher", teacher=str(other_folder))
    rounded = beside("teacher", teacher=str(other_folder), **options)
    for a, b in zip(plain.log_history, rounded.log_history, strict=True):
        assert a["frozen"] != b["frozen"] and a["frozen"] == pytest.approx(b["frozen"], rel=0.1)


def test_a_run_knows_the_content_of_its_teacher(beside, tmp_path, other_folder):
    teacher = shutil.copytree(other_folder, tmp_path / "teacher")
    of_first = beside("teacher", teacher=str(teacher), max_steps=1).read_json(FILE)["began"]["teacher"]
    write_folder(teacher, seed=2)
    of_second = beside("teacher", teacher=str(teacher), max_steps=1).read_json(FILE)["began"]["teacher"]
    assert of_first["value"] == of_second["value"] == str(teacher)
    assert of_first[WEIGHTS] != of_second[WEIGHTS]


# -- roles of a plugin's own -----------------------------------------------------------------------------------------

OWN = BESIDE.replace("    metrics =", '    own_roles = {"ROLE": Role(START)}\n    metrics =')


@pytest.fixture
def own(beside, tmp_path):
    """The class of an algorithm with a role of its own, by the arguments of `Role`."""

    def load(start="", role="guide"):
        body = "from zoo.api import Role\n" + OWN.replace("ROLE", role).replace("START", start)
        return load_file(plugin_file(tmp_path, body, f"own{abs(hash(start + role))}.py") + ":Beside")[1]

    return load


def test_a_role_of_a_plugin_is_an_option_with_its_help(own):
    options = {option.name: option for option in options_of(own('about="Shows the way."').Config)}
    assert options["guide"].help == "Shows the way." and options["guide"].default is None
    assert options["guide"].type_name == "str or none"


def test_a_role_of_a_plugin_starts_as_the_policy_or_as_a_model_that_is_named(
    beside, tmp_path, other_folder, monkeypatch
):
    def run(start, **options):
        monkeypatch.setitem(globals(), "BESIDE", "from zoo.api import Role\n" + OWN.replace("START", start))
        return [row["frozen"] for row in beside("guide", **options).log_history]

    start = run("")
    named = run("", guide=str(other_folder))
    monkeypatch.undo()
    anchored = [row["frozen"] for row in beside("reference").log_history]
    taught = [row["frozen"] for row in beside("teacher", teacher=str(other_folder)).log_history]
    assert start == anchored and named == taught


@pytest.mark.parametrize(
    ("start", "role", "why"),
    [
        ("trained=True", "guide", "'guide' is trained, but a role of a plugin is a frozen language model"),
        ('head="scalar"', "guide", "'guide' has the head 'scalar'"),
        ('option="leader"', "guide", "'guide' names an option"),
        ('start="random"', "guide", "'guide' has start = 'random', which is neither 'policy' nor 'named'"),
        ("", "my guide", "'my guide' is a role or an option of the core, or no name"),
        ("", "judge", "'judge' is a role or an option of the core"),
        ("", "batch_size", "'batch_size' is a role or an option of the core"),
    ],
)
def test_a_role_that_cannot_be_is_refused_by_its_name(own, start, role, why):
    with pytest.raises(PluginError, match=why) as told:
        own(start, role)
    assert told.value.hint.startswith("Write own_roles = ")


def test_an_unknown_role_is_told_with_the_class_s_own_ones(tmp_path):
    body = "from zoo.api import Role\n" + OWN.replace("START", "").replace(
        'own_roles = {"ROLE"', 'own_roles = {"guide"'
    )
    with pytest.raises(PluginError, match="Did you mean 'guide'") as told:
        load_file(plugin_file(tmp_path, body.replace("ROLE", "guid"), "near.py") + ":Beside")
    assert told.value.hint.startswith("Roles: policy, ") and ", guide. " in told.value.hint


def test_an_option_by_the_name_of_a_role_is_refused_with_its_line(tmp_path):
    declared = "        guide: float = 1.0"
    config = f"    @dataclass\n    class Config:\n        beta: float = 1.0\n{declared}\n\n    metrics ="
    roles = 'Role(), "other": Role()'
    body = OWN.replace("Role(START)", roles).replace("ROLE", "guide").replace("    metrics =", config)
    file = plugin_file(tmp_path, "from dataclasses import dataclass\nfrom zoo.api import Role\n" + body, "twice.py")
    with pytest.raises(PluginError, match="its option 'guide' has the name of one of its own roles") as told:
        load_file(file + ":Beside")
    line = 1 + (tmp_path / "twice.py").read_text().splitlines().index(declared)
    assert f"twice.py, line {line}): " in str(told.value)


def test_a_card_has_the_roles_of_its_plugin(own):
    cls = own('start="named", ahead=True, about="Shows the way."')
    card = stand_in(json.loads(json.dumps(describe(cls))), lambda: cls)
    assert card.role_table() == cls.role_table()
    assert [option.name for option in options_of(card.Config)] == ["guide"]


def test_a_frozen_role_takes_the_policy_s_weights_and_gives_them_to_a_checkpoint(tiny_model):
    policy = Policy(copy.deepcopy(tiny_model), "shared")
    frozen = Reference(lambda: tiny_model, "shared", None, policy=policy)
    answers = Answers([Answer.of([1, 2], [3, 4, 5])])
    first = frozen.logps(answers).sum()
    assert frozen.state() is None
    move(policy.model)
    second = policy.logps(answers).sum()
    frozen.renew()
    move(policy.model)
    assert torch.equal(frozen.logps(answers).sum(), second) and not torch.equal(first, second)
    kept = {name: weights.clone() for name, weights in frozen.state().items()}
    again = Reference(lambda: tiny_model, "shared", None, policy=policy)
    again.load_state(kept)
    assert torch.equal(again.logps(answers).sum(), second)
    again.load_state(None)
    assert torch.equal(again.logps(answers).sum(), first)


@pytest.mark.parametrize("role", ["reference", "teacher"])
def test_a_role_of_the_core_is_not_renewed_by_an_algorithm(tmp_path, tiny_folder, role):
    rows = [{"prompt": f"red {i}", "completion": "sun"} for i in range(8)]
    code = BESIDE.replace("ROLE", role).replace(
        "        frozen =", f'        models["{role}"].renew()\n        frozen ='
    )
    data = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(PluginError, match=f"The algorithm renews the {role}, a role of the core") as refusal:
        trainer(tmp_path, tiny_folder)(
            plugin_file(tmp_path, code, "renews.py") + ":Beside", data=data, max_steps=1, teacher=str(tiny_folder)
        )
    assert "own_roles" in refusal.value.hint


def test_several_models_of_a_core_role_are_not_renewed_either(tiny_model):
    policy = Policy(tiny_model, "shared")
    each = {name: Reference(lambda: tiny_model, "shared", None, policy=policy, role="teacher") for name in ("a", "b")}
    with pytest.raises(PluginError, match="renews the teacher"):
        Several("teacher", each).renew()


def test_a_dry_run_refuses_a_teacher_with_other_words_and_leaves_added_tokens_to_the_run(tmp_path, tiny_folder):
    other, grown = (shutil.copytree(tiny_folder, tmp_path / name) for name in ("other", "grown"))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["A"], words["B"] = words["B"], words["A"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    added = AutoTokenizer.from_pretrained(grown)
    added.add_tokens(["<new>"])
    added.save_pretrained(grown)
    model = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "red"}])
    typed = (
        "train",
        "--algo",
        "opd",
        "--model",
        str(tiny_folder),
        "--data",
        model,
        "--dry-run",
        "--new-tokens",
        "<new>",
    )
    status, _, told = cli(*typed, "--teacher", str(other))
    told = " ".join(told.split())
    assert status == 2 and "other has other tokens than the model that is trained, so it cannot be its teacher:" in told
    assert "let any model write answers, and train on these" in told
    status, said, told = cli(*typed, "--teacher", str(grown))
    assert status == 0, said + told


def move(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
