"""Whole runs on a tiny model: what is learned, what does not depend on how the work is cut, what a run leaves."""

import csv
import json
import math
import os
import shutil

import pytest
import torch
from tiny_runs import (
    data_for,
    demonstrations,
    differences,
    losses,
    plugin_file,
    preferences,
    same_bytes,
    trainer,
    weights,
    write_rows,
)

import zoo
from zoo.contract import registry
from zoo.contract.hookspecs import hookimpl
from zoo.errors import PluginError, TrainingFailed, TrainingStopped, ZooError
from zoo.models.reference import Reference
from zoo.options.strict_yaml import read_yaml
from zoo.runs import find_run
from zoo.training.execution import Execution
from zoo.training.record.callbacks import rises


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return trainer(tmp_path, tiny_folder)


def start_weights(tiny_folder):
    from safetensors.torch import load_file

    return load_file(tiny_folder / "model.safetensors")


def test_the_memory_of_the_optimizer_is_free_for_what_follows_training(train, monkeypatch):
    held, finish = [], Execution.finish

    def look(execution, before):
        held.extend(len(optimizer.state) for optimizer in execution.fitting.module.trainer.optimizers)
        return finish(execution, before)

    monkeypatch.setattr(Execution, "finish", look)
    train("sft")
    assert held == [0]


# -- learning ----------------------------------------------------------------------------------------------------


def test_sft_learns_its_demonstrations(train):
    found = losses(train("sft", rows=8, lr=1e-2, epochs=20))
    assert found[-1] < 0.3 * found[0]


def test_dpo_starts_at_ln_2_and_learns_its_pairs(train):
    run = train("dpo", rows=8, lr=1e-3, epochs=10)
    assert losses(run)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses(run)[-1] < 0.3
    assert run.log_history[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert run.log_history[-1]["rewards/accuracies"] == 1.0


def test_in_half_precision_policy_and_reference_start_out_equal_too(train):
    """The reference is scored in the arithmetic of the steps, whether it comes from the cache or not."""
    for cache in ("auto", "off"):
        # So large a β makes any difference of the two visible.
        run = train("dpo", precision="bf16-mixed", reference_cache=cache, max_steps=2, lr=1e-3, beta=10.0)
        assert losses(run)[0] == pytest.approx(math.log(2), abs=0.02)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights(run).values())


# -- the result does not depend on how the work is cut -------------------------------------------------------------


@pytest.mark.parametrize("algo", ["sft", "dpo"])
def test_weights_do_not_depend_on_layout_and_micro_batches(train, algo):
    def cut(**options):
        # Adam divides by the size of the gradient: where that is rounding alone, ε must be larger than it.
        return train(algo, max_steps=3, lr=1e-3, optimizer="adamw(eps=1e-5)", reference_cache="off", **options)

    whole = cut(layout="padded", micro_tokens=10**6)
    for options in (
        {"layout": "shared", "micro_tokens": 10**6},
        {"layout": "packed", "micro_tokens": 10**6},
        {"layout": "padded", "micro_tokens": 1},
        {"layout": "shared", "micro_tokens": 150},
    ):
        other = cut(**options)
        assert differences(whole, other) < 1e-5, options
        assert losses(other) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.parametrize("algo", ["sft", "dpo"])
def test_recomputing_activations_changes_nothing(train, algo):
    plain = train(algo, max_steps=3, lr=1e-3)
    recomputed = train(algo, max_steps=3, lr=1e-3, gradient_checkpointing=True)
    assert differences(plain, recomputed) < 1e-6
    some = train(algo, max_steps=3, lr=1e-3, gradient_checkpointing=True, checkpoint_layers=1)
    assert differences(plain, some) == 0 and losses(plain) == losses(some)


def test_no_more_layers_can_be_recomputed_than_there_are(train):
    with pytest.raises(ZooError, match="--checkpoint-layers 3: LlamaForCausalLM has 2 layers"):
        train("sft", gradient_checkpointing=True, checkpoint_layers=3)


