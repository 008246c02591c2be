"""Small data and short runs for the tests of training: not a test file itself."""

import contextlib
import faulthandler
import io
import json
import os
import pty
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from unittest import mock

import pytest
from safetensors.torch import load_file

import zoo
from zoo.training.step.module import PostTraining

WORDS = "red blue green one two three cat dog sun moon here there".split()
FLOAT32 = {"precision": "32-true", "eval_fraction": 0.0, "schedule": "constant", "warmup": 0.0}


def sentence(source, low, high):
    return " ".join(source.choice(WORDS) for _ in range(source.randint(low, high)))


def demonstrations(count=12, seed=0):
    """Every prompt has two answers, so that there is something to share."""
    source = random.Random(seed)
    prompts = [f"{sentence(source, 1, 6)} {i}" for i in range((count + 1) // 2)]
    return [{"prompt": prompts[i // 2], "completion": f"{sentence(source, 1, 8)} {i}"} for i in range(count)]


def preferences(count=12, seed=0):
    source = random.Random(seed)
    return [
        {
            "prompt": f"{sentence(source, 1, 6)} {i}",
            "chosen": sentence(source, 1, 6),
            "rejected": sentence(source, 2, 9),
        }
        for i in range(count)
    ]


ROWS = {"sft": demonstrations, "dpo": preferences}


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def named_roles(cls, model):
    """The options that name the models which an algorithm cannot do without."""
    return {"teacher": str(model)} if "teacher" in cls().roles(cls.Config()) else {}


def data_for(algo, folder, count=12):
    """A file of rows that the algorithm can learn from."""
    return write_rows(folder / f"{algo}-{count}.jsonl", ROWS[algo](count))


def weights(run):
    return load_file(run.model_path / "model.safetensors")


def differences(first, second):
    """Largest absolute difference of two runs' weights."""
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


def assert_same_runs(first, second):
    """Weights and metrics are equal but for rounding."""
    assert differences(first, second) < 1e-5
    assert len(first.log_history) == len(second.log_history)
    for a, b in zip(first.log_history, second.log_history, strict=True):
        assert a.keys() == b.keys()
        assert [a[name] for name in a] == pytest.approx([b[name] for name in a], abs=1e-5, rel=1e-4)


def same_bytes(first, second, name):
    return (first.path / name).read_bytes() == (second.path / name).read_bytes()


class Killed(Exception):
    """What ends the process of a run, as far as the run can tell."""


def broken_run(train, step, **options):
    """The folder of a run by the name `broken` that was killed in the step after this one."""
    real = PostTraining.training_step

    def dies(self, batch, index):
        if self.steps_done == step:
            raise Killed
        return real(self, batch, index)

    with mock.patch.object(PostTraining, "training_step", dies), pytest.raises(Killed):
        train(name="broken", **options)
    return zoo.load_run("broken")


def losses(run):
    return [row["loss"] for row in run.log_history if "loss" in row]


def trainer(tmp_path, model):
    """`train(algo, **options)`: a quiet run under tmp_path in exact arithmetic, 4 rows a step, with its data made."""

    def train(algo="sft", rows=12, **options):
        options = {"model": str(model), "out": str(tmp_path / "runs"), "batch_size": 4, **FLOAT32, **options}
        if "data" not in options:
            options["data"] = data_for(algo, tmp_path, rows)
        return zoo.train(algo, **{"quiet": True, **options})

    return train


def command(*arguments, cwd, **environment):
    """The command line as a list, and the environment to start it in."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200", **environment}
    return {"args": [sys.executable, "-m", "zoo.cli.main", *map(str, arguments)], "cwd": cwd, "env": env}


def run_command(*arguments, cwd, stdin=None, **environment):
    """Run `zoo …` to its end; the finished process with its output as text."""
    started = command(*arguments, cwd=cwd, **environment)
    return subprocess.run(**started, input=stdin, capture_output=True, text=True, timeout=120)


def start_command(*arguments, cwd, **environment):
    started = command(*arguments, cwd=cwd, **environment)
    return subprocess.Popen(**started, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def forked(*commands, cwd, timeout=120):
    """Run `zoo …` in forks of this process at the same time; the finished processes in their order.

    commands: (arguments, environment) each. A fork has imported everything, which takes a fresh process seconds. What
    starts processes of its own needs a fresh one: `run_command`.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [[Path(folder, f"{i}.{name}") for name in ("out", "err")] for i in range(len(commands))]
        children = [start_fork(*typed, cwd, *to) for typed, to in zip(commands, files, strict=True)]
        statuses = [status_of(child, timeout) for child in children]
        texts = [[file.read_text(encoding="utf-8", errors="replace") for file in to] for to in files]
    for typed, (_, err) in zip(commands, texts, strict=True):
        if "most recent call first" in err:
            print(f"{typed[0]} took more than {timeout} s:\n{err}")
    return [subprocess.CompletedProcess(typed[0], status, *said)
            for typed, status, said in zip(commands, statuses, texts, strict=True)]  # fmt: skip


def start_fork(arguments, environment, cwd, out, err):
    """Begin `zoo …` in a fork of this process, which writes to these files; gives its number."""
    out.touch()
    err.touch()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.chdir(cwd)
        os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", COLUMNS="200", **environment)
        with out.open("w", encoding="utf-8") as stdout, err.open("w", encoding="utf-8") as stderr:
            os.dup2(stdout.fileno(), 1)
            os.dup2(stderr.fileno(), 2)
            faulthandler.register(signal.SIGUSR2, file=stderr, all_threads=True)
            try:
                status = _typed(arguments, "", stdout, stderr)
            except BaseException:
                traceback.print_exc(file=stderr)
    finally:
        os._exit(status)


def status_of(child, timeout):
    """The exit status of a child, as subprocess has it; one that takes too long is killed."""
    end = time.monotonic() + timeout
    while (found := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            # It writes where its threads are: see `forked`.
            os.kill(child, signal.SIGUSR2)
            time.sleep(1.0)
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(found[1])


def together(arguments, cwd, ranks, **environment):
    """`zoo …` in one fork for each of the environments of `ranks`, which meet at a port of their own."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1])}
    return forked(*((arguments, {**rank, **meet, **environment}) for rank in ranks), cwd=cwd)


def torchrun(rank, size):
    """What torchrun tells one of its processes, but where these meet."""
    return {
        "TORCHELASTIC_RUN_ID": "x", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
        "GROUP_RANK": "0",
    }  # fmt: skip


def two_processes(*arguments, cwd, **environment):
    """`zoo …` in two processes as torchrun starts them; the finished processes."""
    return together(arguments, cwd, [torchrun(rank, 2) for rank in (0, 1)], **environment)


def float32_flags(**more):
    """The exact arithmetic of `trainer`, as flags."""
    options = {**FLOAT32, "batch_size": 4, **more}
    return [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), str(value))]


def plugin_file(folder, body, name="bad.py"):
    """An algorithm in a file of its own; gives what --algo takes."""
    file = Path(folder) / name
    file.write_text(
        "import torch\nfrom dataclasses import dataclass\nfrom zoo.api import Algorithm, Loss, ZooError\n\n" + body,
        encoding="utf-8",
    )
    return str(file)


def cli(*arguments, stdin=""):
    """`zoo …` in this process: exit status, and what it printed to stdout and to stderr."""
    out, err = io.StringIO(), io.StringIO()
    status = _typed(arguments, stdin, out, err)
    return status, out.getvalue(), err.getvalue()


def on_terminal(*arguments, stdin="", width=80):
    """`zoo …` in this process on a pseudo-terminal: exit status, and the characters that it wrote."""
    master, slave = pty.openpty()
    written = []

    def read():
        # Linux ends the reading side of a closed terminal with an error.
        with contextlib.suppress(OSError):
            while part := os.read(master, 65536):
                written.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    look = {"COLUMNS": str(width), "TERM": "xterm"}
    try:
        with mock.patch.dict(os.environ, look), open(slave, "w", encoding="utf-8") as stream:
            status = _typed(arguments, stdin, stream, stream)
    finally:
        reader.join()
        os.close(master)
    return status, b"".join(written).decode(errors="replace")


def _typed(arguments, stdin, out, err):
    from zoo.cli import main as module

    former = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["zoo", *map(str, arguments)], io.StringIO(stdin)
    module.app.registered_commands.clear()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            module.main()
        return 0
    except SystemExit as error:
        return error.code or 0
    finally:
        sys.argv, sys.stdin = former
