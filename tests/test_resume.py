"""A run that was killed, stopped or damaged, and resumed, ends like one that was not: bit for bit."""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import (
    data_for,
    demonstrations,
    float32_flags,
    forked,
    losses,
    same_bytes,
    start_command,
    trainer,
    write_rows,
)

import zoo
from zoo.contract import registry
from zoo.contract.hookspecs import hookimpl
from zoo.errors import TrainingStopped, ZooError
from zoo.evals import Eval, Score
from zoo.models.reference import Reference
from zoo.runs import Run, find_run
from zoo.training.record.heartbeat import FILE, read_beat, state_of

EXACT = {"save_every": 2, "lr": 1e-3, "schedule": "cosine", "epochs": 2}


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch):
    """Each run starts with no reference log-probs, so that nothing is equal because it was kept."""
    start = trainer(tmp_path, tiny_folder)
    monkeypatch.chdir(tmp_path)

    def train(algo="sft", **options):
        monkeypatch.setenv("ZOO_CACHE", str(tmp_path / f"cache-{options.get('name')}"))
        return start(algo, **{**EXACT, "data": Path(data_for(algo, tmp_path)).name, **options})

    return train


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_folder):
    """`whole(algo, **options)`: a run that nothing interrupts, made once for all tests that compare with it."""
    folder, made = tmp_path_factory.mktemp("whole"), {}
    start = trainer(folder, tiny_folder)

    def whole(algo="sft", **options):
        key = repr((algo, sorted(options.items())))
        if key not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ZOO_CACHE", str(folder / f"cache-{len(made)}"))
                patch.chdir(folder)
                data = Path(data_for(algo, folder)).name
                made[key] = start(algo, name=f"whole-{len(made)}", data=data, **{**EXACT, **options})
        return made[key]

    return whole