def test_gradient_checkpointing_really_recomputes(train, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    forwards = []
    original = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda *a, **k: (forwards.append(1), original(*a, **k))[1])
    train("sft", rows=4, max_steps=1)
    plain = len(forwards)
    train("sft", rows=4, max_steps=1, gradient_checkpointing=True)
    assert len(forwards) - plain == plain + 2, "each of the two layers once more"
    whole = len(forwards)
    train("sft", rows=4, max_steps=1, gradient_checkpointing=True, checkpoint_layers=1)
    assert len(forwards) - whole == plain + 1, "the first of the two layers once more"


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(train):
    first, second, third = (train("sft", seed=seed, lr=1e-3, max_steps=2) for seed in (1, 1, 2))
    assert same_bytes(first, second, "model/model.safetensors") and same_bytes(first, second, "metrics.jsonl")
    assert differences(first, third) > 0


# -- adapters and references ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algo", "told"), [("sft", True), ("dpo", False)])
def test_options_of_a_role_that_the_run_has_not_are_told(train, tiny_folder, capsys, algo, told):
    train(algo, reference=str(tiny_folder), critic="own", critic_lr=1e-4, max_steps=1, quiet=False)
    said = capsys.readouterr().out
    assert ("--reference has no effect" in said) is told
    assert "--critic has no effect" in said and "--critic-lr has no effect" in said


def test_with_adapters_the_reference_is_the_base_and_stays_it(train, tiny_folder):
    from peft import AutoPeftModelForCausalLM

    options = {"lora": True, "lora_rank": 4, "lr": 1e-2, "epochs": 2}
    own, cached = train("dpo", reference_cache="off", **options), train("dpo", **options)
    named = train("dpo", reference=str(tiny_folder), reference_cache="off", **options)
    assert losses(own)[0] == pytest.approx(math.log(2), abs=1e-6) and losses(own)[-1] < 0.6
    assert losses(cached) == pytest.approx(losses(own), abs=1e-5)
    assert losses(named) == pytest.approx(losses(own), abs=1e-5)
    adapted = AutoPeftModelForCausalLM.from_pretrained(own.model_path)
    start = start_weights(tiny_folder)
    base = {name.replace(".base_layer", ""): value for name, value in adapted.get_base_model().state_dict().items()}
    assert all(torch.equal(base[name], value) for name, value in start.items())
    assert any(value.abs().max() > 0 for name, value in adapted.named_parameters() if "lora_B" in name)


def test_a_run_with_adapters_can_be_trained_further(train):
    first = train("sft", lora=True, lora_rank=2, lr=1e-2, max_steps=2)
    second = train("sft", model=str(first.path), lr=1e-3, max_steps=1)
    assert "model.layers.0.self_attn.q_proj.weight" in weights(second)


