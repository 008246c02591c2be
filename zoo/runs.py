"""The run folder: its files, its name, and how to find it by path, name or `last`."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import zoo
from zoo.contract.lent import PREFIX, is_lent
from zoo.errors import ZooError, in_words, nearest
from zoo.options.strict_yaml import read_yaml, write_yaml
from zoo.paths import typed_path, write_text
from zoo.secrets import scrubbed

ENDING = "ending"
"""In the summary of a finished run until its listeners, such as the report, have been called."""
TEMPLATE = "template.jinja"
"""The chat template that the run was given by --template."""
NAMED = 10
"""Runs that an error names."""
WARNINGS = "warnings.json"
"""What the report warns of: {"warnings": [sentence]}."""
BEST = "best.safetensors"
"""The weights with the best validation, until the run ends."""
PACKAGES = ("torch", "lightning", "transformers", "peft", "datasets", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True)
class Run:
    """A folder with one training run: configuration, data report, metrics, checkpoints, model."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def typed(self) -> str:
        """Its spelling in a command: the name if it is in runs/, else the path."""
        return self.name if self.path.parent == Path("runs") else str(self.path)

    @property
    def model_path(self) -> Path:
        """The trained model, a Hugging Face folder."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def config(self) -> dict[str, Any]:
        """Every option of the run; run.yaml can be run again."""
        return read_yaml(self.path / "run.yaml")

    @property
    def log_history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: one entry per logged step, in order, validations as entries of their own."""
        return self.read_rows("metrics.jsonl")

    @property
    def metrics(self) -> Any:
        """What was logged, as a frame of pandas: a row for each step; validations are the columns `val/…`."""
        import pandas

        rows: dict[int, dict[str, Any]] = {}
        for row in self.log_history:
            rows.setdefault(row["step"], {}).update(row)
        return pandas.DataFrame(list(rows.values())).set_index("step") if rows else pandas.DataFrame()

    @property
    def timings(self) -> list[dict[str, Any]]:
        """Seconds and tokens per second of each logged step and of the rollout before it."""
        return self.read_rows("timing.jsonl")

    @property
    def timing(self) -> dict[str, float]:
        """Seconds, tokens and speeds of the whole run."""
        return {name: value for name, value in self.read_json("timing.json").items() if isinstance(value, int | float)}

    @property
    def summary(self) -> dict[str, Any]:
        """status, steps, and the scores before and after; written when the run ends."""
        return self.read_json("summary.json")

    @property
    def status(self) -> str:
        """finished, failed (nothing was trained), stopped (resumable) or unfinished."""
        return str(self.summary.get("status", "unfinished"))

    @property
    def is_complete(self) -> bool:
        """Whether a finished run has its report too, and nothing left over; else `zoo resume` ends it."""
        return self.status == "finished" and not self.summary.get(ENDING)

    def load(self) -> tuple[Any, Any]:
        """The trained model and its tokenizer."""
        return zoo.load(str(self.path))

    def plot(self, *metrics: str) -> Any:
        """The metrics by step, as a picture that a notebook shows: `run.plot("loss", "val/loss")`."""
        return zoo.plot(self, *metrics)

    def _repr_html_(self) -> str:
        return str(import_module("zoo.report.notebook").html_of(self))

    def read_json(self, name: str) -> dict[str, Any]:
        """A file of the run; {} if there is none. Raises ZooError that names it and the line if it is damaged."""
        file = self.path / name
        return _object(file, file.read_bytes()) if file.is_file() else {}

    @property
    def command(self) -> str:
        """What was typed; "" if that is not known."""
        file = self.path / "command.txt"
        return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""

    def part(self, name: str, *keys: str) -> dict[str, Any]:
        """The object under these keys of a file of the run; {} if there is none. Raises as `read_json`."""
        found = self.read_json(name)
        for key in keys:
            found = found.get(key, {})
            if not isinstance(found, dict):
                raise _damaged(self.path / name, f"'{key}' is {KINDS[type(found)]}, not an object")
        return found

    def read_rows(self, name: str, keys: Collection[str] = ()) -> list[dict[str, Any]]:
        """The lines of a file of the run, one JSON object each; none if there is no such file. Raises as `read_json`.

        keys: what every line must have.

        A kill during a write leaves an incomplete last line, which is left out.
        """
        file = self.path / name
        lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
        rows = [_object(file, line, number) for number, line in enumerate(lines, 1)]
        for number, row in enumerate(rows, 1):
            if missing := [key for key in keys if key not in row]:
                raise _damaged(file, f"it lacks '{missing[0]}'", number)
        return rows

    def write_json(self, name: str, content: Any) -> None:
        """Write a file of the run, completely or not at all."""
        write_text(self.path / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Lock this folder against training by other processes; see `hold`."""
        with hold(
            self.path, f"The run {self.name} is being trained by another process.", f"zoo resume {self.path}"
        ):  # fmt: skip
            yield


@contextlib.contextmanager
def hold(folder: Path, message: str, command: str) -> Iterator[None]:
    """Lock a folder against other processes until this one ends, however it ends.

    The folder itself is locked: whatever is replaced in it, and wherever it is moved, it stays locked; a copy of it is
    another folder. Network disks lock files only, there `.lock` in it. Raises ZooError with the message if another
    process holds it; command: what to type when that has ended. Without any locks (Windows) nothing is locked.
    """
    with contextlib.ExitStack() as held:
        try:
            _lock(folder, held)
        except BlockingIOError:
            raise ZooError(message, f"Wait for it to end, or stop it with ctrl-C; then: {command}") from None
        except (ImportError, OSError):
            pass
        yield


@contextlib.contextmanager
def in_turn(folder: Path, waiting: Callable[[], None], every: float = 0.2) -> Iterator[None]:
    """Lock a folder as `hold` does, after the processes that hold it now. waiting: called once if there is one."""
    with contextlib.ExitStack() as held:
        told = False
        while True:
            try:
                _lock(folder, held)
            except BlockingIOError:
                if not told:
                    waiting()
                told = True
                time.sleep(every)
                continue
            except (ImportError, OSError):
                pass
            break
        yield


def _lock(folder: Path, held: contextlib.ExitStack) -> None:
    """Raises BlockingIOError if another process holds the folder, OSError or ImportError if nothing can be locked."""
    import fcntl

    def flock(place: Path, flags: int) -> None:
        descriptor = os.open(place, flags, 0o666)
        held.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    try:
        flock(folder, os.O_RDONLY)
    except BlockingIOError:
        raise
    except OSError:
        flock(folder / ".lock", os.O_RDWR | os.O_CREAT)


MENDED = {
    "summary.json": "remove it: `zoo resume` then makes the end of the run again",
    "before.json": "remove it: `zoo resume` then scores the start again",
}
"""What to do about a damaged file of which there is no copy, if it is not left out of reports then."""


KINDS: dict[type, str] = {
    list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null",
}  # fmt: skip
"""What JSON holds besides objects, in words."""


def _object(file: Path, text: bytes, line: int | None = None) -> dict[str, Any]:
    """The JSON object in a file, or in one line of it. Raises ZooError."""
    where = f"{file}:{line}" if line else str(file)
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            return content
        why = f"it holds {KINDS[type(content)]}, not an object"
    except json.JSONDecodeError as error:
        where, why = f"{file}:{line or error.lineno}", f"{error.msg.removesuffix(' at')} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        why = str(error)
    raise _damaged(file, why, line, where)


def _damaged(file: Path, why: str, line: int | None = None, where: str = "") -> ZooError:
    where = where or (f"{file}:{line}" if line else str(file))
    otherwise = f"remove {'this line' if line else 'it'}, and reports go without it"
    return ZooError(
        f"{where} is damaged: {why}.", f"Put it back from a copy, or {MENDED.get(file.name, otherwise)}."
    )  # fmt: skip


def is_held(folder: Path) -> bool:
    """Whether a process holds a folder with `hold`; no, where nothing can be locked."""
    with contextlib.ExitStack() as held:
        try:
            _lock(folder, held)
        except BlockingIOError:
            return True
        except (ImportError, OSError):
            pass
        return False


def remove_run(run: Run) -> None:
    """Delete the folder of a run. Raises ZooError while another process trains it, or where it cannot be deleted."""
    with run.alone():
        # Half of a run is not taken for one.
        beside = run.path.with_name(f".tmp-{socket.gethostname()}-{os.getpid()}")
        try:
            os.rename(run.path, beside)
            shutil.rmtree(beside)
        except OSError as error:
            raise ZooError(
                f"{error.filename or run.path} cannot be deleted: {error.strerror}.", "Delete it by hand."
            ) from None


def check_name(out: str, name: str | None) -> None:
    """Raises ZooError for an impossible name, or for the name of an existing run."""
    if name is None:
        return
    if name == "last" or not re.fullmatch(r"[\w][\w.+-]*", name):
        raise ZooError(f"'{name}' is not a name for a run.", "Use letters, digits, dots and dashes; last is taken.")
    taken = Run(typed_path(out) / typed_path(name))
    if not taken.path.exists():
        return
    go_on = ""
    if (taken.path / "run.yaml").is_file():
        go_on = {
            "finished": f" It is finished; to train further from it: --model {taken.typed}.",
            "failed": " It has failed; remove it to make it again.",
        }.get(taken.status, f" It is not finished; to continue it: zoo resume {taken.typed}")
        if is_held(taken.path):
            go_on = f" It is being trained; to watch it: zoo runs --follow {taken.typed}"
    raise ZooError(f"There is already a run {taken.path}.", f"Choose another --name.{go_on}")


def create_run(
    out: str, name: str | None, default: str, config: dict[str, Any], command: str = "", device: str = "",
    **content: Any,
) -> Run:  # fmt: skip
    """A new run folder with run.yaml, command.txt, environment.json, and a JSON file for each further argument.

    command: what was typed; device: the name of what computes. The folder appears complete or not at all. Raises
    ZooError if a run with that name exists or the folder cannot be made.
    """
    parent = typed_path(out)
    check_name(out, name)
    temporary = Run(parent / f".tmp-{socket.gethostname()}-{os.getpid()}")
    try:
        shutil.rmtree(temporary.path, ignore_errors=True)
        _remove_unfinished(parent)
        temporary.path.mkdir(parents=True)
        write_yaml(temporary.path / "run.yaml", config)
        (temporary.path / "command.txt").write_text(scrubbed(command) + "\n", encoding="utf-8")
        place = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "device": device, **environment()}
        for file, values in {"environment": place, **content}.items():
            temporary.write_json(f"{file}.json", values)
        return Run(_claim(temporary.path, out, name, default))
    except OSError as error:
        raise _cannot_be_made(parent, error.strerror) from None
    finally:
        shutil.rmtree(temporary.path, ignore_errors=True)


def _remove_unfinished(parent: Path) -> None:
    """Remove the folders of runs that processes of this machine were killed in the middle of making."""
    # Who makes a run has loaded torch, who only reads one need not.
    from zoo.processes import process_is_alive

    for folder in parent.glob(f".tmp-{socket.gethostname()}-*"):
        number = folder.name.rpartition("-")[2]
        if number.isdigit() and not process_is_alive(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def default_name(algo: str, model: str) -> str:
    """The default name of a run without its number. model: the short name of its start."""
    of_file = Path(algo.split(":")[0]).stem if ".py" in algo else algo
    return f"{of_file.removeprefix(PREFIX).lower() if is_lent(algo) else of_file}-{model}"


def next_name(out: str, default: str) -> str:
    """The name that a new run would get."""
    parent = typed_path(out)
    return next(name for number in itertools.count(1) if not (parent / (name := f"{default}-{number}")).exists())


def check_writable(folder: Path) -> None:
    """Raises ZooError if no files can be made in a folder, which need not exist yet."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise _cannot_be_made(folder, f"{there} is a file")
    try:
        # Try with a file without a name: permissions alone do not tell, and the administrator has all of them.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise _cannot_be_made(folder, error.strerror if there == folder else f"{there}: {error.strerror}") from None


def _cannot_be_made(parent: Path, why: Any) -> ZooError:
    return ZooError(f"The run folder cannot be made in {parent}: {why}.", "Choose --out FOLDER.")


def _claim(temporary: Path, out: str, name: str | None, default: str) -> Path:
    """Give the folder its name; numbered names skip those that exist."""
    parent = typed_path(out)
    for number in itertools.count(1):
        path = parent / (name if name is not None else f"{default}-{number}")
        if not path.exists():
            try:
                os.rename(temporary, path)
                return path
            except OSError as error:
                # Another process may have taken the name in the meantime.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        check_name(out, name)
    raise AssertionError("there are numbers enough")


def environment() -> dict[str, Any]:
    """Versions and machine, names only: no paths, no environment variables."""
    return {
        "zoo": zoo.__version__,
        **({"commit": commit} if (commit := _commit()) else {}),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


@cache
def _commit() -> str:
    """The commit of a checkout of zoo, `-dirty` where files differ from it; "" for an installed package."""
    folder = Path(zoo.__file__).parent.parent
    if not (folder / ".git").exists():
        return ""
    asked = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def find_runs(out: str = "runs") -> list[Run]:
    """All runs under a folder, oldest first."""
    parent = typed_path(out)
    folders = [file.parent for file in parent.glob("[!.]*/run.yaml")] if parent.is_dir() else []
    return [Run(path) for path in sorted(folders, key=lambda path: ((path / "run.yaml").stat().st_mtime_ns, path.name))]


def find_run(name: str, out: str = "runs") -> Run:
    """The run at a path, of a name under `out`, or the newest for `last`. Raises ZooError."""
    path = typed_path(name)
    if (path / "run.yaml").is_file():
        return Run(path)
    runs = find_runs(out)
    if name == "last" and runs:
        return runs[-1]
    for run in runs:
        if run.name == name:
            return run
    names = [run.name for run in runs]
    raise ZooError(
        f"No run is called '{name}' in {out}/.{nearest(name, names)}",
        f"There are: {newest_of(names)}." if names else "There are no runs yet; start one with `zoo train`.",
    )


def newest_of(names: Sequence[str]) -> str:
    """The names of runs for an error: the newest, and how many others there are."""
    others = len(names) - NAMED
    return ", ".join(names[-NAMED:]) + (f" and {others} older ones (`zoo runs`)" if others > 0 else "")


@in_words
def load_run(name: str | Path = "last", out: str = "runs") -> Run:
    """A run by its path, its name under `out`, or `last`: `zoo.load_run("last").metrics`. Raises ZooError."""
    return find_run(str(name), out)


def is_run_name(name: str, out: str = "runs") -> bool:
    """Whether `name` is `last`, a run's path, or a run's name; or that of a run's checkpoint."""
    name = split_checkpoint(name)[0]
    return name == "last" or (Path(name) / "run.yaml").is_file() or (Path(out) / name / "run.yaml").is_file()


def own_template(run: Run, template: str) -> str:
    """The text of the chat template that a run was given, or how it was named, where the run has no text of it."""
    file = run.path / TEMPLATE
    return file.read_text(encoding="utf-8") if file.is_file() else template


def split_checkpoint(name: str) -> tuple[str, str]:
    """`mine@step-200` and `mine@last` as run and checkpoint; (name, "") for all other names, and for a path."""
    run, _, checkpoint = name.rpartition("@")
    if run and re.fullmatch(r"last|step-\w*", checkpoint) and not typed_path(name).exists():
        return run, checkpoint
    return name, ""


def saved_steps(run: Run) -> list[int]:
    """The steps of a run's checkpoints, in order; each is a folder `checkpoints/step-N`."""
    folders = run.checkpoints.glob("step-*") if run.checkpoints.is_dir() else []
    return sorted(int(folder.name[5:]) for folder in folders if re.fullmatch(r"step-\d+", folder.name))
