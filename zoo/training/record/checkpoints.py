"""Checkpoints that are complete or do not exist: written beside, flushed, hashed, renamed.

A checkpoint is a folder: `weights.safetensors`, `rest.pt` (optimizer, schedule, loader, counters; loads with
`weights_only`), and `manifest.json` with the sha256 of both, written last. It is copied in memory between two steps,
and a thread writes it while the next steps are made.

Of a model that is shared out no process has the whole: each of N writes `part-R-of-N.safetensors`, with what it holds
of the weights and of the optimizer's state, and says so in a file beside it; when all have, the first one writes the
rest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import pickle
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from zoo.errors import TrainingStopped, ZooError
from zoo.libraries.scattered import PARTS, WHOLE, Part, tensors_in, weights_in, write_parts
from zoo.libraries.trainer import CheckpointIO
from zoo.numbers import size
from zoo.paths import give_usual_rights
from zoo.processes import free_memory, from_all, my_rank

WEIGHTS, REST, MANIFEST = WHOLE, "rest.pt", "manifest.json"
IN_PARTS = ("state_dict", "optimizer_states")
"""What processes hold parts of."""
DONE = ".done-{}.json"
"""Beside its part: what a process has written, or why it could not."""
LOOK_EVERY = 0.005
"""Seconds between two looks for the part of another process."""
LAST_PARTS = 10.0
"""Seconds that the parts of other processes are waited for once one of them is gone."""
IN_BACKGROUND = True
"""Whether a thread writes. Tests that kill a run at a step write at once, so that they know what is there."""


class FolderCheckpoints(CheckpointIO):
    """Lightning's input and output of checkpoints, by the protocol above.

    One checkpoint is in flight at most: the next one waits for it. What fails in the thread is raised by the next save,
    by `settle`, or after a step by `look`. say: called with a warning about the disk; in_parts:
    checkpoints are loaded as tensors in files, of which each process reads its parts.
    """

    def __init__(self, say: Callable[[str], None] = print, in_parts: bool = False):
        self.say, self.in_parts = say, in_parts
        self._others_gone = threading.Event()
        self._warned = False
        self._writing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._complete: list[Path] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """storage_options: a function that is called when the checkpoint is complete, in the thread that writes it."""
        self.settle()
        target, place = Path(path), None
        if any(isinstance(weight, Part) for weight in checkpoint["state_dict"].values()):
            place = my_rank()
        if place is None or place[0] == 0:
            self._look_at_the_disk(_bytes(checkpoint) * (place[1] if place else 1), target)
        if place is not None:
            self._begin_together(target)
            checkpoint = checkpoint if place[0] == 0 else {name: checkpoint[name] for name in IN_PARTS}
        if IN_BACKGROUND and (copied := _copy(checkpoint)) is not None:
            # Not a daemon: a process that ends for another reason first completes it.
            self._writing = threading.Thread(target=self._work, args=(copied, target, storage_options, place))
            self._writing.start()
        else:
            self._work(checkpoint, target, storage_options, place)
            self.settle()

    def _begin_together(self, target: Path) -> None:
        """The folder that all processes write into; all of them call this together."""
        if my_rank()[0] == 0:
            try:
                _make_beside(target)
            except OSError as error:
                raise _explain(error, target) from error
        from_all(None)

    def lose_others(self) -> None:
        """Another process is gone: its part of a checkpoint in flight is not waited for much longer."""
        self._others_gone.set()

    def _work(
        self, checkpoint: dict[str, Any], target: Path, then: Callable[[], None] | None, place: tuple[int, int] | None
    ) -> None:  # fmt: skip
        """place: of this process among those that write parts."""
        try:
            if place is None:
                _publish(checkpoint, target)
            else:
                _publish_parts(checkpoint, target, place, self._others_gone)
            if place is not None and place[0]:
                return
            if then is not None:
                then()
            self._complete.append(target)
        except BaseException as error:
            self._failure = error

    def look(self) -> list[Path]:
        """The checkpoints that have become complete since the last call, without waiting. Raises what failed."""
        if self._writing is not None and not self._writing.is_alive():
            self._writing = None
        if self._writing is None and self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        complete, self._complete = self._complete, []
        return complete

    def settle(self) -> None:
        """Wait for the checkpoint in flight. Raises what failed."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _look_at_the_disk(self, needed: int, target: Path) -> None:
        """Raises TrainingStopped where the checkpoint does not fit; warns once where no second one would."""
        there = next(place for place in (target, *target.parents) if place.exists())
        free = shutil.disk_usage(there).free
        if free < needed:
            raise _not_written(target, f"it needs {size(needed)}, and the disk has {size(free)} left")
        if free < 2 * needed and not self._warned:
            self._warned = True
            self.say(f"The disk has {size(free)} left, and a checkpoint needs {size(needed)}: it will soon be full.")

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        folder = Path(path)
        verify(folder)
        checkpoint = read_rest(folder, map_location=map_location or "cpu", mmap=self.in_parts)
        checkpoint["state_dict"] = {}
        for name, stored in tensors_in(folder).items():
            _put(checkpoint, name, stored if self.in_parts else stored.read())
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        remove(Path(path))