def test_adapters_on_a_run_with_adapters_belong_to_the_sum(train, tmp_path, monkeypatch):
    """Loaded by peft alone, from another working folder."""
    from peft import AutoPeftModelForCausalLM

    def logits(run):
        with torch.no_grad():
            return AutoPeftModelForCausalLM.from_pretrained(run.model_path)(torch.arange(1, 40)[None]).logits

    monkeypatch.chdir(tmp_path)
    first = train("sft", lora=True, lora_rank=2, lr=1e-1, max_steps=3)
    second = train("sft", model=os.path.relpath(first.path), lora=True, lora_rank=2, lr=1e-9, max_steps=1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.allclose(logits(first), logits(second), atol=1e-3), "the second has hardly learned anything"


@pytest.mark.parametrize("checkpointing", [True, False])
def test_nothing_that_zoo_calls_is_about_to_go_away(train, recwarn, checkpointing):
    """Not even where the caller's filters show everything."""
    run = train("dpo", lora=True, lora_rank=2, max_steps=1, gradient_checkpointing=checkpointing)
    run.load()
    libraries = ("transformers", "peft")
    late = [w for w in recwarn if issubclass(w.category, FutureWarning | DeprecationWarning)]
    assert [str(w.message) for w in late if any(f"/{name}/" in w.filename for name in libraries)] == []


def test_adapters_whose_base_is_gone_say_so(train, tmp_path, tiny_folder):
    moved = tmp_path / "moved"
    shutil.copytree(tiny_folder, moved)
    run = train("sft", model=str(moved), lora=True, lora_rank=2, max_steps=1)
    shutil.rmtree(moved)
    with pytest.raises(ZooError, match=f"belong to the model in {moved}, which is not there") as caught:
        run.load()
    assert "base_model_name_or_path" in caught.value.hint


def test_adapters_name_their_base_with_its_whole_path(train, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_folder.parent)
    run = train("sft", model="tiny", lora=True, lora_rank=2, max_steps=1)
    settings = json.loads((run.model_path / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tiny_folder)


@pytest.fixture
def computed(monkeypatch):
    """Grows by the number of answers each time the reference model is run."""
    counts = []
    original = Reference._compute
    monkeypatch.setattr(
        Reference, "_compute", lambda self, answers, **o: (counts.append(len(answers)), original(self, answers, **o))[1]
    )
    return counts


def test_reference_log_probs_are_computed_once_for_all_runs_on_the_same_pairs(train, computed, capsys):
    first = train("dpo", lr=1e-3, epochs=2, quiet=False)
    assert sum(computed) == 24, "12 pairs, each answer once, over two epochs"
    assert "Reference log-probs: 0 found in the cache, 24 computed." in capsys.readouterr().out
    computed.clear()
    second = train("dpo", lr=1e-3, epochs=2, quiet=False)
    assert "Reference log-probs: 24 found in the cache, 0 computed." in capsys.readouterr().out
    assert not computed and same_bytes(first, second, "model/model.safetensors")
    train("dpo", lr=1e-4, epochs=2, seed=5, beta=0.3)
    assert not computed, "another seed, lr and β ask for the same answers"
    without = train("dpo", lr=1e-3, epochs=2, reference_cache="off")
    assert sum(computed) == 24 * 2, "now every epoch computes them"
    assert differences(first, without) < 1e-5


@pytest.mark.parametrize("options", [{}, {"lora": True}, {"algo": "kto"}, {"precision": "bf16-mixed"}], ids=str)
def test_the_first_validation_finds_what_the_reference_is_asked_for_later(train, computed, tmp_path, options):
    held_out = write_rows(tmp_path / "held.jsonl", preferences(5, seed=9))
    data = write_rows(tmp_path / "train.jsonl", preferences(8))
    given = {"algo": "dpo", "data": data, "eval_data": held_out, "eval_every": 1, "max_steps": 2, "lr": 1e-3}
    options = given | options
    run = train(**options)
    answers = 2 * 4 * 2
    assert sum(computed) == answers, "those of two steps; the held-out ones were scored by the policy"
    assert run.log_history[0]["val/kl" if options["algo"] == "kto" else "val/rewards/margins"] == 0
    computed.clear()
    plain = train(**options, reference_cache="off")
    assert sum(computed) > answers
    for row, expected in zip(run.log_history, plain.log_history, strict=True):
        assert row == pytest.approx(expected, rel=1e-2, abs=1e-2 if "precision" in options else 1e-4)


def test_a_named_reference_scores_what_is_held_out_itself(train, computed, tmp_path):
    other = train("sft", lr=1e-2, max_steps=3)
    held_out = write_rows(tmp_path / "held.jsonl", preferences(5, seed=9))
    run = train("dpo", reference=str(other.path), eval_data=held_out, max_steps=1)
    assert sum(computed) == 2 * 4 + 2 * 5
    assert abs(run.log_history[0]["val/rewards/margins"]) > 1e-3


def test_another_template_another_model_and_another_precision_are_not_mixed_up(train, computed, tmp_path, tiny_folder):
    train("dpo", max_steps=1)
    computed.clear()
    train("dpo", max_steps=1, template="none")
    assert computed
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    from safetensors.torch import save_file

    save_file(
        {n: v * 1.01 for n, v in start_weights(tiny_folder).items()}, other / "model.safetensors", {"format": "pt"}
    )
    computed.clear()
    run = train("dpo", max_steps=1, model=str(other))
    assert computed and losses(run)[0] == pytest.approx(math.log(2), abs=1e-6)
    computed.clear()
    train("dpo", max_steps=1, precision="bf16-mixed")
    assert computed


def test_a_named_reference_is_used(train, tmp_path):
    first = train("sft", lr=1e-2, max_steps=3)
    run = train("dpo", reference=str(first.path), max_steps=1)
    assert abs(losses(run)[0] - math.log(2)) > 1e-3
    assert run.config["reference"] == str(first.path)


# -- the run folder ------------------------------------------------------------------------------------------------


def test_a_run_folder_is_complete_and_its_model_loads_with_plain_transformers(train, tiny_tokenizer):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = train("sft", max_steps=2, score="heldout_loss", eval_fraction=0.0)
    names = {file.name for file in run.path.iterdir()}
    assert names == {
        "run.yaml", "command.txt", "environment.json", "data.json", "before.json", "metrics.jsonl", "summary.json",
        "cases.jsonl", "model", "origins.json", "timing.json", "timing.jsonl", "report.html", "report-data",
        "fingerprints.json", "warnings.json",
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(run.model_path)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights(run).items())
    tokenizer = AutoTokenizer.from_pretrained(run.model_path)
    assert tokenizer.chat_template == tiny_tokenizer.chat_template and len(tokenizer) == len(tiny_tokenizer)
    assert [row["step"] for row in run.log_history] == [1, 2]
    data = run.read_json("data.json")["train"]
    assert (data["rows"], data["kept"], data["dropped"]) == (12, 12, 0)
    summary = run.summary
    assert (summary["status"], summary["steps"], summary["skipped_steps"]) == ("finished", 2, 0)
    assert set(summary["before"]) == set(summary["after"]) == {"heldout_loss"}


def test_run_yaml_runs_again_as_it_is_and_gives_the_same_weights(train):
    first = train("dpo", name="mine", lr=1e-3, beta=0.3, max_steps=3)
    assert first.name == "mine"
    again = zoo.train(config=first.path / "run.yaml", quiet=True)
    assert again.path != first.path
    assert same_bytes(first, again, "model/model.safetensors") and same_bytes(first, again, "metrics.jsonl")
    assert read_yaml(again.path / "run.yaml") == read_yaml(first.path / "run.yaml")


def test_last_is_written_down_as_the_run_it_meant(train, tmp_path):
    first = train("sft", max_steps=1)
    run = train("dpo", model="last", reference="last", max_steps=1)
    assert run.config["model"] == run.config["reference"] == str(first.path)
    assert losses(run)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert find_run("last", str(tmp_path / "runs")) == run


def test_metrics_are_json_without_nan(train, tmp_path):
    run = train(unsteady(tmp_path), data=data_for("sft", tmp_path), bad="0", max_steps=2)
    rows = [
        json.loads(line, parse_constant=pytest.fail) for line in (run.path / "metrics.jsonl").read_text().splitlines()
    ]
    assert rows[0]["loss"] is None and rows[1]["loss"] > 0


def test_metrics_may_be_written_every_few_steps_and_the_last_is_always_there(train):
    run = train("sft", rows=20, epochs=1, log_every=2)
    assert [row["step"] for row in run.log_history] == [2, 4, 5]


# -- length of a run, validation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"epochs": 1}, 3), ({"epochs": 0.5}, 2), ({"epochs": 1.5}, 5), ({"epochs": 5, "max_steps": 4}, 4),
        ({"epochs": 0.01}, 1),
    ],
)  # fmt: skip
def test_epochs_may_be_fractions_and_max_steps_caps_them(train, options, steps):
    run = train("sft", **options)
    assert run.log_history[-1]["step"] == run.summary["steps"] == steps


