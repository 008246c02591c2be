"""What has changed since a run began is refused or told when it is resumed, and a stranger's code is not run."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import cli, data_for, demonstrations, preferences, trainer, write_rows

import zoo
from zoo.contract.hookspecs import hookimpl
from zoo.data.encoding.template import ChatTemplate
from zoo.errors import ZooError
from zoo.options.strict_yaml import write_yaml
from zoo.runs import Run
from zoo.training import fingerprints
from zoo.training.execution import Execution
from zoo.training.fingerprints import of_code
from zoo.training.record.checkpoints import Expected, newest_good, sha256, weight_shapes
from zoo.training.resuming import FILE, _changed, is_own


class Cut(BaseException):
    """As sudden as a kill, in this process."""


class Cutter:
    @hookimpl
    def step_end(self, step):
        if step == 3:
            raise Cut


@pytest.fixture(scope="module")
def begin(tmp_path_factory, tiny_folder):
    """`begin(algo, **options)`: a run that ended after its third step of six, two of which its checkpoint holds."""
    folder = tmp_path_factory.mktemp("begun")

    def begin(algo="sft", **options):
        init = Execution.__init__

        def with_cutter(self, *given, **more):
            init(self, *given, **more)
            self.plugins.register(Cutter(), "cutter")

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Cut):
            patch.setattr(Execution, "__init__", with_cutter)
            options = {"save_every": 2, "lr": 1e-3, "epochs": 2, "data": data_for("sft", folder), **options}
            trainer(folder, tiny_folder)(algo, **options)
        return Run(folder / "runs" / options["name"])

    return begin


@pytest.fixture(scope="module")
def begun(begin):
    held_out = write_rows(Path(os.environ["ZOO_CACHE"]) / "held.jsonl", demonstrations(5, seed=9))
    return begin(name="sft", eval_data=held_out)


@pytest.fixture
def run(begun, tmp_path):
    """A copy of it to change."""
    return Run(Path(shutil.copytree(begun.path, tmp_path / "mine")))


def refused(run, **options):
    with pytest.raises(ZooError) as caught:
        zoo.resume(run.path, quiet=True, **options)
    assert caught.value.exit_status == 2
    return caught.value


def changes_of(run):
    return [(change["name"], change["part"], change["step"]) for change in run.read_json(FILE)["changes"]]


# -- options -------------------------------------------------------------------------------------------------------


def test_an_edited_run_yaml_is_refused_with_both_values_and_may_be_accepted(run):
    edits = {"lr": 0.5, "seed": 7, "batch_size": 2, "max_steps": 5}
    write_yaml(run.path / "run.yaml", {**run.config, **edits})
    error = refused(run)
    first, *lines = error.message.splitlines()
    assert first == "The run mine is not what it was when it began:"
    assert sorted(lines) == [
        "  batch_size was 4, is 2", "  lr was 0.001, is 0.5", "  max_steps was None, is 5", "  seed was 0, is 7",
    ]  # fmt: skip
    for name in edits:
        assert f"--allow-change {name}" in error.hint
    error = refused(run, allow_change=["seed", "lr"])
    assert "seed" not in error.message and "batch_size was 4, is 2" in error.message
    done = zoo.resume(run.path, quiet=True, allow_change=list(edits))
    assert done.is_complete and done.summary["steps"] == 5
    assert [row["lr"] for row in done.log_history if "lr" in row] == [1e-3, 1e-3, 0.5, 0.5, 0.5], "it is taken"
    assert sorted(changes_of(done)) == sorted((name, "value", 2) for name in edits)
    assert "Resumed after step 2: lr was 0.001, and is 0.5 since." in (done.path / "report.html").read_text()


def test_what_cannot_change_the_result_may_differ(run, capsys):
    write_yaml(run.path / "run.yaml", {**run.config, "keep_checkpoints": True, "save_every": 1, "micro_tokens": 500})
    zoo.resume(run.path)
    text = " ".join(capsys.readouterr().out.split())
    assert "Changed since the run began (the result may differ): micro_tokens was None, is 500" in text
    assert "save_every" not in text
    assert changes_of(run) == [("micro_tokens", "value", 2)]


def test_other_versions_and_devices_are_told(run, capsys):
    stored = run.read_json(FILE)
    stored["began"]["versions"]["torch"], stored["began"]["device"]["name"] = "1.0", "an abacus"
    run.write_json(FILE, stored)
    zoo.resume(run.path)
    text = " ".join(capsys.readouterr().out.split())
    assert f"versions (torch) was 1.0, is {torch.__version__.partition('+')[0]}" in text
    assert "device (name) was an abacus, is cpu" in text


def test_names_that_nothing_has(run):
    assert "Did you mean 'batch_size'?" in refused(run, allow_change=["batchsize"]).message
    status, _, err = cli("resume", run.path, "--allow-data-change")
    assert status == 2 and "Write --allow-change data." in err
    assert 'allow_change=["data"]' in refused(run, allow_data_change=True).hint
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        zoo.resume(run.path, other=1)


def test_a_run_without_fingerprints_is_refused_unless_that_is_accepted(run, monkeypatch):
    (run.path / FILE).unlink()
    assert "fingerprints (fingerprints.json) was there, is nothing" in refused(run).message
    assert zoo.resume(run.path, quiet=True, allow_change=["fingerprints"]).is_complete
    assert run.read_json(FILE)["began"]["lr"] == {"value": 1e-3}
    (run.path / FILE).write_text("{")
    (run.path / "summary.json").unlink()
    assert "fingerprints.json:1 is damaged" in refused(run).message


def test_what_a_kill_left_half_written_is_no_file_of_the_run(run):
    (run.path / ".tmp-timing.json").write_text("{")
    (run.path / "summary.json").unlink(missing_ok=True)
    assert zoo.resume(run.path, quiet=True).is_complete


@pytest.mark.parametrize("name", ["data.json", "environment.json", "heldout.json"])
def test_a_file_that_only_the_end_reads_is_read_before_anything_is_loaded(run, monkeypatch, name):
    monkeypatch.setattr("zoo.training.assembly.load_policy", None)
    (run.path / name).write_text("[3]")
    error = refused(run)
    assert f"{name} is damaged: it holds a list" in error.message and "--allow-change records" in error.hint


# -- contents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part"),
    [("data", "train"), ("data", "held_out"), ("template", "text"), ("tokenizer", "vocabulary")],
)
def test_other_contents_are_refused(run, name, part):
    stored = run.read_json(FILE)
    now, stored["began"][name][part] = stored["began"][name][part], "what it was"
    run.write_json(FILE, stored)
    error = refused(run)
    assert f"{name} ({part}) was what it was, is {now}"[:70] in error.message
    assert error.hint.endswith(f"zoo resume {run.path} --allow-change {name}")


def test_weights_that_are_exchanged_under_their_path_are_refused(begin, tiny_folder, tmp_path):
    """Of the base of adapters, which is DPO's start and its reference, and of a reference that is named."""
    for role in ("start", "reference"):
        shutil.copytree(tiny_folder, tmp_path / role)
    run = begin(
        "dpo", name="dpo", model=str(tmp_path / "start"), reference=str(tmp_path / "reference"), lora=True, lora_rank=2,
        data=write_rows(tmp_path / "pairs.jsonl", preferences(12)),
    )  # fmt: skip
    for role, name in (("start", "model"), ("reference", "reference")):
        file = tmp_path / role / "model.safetensors"
        weights, before = load_file(file), file.stat()
        first = sorted(weights)[0]
        save_file({**weights, first: weights[first] + 1e-3}, file, metadata={"format": "pt"})
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_size == before.st_size, "nothing but the content tells it"
        error = refused(run)
        assert f"{name} (model.safetensors) was" in error.message and error.hint.endswith(f"--allow-change {name}")
        save_file(weights, file, metadata={"format": "pt"})
    assert zoo.resume(run.path, quiet=True).is_complete


