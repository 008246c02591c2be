"""The commands, as they are typed."""

import json
import os
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import torch
from recipe_mistakes import GOOD
from safetensors.torch import load_file
from tiny_runs import cli, data_for, on_terminal, run_command, trainer

import zoo
from zoo.options.strict_yaml import read_yaml
from zoo.runs import Run, find_run

COMMANDS = ("train", "resume", "algos", "data", "label", "eval", "chat", "runs", "compare", "export", "doctor")


@pytest.fixture
def place(tmp_path, tiny_folder, monkeypatch):
    """An empty working directory with the tiny model as `tiny`."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    return tmp_path


@pytest.fixture
def run(place):
    """A finished run called `mine`."""
    return trainer(place, "tiny")("sft", name="mine", max_steps=2, lr=1e-2, out="runs", data=data_for("sft", place))


def good(*arguments, **options):
    status, out, err = cli(*arguments, **options)
    assert status == 0, out + err
    return out


def options_in(text):
    """A help page without the examples at its end."""
    return text[: text.rindex("Example")]


def as_json(*arguments):
    return json.loads(good(*arguments))


def plain(text):
    """Without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# -- help ----------------------------------------------------------------------------------------------------------


def test_help_lists_every_command():
    text = good("--help")
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", text)
    assert cli()[1].startswith("\n Usage") or "Usage" in "".join(cli()[1:]), "no command at all shows the help too"


@pytest.mark.parametrize(
    ("typed", "meant"),
    {"new": "new-plugin", "convert": "convert-config", "plugin": "new-plugin", "trian": "train"}.items(),
)
def test_a_mistyped_command_names_the_one_that_was_meant(typed, meant):
    status, _, err = cli(typed)
    assert status == 2 and f"Did you mean {meant!r}?" in " ".join(err.split()), err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_page_says_what_it_does_and_has_an_example(name):
    text = " ".join(good(name, "--help").split())
    assert re.search(rf"Examples?: zoo {name}\b", text)
    assert not re.search(r"\bNone\b|\bTrue\b", text), "Python's words are not for a person"


