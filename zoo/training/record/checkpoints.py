"""Checkpoints that are complete or do not exist: written beside, flushed, hashed, renamed.

A checkpoint is a folder: `weights.safetensors`, `rest.pt` (optimizer, schedule, loader, counters; loads with
`weights_only`), and `manifest.json` with the sha256 of both, written last.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from zoo.errors import TrainingStopped, ZooError
from zoo.libraries.trainer import CheckpointIO

WEIGHTS, REST, MANIFEST = "weights.safetensors", "rest.pt", "manifest.json"


class FolderCheckpoints(CheckpointIO):
    """Lightning's input and output of checkpoints, by the protocol above."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        beside = target.parent / f".tmp-{target.name}"
        shutil.rmtree(beside, ignore_errors=True)
        try:
            beside.mkdir(parents=True)
            _write(checkpoint, beside)
            if target.exists():
                shutil.rmtree(target)
            os.replace(beside, target)
            _flush_folder(target.parent)
        except Exception as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise _explain(error, target) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        folder = Path(path)
        verify(folder)
        checkpoint = torch.load(folder / REST, map_location=map_location or "cpu", weights_only=True)
        checkpoint["state_dict"] = load_file(folder / WEIGHTS)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        folder = Path(path)
        if folder.is_dir():
            # Renamed first: a kill in the middle of deleting must not leave half a checkpoint under its name.
            doomed = folder.parent / f".tmp-old-{folder.name}"
            os.replace(folder, doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def _write(checkpoint: dict[str, Any], folder: Path) -> None:
    rest = dict(checkpoint)
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in rest.pop("state_dict").items()}
    save_file(weights, folder / WEIGHTS)
    torch.save(rest, folder / REST)
    manifest = {
        name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in (WEIGHTS, REST)
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    _flush_folder(folder)


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
    reason = "the disk is full" if full else str(error).splitlines()[0]
    last = newest(target.parent)
    kept = f"The last complete checkpoint is {last.name}." if last else "There is no earlier checkpoint."
    return TrainingStopped(
        f"The checkpoint {target} could not be written: {reason}. Nothing half-written was left. {kept}",
        "Free some space" + (", then: zoo resume " + str(target.parent.parent) if last else " and start again."),
    )


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
    for name in (WEIGHTS, REST):
        file = folder / name
        if not file.is_file() or written.get(name) != (file.stat().st_size, sha256(file)):
            raise ZooError(f"{file} is damaged: it is not what was written.")


def newest(checkpoints: Path) -> Path | None:
    """The last checkpoint by step, verified or not."""
    return next(iter(_by_step(checkpoints)), None)


def newest_good(checkpoints: Path, say: Any = print) -> Path | None:
    """The last undamaged checkpoint; says which ones are damaged. Removes leftovers."""
    for leftover in checkpoints.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for folder in _by_step(checkpoints):
        try:
            verify(folder)
            return folder
        except (ZooError, OSError) as error:
            say(f"{error} Trying the checkpoint before it.")
    return None


def _by_step(checkpoints: Path) -> list[Path]:
    folders = (
        [(re.fullmatch(r"step-(\d+)", p.name), p) for p in checkpoints.glob("step-*")] if checkpoints.is_dir() else []
    )
    return [p for match, p in sorted(folders, key=lambda pair: -int(pair[0][1]) if pair[0] else 0) if match]