def remove(folder: Path) -> None:
    """Remove a checkpoint. Renamed first: a kill in the middle must not leave half a checkpoint under its name."""
    if folder.is_dir():
        doomed = folder.parent / f".tmp-old-{folder.name}"
        os.replace(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _bytes(value: Any) -> int:
    """The bytes of all tensors in nested dicts and lists."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Part):
        return _bytes(value.values)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(_bytes(part) for part in parts)


def _copy(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """A copy in the CPU's memory that later steps do not change; None where it does not fit."""
    left = free_memory()
    if left is not None and _bytes(checkpoint) > 0.8 * left:
        return None
    try:
        return _copied(checkpoint)
    except (MemoryError, RuntimeError):
        return None


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Part):
        return replace(value, values=_copied(value.values))
    if isinstance(value, dict):
        return type(value)((name, _copied(part)) for name, part in value.items())
    if isinstance(value, list | tuple):
        parts = [_copied(part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value


def _publish(checkpoint: dict[str, Any], target: Path) -> None:
    """Write a checkpoint beside its place, then put it there."""
    _refuse_broken(checkpoint["state_dict"], target)
    beside = target.parent / f".tmp-{target.name}"
    try:
        _make_beside(target)
        _write(checkpoint, beside)
        _put_in_place(beside, target)
    except Exception as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise _explain(error, target) from error


def _make_beside(target: Path) -> None:
    beside = target.parent / f".tmp-{target.name}"
    shutil.rmtree(beside, ignore_errors=True)
    # Not the parents: a run folder that is gone is not begun again.
    target.parent.mkdir(exist_ok=True)
    beside.mkdir()


def _put_in_place(beside: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    os.replace(beside, target)
    _flush_folder(target.parent)


def _refuse_broken(weights: Mapping[str, Tensor], target: Path) -> None:
    """Raises TrainingStopped for weights that are not finite, so that the last good checkpoint stays."""
    broken = next((name for name, weight in weights.items() if not torch.isfinite(weight).all()), None)
    if broken is not None:
        last = newest(target.parent)
        raise TrainingStopped(
            f"The weight {broken} is no finite number at {target.name}: it becomes no checkpoint. {_kept(last)}",
            "Start again with a lower --lr, or with --precision 32-true. `zoo resume` goes on from the last checkpoint "
            "with the same options.",
        )


def _write(checkpoint: dict[str, Any], folder: Path) -> None:
    rest = dict(checkpoint)
    save_file(_apart(rest.pop("state_dict")), folder / WEIGHTS)
    give_usual_rights(folder / WEIGHTS)
    torch.save(rest, folder / REST)
    manifest = {
        name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in (WEIGHTS, REST)
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for file in folder.iterdir():
        _flush(file)
    _flush_folder(folder)


def _apart(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as safetensors takes them: on the CPU, contiguous, each with memory of its own. Others are copied."""
    made: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in weights.items():
        own = tensor.detach().cpu().contiguous()
        alone = own.untyped_storage().nbytes() == own.numel() * own.element_size()
        shared = not alone or own.data_ptr() in places
        made[name] = own.clone() if shared else own
        places.add(made[name].data_ptr())
    return made


def _flush(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: Exception, target: Path) -> Exception:
    text = str(error).lower()
    # Of a full disk safetensors says "I/O error: No space left", torch.save "unexpected pos", Python ENOSPC.
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    full = full or "no space left" in text or "quota exceeded" in text or "unexpected pos" in text
    if not full and not isinstance(error, OSError) and not ("write" in text or "i/o error" in text):
        return error
    return _not_written(target, "the disk is full" if full else str(error).splitlines()[0])


def _not_written(target: Path, reason: str) -> TrainingStopped:
    last, run = newest(target.parent), target.parent.parent
    then = f", then: zoo resume {run}" if last else " and start again."
    hint = f"Free some space{then}" if run.is_dir() else "Put the run folder back, or start again."
    return TrainingStopped(
        f"The checkpoint {target} could not be written: {reason}. Nothing half-written was left. {_kept(last)}", hint
    )


def _kept(last: Path | None) -> str:
    return f"The last complete checkpoint is {last.name}." if last else "There is no earlier checkpoint."


# -- in parts ----------------------------------------------------------------------------------------------------------


def _publish_parts(
    checkpoint: dict[str, Any], target: Path, place: tuple[int, int], others_gone: threading.Event
) -> None:  # fmt: skip
    """Write this process's part; the first process then waits for the others, and puts the checkpoint in its place."""
    beside, (rank, count) = target.parent / f".tmp-{target.name}", place
    rest = dict(checkpoint)
    weights = rest.pop("state_dict").items()
    parts = {f"state_dict/{name}": of if isinstance(of, Part) else Part.of_whole(of) for name, of in weights}
    rest["optimizer_states"] = _without(rest["optimizer_states"], "optimizer_states", parts)
    mine = {name: part for name, part in parts.items() if rank == 0 or part.values.shape != part.shape}
    try:
        _tell(beside, rank, _write_part(mine, beside / f"part-{rank}-of-{count}.safetensors"))
        if rank == 0:
            torch.save(rest, beside / REST)
            _complete(beside, count, others_gone)
            _put_in_place(beside, target)
    except Exception as error:
        if rank == 0:
            shutil.rmtree(beside, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                _tell(beside, rank, {"failed": str(error).splitlines()[0]})
        raise _explain(error, target) from error


def _without(value: Any, path: str, parts: dict[str, Part]) -> Any:
    """Nested dicts and lists with None in the place of each part, which is added to `parts` under its path."""
    if isinstance(value, Part):
        parts[path] = value
        return None
    if isinstance(value, Mapping):
        return {name: _without(of, f"{path}/{name}", parts) for name, of in value.items()}
    if isinstance(value, list):
        return [_without(of, f"{path}/{number}", parts) for number, of in enumerate(value)]
    return value


def _put(checkpoint: dict[str, Any], path: str, value: Any) -> None:
    """The inverse: put a value under its path."""
    *names, last = (int(name) if name.isdigit() else name for name in path.split("/"))
    place: Any = checkpoint
    for name in names:
        place = place[name]
    place[last] = value


def _write_part(parts: Mapping[str, Part], file: Path) -> dict[str, Any]:
    """The entry of the manifest."""
    write_parts(parts, file)
    _flush(file)
    return {file.name: {"sha256": sha256(file), "bytes": file.stat().st_size}}


def _tell(beside: Path, rank: int, what: Mapping[str, Any]) -> None:
    half = beside / f".half-{rank}"
    half.write_text(json.dumps(what))
    os.replace(half, beside / DONE.format(rank))


def _complete(beside: Path, count: int, others_gone: threading.Event) -> None:
    """Write the manifest once all parts are there. Raises OSError where one is not going to be."""
    manifest: dict[str, Any] = {}
    for rank in range(count):
        file = beside / DONE.format(rank)
        _wait_for(file, others_gone)
        told = json.loads(file.read_bytes())
        if "failed" in told:
            raise OSError(told["failed"])
        manifest |= told
        file.unlink()
    _flush(beside / REST)
    manifest[REST] = {"sha256": sha256(beside / REST), "bytes": (beside / REST).stat().st_size}
    (beside / MANIFEST).write_text(json.dumps(manifest, indent=1))
    _flush(beside / MANIFEST)
    _flush_folder(beside)


def _wait_for(file: Path, others_gone: threading.Event) -> None:
    end = math.inf
    while not file.is_file():
        if others_gone.is_set():
            end = min(end, time.monotonic() + LAST_PARTS)
        time.sleep(LOOK_EVERY)
        if time.monotonic() > end:
            raise OSError("another process has ended before its part was written")


# -- reading -----------------------------------------------------------------------------------------------------------


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(folder: Path) -> None:
    """Raises ZooError, which names the file, for a checkpoint that has changed since it was written."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ZooError(f"The checkpoint {folder} has no {MANIFEST}: it is not complete.")
    try:
        written = {name: (entry["bytes"], entry["sha256"]) for name, entry in json.loads(manifest.read_bytes()).items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ZooError(f"{manifest} is damaged: it is not what was written.") from None
    parts = sorted(name for name in written if PARTS.fullmatch(name))
    for name in (*(parts or [WEIGHTS]), REST):
        file = folder / name
        if not file.is_file():
            raise ZooError(f"{file} is missing.")
        if written.get(name) != (file.stat().st_size, sha256(file)):
            raise ZooError(f"{file} is damaged: it is not what was written.")


def read_rest(folder: Path, **options: Any) -> dict[str, Any]:
    """Everything of a checkpoint but its weights. Raises ZooError for a file that holds something else.

    options: of torch.load. What a file of somebody else's says is to be run is not run.
    """
    try:
        rest = torch.load(folder / REST, weights_only=True, **options)
    except OSError:
        raise
    except Exception as error:
        # Of a pickle torch says how to run it: advice for nobody.
        why = "code" if isinstance(error, pickle.UnpicklingError) else "no checkpoint"
        raise ZooError(f"{folder / REST} holds {why}, not what zoo wrote: nothing of it is used.") from None
    if not isinstance(rest, dict):
        raise ZooError(f"{folder / REST} holds a {type(rest).__name__}, not what zoo wrote: nothing of it is used.")
    return rest


@dataclass(frozen=True)
class Expected:
    """What a checkpoint of a run must hold: the shapes of its weights, and those of the optimizer's groups, in order.

    optimizer: its name; parts: names of what the module and the recorder store, below `zoo` and beside it.
    """

    weights: Mapping[str, list[int]]
    optimizer: str
    optimized: Sequence[Sequence[list[int]]]
    parts: Collection[str]

    def check(self, folder: Path) -> None:
        """Raises ZooError for an undamaged checkpoint of another run, or of another version."""
        shapes = weight_shapes(folder)
        other = [name for name in {**self.weights, **shapes} if self.weights.get(name) != shapes.get(name)]
        if other:
            wanted, found = (of.get(other[0], "nothing") for of in (self.weights, shapes))
            more = f", and {len(other) - 1:,} more" if len(other) > 1 else ""
            raise ZooError(
                f"{folder / WEIGHTS} is of another model: for {other[0]} it holds {found}, here it is {wanted}{more}."
            )
        _refuse_unusable(folder)
        # Mapped, so that moments as large as the model are not read twice.
        rest = read_rest(folder, map_location="cpu", mmap=True)
        try:
            missing = [part for part in self.parts if part not in rest["zoo"] and part not in rest]
            if "records" in rest and not {"rows", "whole"} <= rest["records"].keys():
                missing.append("records")
            counts = [len(group["params"]) for group in rest["optimizer_states"][0]["param_groups"]]
            stored = rest["zoo"].get("optimizer")
            fit = stored == {"name": self.optimizer, "shapes": self.optimized} and counts == [*map(len, self.optimized)]
        except (KeyError, IndexError, TypeError, AttributeError):
            missing, fit = [], False
        if missing or not fit:
            why = f"it lacks {', '.join(missing)}" if missing else "its optimizer is of other weights"
            raise ZooError(f"{folder / REST} is not the state of this run: {why}.")


def _refuse_unusable(folder: Path) -> None:
    """Raises ZooError for weights that are no finite numbers, as another program may have written them."""
    for name, stored in weights_in(folder).items():
        for piece in stored.pieces:
            if not torch.isfinite(piece.place.read()).all():
                raise ZooError(f"{piece.place.file} holds {name} with values that are no finite numbers.")


def weight_shapes(folder: Path) -> dict[str, list[int]]:
    """The shapes of a checkpoint's weights. Raises ZooError for a file that is not in the format."""
    try:
        return {name: list(stored.shape) for name, stored in weights_in(folder).items()}
    except (SafetensorError, ValueError, TypeError):
        raise ZooError(f"{folder / WEIGHTS} holds no weights: nothing of it is used.") from None


def newest(checkpoints: Path) -> Path | None:
    """The last checkpoint by step, verified or not."""
    return next(iter(by_step(checkpoints)), None)


def newest_good(checkpoints: Path, say: Any = print, expected: Expected | None = None) -> Path | None:
    """The last checkpoint that is undamaged and as expected; says which ones are not. Removes leftovers."""
    for leftover in checkpoints.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for folder in by_step(checkpoints):
        try:
            verify(folder)
            if expected is not None:
                expected.check(folder)
            return folder
        except (ZooError, OSError) as error:
            say(f"{error} Trying the checkpoint before it.")
    return None


def by_step(checkpoints: Path) -> list[Path]:
    """The folders of checkpoints, the newest first, verified or not."""
    folders = checkpoints.glob("step-*") if checkpoints.is_dir() else []
    return sorted((folder for folder in folders if re.fullmatch(r"step-\d+", folder.name)), key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The optimizer steps that a checkpoint has done."""
    return int(checkpoint.name.removeprefix("step-"))


# -- which ones are kept -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeepRule:
    """Which checkpoints are kept: the newest `last`, and for good every `every` steps and the `top` best.

    every, top: 0 for none. back: the save_every of a run that may go back to a checkpoint, which then keeps two for it;
    None for another one.
    """

    last: int
    every: int
    top: int
    back: int | None = None

    def is_for_good(self, step: int, best: Collection[int]) -> bool:
        """Whether the checkpoint of a step outlives the run. best: the steps with the best validations."""
        return bool(self.every and step and step % self.every == 0) or step in best

    def remove_old(self, checkpoints: Path, now: int, best: Collection[int]) -> None:
        """Remove what is not kept any more, the newest being that of step `now`; what comes after it is outdated."""
        before = [folder for folder in by_step(checkpoints) if step_of(folder) <= now]
        kept = [*before[: self.last], *(folder for folder in before if self.is_for_good(step_of(folder), best))]
        if self.back is not None:
            kept += anchors(checkpoints, self.back, now)[:2]
        for folder in by_step(checkpoints):
            if folder not in kept:
                remove(folder)

    def remove_at_end(self, checkpoints: Path, best: Collection[int]) -> None:
        """Remove what only a resume needs, and the folder if nothing is left in it."""
        for folder in by_step(checkpoints):
            if not self.is_for_good(step_of(folder), best):
                remove(folder)
        if not by_step(checkpoints):
            shutil.rmtree(checkpoints, ignore_errors=True)


def anchors(checkpoints: Path, save_every: int, step: int) -> list[Path]:
    """The checkpoints up to a step that a rollback may go back to, the newest first: those of every save_every steps.

    A run that was stopped between two of them and resumed then goes back to the same one as if it had not been.
    """
    before = [folder for folder in by_step(checkpoints) if step_of(folder) <= step]
    return [folder for folder in before if (step_of(folder) % save_every if save_every else step_of(folder)) == 0]


def best_steps(scores: Mapping[int, float], count: int) -> list[int]:
    """The steps with the highest scores, the best first; of equal ones the earlier. Not a number is no score."""
    known = [step for step, score in scores.items() if score == score and step]
    return sorted(known, key=lambda step: (-scores[step], step))[:count]