def test_held_out_prompts_are_taken_out_with_all_their_answers(train):
    run = train("sft", rows=24, eval_fraction=0.25, epochs=1, eval_every=2)
    steps = [row["step"] for row in run.log_history if "val/loss" in row]
    assert steps == [0, 2, 4, 5], "12 prompts, 3 held out, 18 rows left"
    assert run.summary["before"]["val/loss"] == run.log_history[0]["val/loss"]
    assert run.summary["after"]["val/loss"] == run.log_history[-1]["val/loss"]


@pytest.mark.parametrize(
    ("algo", "held", "options", "steps"),
    [
        ("sft", 4, {}, [0, 2, 4, 6, 8]),
        ("sft", 5, {}, [0, 4, 8]),
        ("sft", 9, {}, [0, 8]),
        ("sft", 9, {"keep_best": True}, [0, 2, 4, 6, 8]),
        ("sft", 9, {"patience": 9}, [0, 2, 4, 6, 8]),
        ("kto", 4, {}, [0, 8, 16]),
        ("kto", 5, {}, [0, 16]),
    ],
)
def test_much_held_out_data_is_read_less_often(train, tmp_path, algo, held, options, steps):
    """kto reads what is held out twice: the answers, and for its reference point the mismatched ones."""
    made = preferences if algo == "kto" else demonstrations
    held_out = write_rows(tmp_path / "held.jsonl", made(held, seed=9))
    data = write_rows(tmp_path / "train.jsonl", made(32))
    run = train(algo, data=data, eval_data=held_out, epochs=1, **options)
    assert [row["step"] for row in run.log_history if "val/loss" in row] == steps