def test_every_option_has_a_help_text(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for name in COMMANDS:
        found = re.findall(r"^  (--[a-z-]+)(?:, -\w)?( \S+)?  +(.*)$", good(name, "--help"), flags=re.M)
        assert len(found) > 1
        for flag, _, words in found:
            assert re.search(r"[a-z]{3}", words), f"{name} {flag}"


@pytest.mark.parametrize("width", [80, 40])
def test_help_pages_have_whole_flags_and_one_example_a_line(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for name in COMMANDS:
        text = plain(good(name, *(["--algo", "dpo"] if name == "train" else []), "--help"))
        options, examples = options_in(text), text[len(options_in(text)) :].strip().splitlines()[1:]
        assert examples and all(line.startswith(f"  zoo {name}") for line in examples)
        assert max(map(len, options.splitlines())) <= width
    text = plain(good("train", "--help"))
    for flag in ("--gradient-checkpointing", "--trust-remote-code", "--keep-checkpoints"):
        assert f"  {flag} " in text or f"  {flag}\n" in text
    assert "(False)" not in text and "str or none" not in text and "dict" not in text


def test_the_help_of_an_algorithm_shows_the_defaults_that_it_sets(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    of_dpo = " ".join(good("train", "--algo", "dpo", "--help").split())
    assert "[5e-05 (135 M weights) to 2e-07 (70 B)]" in of_dpo and "[1e-05]" in good("train", "--help")


def test_the_help_of_train_has_the_options_of_the_algorithm_that_is_named(place):
    assert "--beta" in good("train", "--algo", "dpo", "--help")
    assert "--beta" in good("train", "--help", "--algo=dpo")
    assert "--beta" not in options_in(good("train", "--help"))
    (place / "recipe.yaml").write_text("algo: dpo\n")
    text = good("train", "--config", "recipe.yaml", "--help")
    assert "--beta" in text and "the larger, the nearer to the reference" in text


def test_examples_in_the_help_pages_are_options_that_exist():
    for name in COMMANDS:
        text = good(name, *(["--algo", "dpo"] if name == "train" else []), "--help")
        known = options_in(text)
        examples = text[len(known) :]
        for flag in re.findall(r"--[a-z-]+", examples):
            assert flag in known or flag == "--help", f"{name}: {flag}"


def test_the_version():
    assert good("--version").strip() == f"zoo {zoo.__version__}"


# -- training ------------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_values_with_their_origin_and_trains_nothing(place):
    (place / "recipe.yaml").write_text("algo: dpo\nbeta: 0.2\nseed: 4\n")
    text = good("train", "--config", "recipe.yaml", "--seed", "5", "--dry-run")
    text = text.partition("\n\n")[0]
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert rows["algo"] == ["dpo", "recipe.yaml"]
    assert rows["beta"] == ["0.2", "recipe.yaml"]
    assert rows["seed"] == ["5", "command", "line"]
    assert " ".join(rows["lr"]) == "5e-05 default of dpo: tuned here for 135 M weights"
    order = list(rows)
    assert max(map(order.index, ("algo", "beta", "seed"))) < min(map(order.index, ("batch_size", "loss")))
    assert "max_grad_norm" not in rows and re.search(r"[5-9]\d more options with the default", text)
    assert not (place / "runs").exists()
    assert "algo" in good("train", "--dry-run") and not (place / "runs").exists()


def test_train_prints_what_it_does_and_what_to_type_next(place):
    data = data_for("dpo", place)
    text = good("train", "--algo", "dpo", "--model", "tiny", "--data", data, "--max-steps", "2", "--batch-size", "4")
    for part in (
        "12 rows read, 12 kept, 0 dropped", "Precision ", "Training dpo: 12 records, 2 steps of 4", "step 2/2",
        "runs/dpo-tiny-1/model", "zoo chat dpo-tiny-1", "zoo eval dpo-tiny-1",
    ):  # fmt: skip
        assert part in text
    assert find_run("last").status == "finished"


def test_flags_reach_the_algorithm_and_the_core(place):
    data = data_for("dpo", place)
    good(
        "train", "--algo", "dpo", "--model", "tiny", "--data", data, "--max-steps", "1", "--beta", "0.3", "--lora",
        "--lora-rank", "2", "--no-keep-best", "--columns", "prompt=prompt", "--lr", "3e-7", "--loss", "hinge",
    )  # fmt: skip
    config = find_run("last").config
    assert (config["beta"], config["lora"], config["lora_rank"], config["lr"]) == (0.3, True, 2, 3e-7)
    assert (config["loss"], config["keep_best"]) == ("hinge", False)
    assert (find_run("last").model_path / "adapter_config.json").is_file()


def test_command_txt_is_what_was_typed(place):
    data = data_for("sft", place)
    arguments = ["train", "--model", "tiny", "--data", data, "--max-steps", "1", "--out", "my runs"]
    good(*arguments)
    assert shlex.split((Path("my runs") / "sft-tiny-1" / "command.txt").read_text()) == ["zoo", *arguments]


def test_secrets_of_the_environment_are_in_no_file_of_the_run(place, monkeypatch):
    names = ("HF_TOKEN", "WANDB_API_KEY", "MY_SECRET", "OPENAI_API_KEY")
    for name in names:
        monkeypatch.setenv(name, f"hidden-{name.lower()}-value")
    data = data_for("sft", place)
    good("train", "--model", "tiny", "--data", data, "--max-steps", "1", "--save-every", "1", "--loggers", "csv")
    for file in find_run("last").path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"hidden-" not in content and not any(name.encode() in content for name in names), file


# -- looking at runs -----------------------------------------------------------------------------------------------


def test_runs_lists_and_shows(run):
    text = good("runs")
    assert "mine" in text and "finished" in text
    (row,) = as_json("runs", "--json")
    assert (row["name"], row["status"], row["algo"], row["steps"]) == ("mine", "finished", "sft", 2)
    shown = as_json("runs", "last", "--json")
    assert shown["config"]["lr"] == 0.01 and shown["metrics"][0]["step"] == 2
    shown = good("runs", "mine")
    assert "run.yaml" in shown and "command: zoo" in shown
    assert "  max_steps 2\n" in shown and not any(name in shown for name in ("train_on", "save_every"))
    assert as_json("runs", "--out", "elsewhere", "--json") == []
    assert "No runs in elsewhere/ yet" in good("runs", "--out", "elsewhere")


def test_the_names_of_runs_stay_whole_in_a_narrow_terminal(place, monkeypatch):
    names = ["sft-smollm2-135m-instruct-1", "dpo-after-sft-smollm2-135m-instruct-with-beta-0.2-12"]
    for name in names:
        folder = place / "runs" / name
        folder.mkdir(parents=True)
        (folder / "run.yaml").write_text("algo: dpo\nmodel: a/folder/far/away/model\ndata: data/pairs.jsonl\n")
        scores = {"val/rewards/accuracies": 0.5, "instructions": 0.25}
        Run(folder).write_json("summary.json", {"status": "finished", "steps": 76, "before": scores, "after": scores})
    for width in (200, 80, 40):
        monkeypatch.setenv("COLUMNS", str(width))
        text = plain(good("runs"))
        assert all(name in text for name in names) and "instructions 0.250 → 0.250" in text
        assert all(part in text for part in ("finished", "76", "pairs.jsonl", "model", "dpo"))


def test_a_run_without_scores_ends_without_an_empty_table(place):
    text = good(*"train --model tiny --max-steps 1 --eval-fraction 0 --data".split(), data_for("sft", place))
    assert "before" not in text.partition("sft-tiny-1: 1 step")[2] and "zoo chat sft-tiny-1" in text


def test_runs_shows_what_was_stopped_or_damaged(run):
    (run.path / "summary.json").unlink()
    (row,) = as_json("runs", "--json")
    assert row["status"] == "unfinished"


def test_algos_lists_and_shows():
    rows = as_json("algos", "--json")
    names = [row["name"] for row in rows]
    assert {"sft", "dpo"} <= set(names) and names == sorted(names)
    card = as_json("algos", "dpo", "--json")
    assert card["data"] == "preference" and card["needs"] == ["policy", "reference"]
    assert {"flag": "--beta", "type": "float", "default": 0.1}.items() <= card["options"][0].items()
    text = good("algos", "dpo")
    for part in ("arXiv:2305.18290", "--beta", "rewards/margins", "zoo train --algo dpo"):
        assert part in text


def test_a_card_explains_every_metric_of_a_run(place):
    for algo in ("sft", "dpo"):
        run = trainer(place, "tiny")(algo, max_steps=1)
        explained = as_json("algos", algo, "--json")["metrics"]
        core = {"step", "epoch", "grad_norm", "lr", "num_tokens"}
        assert set(run.log_history[0]) - core == set(explained)


DIARY = """
from zoo.api import hookimpl


@hookimpl
def run_end(run): ...


@hookimpl
def step_end(run): ...


@hookimpl(wrapper=True)
def loss():
    return (yield)
"""


@pytest.fixture
def no_recipes(monkeypatch):
    """To check all that are bundled takes seconds; one test does."""
    from zoo.contract import registry

    monkeypatch.setattr(registry, "recipe_packages", tuple)


def test_doctor():
    facts = as_json("doctor", "--json")
    assert facts["problems"] == [] and facts["packages"]["lightning"]
    assert "starter" in facts["sources"] and "instructions" in facts["evals"] and "instructions" in facts["rewards"]
    assert "ipo@post-training-zoo" in facts["recipes"]
    assert facts["programs"] == "held by the kernel" or "nothing holds" in facts["programs"]


def test_doctor_says_what_the_machine_lacks_for_the_reward_code(monkeypatch, no_recipes):
    monkeypatch.setattr("zoo.rewards.sandbox.lacking", lambda: "unshare: Operation not permitted")
    text = " ".join(good("doctor").split())
    assert "programs nothing holds those of the reward code: unshare: Operation not permitted." in text


def test_doctor_is_read_by_people(no_recipes):
    text = good("doctor")
    assert "torch" in text and "precision" in text


def test_doctor_names_what_is_wrong(monkeypatch, no_recipes):
    from zoo.contract import registry

    broken = registry.Broken("odd", "odd-package", "1.2", "ImportError: no module x")
    good_ones, _ = registry.plugin_modules()
    diary = ModuleType("diary")
    exec(DIARY, vars(diary))
    monkeypatch.setattr(registry, "plugin_modules", lambda: ((*good_ones, ("diary@papers", diary)), (broken,)))
    status, out, _ = cli("doctor")
    assert status == 1 and "Plugin odd of odd-package 1.2: ImportError: no module x" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "listeners diary@papers: step_end run_end, report@post-training-zoo: run_end" in lines
    assert "wrappers diary@papers: loss" in lines
    assert any(line.startswith("engines local, ") for line in lines)


def test_doctor_names_recipes_that_do_not_load_or_do_not_fit_with_file_and_line(monkeypatch, tmp_path):
    from zoo.cli import doctor
    from zoo.recipes import find

    texts = {
        "good": GOOD, "torn": GOOD.replace("stages:", "stages: ["), "typo": GOOD.replace("hardware:", "hardwear:"),
        "misfit": GOOD.replace("lr: 5.0e-4", "learning_rat: 5.0e-4"),
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (package, *_) = doctor.registry.recipe_packages()
    monkeypatch.setattr(find.registry, "recipe_packages", lambda: [package])
    monkeypatch.setattr(find, "_folder", lambda package: (tmp_path, ""))
    status, out, _ = cli("doctor", "--json")
    problems = json.loads(out)["problems"]
    assert status == 1
    for name, at, said in (
        ("typo", "hardwear", "unknown key 'hardwear'. Did you mean 'hardware'?"),
        ("misfit", "learning_rat:", "'learning_rat' is not an option of the algorithm kto."),
    ):
        (line,) = [i for i, row in enumerate(texts[name].splitlines(), 1) if at in row]
        assert any(f"{name}.yaml:{line}: {said}" in one for one in problems), problems
    assert any("Recipe torn of post-training-zoo" in one and "torn.yaml" in one for one in problems), problems
    assert not any("Recipe good" in one for one in problems), problems


def test_data_shows_what_is_trained(place):
    data = data_for("dpo", place)
    text = good("data", data, "--for", "dpo", "--model", "tiny", "--examples", "1")
    assert "12 rows read, 12 kept" in text and "<|im_end|>" in text
    assert as_json("data", data, "--for", "preference", "--model", "tiny", "--json")["kind"] == "preference"


# -- using what was trained ----------------------------------------------------------------------------------------


def test_export_copies_the_model(run):
    good("export", "mine", "deep/copy")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    copied = AutoModelForCausalLM.from_pretrained("deep/copy").state_dict()
    trained = load_file(run.model_path / "model.safetensors")
    assert all(torch.equal(copied[name], value) for name, value in trained.items())
    assert AutoTokenizer.from_pretrained("deep/copy").chat_template
    good("export", "mine", "half", "--dtype", "bfloat16")
    assert all(value.dtype == torch.bfloat16 for value in load_file("half/model.safetensors").values())
    Path("half-2").mkdir()
    status, _, err = cli("export", "mine", "half")
    assert status == 2 and "half already exists" in err and "such as half-3. Or remove it first: rm -r half" in err
    status, _, err = cli("export", "mine", "merged", "--merge")
    assert status == 2 and "has no adapters to merge" in err and not Path("merged").exists()


def test_merged_adapters_give_the_same_logits(place):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    data = data_for("sft", place)
    trainer(place, "tiny")("sft", name="mine", max_steps=3, lora=True, lr=1e-1, out="runs", data=data)
    good("export", "mine", "merged", "--merge")
    assert not Path("merged/adapter_config.json").exists()
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained("merged")(ids).logits
        adapted = AutoPeftModelForCausalLM.from_pretrained("runs/mine/model")(ids).logits
        base = AutoModelForCausalLM.from_pretrained("tiny")(ids).logits
    assert torch.allclose(merged, adapted, atol=1e-4)
    assert not torch.allclose(merged, base, atol=1e-2)
    good("export", "mine", "apart")
    assert Path("apart/adapter_config.json").is_file()


def test_eval_scores_a_run_and_a_model(run):
    scores = as_json("eval", "mine", "--limit", "2", "--json", "--samples", "1")
    assert set(scores) == {"instructions", "heldout_loss", "preference_accuracy", "refusal", "over_refusal"}
    assert all(score["n"] == 2 for score in scores.values())
    assert len(scores["instructions"]["samples"]) == 1
    text = good("eval", "tiny", "--eval", "heldout_loss", "--limit", "2")
    assert "heldout_loss" in text and "preference_accuracy" not in text


def test_scores_of_samples_are_rounded(capsys):
    from zoo.cli.evaluate import _show
    from zoo.evals import mean_score
    from zoo.terminal import Console

    samples = [{"prompt": "p", "answer": "a", "score": score} for score in (1 / 3, None)]
    _show(Console(), mean_score("mine", [1 / 3], samples=samples), "About.", 2)
    assert [line.split() for line in capsys.readouterr().out.splitlines() if line.endswith("a")] == [
        ["0.333", "a"], ["–", "a"],
    ]  # fmt: skip


def test_eval_of_a_scored_run_measures_its_scores_and_compares_with_its_start(place):
    data = data_for("sft", place)
    score = f"kl(data={data}, limit=2, max_new_tokens=4)"
    scored = trainer(place, "tiny")("sft", name="scored", max_steps=2, lr=1e-2, out="runs", data=data, score=score)
    scores = as_json("eval", "scored", "--json")
    after = scored.summary["scores"]["after"]
    assert list(scores) == list(after) == [score] and after[score]["value"] != 0
    assert scores[score]["value"] == pytest.approx(after[score]["value"], rel=0.02)  # Both are in bfloat16.


def test_eval_is_repeatable(run):
    first, second = (as_json("eval", "last", "--limit", "3", "--json") for _ in range(2))
    assert first == second


def test_chat_answers_one_prompt(run):
    text = good("chat", "mine", "--prompt", "hello", "--max-new-tokens", "8", "--temperature", "0")
    assert text.strip()
    assert text == good("chat", "mine", "--prompt", "hello", "--max-new-tokens", "8", "--temperature", "0")


def test_chat_compares_two(run):
    text = good("chat", "mine", "--vs", "tiny", "--prompt", "hello", "--max-new-tokens", "8")
    assert text.startswith("mine ") and "\ntiny " in text


def test_chat_reads_a_pipe_until_it_ends(run):
    def answers(stdin):
        return len(good("chat", "mine", "--max-new-tokens", "3", "--temperature", "0", stdin=stdin).splitlines())

    assert answers("one\ntwo\n") == 2 * answers("one\n")
    assert answers("") == 0 and answers("one\n\ntwo\n") == answers("one\n"), "an empty line ends it"


def test_what_a_model_says_cannot_control_the_terminal(run, monkeypatch):
    from zoo.evals import answers

    monkeypatch.setattr(answers, "answer_texts", lambda *a: ["\x1b[31mred\x07 [bold]words[/bold]\nnext"])
    text = good("chat", "mine", "--prompt", "hello")
    assert text == "\\x1b[31mred [bold]words[/bold]\nnext\n"


# -- narrow, dumb, foreign terminals -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["--help", "algos", "runs", "doctor"])
def test_forty_columns_do_not_break_anything(name, run, monkeypatch, no_recipes):
    monkeypatch.setenv("COLUMNS", "40")
    text = good(name)
    assert max(map(len, plain(text).splitlines())) <= 40


@pytest.mark.long
def test_a_run_in_a_narrow_terminal_without_utf8(place):
    """No terminal, 40 columns, the C locale: the output may be ugly, but the run ends well."""
    arguments = ["train", "--model", "tiny", "--data", data_for("sft", place), "--max-steps", "1"]
    done = run_command(
        *arguments, cwd=place, COLUMNS="40", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii", TERM="dumb"
    )
    assert done.returncode == 0, done.stderr
    assert find_run("last").status == "finished"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_a_run_in_a_terminal_shows_a_live_line(place):
    data = data_for("sft", place)
    status, written = on_terminal(
        "train", "--model", "tiny", "--data", data, "--max-steps", "2", "--eval-fraction", "0", width=100
    )
    shown = plain(written)
    assert status == 0 and "training" in shown and "2/2" in shown and "sft-tiny-1: 2 steps" in shown


# -- from Python ---------------------------------------------------------------------------------------------------


def test_train_from_python_does_what_the_command_does(place):
    data = data_for("dpo", place)
    flags = [
        "--model",
        "tiny",
        "--data",
        data,
        "--max-steps",
        "2",
        "--beta",
        "0.2",
        "--batch-size",
        "4",
        "--lr",
        "1e-3",
    ]
    good("train", "--algo", "dpo", *flags)
    by_command = find_run("last")
    by_python = zoo.train("dpo", model="tiny", data=data, max_steps=2, beta=0.2, batch_size=4, lr=1e-3, quiet=True)
    assert shlex.split((by_command.path / "command.txt").read_text())[:4] == ["zoo", "train", "--algo", "dpo"]
    call = (by_python.path / "command.txt").read_text()
    assert call.startswith("zoo.train(algo='dpo', model='tiny', ") and "beta=0.2" in call
    assert read_yaml(by_python.path / "run.yaml") == read_yaml(by_command.path / "run.yaml")
    assert (by_python.path / "metrics.jsonl").read_text() == (by_command.path / "metrics.jsonl").read_text()
    model, tokenizer = by_python.load()
    assert model.num_parameters() and tokenizer.eos_token == "<|im_end|>"


def test_quiet_is_quiet(place, capfd):
    zoo.train("sft", model="tiny", data=data_for("sft", place), max_steps=1, quiet=True)
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def test_unknown_keyword_arguments_get_the_nearest_name(place):
    with pytest.raises(zoo.errors.ZooError, match="'betta' .keyword argument.* Did you mean 'beta'"):
        zoo.train("dpo", betta=0.1)


def test_the_card_of_an_algorithm_lists_its_variants():
    shown = cli("algos", "grpo")[1]
    assert "--variant dapo" in shown and "clip_high 0.28" in shown
    assert json.loads(cli("algos", "grpo", "--json")[1])["variants"]["dapo"]["clip_high"] == 0.28


def test_an_evaluation_of_a_run_says_where_it_reads_the_starter_set(run):
    told = good("eval", "mine", "--eval", "heldout_loss", "--limit", "2")
    assert "not on the run's own data" in told and 'heldout_loss(data=FILE)"' in told
    data = run.config["data"]
    assert "own data" not in good("eval", "mine", "--eval", f"heldout_loss(data={data})", "--limit", "2")
