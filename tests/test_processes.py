"""Two processes compute what one does; the second one is silent and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
from tiny_runs import (
    assert_same_runs,
    data_for,
    demonstrations,
    float32_flags,
    losses,
    run_command,
    same_bytes,
    start_command,
    trainer,
    two_processes,
    write_rows,
)

from zoo.runs import Run

# Adam divides by the size of the gradient: where that is rounding alone, ε must be larger than it.
OPTIONS = {"lr": 1e-3, "optimizer": "adamw(eps=1e-5)", "epochs": 1}


@pytest.fixture
def one(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache-one"))
    return trainer(tmp_path, tiny_folder)


def command_of(algo, tmp_path, tiny_folder, rows, **options):
    """`zoo train …` on two processes."""
    flags = float32_flags(**{**OPTIONS, "devices": 2, "accelerator": "cpu", "out": tmp_path / "two", **options})
    return ["train", "--algo", algo, "--model", str(tiny_folder), "--data", data_for(algo, tmp_path, rows), *flags]


def only_run(tmp_path):
    (path,) = (tmp_path / "two").iterdir()
    return Run(path)


@pytest.mark.long
def test_two_processes_give_what_one_gives(one, tmp_path, tiny_folder):
    """10 rows, 4 a step: the last step has 2, and answers differ in length, so the processes' shares are unequal."""
    held_out = write_rows(tmp_path / "held.jsonl", demonstrations(5, seed=9))
    single = one("sft", rows=10, eval_data=held_out, **OPTIONS)
    arguments = command_of("sft", tmp_path, tiny_folder, 10, eval_data=held_out)
    done = run_command(*arguments, cwd=tmp_path, ZOO_CACHE=str(tmp_path / "cache-two"))
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    double = only_run(tmp_path)
    assert len(losses(double)) == 3
    assert_same_runs(single, double)
    for text in ("rows read", "Training sft", "Precision", "sft-tiny-1: 3 steps"):
        assert done.stdout.count(text) == 1, "the second process is silent"


@pytest.mark.long
def test_a_mixture_on_two_processes_is_that_of_one(one, tmp_path, tiny_folder):
    a, b = (
        write_rows(tmp_path / f"{name}.jsonl", demonstrations(24, seed=seed)) for name, seed in (("a", 0), ("b", 5))
    )
    options = {"eval_fraction": 0.1, "eval_every": 3, "max_steps": 6}
    single = one("sft", data=f"3*{a} + {b}", **OPTIONS, **options)
    arguments = command_of("sft", tmp_path, tiny_folder, 10, **options)
    arguments[arguments.index("--data") + 1] = f"3*{a} + {b}"
    for done in two_processes(*arguments, cwd=tmp_path):
        assert done.returncode == 0, done.stdout + done.stderr
    double = only_run(tmp_path)
    assert "loss/b" in double.log_history[1] and "val/loss/a" in double.log_history[0]
    assert_same_runs(single, double)


@pytest.mark.long
def test_torchrun_starts_the_processes_too(one, tmp_path, tiny_folder):
    """11 rows: the last step has 3, so one process has an example more than the other."""
    single = one("dpo", rows=11, **OPTIONS)
    arguments = command_of("dpo", tmp_path, tiny_folder, 11)
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            "-m", "zoo.cli.main", *map(str, arguments),
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ZOO_CACHE": str(tmp_path / "cache-two")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_same_runs(single, only_run(tmp_path))
    assert done.stdout.count("Training dpo") == 1


WAITING = """
import time
from pathlib import Path

from zoo_plugins.dpo import DPO


class Waiting(DPO):
    '''Waits in its second step for the file `go`.'''

    def loss(self, batch, models, config, step):
        if step == 1:
            Path("waiting").touch()
            while not Path("go").exists():
                time.sleep(0.01)
        return super().loss(batch, models, config)
"""


@pytest.mark.long
def test_ctrl_c_stops_all_processes_and_they_go_on_together(one, tmp_path, tiny_folder):
    single = one("dpo", rows=10, **OPTIONS)
    (tmp_path / "waiting.py").write_text(WAITING)
    arguments = command_of("dpo", tmp_path, tiny_folder, 10)
    arguments[arguments.index("dpo")] = "./waiting.py:Waiting"
    started = start_command(*arguments, cwd=tmp_path, ZOO_CACHE=str(tmp_path / "cache-two"))
    while not (tmp_path / "waiting").exists():
        assert started.poll() is None, started.stdout.read()
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    (tmp_path / "go").touch()
    text, _ = started.communicate(timeout=120)
    run = only_run(tmp_path)
    assert started.returncode == 130 and "Traceback" not in text, text
    assert text.count("Stopped by ctrl-C after step 2. The checkpoint is complete.") == 1
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-2"]
    done, second = two_processes("resume", run.path, cwd=tmp_path, ZOO_CACHE=str(tmp_path / "cache-two"))
    assert done.returncode == second.returncode == 0, done.stdout + done.stderr + second.stdout + second.stderr
    assert done.stdout.count("Resuming from step-2.") == 1
    assert_same_runs(single, run)