def test_held_out_data_of_its_own(train, tmp_path):
    held_out = write_rows(tmp_path / "held.jsonl", demonstrations(7, seed=9))
    run = train("sft", eval_data=held_out, epochs=1)
    assert run.read_json("data.json")["held_out"]["kept"] == 7
    assert run.log_history[0]["val/loss"] != run.log_history[-1]["val/loss"]


def test_a_limit_holds_for_held_out_data_too(train, tmp_path):
    held_out = write_rows(tmp_path / "held.jsonl", demonstrations(9, seed=9))
    run = train("sft", eval_data=held_out, limit=4, max_steps=1)
    data = run.read_json("data.json")
    assert (data["train"]["rows"], data["held_out"]["rows"]) == (4, 4)


def test_no_share_held_out_means_no_validation_whatever_the_source_brings(train, capsys):
    run = train("sft", data="starter", eval_fraction=0, limit=4, max_steps=1, score="none", quiet=False)
    assert "held_out" not in run.read_json("data.json") and all("val/loss" not in row for row in run.log_history)
    assert "Nothing is held out: no validation." in capsys.readouterr().out
    train("sft", eval_fraction=0.5, limit=10, max_steps=1, quiet=False)
    assert "Nothing is held out of fewer than 20 records: no validation." in capsys.readouterr().out
    run = train("sft", data="starter", eval_fraction=0.1, limit=4, max_steps=1, score="none", quiet=False)
    assert "val/loss" in run.log_history[0]
    assert "Held out for validation: 4 records." in capsys.readouterr().out


def test_rows_of_one_prompt_are_trained_on_without_validation(train, capsys):
    rows = [{"prompt": "Say.", "completion": f"It is {i}."} for i in range(24)]
    run = train("sft", data=rows, max_steps=1, eval_fraction=0.1, quiet=False)
    assert "Nothing is held out, for all records have the same prompt: no validation." in capsys.readouterr().out
    assert run.status == "finished" and "held_out" not in run.read_json("data.json")


def test_validation_does_not_change_what_is_learned(train, tmp_path):
    held_out = write_rows(tmp_path / "held.jsonl", demonstrations(7, seed=9))
    plain = train("sft", lr=1e-3, max_steps=3, neftune_alpha=5.0)
    watched = train("sft", lr=1e-3, max_steps=3, neftune_alpha=5.0, eval_data=held_out, eval_every=1)
    assert same_bytes(plain, watched, "model/model.safetensors")


def test_the_best_weights_are_kept_when_they_get_worse(train, tmp_path, tiny_folder):
    held_out = write_rows(tmp_path / "held.jsonl", demonstrations(7, seed=9))
    run = train("sft", eval_data=held_out, eval_every=1, keep_best=True, lr=10.0, max_steps=3)
    values = [row["val/loss"] for row in run.log_history if "val/loss" in row]
    assert min(values) == values[0]
    start = start_weights(tiny_folder)
    assert all(torch.equal(value, start[name]) for name, value in weights(run).items())
    assert not (run.path / "best.safetensors").exists()


def test_training_stops_when_nothing_gets_better_any_more(train, tmp_path):
    held_out = write_rows(tmp_path / "held.jsonl", demonstrations(7, seed=9))
    run = train("sft", eval_data=held_out, eval_every=1, patience=2, lr=10.0, epochs=3)
    assert run.summary["steps"] == 2