def in_child(action, output):
    """Run `action` in a fork of this process; gives its exit status (128 + the signal's number when it was killed).

    What it prints goes to the file `output`.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with open(output, "w", encoding="utf-8") as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
                sys.stdout, sys.stderr = stream, stream
                action()
                status = 0
        except TrainingStopped as stopped:
            output.write_text(f"{output.read_text()}{stopped}\n")
            status = stopped.exit_status
        except SystemExit as error:
            status = error.code
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


class SignalAt:
    """Sends signals to its own process at the end of a step."""

    def __init__(self, step, *numbers):
        self.step, self.numbers = step, numbers

    @hookimpl
    def step_end(self, step):
        if step == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


def installed(*plugins):
    """Make objects installed plugins, for the rest of this process."""
    modules, broken = registry.plugin_modules()
    named = tuple((f"mine{i}@test", plugin) for i, plugin in enumerate(plugins))
    registry.plugin_modules = lambda: ((*modules, *named), broken)


@pytest.fixture
def interrupted(train, tmp_path):
    """Start a run in a process of its own that gets signals after a step; gives the run and the exit status."""

    def interrupted(step, *numbers, algo="sft", name="broken", **options):
        def action():
            installed(SignalAt(step, *numbers))
            train(algo, name=name, quiet=False, **options)

        status = in_child(action, tmp_path / "output.txt")
        return Run(tmp_path / "runs" / name), status

    return interrupted


def assert_same(broken, whole, when=""):
    assert {file.name for file in broken.path.iterdir()} == {file.name for file in whole.path.iterdir()}, when
    assert not list(broken.path.rglob(".tmp*")), when
    (weights,) = whole.model_path.glob("*.safetensors")
    for name in (f"model/{weights.name}", "metrics.jsonl", "summary.json"):
        assert same_bytes(broken, whole, name), (name, when)


# -- SIGKILL -------------------------------------------------------------------------------------------------------

CASES = {
    "sft": {"algo": "sft", "neftune_alpha": 5.0},
    "dpo": {"algo": "dpo"},
    "dpo without cache": {"algo": "dpo", "reference_cache": "off"},
    "adapters": {"algo": "dpo", "lora": True, "lora_rank": 2, "lora_dropout": 0.1, "lr": 1e-2},
    "whole modules": {"algo": "dpo", "lora": True, "lora_rank": 2, "train_modules": "lm_head,norm", "lr": 1e-2},
    "averaged": {"algo": "dpo", "ema": 0.5, "lr": 1e-2},
    "rounded base": {"algo": "dpo", "lora": True, "lora_rank": 2, "base_dtype": "bfloat16", "lr": 1e-2},
    "quantised base": {"algo": "dpo", "lora": True, "lora_rank": 2, "quantize": "nf4", "lr": 1e-2},
    "half precision": {"algo": "sft", "precision": "bf16-mixed", "gradient_checkpointing": True},
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_resumed_equals_an_unbroken_one(whole, interrupted, case):
    if "quantize" in CASES[case]:
        pytest.importorskip("bitsandbytes")
    unbroken = whole(**CASES[case])
    broken, status = interrupted(3, signal.SIGKILL, **CASES[case])
    assert status == 128 + signal.SIGKILL
    assert broken.status == "unfinished" and not broken.model_path.exists()
    assert [path.name for path in broken.checkpoints.iterdir()] == ["step-2"]
    zoo.resume(broken.path, quiet=True)
    assert_same(broken, unbroken)


@pytest.mark.parametrize("step", [1, 2, 5, 6])
def test_whenever_it_is_killed(whole, interrupted, step):
    """Before the first checkpoint (it starts again), right after one, and after the last step."""
    unbroken = whole("dpo")
    broken, _ = interrupted(step, signal.SIGKILL, algo="dpo")
    zoo.resume(broken.path, quiet=True)
    assert_same(broken, unbroken)


def test_killed_twice(whole, interrupted, tmp_path):
    unbroken = whole("sft")
    broken, _ = interrupted(3, signal.SIGKILL)

    def again():
        installed(SignalAt(5, signal.SIGKILL))
        zoo.resume(broken.path, quiet=True)

    assert in_child(again, tmp_path / "again.txt") == 128 + signal.SIGKILL
    zoo.resume(broken.path, quiet=True)
    assert_same(broken, unbroken)


def test_what_validation_remembers_survives(train, interrupted, tmp_path):
    held_out = write_rows(tmp_path / "held.jsonl", demonstrations(7, seed=9))
    options = {"eval_data": held_out, "eval_every": 1, "keep_best": True, "patience": 2, "lr": 0.1, "epochs": 6}
    whole = train("sft", name="whole", **options)
    assert 2 < whole.summary["steps"] < 18, "it stops early, after its best"
    broken, _ = interrupted(whole.summary["steps"] - 1, signal.SIGKILL, **options)
    zoo.resume(broken.path, quiet=True)
    assert_same(broken, whole)


def test_killed_while_the_reference_is_scored(whole, train, tmp_path):
    unbroken = whole("dpo", micro_tokens=200)

    def action():
        original, calls = Reference._compute_and_keep, []

        def remember(self, missing):
            calls.append(len(missing))
            return original(self, missing) if len(calls) < 4 else os.kill(os.getpid(), signal.SIGKILL)

        Reference._compute_and_keep = remember
        train("dpo", name="broken", micro_tokens=200)

    assert in_child(action, tmp_path / "output.txt") == 128 + signal.SIGKILL
    broken = Run(tmp_path / "runs" / "broken")
    zoo.resume(broken.path, quiet=True)
    assert_same(broken, unbroken)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_the_model_is_evaluated(train, tmp_path, monkeypatch, when):
    """Samples stand in the file once, whenever the scoring was cut short."""

    class Evaluation:
        calls, deadly = 0, None

        @hookimpl
        def evals(self):
            return {"first": Eval("For tests.", self.first), "second": Eval("For tests.", self.second)}

        def first(self, subject):
            return Score("first", 1.0, 1, 1.0, 1.0, samples=[{"prompt": "x", "answer": "y", "score": 1.0}])

        def second(self, subject):
            self.calls += 1
            if self.calls == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return Score("second", 2.0, 1, 2.0, 2.0)

    evaluation = Evaluation()
    modules, broken_ones = registry.plugin_modules()
    monkeypatch.setattr(registry, "plugin_modules", lambda: ((*modules, ("mine@test", evaluation)), broken_ones))
    whole = train("sft", name="whole", score="first,second")
    assert len((whole.path / "samples.jsonl").read_text().splitlines()) == 2

    def action():
        evaluation.calls, evaluation.deadly = 0, 1 if when == "before" else 2
        train("sft", name="broken", score="first,second")

    assert in_child(action, tmp_path / "output.txt") == 128 + signal.SIGKILL
    broken = Run(tmp_path / "runs" / "broken")
    zoo.resume(broken.path, quiet=True)
    assert_same(broken, whole)
    assert same_bytes(broken, whole, "samples.jsonl")


class AtTheEnd:
    """Gets a signal when the model, the scores and the summary are written, but not the report."""

    def __init__(self, number):
        self.number = number

    @hookimpl(trylast=True)
    def run_end(self, run):
        (run.path / "report.html").unlink(missing_ok=True)
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, 137), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_before_its_report_is_ended_by_a_resume(
    whole, train, tmp_path, monkeypatch, number, status
):
    from zoo.training.execution import Execution

    unbroken = whole("sft")

    def action():
        installed(AtTheEnd(number))
        train("sft", name="broken")

    assert in_child(action, tmp_path / "output.txt") == status
    broken = Run(tmp_path / "runs" / "broken")
    assert broken.checkpoints.is_dir() and not (broken.path / "report.html").exists() and not broken.is_complete
    monkeypatch.setattr(Execution, "load", lambda self: pytest.fail("it began again"))
    assert zoo.resume(broken.path, quiet=True).is_complete
    assert_same(broken, unbroken)
    with pytest.raises(ZooError, match="is finished"):
        zoo.resume(broken.path, quiet=True)


# -- a kill at every file event ------------------------------------------------------------------------------------

FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate")


def count_events(folder, stop_at, counted):
    """From now on each file event below `folder` is written to the file `counted`; the process dies at `stop_at`."""
    seen = 0
    log = open(counted, "w")  # noqa: SIM115

    def hook(event, arguments):
        nonlocal seen
        if event not in FILE_EVENTS or not str(arguments[0]).startswith(folder):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        seen += 1
        log.write(f"{event} {str(arguments[0])[len(folder) :]}\n")
        log.flush()
        if seen == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def kill_at_events(train, tmp_path, chosen):
    """A run is killed at the file events that `chosen` takes out of all, resumed each time, and compared."""
    held_out = write_rows(tmp_path / "held.jsonl", demonstrations(5, seed=9))
    options = {"max_steps": 4, "keep_best": True, "eval_data": held_out, "data": data_for("sft", tmp_path)}
    whole = train("sft", name="whole", **options)

    def killed_at(event):
        name, counted = f"broken-{event}", tmp_path / f"events-{event}"

        def action():
            count_events(str(tmp_path / "runs"), event, str(counted))
            train("sft", name=name, **options)

        status = in_child(action, tmp_path / "output.txt")
        return Run(tmp_path / "runs" / name), status, counted.read_text().splitlines()

    _, status, events = killed_at(0)
    assert status == 0 and len(events) > 30
    for event in chosen(range(1, len(events) + 1)):
        broken, status, _ = killed_at(event)
        assert status == 128 + signal.SIGKILL
        if not broken.path.exists():
            continue  # Killed before the folder stood: nothing was begun.
        if broken.is_complete:
            # Killed behind the summary, maybe before the heartbeat was removed: readers go by the summary.
            assert state_of(broken.summary, read_beat(broken)) == "finished"
            (broken.path / FILE).unlink(missing_ok=True)
        else:
            zoo.resume(broken.path, quiet=True)
        assert_same(broken, whole, events[event - 1])
    return events


@pytest.mark.long
def test_killed_at_file_events(train, tmp_path):
    """Every fifth of those of a run: its folder, metrics, checkpoints, model, summary."""
    events = kill_at_events(train, tmp_path, lambda all_events: all_events[2::5])
    text = "\n".join(events)
    for part in ("run.yaml", "metrics.jsonl", "step-2/manifest.json", ".tmp-model", "summary.json", "report.html"):
        assert part in text


@pytest.mark.slow
def test_killed_at_every_file_event(train, tmp_path):
    kill_at_events(train, tmp_path, lambda all_events: all_events)


# -- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "expected", "name"), [(signal.SIGINT, 130, "ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_signal_stops_after_the_step_with_a_checkpoint(whole, interrupted, tmp_path, number, expected, name):
    unbroken = whole("dpo")
    broken, status = interrupted(3, number, algo="dpo")
    text = (tmp_path / "output.txt").read_text()
    assert status == expected
    assert "Stopping after this step, with a checkpoint" in text
    said = f"Stopped by {name} after step 3. The checkpoint is complete.\nContinue with: zoo resume {broken.path}"
    assert said in text
    assert "Traceback" not in text
    assert [path.name for path in broken.checkpoints.iterdir()] == ["step-3"]
    assert (broken.status, broken.summary["steps"]) == ("stopped", 3)
    zoo.resume(broken.path, quiet=True)
    assert_same(broken, unbroken)


def test_without_regular_checkpoints_a_signal_still_saves_one(whole, interrupted):
    unbroken = whole("sft", save_every=0)
    broken, _ = interrupted(3, signal.SIGINT, save_every=0)
    assert [path.name for path in broken.checkpoints.iterdir()] == ["step-3"]
    zoo.resume(broken.path, quiet=True)
    assert_same(broken, unbroken)


def test_a_second_signal_stops_at_once(interrupted):
    broken, status = interrupted(3, signal.SIGINT, signal.SIGINT)
    assert status == 128 + signal.SIGINT
    assert [path.name for path in broken.checkpoints.iterdir()] == ["step-2"], "no time was taken to save"
    assert broken.status == "unfinished"


def test_a_signal_in_the_last_step_lets_the_run_end(interrupted):
    run, status = interrupted(6, signal.SIGINT)
    assert status == 0 and run.status == "finished"


def test_a_signal_before_the_first_step_leaves_nothing(train, tmp_path):
    class Early:
        @hookimpl
        def run_start(self):
            os.kill(os.getpid(), signal.SIGINT)

    def action():
        installed(Early())
        train("sft", name="early", quiet=False)

    assert in_child(action, tmp_path / "output.txt") == 130
    text = (tmp_path / "output.txt").read_text()
    assert "Stopped by ctrl-C before the first step; no run was kept." in text and "Traceback" not in text
    assert list((tmp_path / "runs").iterdir()) == []


def test_signal_handlers_are_given_back(train, interrupted):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train("sft", max_steps=1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


WAITING = '''
import time
from pathlib import Path

from zoo_plugins.sft import SFT


class Waiting(SFT):
    """Waits in its third step for the file `go`."""

    def loss(self, batch, models, config, step):
        if step == 2:
            Path("waiting").touch()
            while not Path("go").exists():
                time.sleep(0.01)
        return super().loss(batch, models, config)
'''


@pytest.mark.long
def test_ctrl_c_at_the_command_line_and_resume(whole, tmp_path, tiny_folder):
    """The real thing: a command in a process of its own, a signal from outside, and a second command."""
    unbroken = whole("sft", save_every=0)
    (tmp_path / "waiting.py").write_text(WAITING)
    flags = float32_flags(save_every=0, lr=1e-3, schedule="cosine", epochs=2)
    started = start_command(
        "train", "--algo", "./waiting.py:Waiting", "--model", tiny_folder, "--data", data_for("sft", tmp_path),
        "--name", "mine", *flags, cwd=tmp_path,
    )  # fmt: skip
    while not (tmp_path / "waiting").exists():
        assert started.poll() is None, started.stdout.read()
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    (tmp_path / "go").touch()
    text, _ = started.communicate(timeout=60)
    assert started.returncode == 130 and "Traceback" not in text
    assert text.strip().endswith(
        "Stopped by ctrl-C after step 3. The checkpoint is complete.\nContinue with: zoo resume runs/mine"
    )
    (done,) = forked((["resume", "mine"], {}), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Resuming from step-3." in done.stdout and done.stderr == ""
    run = Run(tmp_path / "runs" / "mine")
    assert same_bytes(run, unbroken, "model/model.safetensors") and same_bytes(run, unbroken, "metrics.jsonl")


# -- damage and change ---------------------------------------------------------------------------------------------


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def test_a_damaged_checkpoint_is_named_and_the_run_starts_again_if_that_is_accepted(whole, interrupted, capsys):
    unbroken = whole("sft")
    broken, _ = interrupted(3, signal.SIGKILL)
    flip(broken.checkpoints / "step-2" / "weights.safetensors")
    with pytest.raises(ZooError, match=r"checkpoint \(step-2\) was usable, is not"):
        zoo.resume(broken.path)
    zoo.resume(broken.path, allow_change=["checkpoint"])
    text = capsys.readouterr().out
    assert "step-2/weights.safetensors is damaged: it is not what was written." in text
    assert "No checkpoint: starting again." in text
    assert_same(broken, unbroken)


def test_the_checkpoint_before_a_damaged_one_is_taken(whole, interrupted, tmp_path, capsys):
    """Two stand when the run was killed between writing the new one and removing the old one."""
    unbroken = whole("sft")
    broken, _ = interrupted(5, signal.SIGKILL, keep_last=2)
    flip(broken.checkpoints / "step-4" / "rest.pt")
    zoo.resume(broken.path)
    text = capsys.readouterr().out
    assert "step-4/rest.pt is damaged" in text and "Resuming from step-2." in text
    assert_same(broken, unbroken)


def test_changed_data_is_refused_unless_allowed(interrupted, tmp_path):
    broken, _ = interrupted(3, signal.SIGKILL)
    file, before = tmp_path / "sft-12.jsonl", broken.read_json("data.json")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["completion"] = "something else"
    write_rows(file, rows)
    with pytest.raises(ZooError, match=r"data \(train\) was sha256:.*, is sha256:") as caught:
        zoo.resume(broken.path, quiet=True)
    assert "--allow-change data" in caught.value.hint
    assert zoo.resume(broken.path, quiet=True, allow_change=["data"]).is_complete
    assert broken.read_json("data.json") != before


def test_a_finished_run_says_so(train):
    run = train("sft", max_steps=1)
    with pytest.raises(ZooError, match="is finished") as caught:
        zoo.resume(run.path)
    assert str(run.model_path) in caught.value.hint


def test_a_run_that_is_still_going_on_cannot_be_resumed(interrupted, tmp_path):
    broken, _ = interrupted(3, signal.SIGKILL)
    with broken.alone():
        with pytest.raises(ZooError, match="The run broken is being trained by another process"):
            zoo.resume(broken.path, quiet=True)
        # A process that dies takes its lock with it, and another one's is no business of a child's.
        assert in_child(lambda: zoo.resume(broken.path, quiet=True), tmp_path / "output.txt") != 0
    assert zoo.resume(broken.path, quiet=True).status == "finished"


def test_a_kept_checkpoint_is_the_last_step(train):
    run = train("sft", keep_checkpoints=True)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-6"]


def test_resuming_goes_on_and_does_not_begin_again(interrupted, monkeypatch):
    from zoo.training.step.module import PostTraining

    broken, _ = interrupted(3, signal.SIGKILL)
    steps = []
    original = PostTraining.training_step
    monkeypatch.setattr(
        PostTraining, "training_step", lambda self, *a: (steps.append(self.steps_done), original(self, *a))[1]
    )
    zoo.resume(broken.path, quiet=True)
    assert steps == [2, 3, 4, 5]
    assert len(losses(broken)) == 6


def test_last_finds_the_stopped_run(train, interrupted, tmp_path, monkeypatch):
    train("sft", max_steps=1)
    broken, _ = interrupted(3, signal.SIGINT)
    os.utime(broken.path / "run.yaml")
    monkeypatch.chdir(tmp_path)
    assert find_run("last") == Run(broken.path.relative_to(tmp_path))
    assert zoo.resume("last", quiet=True).status == "finished"


def test_an_evaluation_that_draws_numbers_does_not_change_a_run_that_begins_again(train, tmp_path, monkeypatch):
    """Killed before the first checkpoint, a run does not score its start again, and its noise is what it would be."""

    class Evaluation:
        @hookimpl
        def evals(self):
            return {"drawing": Eval("For tests.", self.drawing)}

        def drawing(self, subject):
            return Score("drawing", float(torch.rand(())), 1, 0.0, 1.0)

    modules, broken_ones = registry.plugin_modules()
    monkeypatch.setattr(registry, "plugin_modules", lambda: ((*modules, ("mine@test", Evaluation())), broken_ones))
    noisy = {"score": "drawing", "neftune_alpha": 5.0, "max_steps": 2}
    whole = train("sft", name="whole", **noisy)

    def action():
        installed(SignalAt(1, signal.SIGKILL))
        train("sft", name="broken", **noisy)

    assert in_child(action, tmp_path / "output.txt") == 128 + signal.SIGKILL
    broken = Run(tmp_path / "runs" / "broken")
    zoo.resume(broken.path, quiet=True)
    assert_same(broken, whole)


def test_a_folder_that_a_kill_left_half_made_goes_with_the_next_run(train, tmp_path):
    left = tmp_path / "runs" / f".tmp-{socket.gethostname()}-{2**22 + 1}"
    mine = tmp_path / "runs" / f".tmp-{socket.gethostname()}-{os.getppid()}"
    for folder in (left, mine):
        folder.mkdir(parents=True)
    train("sft", max_steps=1, name="next")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"next", mine.name}
