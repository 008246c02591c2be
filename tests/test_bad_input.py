"""Mistakes of a person: exit status 2, what and where and why, what to type next, and nothing left half-made."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import cli, data_for, demonstrations, plugin_file, preferences, run_command, trainer, write_rows

import zoo
from zoo.errors import TrainingStopped, ZooError
from zoo.runs import Run


@pytest.fixture
def place(tmp_path, tiny_folder, monkeypatch):
    """An empty working directory with the tiny model as `tiny`."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    return tmp_path


def rows_with(folder, number, **changes):
    """Demonstrations of which one is spoilt; row numbers count from 1."""
    rows = demonstrations(30)
    rows[number - 1] = {**rows[number - 1], **changes}
    return write_rows(folder / "rows.jsonl", rows)


def refused(*arguments, says=(), status=2):
    """The command ends with this status, a short message without traceback, and leaves no run behind."""
    found, out, err = cli(*arguments)
    text = out + err
    assert found == status, text
    assert "Traceback" not in text
    for part in says:
        assert part in " ".join(text.split()), text
    runs = Path("runs")
    assert not runs.exists() or not list(runs.iterdir()), "a failed start leaves no run folder"
    return text


def train(*arguments, algo="sft", model="tiny", data=None):
    return ["train", "--algo", algo, "--model", model, *(["--data", data] if data else []), *arguments]


# -- data ----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(place):
    refused(
        *train(data="missing.jsonl"), says=["There is no file, folder or data source 'missing.jsonl'", "Give a file"]
    )
    refused(*train(data="/nowhere/rows.jsonl"), says=["/nowhere/rows.jsonl"])


def test_a_file_whose_name_is_nearly_there(place):
    data_for("sft", place)
    refused(*train(data="./sft-21.jsonl"), says=["./sft-21.jsonl"])


def test_a_broken_line(place):
    file = place / "rows.jsonl"
    write_rows(file, demonstrations(30))
    lines = file.read_text().splitlines()
    lines[6] = lines[6][:-5]
    file.write_text("\n".join(lines))
    refused(*train(data="rows.jsonl"), says=["rows.jsonl", "7", "Correct or delete these lines"])


def test_columns_that_mean_nothing(place):
    file = write_rows(place / "rows.jsonl", [{"frage": "a", "antwort": "b"}] * 3)
    refused(*train(data=file), says=["frage", "antwort", "--columns"])


def test_columns_of_another_kind(place):
    refused(*train(data=data_for("sft", place), algo="dpo"), says=["sft-12.jsonl", "preference"])


@pytest.mark.parametrize("answer", ["", "   ", None, 7])
def test_an_empty_or_wrong_answer(place, answer):
    refused(*train("--strict", data=rows_with(place, 4, completion=answer)), says=["rows.jsonl", "4", "completion"])


def test_strict_holds_for_rows_that_are_bad_as_tokens(place):
    rows = rows_with(place, 4, completion="word " * 60)
    says = ["rows cannot be used, and --strict allows none:", "rows.jsonl:4 [E_TOO_LONG] prompt:"]
    refused(*train("--strict", "--max-length", "100", data=rows), says=says)
    refused("data", rows, "--for", "sft", "--model", "tiny", "--strict", "--max-length", "100", says=says)


def test_a_bad_row_is_dropped_and_counted_without_strict(place):
    status, out, _ = cli(*train("--max-steps", "1", data=rows_with(place, 4, completion="")))
    assert status == 0
    assert "30 rows read, 29 kept, 1 dropped" in out
    assert "an answer is empty (row 4)" in out


def test_chosen_equal_to_rejected(place):
    rows = preferences(30)
    rows[8]["rejected"] = rows[8]["chosen"]
    file = write_rows(place / "rows.jsonl", rows)
    refused(*train("--strict", data=file, algo="dpo"), says=["rows.jsonl", "9", "chosen", "rejected"])


def test_rows_that_are_all_too_long(place):
    text = refused(*train("--max-length", "3", data=data_for("sft", place)), says=["--max-length"])
    assert "sft-12.jsonl" in text


def test_an_empty_file(place):
    (place / "empty.jsonl").write_text("")
    refused(*train(data="empty.jsonl"), says=["empty.jsonl holds no rows"])


