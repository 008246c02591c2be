"""What a resumed run compares with its beginning: what has changed is refused or told, and never silent.

`fingerprints.json` in the run folder holds what the run began with (`zoo.training.fingerprints`), what was changed and
accepted since, and a signature by which a user's own runs are told from those of others.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import zoo
from zoo.contract.lent import is_lent
from zoo.errors import TrainingFailed, ZooError, nearest
from zoo.options.config import FREE, TOLD
from zoo.options.expression import Expression, Mention
from zoo.paths import cache_folder
from zoo.runs import BEST, Run

FILE = "fingerprints.json"
REWARDS = ("reward", "gold_reward")
FILE_OF_CODE = re.compile(r"\.py\b|\breward\s*=(?!zoo\.)[^,)]*:")
"""In the value of an option: a Python file, or a function as the reward of an evaluation."""
WEIGHTS = "weights"
"""The part of an option that holds the files of its model."""
NOTHING, UNKNOWN = "nothing", "to be fetched"
BESIDES = ("tokenizer", "versions", "device", "records", "checkpoint", "fingerprints")
"""What may change besides the options and what they name."""
Prints = Mapping[str, Mapping[str, Any]]

OPTIONS = "options"
"""The key of the summary of a run that a guard has stopped: the digest of the options it had."""


class Beginning:
    """What a run began with. allowed: names of changes that are accepted; say: is told of those, and of small ones."""

    def __init__(self, run: Run, allowed: Collection[str], say: Callable[[str], None]):
        self.run, self.allowed, self.say = run, set(allowed), say
        _read_all(run)
        stored = run.read_json(FILE)
        self.prints: dict[str, dict[str, Any]] = stored.get("began", {})
        self.changes: list[dict[str, Any]] = stored.get("changes", [])
        self.marks: dict[str, Any] | None = stored.get("records")
        self.accepted: set[str] = set()
        self._known = bool(self.prints)
        if not self._known:
            self.judge({"fingerprints": {FILE: ("there", "nothing")}})

    def compare(self, now: Prints, whole: bool = True) -> None:
        """Judge what differs from the beginning; what is still to be fetched is not.

        whole: these are all parts of their names, so that a part that is missing has changed.
        """
        found: dict[str, dict[str, tuple[Any, Any]]] = {}
        for name, parts in now.items():
            began = self._began(name, parts)
            for part in dict.fromkeys([*began, *parts] if whole else parts):
                changed = _changed(part, began.get(part, NOTHING), parts.get(part, NOTHING))
                found |= {name: found.get(name, {}) | changed} if changed else {}
        self.judge(found)
        for name, parts in now.items():
            began = self._began(name, parts)
            kept = {part: value for part, value in began.items() if part in parts or not whole}
            self.prints[name] = kept | {part: value for part, value in parts.items() if value != UNKNOWN}

    def _began(self, name: str, parts: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parts of a name when the run began; as now, where that is not known or zoo had no such option."""
        if not self._known:
            return parts
        newer = self.prints.get("versions", {}).get("zoo") != zoo.__version__
        return self.prints.get(name, parts if newer else {})

    def judge(self, found: Mapping[str, Mapping[str, tuple[Any, Any]]]) -> None:
        """Tell, accept or refuse changes: {name: {part: (what was, what is)}}. Raises ZooError."""
        refused = [name for name in found if name not in TOLD and name not in self.allowed]
        if refused:
            lines = "\n".join(f"  {line}" for name in refused for line in _lines(name, found[name]))
            flags = " ".join(f"--allow-change {name}" for name in refused)
            raise ZooError(
                f"The run {self.run.name} is not what it was when it began:\n{lines}",
                f"Put back what was, or accept the change: zoo resume {self.run.path} {flags}",
            )
        for name, parts in found.items():
            for line in _lines(name, parts):
                told = "Accepted" if name in self.allowed else "Changed since the run began (the result may differ)"
                self.say(f"{told}: {line}")
            self.accepted.add(name)
            self.changes += [{"name": name, "part": part, "was": was, "is": now} for part, (was, now) in parts.items()]

    def keep(self, step: int) -> None:
        """Write down what was accepted. step: the last step before it."""
        if self.accepted:
            new = [{"step": step, **change} if "step" not in change else change for change in self.changes]
            write(self.run, self.prints, new, self.marks)


def _changed(part: str, was: Any, is_now: Any) -> dict[str, tuple[Any, Any]]:
    """What has changed of a part, by its name: of a model its files, {name: (what was, what is)}."""
    if was == is_now or UNKNOWN in (was, is_now):
        return {}
    if not isinstance(was, Mapping) or not isinstance(is_now, Mapping):
        return {part: (was, is_now)}
    pairs = {file: (was.get(file, NOTHING), is_now.get(file, NOTHING)) for file in {**was, **is_now}}
    owner = "" if part == WEIGHTS else f"{part}: "
    return {f"{owner}{file}": (a, b) for file, (a, b) in pairs.items() if a != b and UNKNOWN not in (a, b)}


def _read_all(run: Run) -> None:
    """Raises ZooError for a damaged file before anything is loaded, also for one that is read only at the end."""
    for file in sorted(run.path.glob("[!.]*.json")):
        try:
            run.read_json(file.name)
        except ZooError as error:
            name = "fingerprints" if file.name == FILE else "records"
            raise ZooError(
                error.message,
                f"Put it back from a copy; or remove it, and go on without it: zoo resume {run.path} "
                f"--allow-change {name}",
            ) from None