def test_a_rubric_that_was_changed_is_refused(begin, tiny_folder, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("criteria:\n  - The answer is short.\n")
    rows = write_rows(tmp_path / "prompts.jsonl", [{"prompt": word} for word in ("red", "blue", "one", "two")])
    run = begin(
        "grpo", name="rubric", reward=f"rubric(criteria={file}, model={tiny_folder})", data=rows, batch_size=2,
        answers_per_prompt=2, max_new_tokens=2, eval_fraction=0.0,
    )  # fmt: skip
    file.write_text("criteria:\n  - The answer is long.\n")
    error = refused(run)
    assert "reward (mine.yaml) was" in error.message and error.hint.endswith("--allow-change reward")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_changed_file_of_a_model_is_refused_by_its_name(begin, tiny_folder, tmp_path, file):
    folder = tmp_path / "start"
    shutil.copytree(tiny_folder, folder)
    (folder / "generation_config.json").write_text('{"max_length": 64}', encoding="utf-8")
    run = begin(name=file.partition(".")[0], model=str(folder))
    text = (folder / file).read_text(encoding="utf-8")
    (folder / file).write_text(f"{text} ", encoding="utf-8")
    error = refused(run)
    assert f"  model ({file}) was" in error.message and error.message.count(") was ") == 1
    (folder / file).write_text(text, encoding="utf-8")
    assert zoo.resume(run.path, quiet=True).is_complete


def test_the_files_of_a_base_and_of_a_reward_model_have_their_names(tiny_folder, tmp_path):
    (tmp_path / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{tiny_folder}"}}', encoding="utf-8")
    (tmp_path / "adapter_model.safetensors").write_bytes((tiny_folder / "model.safetensors").read_bytes())
    parts = fingerprints.Contents("runs").of_model(str(tmp_path))
    assert {"adapter_config.json", "base config.json", "base model.safetensors"} <= set(parts)
    assert _changed("rm", parts, parts | {"config.json": "other"}) == {"rm: config.json": ("nothing", "other")}


def test_a_template_that_writes_the_day_writes_that_of_the_beginning(begin, tmp_path, tiny_tokenizer):
    template = tmp_path / "dated.jinja"
    dated = "{{ strftime_now('%Y') }} {% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    template.write_text(dated)
    run = begin(name="dated", template=str(template))
    stored = run.read_json(FILE)
    assert stored["began"]["template"]["day"]
    stored["began"]["template"]["day"] = "1999-12-31"
    run.write_json(FILE, stored)
    template.write_text(dated + " ")
    assert "template (dated.jinja) was" in refused(run).message
    template.write_text(dated)
    assert zoo.resume(run.path, quiet=True).is_complete
    assert run.read_json(FILE)["began"]["template"]["day"] == "1999-12-31"


def test_the_day_of_a_template(tiny_tokenizer):
    from datetime import date

    text = (
        '{{ strftime_now("%d %b %Y, it\'s %H:%M") }}|{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}'
    )
    chat = ChatTemplate(tiny_tokenizer, text, day=date(1999, 12, 31))
    assert chat.prompt_text("hello").startswith("31 Dec 1999, it's 00:00|")
    assert chat.trained_tokenizer().chat_template == text, "whoever uses the model lives later"


# -- rows ----------------------------------------------------------------------------------------------------------


def edit(file, change):
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("metrics.jsonl", lambda rows: rows[:2], "records (metrics.jsonl) was 3 rows, is 2 rows"),
        ("metrics.jsonl", lambda rows: [rows[1], rows[0], *rows[2:]], "was 3 rows, is other ones"),
        ("timing.jsonl", lambda rows: [], "records (timing.jsonl) was 2 rows, is 0 rows"),
        ("heldout.json", None, "records (heldout.json) was there, is nothing"),
        ("metrics.jsonl", None, "records (metrics.jsonl) was 3 rows, is nothing"),
    ],
)
def test_rows_that_are_lost_are_told(run, name, change, said):
    file = run.path / name
    if change is None:
        file.unlink()
    else:
        edit(file, change)
    error = refused(run)
    assert said in error.message and "--allow-change records" in error.hint