def test_a_hub_name_offline(place):
    text = refused(*train(data="nobody/nothing"), says=["nobody/nothing"])
    assert len(text.strip().splitlines()) <= 3
    text = refused(*train(model="nobody/nothing", data=data_for("sft", place)), says=["nobody/nothing", "local"])
    assert len(text.strip().splitlines()) <= 3


# -- options -------------------------------------------------------------------------------------------------------


def test_an_unknown_algorithm_gets_the_nearest(place):
    refused("train", "--algo", "dop", says=["No algorithm is called 'dop'. Did you mean 'dpo'?", "zoo algos"])


def test_an_unknown_option_gets_the_nearest(place):
    refused(*train("--batchsize", "4"), says=["--batchsize", "--batch-size"])
    refused(*train("--beta", "0.1"), says=["No such option: --beta. It is an option of", "dpo", "zoo train --algo"])
    refused(*train("--bata", "0.1", algo="dpo"), says=["(Possible options: --beta, "])
    refused(*train("--learning-rate", "1"), says=["No such option: --learning-rate", "--lr"])
    refused(*train("--batch_size", "8"), says=["No such option: --batch_size", "--batch-size"])
    refused(*train("--nll_over", "all"), says=["--algo orpo --nll-over"])
    with pytest.raises(ZooError, match="Unknown option 'per_device_train_batch_size'.* Did you mean 'batch_size'"):
        zoo.train("sft", per_device_train_batch_size=4)