def _lines(name: str, parts: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [
        f"{name}{'' if part == 'value' else f' ({part})'} was {_shown(was)}, is {_shown(now)}"
        for part, (was, now) in parts.items()
    ]


def _shown(value: Any) -> str:
    text = str(value) or '""'
    return text if len(text) <= 80 else f"{text[:79]}…"


def write(run: Run, prints: Prints, changes: list[dict[str, Any]], marks: Mapping[str, Any] | None = None) -> None:
    """Write fingerprints.json, signed as this user's own."""
    run.write_json(FILE, contents(prints, changes, marks))


def contents(prints: Prints, changes: list[dict[str, Any]], marks: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What fingerprints.json holds."""
    return {"began": prints, "changes": changes, "records": marks, "signature": _signature(prints)}


def note_records(run: Run, marks: Mapping[str, Any]) -> None:
    """Write down which rows stand before the first step."""
    stored = run.read_json(FILE)
    if stored:
        run.write_json(FILE, {**stored, "records": marks})


# -- whose run it is -----------------------------------------------------------------------------------------------


def is_own(run: Run) -> bool:
    """Whether this user began the run, or accepted it, with the key in this machine's cache folder."""
    stored = run.read_json(FILE)
    signature = str(stored.get("signature") or "")
    return bool(signature) and hmac.compare_digest(signature, _signature(stored.get("began", {})))


def _signature(prints: Prints) -> str:
    """Empty where the cache folder has no key and cannot be given one."""
    try:
        key = _key()
    except OSError:
        return ""
    return hmac.new(key, json.dumps(prints, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """This user's secret, made on first use."""
    file = cache_folder() / "key"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".tmp-key-{os.getpid()}")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(secrets.token_bytes(32))
        try:
            # A link fails where another process was first, whose key then counts.
            os.link(beside, file)
        except FileExistsError:
            pass
        finally:
            beside.unlink()
    return file.read_bytes()


def named_code(options: Mapping[str, Any]) -> dict[str, str]:
    """The options of a run that name code in files or modules, which no installed package has registered."""
    texts = {name: str(value) for name, value in options.items() if value}
    return {
        name: text for name, text in texts.items()
        if FILE_OF_CODE.search(text) or (name in REWARDS and any(map(_is_foreign, mentions(text))))
    }  # fmt: skip


def _is_foreign(mention: Mention) -> bool:
    return ":" in mention.name and not mention.name.startswith("zoo.") and not is_lent(mention.name)


def mentions(reward: Any) -> Iterable[Mention]:
    """The rewards that the value of an option names."""
    return Expression(reward).mentions if isinstance(reward, str) and reward else ()


def refuse_foreign_code(run: Run, allowed: bool, hint: str) -> None:
    """Raises ZooError for a run of somebody else's that names code, unless that is allowed. Imports none of it."""
    code = named_code(run.config)
    if code and not allowed and not is_own(run):
        listed = "".join(f"\n  {name}: {text}" for name, text in code.items())
        raise ZooError(
            f"The run {run.path} names code that would be run, and was not begun by you on this machine:{listed}", hint
        )


def accept_code(run: Run) -> None:
    """Sign a run as this user's own from now on."""
    stored = run.read_json(FILE)
    if stored.get("began") and not is_own(run):
        run.write_json(FILE, {**stored, "signature": _signature(stored["began"])})


def check_allowed(allowed: Collection[str], options: Collection[str]) -> None:
    """Raises ZooError for a name of a change that nothing has. options: those of the core and of the algorithm."""
    known = [*(name for name in options if name not in FREE), "algo", *BESIDES]
    for name in allowed:
        if name not in known:
            raise ZooError(
                f"--allow-change {name}: nothing of that name is compared.{nearest(name, known)}",
                f"The options of the run, and {', '.join(BESIDES)}.",
            )


# -- the end -------------------------------------------------------------------------------------------------------


def refuse_ended(run: Run) -> None:
    """Raises what `ended` gives; a run that has failed for good then keeps nothing that only a resume needs."""
    if (error := ended(run)) is not None:
        if run.status == "failed" and OPTIONS not in run.summary:
            tidy(run)
        raise error


def ended(run: Run) -> ZooError | None:
    """Why a run cannot go on: it is complete, or has failed and would fail again (TrainingFailed); else None."""
    if run.is_complete:
        return ZooError(f"The run {run.name} is finished.", f"Its model is in {run.model_path}.")
    if run.status != "failed":
        return None
    begin_again = f"to make it again, remove {run.path} first."
    hint = f"{run.summary.get('hint')} Going on would change nothing; {begin_again}"
    if OPTIONS in run.summary:
        if run.summary[OPTIONS] != options_digest(run):
            return None
        hint = (
            f"{run.summary.get('hint')} With the same options it would end in the same way. Change some in "
            f"{run.path / 'run.yaml'}, then: zoo resume {run.path} --allow-change NAME; or {begin_again}"
        )
    return TrainingFailed(str(run.summary.get("reason")), hint)


def options_digest(run: Run) -> str:
    return hashlib.sha256((run.path / "run.yaml").read_bytes()).hexdigest()


def tidy(run: Run) -> None:
    """Remove from a run that has ended what only a resume needs, and what a kill left half-written."""
    from zoo.training.record.callbacks import forget_checkpoints

    (run.path / BEST).unlink(missing_ok=True)
    forget_checkpoints(run)
    for leftover in run.path.glob(".tmp-*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