def test_an_accuracy_should_rise(train, tmp_path):
    held_out = write_rows(tmp_path / "held.jsonl", preferences(7, seed=9))
    run = train(
        "dpo", eval_data=held_out, eval_every=1, patience=1, best_metric="val/rewards/accuracies", lr=1e-2, epochs=4
    )
    values = [row["val/rewards/accuracies"] for row in run.log_history if "val/loss" in row]
    assert all(b > a for a, b in zip(values[:-2], values[1:-1], strict=True)) and values[-1] <= values[-2]


@pytest.mark.parametrize(("metric", "mode", "up"), [
    ("val/loss", "auto", False), ("val/gold", "auto", True), ("val/grade", "auto", True), ("val/kl", "auto", False),
    ("val/rewards/accuracies", "auto", True), ("val/accuracy/same_length", "auto", True),
    ("val/entropy", "max", True), ("val/reward", "min", False),
])  # fmt: skip
def test_the_better_of_two_values_is_told_by_the_name_or_the_mode(metric, mode, up):
    assert rises(metric, mode) == up


@pytest.mark.parametrize("metric", ["val/entropy", "val/rewards/rejected", "val/logps/chosen"])
def test_a_name_that_does_not_tell_is_asked_about(metric):
    with pytest.raises(ZooError, match="better, or less") as caught:
        rises(metric, "auto")
    assert "--best-mode max" in caught.value.hint


def test_a_metric_that_is_not_measured_is_named_with_those_that_are(train, tmp_path):
    held_out = write_rows(tmp_path / "held.jsonl", demonstrations(7, seed=9))
    with pytest.raises(ZooError, match="best_metric 'val/los' is not measured") as caught:
        train("sft", eval_data=held_out, keep_best=True, best_metric="val/los")
    assert "val/loss" in caught.value.hint
    assert list((tmp_path / "runs").iterdir()) == []


# -- when numbers or memory fail -----------------------------------------------------------------------------------


def unsteady(folder):
    """An algorithm whose loss is not a number at the steps named."""
    return plugin_file(folder, '''
class Bad(Algorithm):
    """For tests."""
    api_version = 2
    data = "demonstration"

    @dataclass
    class Config:
        bad: str = ""
        """Steps with NaN."""
        where: str = "loss"
        """loss or gradient."""

    def loss(self, batch, models, config, step):
        logps = models.policy.logps(batch.completion)
        values = -logps.per_token
        if str(step) in config.bad.split(","):
            bad = torch.zeros_like(values, requires_grad=True).sqrt() if config.where == "gradient" else float("nan")
            values = values + bad * values if config.where == "gradient" else values * bad
        return Loss.per_token(values, logps.mask)
''') + ":Bad"  # fmt: skip


def test_a_step_with_a_loss_that_is_no_number_is_skipped_and_counted(train, tmp_path, capsys):
    bad = unsteady(tmp_path)
    run = train(bad, data=data_for("sft", tmp_path), bad="1", epochs=1, lr=1e-3, quiet=False)
    assert run.summary["skipped_steps"] == 1
    assert [row.get("skipped") for row in run.log_history] == [None, 1.0, None]
    assert all(value.isfinite().all() for value in weights(run).values())
    assert "The step is skipped" in capsys.readouterr().out


def test_three_such_steps_in_a_row_end_the_run_with_their_rows_named(train, tmp_path):
    with pytest.raises(TrainingFailed, match="step 4 .rows [0-9, ]+.: 3 steps in a row: the loss .nan. or") as caught:
        train(unsteady(tmp_path), data=data_for("sft", tmp_path), bad="1,2,3", epochs=3)
    assert caught.value.exit_status == 1 and "--lr" in caught.value.hint
    run = train(unsteady(tmp_path), data=data_for("sft", tmp_path), bad="1,2,4,5", epochs=3)
    assert run.summary["skipped_steps"] == 4, "never three in a row"


def test_a_step_with_nothing_to_learn_from_is_no_fault(train, tmp_path, capsys):
    ties = [{"prompt": f"say {i}", "completions": ["red", "two", "cat"], "ranks": [1, 1, 2 + i % 2]} for i in range(12)]
    ties[0]["ranks"] = [1, 2, 3]
    run = train(
        "rm", data=write_rows(tmp_path / "ties.jsonl", ties), ranking_loss="best_of_n", batch_size=2, epochs=1,
        quiet=False,
    )  # fmt: skip
    assert (run.summary["status"], run.summary["skipped_steps"]) == ("finished", 5)
    assert capsys.readouterr().out.count("nothing in it can be learned from") == 5