def test_an_unknown_key_in_a_file_gets_the_nearest(place):
    (place / "recipe.yaml").write_text("algo: dpo\nbetta: 0.2\n")
    refused("train", "--config", "recipe.yaml", says=["'betta' (recipe.yaml)", "Did you mean 'beta'"])
    refused("train", "--config", "recipe.yml", says=["There is no file recipe.yml"])


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--batch-size", "x", "must be int, got 'x'"), ("--batch-size", "0", "must be above 0, got 0"),
        ("--batch-size", "-4", "must be above 0"), ("--lr", "fast", "must be float"),
        ("--lr", "-1", "must be 0 or more"),
        ("--lr", "nan", "must be a finite number"), ("--max-length", "1", "must be 2 or more"),
        ("--epochs", "0", "must be above 0"), ("--max-steps", "0", "must be above 0"),
        ("--eval-fraction", "1", "must be at least 0 and below 1"), ("--schedule", "cosin", "Did you mean 'cosine'"),
        ("--optimizer", "adamw(beta=1)", "has no option 'beta'"),
        ("--precision", "fp16", "32-true|bf16-mixed|bf16-true"), ("--log-every", "0", "must be above 0"),
        ("--micro-tokens", "0", "must be above 0"), ("--devices", "0", "must be above 0"),
        ("--lora-rank", "0", "must be above 0"), ("--limit", "0", "must be above 0"),
        ("--strategy", "deepspeed", "auto, ddp, fsdp"), ("--accelerator", "tpu", "auto, cpu, gpu"),
        ("--reference", "", "is empty"), ("--score", "", "is empty"), ("--best-metric", "", "is empty"),
        ("--guards", "./mine.py:Guard", "is a file, and --guards takes the names of guards"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work(place, flag, value, says):
    name = flag[2:]
    text = refused(*train(f"{flag}={value}", data=data_for("sft", place)), says=[says])
    assert name in text or name.replace("-", "_") in text


def test_a_value_in_a_file_names_the_file(place):
    (place / "recipe.yaml").write_text("lr: -1\n")
    refused("train", "--config", "recipe.yaml", says=["'lr' (recipe.yaml) must be 0 or more, got -1.0", "--lr"])


def test_fewer_examples_than_processes(place):
    refused(*train("--devices", "4", "--batch-size", "2"), says=["batch_size 2 is below the 4 processes"])


def test_an_unknown_evaluation_logger_template_and_target(place):
    data = data_for("sft", place)
    refused(*train("--score", "instruction", data=data), says=["'instruction'", "Did you mean 'instructions'"])
    refused(*train("--loggers", "tensorbord", data=data), says=["'tensorbord'", "Did you mean 'tensorboard'"])
    refused(*train("--template", "mine.jinja", data=data), says=["mine.jinja"])
    refused(*train("--lora", "--lora-targets", "attention", data=data), says=["attention", "q_proj"])
    refused("eval", "tiny", "--eval", "heldout", says=["'heldout'", "heldout_loss"])


def test_a_role_that_does_not_exist_is_the_plugins_mistake(place):
    body = (
        'class Odd(Algorithm):\n    """X."""\n    api_version = 2\n'
        '    data = "demonstration"\n    needs = ("policy", "refrence")\n'
        "    def loss(self): ...\n"
    )
    algo = plugin_file(place, body, "odd.py")
    refused(*train(algo=algo), says=["unknown role 'refrence'", "'reference'"])


def test_a_role_that_was_not_declared_is_the_plugins_mistake(place):
    body = (
        'class Odd(Algorithm):\n    """X."""\n    api_version = 2\n'
        '    data = "demonstration"\n    def loss(self, batch, models):\n'
        "        return models.reference.logps(batch.completion)\n"
    )
    refused(
        *train(algo=plugin_file(place, body, "odd.py"), data=data_for("sft", place)),
        says=["uses models.reference, but declares", 'Add "reference" to its needs'],
    )


def test_a_plugin_file_that_does_not_load(place):
    refused(*train(algo="./gone.py:X"), says=["There is no file gone.py"])
    (place / "bad.py").write_text("import nothing_of_this_name\n")
    refused(*train(algo="./bad.py:X"), says=["bad.py cannot be imported", "nothing_of_this_name"])


# -- models --------------------------------------------------------------------------------------------------------


def copy_of(tiny_folder, folder, without=()):
    shutil.copytree(tiny_folder, folder)
    for name in without:
        (folder / name).unlink()
    return folder


def test_a_model_folder_without_weights(place, tiny_folder):
    copy_of(tiny_folder, place / "hollow", ["model.safetensors"])
    refused(*train(model="hollow"), says=["hollow has a configuration but no weights", "model.safetensors"])


def test_a_model_that_is_nowhere(place):
    """One message with the nearest name and the runs there are, and no attempts in between."""
    assert cli(*train("--name", "sft-first", "--max-steps", "1", data=data_for("sft", place)))[0] == 0
    for arguments in (["eval", "sft-frist"], ["chat", "sft-frist"], train(model="sft-frist")):
        status, out, err = cli(*arguments)
        assert status == 2 and len((out + err).strip().splitlines()) == 2, out + err
        assert "There is no local model called 'sft-frist', and the hub is out of reach (offline)." in err
        assert "Did you mean 'sft-first'?" in err and "Runs in runs/: sft-first. Give a folder" in err
    status, _, err = cli("eval", "runs/sft-frist")
    assert status == 2 and "There is no model at runs/sft-frist." in err, "not taken for owner/name"
    shutil.rmtree(place / "runs")


@pytest.mark.parametrize("reason", ["unknown", "gated", "no network"])
def test_a_model_of_the_hub_is_asked_for_once(place, monkeypatch, reason):
    import huggingface_hub

    name = {"unknown": "RepositoryNotFoundError", "gated": "GatedRepoError"}.get(reason)
    cls = getattr(huggingface_hub.errors, name) if name else ConnectionError
    error, asked = cls.__new__(cls), []

    def model_info(self, name, **options):
        asked.append(name)
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    says = {"unknown": "no model of the hub called", "gated": "hf auth login", "no network": "out of reach (Connect"}
    refused(*train(model="owner/name"), says=[says[reason], "'owner/name'"])
    assert asked == ["owner/name"]


def test_without_a_network_the_copy_in_the_cache_of_the_hub_is_taken(place, tiny_folder, monkeypatch):
    import huggingface_hub

    folder = copy_of(tiny_folder, place / "models--owner--name" / "snapshots" / "abc123")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: str(folder / file))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place))
    status, out, _ = cli(*train("--lora", "--max-steps", "1", model="owner/name", data=data_for("sft", place)))
    assert status == 0 and "taking the copy of owner/name in its cache" in out
    settings = json.loads((place / "runs" / "sft-name-1" / "model" / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("owner/name", "abc123")


def test_a_model_folder_without_configuration(place, tiny_folder):
    copy_of(tiny_folder, place / "bare", ["config.json"])
    refused(*train(model="bare"), says=["bare is not a model folder: it has no config.json"])
    refused(*train(model="./nowhere"), says=["There is no model at ./nowhere"])


def test_a_model_folder_with_half_its_weights(place, tiny_folder):
    folder = copy_of(tiny_folder, place / "half")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    refused(*train(model="half", data=data_for("sft", place)), says=["half/model.safetensors is cut off"])


def test_pickled_weights_are_not_loaded(place, tiny_folder):
    class Harmful:
        def __reduce__(self):
            return (os.mkdir, ("harmed",))

    folder = copy_of(tiny_folder, place / "pickled", ["model.safetensors"])
    torch.save({"weight": Harmful()}, folder / "pytorch_model.bin")
    refused(*train(model="pickled"), says=["weights as a pickle (pytorch_model.bin)", "save_pretrained"])
    assert not (place / "harmed").exists()


def test_a_model_with_code_of_its_own_is_not_run(place, tiny_folder):
    folder = copy_of(tiny_folder, place / "own")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("import os\nos.mkdir('harmed')\n")
    refused(*train(model="own", data=data_for("sft", place)))
    assert not (place / "harmed").exists()


def test_a_run_without_a_model_yet(place):
    zoo_run = place / "runs" / "mine"
    zoo_run.mkdir(parents=True)
    (zoo_run / "run.yaml").write_text("algo: sft\n")
    status, _, err = cli(*train(model="mine"))
    assert status == 2 and "has no model yet" in err and "zoo resume" in err
    shutil.rmtree(place / "runs")


# -- run folders ---------------------------------------------------------------------------------------------------


def test_a_run_that_does_not_exist(place):
    for command in ("resume", "runs", "export"):
        refused(
            command, "mine", *(["folder"] if command == "export" else []), says=["No run is called 'mine'", "zoo train"]
        )


def test_a_name_that_is_taken(place):
    arguments = train("--name", "mine", "--max-steps", "1", data=data_for("sft", place))
    assert cli(*arguments)[0] == 0
    status, _, err = cli(*arguments)
    assert status == 2 and "There is already a run runs/mine" in err
    assert "It is finished" in err and "--model mine" in err and "resume" not in err
    assert [path.name for path in (place / "runs").iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["taken", "a/b", "last"])
def test_a_name_is_looked_at_before_anything_is_loaded(place, monkeypatch, name):
    from zoo.training.execution import Execution

    monkeypatch.setattr(Execution, "load", lambda self: pytest.fail("loaded something"))
    (place / "elsewhere" / "taken").mkdir(parents=True)
    (place / "elsewhere" / "taken" / "run.yaml").write_text("algo: sft\n")
    text = refused(*train("--name", name, "--out", "elsewhere", model="nothing"), says=["run"])
    assert ("zoo resume elsewhere/taken" in text) == (name == "taken")


def test_a_folder_that_cannot_be_written(place):
    (place / "runs").write_text("a file")
    status, _, err = cli(*train(data=data_for("sft", place)))
    assert status == 2 and "The run folder cannot be made in runs" in err and "--out" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder(place):
    (place / "locked").mkdir(mode=0o500)
    refused(*train("--out", "locked", data=data_for("sft", place)), says=["cannot be made in locked", "--out"])


def test_a_run_that_another_process_trains(place):
    status, _, _ = cli(*train("--name", "mine", "--max-steps", "1", data=data_for("sft", place)))
    run = Run(Path("runs/mine"))
    (run.path / "summary.json").unlink()
    script = (
        "import sys, zoo.runs, pathlib\n"
        "with zoo.runs.Run(pathlib.Path('runs/mine')).alone():\n"
        "  print('held', flush=True)\n"
        "  sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    status, _, err = cli("resume", "mine")
    other.communicate("")
    assert status == 2 and "The run mine is being trained by another process." in err and "zoo resume" in err
    assert cli("resume", "mine")[0] == 0, "the lock went with the process"


# -- a full disk ---------------------------------------------------------------------------------------------------

FULL = OSError(28, "No space left on device")


@pytest.fixture
def run(place, tiny_folder, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(place / "cache"))
    return trainer(place, tiny_folder)


def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(run, place, monkeypatch):
    from zoo.training.record import checkpoints

    original, saved = checkpoints.save_file, []

    def save_file(*arguments, **options):
        saved.append(1)
        if len(saved) == 2:
            raise FULL
        return original(*arguments, **options)

    monkeypatch.setattr(checkpoints, "save_file", save_file)
    with pytest.raises(
        TrainingStopped, match="step-4 could not be written: the disk is full.*The last complete"
    ) as caught:
        run("sft", name="mine", save_every=2, lr=1e-3)
    assert caught.value.exit_status == 1 and "Free some space, then: zoo resume" in caught.value.hint
    folder = place / "runs" / "mine"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-2"]
    assert zoo.resume(folder, quiet=True).status == "finished"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_full_disk_at_the_final_model_leaves_no_half_model(run, place, monkeypatch, name):
    import safetensors
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    cls = PreTrainedModel if name == "model.safetensors" else PreTrainedTokenizerBase
    error = safetensors.SafetensorError("I/O error: No space left on device (os error 28)") if "model" in name else FULL

    def save(self, folder, **options):
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / "config.json").write_text("{}")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(cls, "save_pretrained", save)
        with pytest.raises(
            TrainingStopped, match="The model could not be written to .*model: .*No space left"
        ) as caught:
            run("sft", name="mine", save_every=2)
    assert "Free some space, then: zoo resume" in caught.value.hint
    folder = place / "runs" / "mine"
    assert not (folder / "model").exists() and not list(folder.glob(".tmp*"))
    assert zoo.resume(folder, quiet=True).status == "finished"


def test_a_full_disk_at_the_metrics(run, place, monkeypatch):
    from zoo.training.record.callbacks import Recorder

    def write(self, trainer, row, timing=None):
        raise OSError(28, "No space left on device", str(self.run.path / "metrics.jsonl"))

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "_write", write)
        with pytest.raises(TrainingStopped, match="metrics.jsonl cannot be written: No space left on device"):
            run("sft", name="mine")


def test_a_full_disk_under_the_reference_cache_costs_nothing_but_reuse(run, monkeypatch):
    import sqlite3

    from zoo.models.reference_cache import ReferenceCache

    whole = run("dpo", name="whole", lr=1e-3)
    original = ReferenceCache.put

    def put(self, values):
        if self.path != ":memory:":
            raise sqlite3.OperationalError("database or disk is full")
        return original(self, values)

    monkeypatch.setenv("ZOO_CACHE", "other-cache")
    monkeypatch.setattr(ReferenceCache, "put", put)
    other = run("dpo", name="other", lr=1e-3)
    assert [row["loss"] for row in other.log_history] == pytest.approx(
        [row["loss"] for row in whole.log_history], abs=1e-5
    )


def test_a_cache_that_cannot_be_written_costs_nothing_but_reuse(run, place, monkeypatch, capsys):
    (place / "blocked").write_text("a file")
    monkeypatch.setenv("ZOO_CACHE", str(place / "blocked"))
    assert run("dpo", max_steps=1, quiet=False).status == "finished"
    assert "Reference log-probs are kept in memory only" in capsys.readouterr().out


def test_a_run_folder_that_disappears(run, place, monkeypatch):
    from zoo.training.record.callbacks import Recorder

    original = Recorder.on_train_batch_end

    def vanish(self, trainer, module, *rest):
        if module.steps_done == 2:
            shutil.rmtree(self.run.path)
        return original(self, trainer, module, *rest)

    monkeypatch.setattr(Recorder, "on_train_batch_end", vanish)
    with pytest.raises(ZooError, match="The run folder .*mine is gone"):
        run("sft", name="mine")


def can_mount():
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount") is not None


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="only the superuser can make a small disk")
def test_a_disk_that_is_really_full(place, tiny_folder):
    small = place / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=840k", "none", small], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk to be had: {mounted.stderr}")
    try:
        for steps, says in ((1, "The checkpoint"), (0, "The model could not be written")):
            data = data_for("sft", place)
            filler = small / "filler"
            filler.write_bytes(b"0" * (640_000 if steps else 740_000))
            done = run_command(
                *train(f"--save-every={steps}", "--out", small, "--batch-size", "4", data=data), cwd=place
            )
            assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
            assert not [
                path for path in small.rglob("*") if path.name.startswith((".tmp", "step-")) or path.name == "model"
            ]
            filler.unlink()
            (run,) = [path for path in small.iterdir() if path.is_dir()]
            done = run_command("resume", run, cwd=place)
            assert done.returncode == 0, done.stderr
            shutil.rmtree(run)
    finally:
        subprocess.run(["umount", small], check=True)