def test_lost_rows_can_be_accepted_and_stay_on_record(run):
    edit(run.path / "metrics.jsonl", lambda rows: [rows[0], *rows[2:]])
    done = zoo.resume(run.path, quiet=True, allow_change=["records"])
    assert [row["step"] for row in done.log_history if "loss" in row] == [2, 3, 4, 5, 6]
    assert changes_of(done) == [("records", "metrics.jsonl", 2)]


def test_what_a_kill_leaves_behind_the_checkpoint_is_cut_off(run):
    for name in ("metrics.jsonl", "timing.jsonl"):
        with (run.path / name).open("a") as stream:
            stream.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    done = zoo.resume(run.path, quiet=True)
    assert [row["step"] for row in done.log_history if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert changes_of(done) == []


# -- checkpoints ---------------------------------------------------------------------------------------------------


class Harmful:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (os.mkdir, (str(self.place),))


def rewritten(folder, change):
    """Another content under the hashes that fit it."""
    change(folder)
    hashes = {name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
              for name in ("weights.safetensors", "rest.pt")}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(hashes))


def with_rest(change):
    def changed(folder):
        rest = torch.load(folder / "rest.pt", weights_only=True)
        change(rest)
        torch.save(rest, folder / "rest.pt")

    return changed


def with_weights(change):
    def changed(folder):
        weights = load_file(folder / "weights.safetensors")
        change(weights, sorted(weights)[0])
        save_file(weights, folder / "weights.safetensors")

    return changed