def hungry(folder):
    """An algorithm that runs out of memory when a micro-batch has more tokens than `room`."""
    return plugin_file(folder, '''
class Hungry(Algorithm):
    """For tests."""
    api_version = 2
    data = "demonstration"
    saved = ("calls",)
    calls = 0

    @dataclass
    class Config:
        room: int = 10**9
        """Tokens that fit."""

    def loss(self, batch, models, config):
        self.calls += 1
        logps = models.policy.logps(batch.completion)
        if sum(len(answer) for answer in batch.completion) > config.room:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you asked for 1 byte.")
        return Loss.per_token(-logps.per_token, logps.mask, {"calls": torch.full((len(batch),), float(self.calls))})
''', "hungry.py") + ":Hungry"  # fmt: skip


def test_when_memory_runs_out_micro_batches_are_halved_and_the_result_is_the_same(train, tmp_path, capsys):
    options = {"data": data_for("sft", tmp_path), "lr": 1e-3, "micro_tokens": 1024, "epochs": 1}
    held_out = write_rows(tmp_path / "held.jsonl", demonstrations(7, seed=9))
    whole = train(hungry(tmp_path), **options)
    halved = train(hungry(tmp_path), room=150, quiet=False, **options)
    assert "Memory ran out; micro-batches now have 128 tokens" in capsys.readouterr().out
    assert differences(whole, halved) < 1e-5
    assert losses(halved) == pytest.approx(losses(whole), abs=1e-5)
    small = train(hungry(tmp_path), **{**options, "micro_tokens": 128})
    assert same_bytes(halved, small, "metrics.jsonl"), "the tries that failed left no trace in the algorithm's state"
    validated = train(hungry(tmp_path), room=150, eval_data=held_out, **options)
    assert differences(whole, validated) < 1e-5


def test_when_halving_cannot_help_the_knobs_are_named(train, tmp_path):
    with pytest.raises(TrainingStopped, match="Memory ran out with micro-batches of 128 tokens") as caught:
        train(hungry(tmp_path), data=data_for("sft", tmp_path), room=1)
    assert "--micro-tokens" in caught.value.hint and "--lora" in caught.value.hint
    assert list((tmp_path / "runs").iterdir()) == [], "no step was made, so nothing is kept"


# -- plugins in a run ----------------------------------------------------------------------------------------------


@pytest.fixture
def install(monkeypatch):
    """Make an object an installed plugin."""
    modules, broken = registry.plugin_modules()

    def install(plugin):
        monkeypatch.setattr(registry, "plugin_modules", lambda: ((*modules, ("mine@test", plugin)), broken))

    return install


class Listener:
    def __init__(self):
        self.heard = []

    @hookimpl
    def run_start(self, run, config):
        self.heard.append(("run_start", run.name, config["algo"], config["lr"]))

    @hookimpl
    def step_end(self, run, step, metrics):
        self.heard.append(("step_end", step, metrics["step"], metrics["loss"]))

    @hookimpl
    def checkpoint_saved(self, run, step, path):
        self.heard.append(("checkpoint_saved", step, (path / "manifest.json").is_file()))

    @hookimpl
    def run_end(self, run, metrics):
        self.heard.append(("run_end", metrics["loss"], (run.model_path / "config.json").is_file(), run.status))


def test_listeners_hear_of_start_steps_checkpoints_and_end(train, install):
    listener = Listener()
    install(listener)
    run = train("sft", epochs=1, save_every=2)
    first, second, third = losses(run)
    assert listener.heard == [
        ("run_start", run.name, "sft", 1e-4),
        ("step_end", 1, 1, first),
        ("checkpoint_saved", 2, True),
        ("step_end", 2, 2, second),
        ("step_end", 3, 3, third),
        ("run_end", third, True, "finished"),
    ]