NOISY = """
import hashlib
import os
import signal
import time
from pathlib import Path

import torch
from zoo_plugins.sft import SFT


class Noisy(SFT):
    '''Writes down what it is about to draw from, and is killed in its third step where it is told so.'''

    def loss(self, batch, models, config, step):
        if models.training:
            state = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()
            with Path(f"drawn-{os.environ.get('LOCAL_RANK', '0')}.txt").open("a") as stream:
                stream.write(state + "\\n")
            if step == 2 and "KILL" in os.environ:
                while not Path("two/broken/checkpoints/step-2").is_dir():
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(batch, models, config)
"""


# Each noise and each strategy once; the other pairs of them repeat it.
@pytest.mark.parametrize(
    ("noise", "strategy"),
    [("adapters", "auto"), ("embeddings", "fsdp"), pytest.param("embeddings", "auto", marks=pytest.mark.long),
     pytest.param("adapters", "fsdp", marks=pytest.mark.long)],
)  # fmt: skip
def test_noise_of_every_process_is_resumed(tmp_path, tiny_folder, noise, strategy):
    """Each process draws noise of its own; killed after step 2 and resumed, all go on with theirs, bit for bit."""
    chosen = {"lora": "true", "lora_dropout": 0.5, "lr": 1e-2} if noise == "adapters" else {"neftune_alpha": 50}
    (tmp_path / "noisy.py").write_text(NOISY)
    arguments = command_of("sft", tmp_path, tiny_folder, 12, save_every=2, strategy=strategy, **chosen)
    arguments[arguments.index("sft")] = "./noisy.py:Noisy"
    arguments = ["--lora" if part == "--lora" else part for part in arguments if part != "true"]
    for done in two_processes(*arguments, "--name", "whole", cwd=tmp_path):
        assert done.returncode == 0, done.stdout + done.stderr
    first, second = ((tmp_path / f"drawn-{rank}.txt").read_text().split() for rank in (0, 1))
    assert len(first) == len(second) and not set(first) & set(second)
    killed = two_processes(*arguments, "--name", "broken", cwd=tmp_path, KILL="1")
    assert [done.returncode for done in killed] == [-signal.SIGKILL] * 2
    run = tmp_path / "two" / "broken"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-2"]
    for done in two_processes("resume", run, cwd=tmp_path):
        assert done.returncode == 0, done.stdout + done.stderr
    for name in ("metrics.jsonl", "summary.json"):
        assert same_bytes(Run(run), Run(tmp_path / "two" / "whole"), name)
    (file,) = (tmp_path / "two" / "whole" / "model").glob("*.safetensors")
    assert file.read_bytes() == (run / "model" / file.name).read_bytes()


DYING = """
import os
import signal
import time
from pathlib import Path

from zoo_plugins.sft import SFT


class Dying(SFT):
    '''Its second process is killed in the second step, once the first checkpoint is complete.'''

    def loss(self, batch, models, config, step):
        if step == 1 and os.environ.get("LOCAL_RANK") == "1":
            while not list(Path("two").glob("*/checkpoints/step-1")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(batch, models, config)
"""


EARLY = """
import os
import signal

from zoo_plugins.sft import SFT

from zoo.api import ZooError


class Early(SFT):
    '''Its second process is killed before the steps; or all of them refuse the rows.'''

    def prepare(self, records):
        if "REFUSE" in os.environ:
            raise ZooError("These rows are no good.", "Take others.")
        if os.environ.get("LOCAL_RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return records
"""


@pytest.mark.long
def test_a_sharded_run_that_ends_before_its_steps_says_so_once(tmp_path, tiny_folder):
    (tmp_path / "early.py").write_text(EARLY)
    arguments = command_of("sft", tmp_path, tiny_folder, 12, strategy="fsdp")
    arguments[arguments.index("sft")] = "./early.py:Early"
    cache = {"ZOO_CACHE": str(tmp_path / "cache-two")}
    killed = run_command(*arguments, cwd=tmp_path, **cache)
    said = "Process 1 of 2 has ended (by signal 9, SIGKILL), so the others end too."
    assert killed.returncode == 1 and said in killed.stderr
    refused = run_command(*arguments, cwd=tmp_path, REFUSE="1", **cache)
    assert refused.returncode == 2 and refused.stderr.count("These rows are no good.") == 1
    assert not any("Traceback" in done.stderr for done in (killed, refused)) and not list((tmp_path / "two").glob("*"))


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["auto", "fsdp"])
def test_how_a_started_process_ended_is_told(tmp_path, tiny_folder, strategy):
    (tmp_path / "dying.py").write_text(DYING)
    arguments = command_of("sft", tmp_path, tiny_folder, 12, save_every=1, strategy=strategy)
    arguments[arguments.index("sft")] = "./dying.py:Dying"
    done = run_command(*arguments, cwd=tmp_path, ZOO_CACHE=str(tmp_path / "cache-two"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "Process 1 of 2 has ended (by signal 9, SIGKILL), so the others end too. The last complete checkpoint is "
        "step-1.\n" in done.stderr
    )