OTHERS = {
    "a foreign pickle": (lambda f: torch.save(Harmful(f.parent / "harmed"), f / "rest.pt"), "rest.pt holds code"),
    "no pickle": (lambda f: (f / "rest.pt").write_text("hello"), "rest.pt holds"),
    "a list": (lambda f: torch.save([1], f / "rest.pt"), "rest.pt holds a list"),
    "a missing key": (with_rest(lambda rest: rest["zoo"].pop("tokens_seen")), "it lacks tokens_seen"),
    "no state": (with_rest(lambda rest: rest.pop("zoo")), "is not the state of this run"),
    "another optimizer": (
        with_rest(lambda rest: rest["zoo"]["optimizer"].update(name="lion")),
        "its optimizer is of other weights",
    ),
    "an optimizer of other weights": (
        with_rest(lambda rest: rest["zoo"]["optimizer"]["shapes"][0].pop()),
        "its optimizer is of other weights",
    ),
    "a group too few": (
        with_rest(lambda rest: rest["optimizer_states"][0]["param_groups"].pop()),
        "its optimizer is of other weights",
    ),
    "no weights": (lambda f: (f / "weights.safetensors").write_text("hello"), "holds no weights"),
    "other shapes": (with_weights(lambda w, first: w.update({first: torch.zeros(1, 2)})), "it holds [1, 2], here it"),
    "fewer weights": (with_weights(lambda w, first: w.pop(first)), "it holds nothing, here it is ["),
}  # fmt: skip


@pytest.fixture(scope="module")
def expected(begun):
    folder = begun.checkpoints / "step-2"
    rest = torch.load(folder / "rest.pt", weights_only=True)
    optimizer = rest["zoo"]["optimizer"]
    return Expected(weight_shapes(folder), optimizer["name"], optimizer["shapes"], (*rest["zoo"], "records", "loops"))


@pytest.mark.parametrize("other", OTHERS)
def test_another_checkpoint_under_fitting_hashes_is_passed_over(run, expected, other):
    change, said = OTHERS[other]
    shutil.copytree(run.checkpoints / "step-2", run.checkpoints / "step-4")
    rewritten(run.checkpoints / "step-4", change)
    told = []
    assert newest_good(run.checkpoints, told.append, expected) == run.checkpoints / "step-2"
    (line,) = told
    assert said in line and line.endswith("Trying the checkpoint before it.") and "weights_only" not in line
    assert not (run.checkpoints / "harmed").exists()


def test_a_run_goes_on_from_the_checkpoint_before_another_one(run, capsys):
    shutil.copytree(run.checkpoints / "step-2", run.checkpoints / "step-3")
    rewritten(run.checkpoints / "step-3", OTHERS["fewer weights"][0])
    assert zoo.resume(run.path).is_complete
    assert "Resuming from step-2." in capsys.readouterr().out