def test_a_listener_that_fails_is_named_and_left_out_and_the_run_goes_on(train, install, capsys, tmp_path, tiny_folder):
    class Broken(Listener):
        @hookimpl
        def step_end(self, run, step):
            self.heard.append(step)
            raise ConnectionError("the tracker is down")

    listener = Broken()
    install(listener)
    data = data_for("sft", tmp_path)
    run = zoo.train("sft", model=str(tiny_folder), data=data, out=str(tmp_path / "runs"), batch_size=4, max_steps=3)
    text = capsys.readouterr().out
    assert text.count("Plugin mine@test fails in step_end(): ConnectionError: the tracker is down (") == 1
    assert "test_training.py, line " in text
    assert run.status == "finished" and listener.heard[1:] == [1], "told once"


def test_another_plugin_may_wrap_the_loss(train, install):
    class Doubled:
        @hookimpl(wrapper=True)
        def loss(self, batch, models, config, step):
            result = yield
            result.values = result.values * 2
            return result

    plain = losses(train("sft", epochs=1, lr=0.0))
    install(Doubled())
    assert losses(train("sft", epochs=1, lr=0.0)) == pytest.approx([2 * value for value in plain])


PREPARING = '''
class Prepared(Algorithm):
    """For tests."""
    api_version = 2
    data = "demonstration"

    @dataclass
    class Config:
        keep: int = 5
        """Records to keep."""
        weight: float = 1.0
        """Weight of each."""

    def prepare(self, records, models, config):
        with torch.no_grad():
            lengths = [models.policy.logps(default_collate([record]).completion).lengths for record in records]
        assert len(lengths) == len(records)
        return [{**record, "weight": config.weight} for record in records[: config.keep]]

    def loss(self, batch, models, config):
        logps = models.policy.logps(batch.completion)
        return Loss.weighted(-logps.mean(), batch.weight)
'''


def test_an_algorithm_may_prepare_the_records_before_training(train, tmp_path):
    algo = plugin_file(tmp_path, "from zoo.api import default_collate\n" + PREPARING, "prepared.py")
    run = train(algo, data=data_for("sft", tmp_path), epochs=1)
    assert run.summary["steps"] == 2, "5 of 12 records, 4 a step"
    assert run.name == "prepared-tiny-1"
    with pytest.raises(PluginError, match="Prepared.prepare returned nothing to train on"):
        train(algo, data=data_for("sft", tmp_path), keep=0)


def test_a_loss_that_is_no_loss_is_the_plugins_fault(train, tmp_path):
    body = (
        'class Odd(Algorithm):\n    """For tests."""\n    api_version = 2\n    data = "demonstration"\n\n'
        "    def loss(self, batch):\n        return 1.0\n"
    )
    with pytest.raises(PluginError, match="Odd.loss returned float, not a Loss"):
        train(plugin_file(tmp_path, body, "odd.py"), data=data_for("sft", tmp_path))


# -- loggers -------------------------------------------------------------------------------------------------------


def test_csv_logs_what_metrics_say(train):
    run = train("sft", epochs=1, loggers="csv")
    (file,) = (run.path / "logs").rglob("metrics.csv")
    rows = list(csv.DictReader(file.open()))
    assert [float(row["loss"]) for row in rows] == pytest.approx(losses(run))
    assert all(float(row["speed/training"]) > 0 for row in rows)


def test_a_logger_whose_package_is_missing_is_refused_before_anything_is_loaded(train, monkeypatch, tmp_path):
    monkeypatch.setattr("zoo.options.checks.find_spec", lambda name: None)
    monkeypatch.setattr("zoo.training.execution.Execution", None)
    with pytest.raises(ZooError, match="logger tensorboard needs a package that is not installed") as caught:
        train("sft", loggers="tensorboard")
    assert "pip install tensorboard" in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_a_logger_whose_package_is_too_old_says_what_to_install(train, monkeypatch, tmp_path):
    def missing(*arguments, **options):
        raise ModuleNotFoundError("Neither tensorboard nor tensorboardX is available")

    monkeypatch.setattr("zoo.options.checks.find_spec", lambda name: name)
    monkeypatch.setattr("lightning.pytorch.loggers.TensorBoardLogger", missing)
    with pytest.raises(ZooError, match="logger tensorboard needs a package that is not installed"):
        train("sft", loggers="tensorboard")
    assert list((tmp_path / "runs").iterdir()) == []
