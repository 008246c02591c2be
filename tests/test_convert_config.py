"""`zoo convert-config`: what other programs' config files become, and that nothing in them is lost in silence."""

import json
import re
from pathlib import Path

import pytest
import yaml
from tiny_runs import cli

from zoo.conversion.convert import convert
from zoo.conversion.tables import all_tables
from zoo.errors import ZooError
from zoo.options.strict_yaml import read_yaml
from zoo.testing.tiny import tiny_rows

KEYS = json.loads((Path(__file__).parent / "program_keys.json").read_text(encoding="utf-8"))
"""The keys of each program, read from the fields of its classes."""

TRL = """
model_name_or_path: my-model
dataset_name: pairs.jsonl
learning_rate: 5.0e-7
num_train_epochs: 1
per_device_train_batch_size: 2
gradient_accumulation_steps: 4
bf16: false
beta: 0.05
loss_type: [sigmoid]
max_length: 512
lr_scheduler_type: cosine
warmup_ratio: 0.1
adam_beta2: 0.95
report_to: none
output_dir: trained
use_peft: true
lora_r: 8
lora_target_modules: [q_proj, v_proj]
precompute_ref_log_probs: true
betta: 3
"""
LLAMA_FACTORY = """
### model
model_name_or_path: my-model
### method
stage: dpo
do_train: true
finetuning_type: full
pref_beta: 0.2
pref_loss: hinge
### dataset
dataset: ours
dataset_dir: .
template: llama3
cutoff_len: 256
max_samples: 12
### output
output_dir: saves/mine
plot_loss: true
### train
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
ddp_timeout: 180000000
resume_from_checkpoint: null
val_size: 0.1
eval_strategy: steps
eval_steps: 50
"""
AXOLOTL = """
base_model: my-model
rl: kto
rl_beta: 0.5
kto_desirable_weight: 0.2
datasets:
  - path: feedback.jsonl
    type: llama3.ultra
    split: train
val_set_size: 0.0
adapter: lora
lora_r: 8
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
sequence_len: 512
sample_packing: false
micro_batch_size: 2
gradient_accumulation_steps: 2
num_epochs: 1
optimizer: adamw_torch_fused
lr_scheduler: cosine
learning_rate: 0.0002
warmup_ratio: 0.1
wandb_project:
special_tokens:
  pad_token: "<|end_of_text|>"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").symlink_to(tiny_folder)
    for name, kind in (("pairs", "preference"), ("feedback", "feedback")):
        rows = "".join(json.dumps(row) + "\n" for row in tiny_rows(kind, 24))
        (tmp_path / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "dataset_info.json").write_text('{"ours": {"file_name": "pairs.jsonl", "ranking": true}}')
    return tmp_path


def converted(folder, text, **options):
    file = folder / "theirs.yaml"
    file.write_text(text, encoding="utf-8")
    return convert(file, **options)


def typed(*arguments):
    """`zoo …`: exit status and everything that it printed."""
    status, out, err = cli(*arguments)
    return status, out + err


def told(result):
    return {one.key: str(one) for one in (*result.left_out, *result.unknown, *result.needless)}


# -- each program --------------------------------------------------------------------------------------------------


def test_a_file_of_trl(folder):
    result = converted(folder, TRL, algo="dpo")
    wanted = {
        "model": "my-model", "data": "pairs.jsonl", "lr": 5e-7, "epochs": 1, "batch_size": 8, "beta": 0.05,
        "loss": "sigmoid", "max_length": 512, "long_rows": "cut", "schedule": "cosine", "warmup": 0.1,
        "optimizer": "adamw(beta2=0.95)", "lora": True, "lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.05,
        "lora_targets": ["q_proj", "v_proj"], "seed": 42, "eval_fraction": 0.0, "gradient_checkpointing": True,
    }  # fmt: skip
    assert {name: result.options.get(name) for name in wanted} == wanted
    assert set(told(result)) == {"output_dir", "precompute_ref_log_probs", "betta"}
    assert [str(one) for one in result.unknown] == [
        "line 21: betta: 3. No such key of TRL is known. Did you mean 'beta'?"
    ]
    assert result.notes == ["batch_size 8 is that of one process. If yours had N, multiply it by N."]


def test_a_file_of_llama_factory(folder):
    result = converted(folder, LLAMA_FACTORY)
    wanted = {
        "model": "my-model", "data": "pairs.jsonl", "lr": 1e-4, "batch_size": 8, "beta": 0.2, "loss": "hinge",
        "max_length": 256, "long_rows": "cut", "limit": 12, "lora": False, "eval_fraction": 0.1, "eval_every": 50,
    }  # fmt: skip
    assert result.algo == "dpo" and {name: result.options.get(name) for name in wanted} == wanted
    assert not [name for name in result.options if name.startswith("lora_")], "all weights are trained"
    assert set(told(result)) == {"do_train", "template", "output_dir", "plot_loss", "ddp_timeout"}
    assert result.unknown == []


def test_a_file_of_axolotl(folder):
    result = converted(folder, AXOLOTL)
    wanted = {
        "model": "my-model", "data": "feedback.jsonl", "lr": 2e-4, "batch_size": 4, "beta": 0.5, "lora": True,
        "desirable_weight": 0.2, "undesirable_weight": 1.0, "lora_targets": "all-linear", "long_rows": "drop",
    }  # fmt: skip
    assert result.algo == "kto" and {name: result.options.get(name) for name in wanted} == wanted
    assert {"datasets.type", "special_tokens.pad_token", "sample_packing"} == set(told(result))


@pytest.mark.parametrize(("text", "algo"), [(TRL, "dpo"), (LLAMA_FACTORY, None), (AXOLOTL, None)])
def test_the_file_that_is_written_passes_a_dry_run(folder, text, algo):
    (folder / "theirs.yaml").write_text(text, encoding="utf-8")
    status, shown = typed("convert-config", "theirs.yaml", *(["--algo", algo] if algo else []))
    assert status == 0, shown
    assert "zoo train --config theirs.zoo.yaml --dry-run" in shown
    status, shown = typed("train", "--config", "theirs.zoo.yaml", "--dry-run")
    assert status == 0 and "Everything that the run needs is there" in shown, shown


def test_an_algorithm_of_one_program_is_found_in_its_own_words(folder):
    stages = {"stage: pt": "lm", "stage: rm": "rm", "stage: ppo": "ppo", "stage: kto": "kto"}
    losses = {f"stage: dpo\npref_loss: {name}": name for name in ("ipo", "orpo", "simpo")}
    for lines, algo in {**stages, **losses}.items():
        assert converted(folder, f"{lines}\ncutoff_len: 64\n").algo == algo
    assert converted(folder, "stage: dpo\npref_loss: ipo\n").options["tau"] == 0.1
    assert converted(folder, "base_model: a\nrl: simpo\n").options["sft_weight"] == 1.0
    assert converted(folder, "base_model: a\npretraining_dataset: b\n").algo == "lm"
    rloo = converted(folder, "num_generations: 4\n", algo="rloo")
    assert (rloo.algo, rloo.options["variant"], rloo.options["beta"]) == ("grpo", "rloo", 0.05)


def test_options_of_rollouts(folder):
    text = "num_generations: 4\nepsilon_high: 0.28\nloss_type: dr_grpo\nuse_vllm: true\nscale_rewards: false\n"
    result = converted(folder, text, algo="grpo")
    assert (result.options["answers_per_prompt"], result.options["max_new_tokens"]) == (4, 512)
    assert (result.options["clip_high"], result.options["reduction"], result.options["scale"]) == (
        0.28, "constant", "none",
    )  # fmt: skip
    assert "--engine" in told(result)["use_vllm"]
    both = converted(folder, "epsilon: 0.1\nnum_generations: 2\n", algo="grpo").options
    assert both["clip_low"] == both["clip_high"] == 0.1


def test_a_mixture_of_data_keeps_its_parts(folder):
    text = "datasets:\n- {path: a.jsonl}\n- {path: owner/b, name: c, split: test}\nmodel_name_or_path: m\n"
    assert converted(folder, text, algo="sft").options["data"] == "a.jsonl + owner/b:c@test"
    text = "datasets:\n- path: json\n  data_files: 'my rows.jsonl'\n  type: alpaca\nbase_model: m\n"
    assert converted(folder, text).options["data"] == "my rows.jsonl"
    result = converted(folder, "dataset: other, ours\ndataset_dir: .\nstage: sft\n")
    assert result.options["data"] == "other + pairs.jsonl" and "dataset" not in told(result)
    assert any("dataset other is taken as it stands" in note for note in result.notes)


# -- nothing is lost -----------------------------------------------------------------------------------------------


def test_every_key_of_every_program_is_known():
    tables = all_tables()
    assert set(tables) == set(KEYS)
    for name, table in tables.items():
        assert table.version == KEYS[name]["version"]
        assert [key for key in KEYS[name]["keys"] if key not in table.known()] == []


@pytest.mark.parametrize("name", KEYS)
def test_every_key_of_a_file_is_carried_over_or_told(folder, name):
    algo = "sft" if name == "trl" else None
    start = {"trl": "", "llama-factory": "stage: sft\n", "axolotl": "base_model: m\n"}[name]
    for key in KEYS[name]["keys"]:
        if key in ("stage", "base_model") or "." in key:
            continue
        try:
            result = converted(folder, f"{start}{key}: 17\nsomething_new: 1\n", program=name, algo=algo)
        except ZooError as error:
            assert re.search(
                rf"{key}: 17 cannot be converted|no counterpart|does not say which algorithm", error.message
            ), (key, error.message)
            continue
        carried = any(key in origin for origin in result.origin.values())
        beside = result.algo != "sft" or key in ("dataset_config", "dataset_dir")
        assert carried or beside or any(one.key == key for one in (*result.left_out, *result.needless)), key
        assert "something_new" in [one.key for one in result.unknown]


def test_every_option_that_a_table_names_exists():
    for table in all_tables().values():
        for algo in {rule["algo"] for rule in table.algorithms if "algo" in rule}:
            names = names_in([table.options, table.own.get(algo, {})]) | set(table.implied.get(algo, {}))
            assert names - known_to(algo) == set(), (table.name, algo)


def names_in(forms):
    """Every option of zoo that forms set."""
    found = set()
    for form in (
        one for group in forms for value in group.values() for one in (value if isinstance(value, list) else [value])
    ):
        if isinstance(form, str):
            found.add(form)
            continue
        to = form.get("to", [])
        found |= set([to] if isinstance(to, str) else to)
        found |= {name for chosen in form.get("values", {}).values() for name in chosen if name != "why"}
    return found


def known_to(algo):
    from zoo.cards import described
    from zoo.options.config import TrainConfig
    from zoo.options.fields import options_of

    return {option.name for cls in (TrainConfig, described(algo)[1].Config) for option in options_of(cls)}


def test_what_is_written_says_where_each_value_came_from(folder):
    (folder / "theirs.yaml").write_text(TRL, encoding="utf-8")
    cli("convert-config", "theirs.yaml", "--algo", "dpo", "--out", "ours.yaml")
    text = (folder / "ours.yaml").read_text(encoding="utf-8")
    assert "lr: 5.0e-07  # line 4: learning_rate\n" in text and "seed: 42  # TRL's default of seed\n" in text
    assert "# Not known, line 21: betta: 3." in text
    assert read_yaml(folder / "ours.yaml") == {"algo": "dpo", **converted(folder, TRL, algo="dpo").options}


def test_neither_a_key_nor_a_line_break_leaves_the_comment(folder):
    secret = "hf_" + "a1B2" * 9
    text = TRL + f'hub_token: {secret}\nbetta2: "x\\n  lr: 1"\n'
    result = converted(folder, text, algo="dpo").text("theirs.yaml")
    assert secret not in result and yaml.safe_load(result)["lr"] == 5e-7


# -- bad input -----------------------------------------------------------------------------------------------------

WRONG = [
    ("", [], "no key of any program", "TRL"),
    ("a: 1\nb: 2\n", [], "no key of any program", "TRL"),
    (TRL, [], "does not say which algorithm", "--algo dpo|"),
    (TRL, ["--algo", "dppo"], "no algorithm 'dppo'", "Did you mean 'dpo'?"),
    (TRL, ["--from", "trll"], "no program 'trll'", "Did you mean 'trl'?"),
    (TRL.replace("[sigmoid]", "exo_pair"), ["--algo", "dpo"], "theirs.yaml:10: loss_type: exo_pair", "hinge"),
    ("stage: dpo\npref_loss: kto_pair\n", [], "kto_pair has no counterpart", "zoo algos"),
    ("stage: [\n", [], "is not valid YAML", "theirs.yaml:"),
    ("stage: sft\nstage: dpo\n", [], "occurs twice", "theirs.yaml:2"),
    ("- 1\n", [], "must hold", "list"),
    (TRL, ["--algo", "dpo", "--out", "absent/ours.yaml"], "no folder absent", "--out"),
    (TRL, ["--algo", "dpo", "--out", "pairs.jsonl"], "is there already", "--out"),
]


@pytest.mark.parametrize(("text", "options", "what", "hint"), WRONG)
def test_a_mistake_ends_with_one_message(folder, text, options, what, hint):
    (folder / "theirs.yaml").write_text(text, encoding="utf-8")
    status, shown = typed("convert-config", "theirs.yaml", *options)
    shown = " ".join(shown.split())
    assert status == 2 and what in shown and hint in shown, shown
    assert not (folder / "theirs.zoo.yaml").exists()


def test_a_file_that_is_not_there(folder):
    status, shown = typed("convert-config", "absent.yaml")
    assert status == 2 and "There is no file absent.yaml" in shown


def test_zoo_train_knows_the_file_of_another_program(folder):
    (folder / "theirs.yaml").write_text(TRL, encoding="utf-8")
    status, shown = typed("train", "--config", "theirs.yaml", "--dry-run")
    assert status == 2 and "looks like a file of TRL" in shown and "zoo convert-config theirs.yaml" in shown


@pytest.mark.parametrize(
    "words", ["stage: dpo\nbeta: 0.1\nlabel_smoothing: 0.1\n", "model: tiny\ndesirable_weight: 1.0\n"]
)
def test_options_of_another_algorithm_are_not_taken_for_another_program(folder, words):
    (folder / "ours.yaml").write_text(words, encoding="utf-8")
    status, shown = typed("train", "--config", "ours.yaml", "--dry-run")
    assert status == 2 and "looks like" not in shown and "Unknown option" in shown


def test_what_needs_no_word_is_told_with_its_own_reason(folder):
    result = converted(folder, "base_model: m\nrl: dpo\nadapter: lora\nbf16: auto\n")
    assert "precision" not in result.options and "So does zoo" in told(result)["bf16"]
    result = converted(folder, "stage: sft\nmodel_name_or_path: m\ndo_train: true\noutput_dir: saves\n")
    assert "zoo train" in told(result)["do_train"] and "--name" in told(result)["output_dir"]