def test_a_run_without_a_usable_checkpoint_begins_again_only_if_that_is_accepted(run):
    rewritten(run.checkpoints / "step-2", OTHERS["a missing key"][0])
    error = refused(run)
    assert "checkpoint (step-2) was usable, is not" in error.message
    done = zoo.resume(run.path, quiet=True, allow_change=["checkpoint"])
    assert [row["step"] for row in done.log_history if "loss" in row] == [1, 2, 3, 4, 5, 6]


# -- whose code it is ----------------------------------------------------------------------------------------------

CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nfrom zoo_plugins.sft import SFT\n\n\n"
CODE += "class Mine(SFT):\n    '''SFT in a file.'''\n"


@pytest.fixture
def coded(begin, tmp_path):
    """A run of an algorithm in a file, which leaves a mark when it is imported."""
    (tmp_path / "mine.py").write_text(CODE)
    run = begin(f"{tmp_path}/mine.py:Mine", name=f"coded-{tmp_path.name}")
    (tmp_path / "ran").unlink()
    yield run, tmp_path / "mine.py", lambda: (tmp_path / "ran").exists()
    shutil.rmtree(run.path)


def test_code_that_this_user_began_with_is_run_again(coded):
    run, _, ran = coded
    assert is_own(run) and zoo.resume(run.path, quiet=True).is_complete and ran()


def test_code_that_has_changed_is_refused_before_it_is_run(coded):
    run, file, ran = coded
    file.write_text(CODE + "# changed\n")
    error = refused(run)
    assert "algo (" in error.message and "mine.py) was" in error.message and not ran()
    assert zoo.resume(run.path, quiet=True, allow_change=["algo"]).is_complete


def test_code_that_somebody_else_names_is_not_run(coded, tmp_path, monkeypatch):
    run, file, ran = coded
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "of-another-user"))
    for command in (["resume", run.path], ["train", "--config", run.path / "run.yaml"]):
        status, _, err = cli(*command)
        assert status == 2 and "was not begun by you on this machine" in err and f"algo: {file}:Mine" in err
        assert not ran(), command
    with pytest.raises(ZooError, match="not begun by you"):
        zoo.train(config=run.path / "run.yaml", quiet=True)
    status, out, err = cli("resume", run.path, "--allow-code")
    assert status == 0, err
    assert is_own(run) and ran()


def test_a_run_that_names_no_code_may_be_anybodys(run, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "of-another-user"))
    assert not is_own(run) and zoo.resume(run.path, quiet=True).is_complete


def test_the_code_of_a_reward_is_that_of_its_file_and_of_what_it_imports(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helping.py").write_text("ONE = 1\n")
    (tmp_path / "scoring.py").write_text("import json\nfrom helping import ONE\n\n\ndef score(texts, records): ...\n")
    prints = []
    for change in ("", "# changed\n"):
        (tmp_path / "helping.py").write_text("ONE = 1\n" + change)
        prints += [of_code({"algo": "sft", "reward": f"0.5*{tmp_path}/scoring.py:score + length(target=3)"})["reward"]]
        prints += [of_code({"algo": "sft", "reward": "scoring:score"})["reward"]]
    assert prints[0] == prints[1] and prints[2] == prints[3]
    assert prints[0].keys() == {f"{tmp_path.name}/scoring.py", f"{tmp_path.name}/helping.py"}
    changed = [name for name in prints[0] if prints[0][name] != prints[2][name]]
    assert changed == [f"{tmp_path.name}/helping.py"]


def test_the_code_of_an_environment_is_that_of_its_file(tmp_path):
    (tmp_path / "game.py").write_text("class Game: ...\n")
    spelled = {"algo": "sft", "environment": f"{tmp_path}/game.py:Game(rooms=3)"}
    before = of_code(spelled, installed=False)["environment"]
    (tmp_path / "game.py").write_text("class Game: rooms = 3\n")
    assert before.keys() == {f"{tmp_path.name}/game.py"} and of_code(spelled)["environment"] != before
    assert of_code({"algo": "sft", "environment": "calculator"})["environment"] == {}


def test_a_template_that_is_typed_in_whole_names_no_file():
    """No disk holds a name of so many characters: asking for such a file raises."""
    text = "{% for m in messages %}{{ m.content }}{% endfor %}" * 8
    assert fingerprints._file_named(text) == {}
