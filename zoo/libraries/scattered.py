"""Tensors whose parts are in the files of several processes, a file each; they can be read in any other parts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.errors import ZooError
from zoo.libraries.stored import Place
from zoo.paths import give_usual_rights

WHOLE, PARTS = "weights.safetensors", re.compile(r"part-\d+-of-\d+\.safetensors")
"""The files of a checkpoint: all weights, or the parts of each process."""
WEIGHTS = "state_dict/"
"""The beginning of the names of weights among the parts, where the state of the optimizer is too."""
WHERE = "where"
"""The entry of a file's header that says for each tensor where its part begins, and the shape of the whole."""


@dataclass(frozen=True)
class Part:
    """The part of a tensor that a process holds. offset: its first index in each dimension; shape: of the whole."""

    values: Tensor
    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @staticmethod
    def of_whole(tensor: Tensor) -> Part:
        return Part(tensor, (0,) * tensor.ndim, tuple(tensor.shape))


@dataclass(frozen=True)
class Piece:
    """A part in a file."""

    place: Place
    offset: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Scattered:
    """A tensor of this shape in pieces, which cover it."""

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    def read(self, *part: slice) -> Tensor:
        """The tensor, or a part of each dimension. Raises ZooError where pieces are missing."""
        begin = [piece.start or 0 for piece in part] or [0] * len(self.shape)
        end = [piece.stop for piece in part] or list(self.shape)
        result, covered = torch.empty([b - a for a, b in zip(begin, end, strict=True)]), 0
        for number, (piece, low, high) in enumerate(self._overlaps(begin, end)):
            values = piece.place.read(*(slice(a - o, b - o) for a, b, o in zip(low, high, piece.offset, strict=True)))
            result = result if number else result.to(values.dtype)
            result[tuple(slice(a - o, b - o) for a, b, o in zip(low, high, begin, strict=True))] = values
            covered += values.numel()
        if covered != result.numel():
            raise ZooError(f"A part of {self.pieces[0].place.name} is in none of the files beside it.")
        return result

    def _overlaps(self, begin: Sequence[int], end: Sequence[int]) -> Iterator[tuple[Piece, list[int], list[int]]]:
        for piece in self.pieces:
            low = [max(a, o) for a, o in zip(begin, piece.offset, strict=True)]
            high = [min(b, o + n) for b, o, n in zip(end, piece.offset, piece.shape, strict=True)]
            if all(a < b for a, b in zip(low, high, strict=True)):
                yield piece, low, high


def write_parts(parts: Mapping[str, Part], file: Path) -> None:
    """Write the parts of a process."""
    kept = {name: part for name, part in parts.items() if part.values.numel() or 0 in part.shape}
    where = {name: [list(part.offset), list(part.shape)] for name, part in kept.items()}
    save_file({name: _alone(part.values) for name, part in kept.items()}, file, {WHERE: json.dumps(where)})
    give_usual_rights(file)


def _alone(tensor: Tensor) -> Tensor:
    """A tensor as safetensors takes it: on the CPU, contiguous, with memory of its own."""
    own = tensor.detach().cpu().contiguous()
    return own if own.untyped_storage().nbytes() == own.numel() * own.element_size() else own.clone()


def read_parts(files: Sequence[Path]) -> dict[str, Scattered]:
    """The tensors of the files of all processes, by name. A file without offsets holds whole tensors."""
    pieces: dict[str, list[Piece]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        for name, piece, shape in _pieces_in(file):
            # Several processes may hold the same part.
            if all(piece.offset != other.offset for other in pieces.setdefault(name, [])):
                pieces[name].append(piece)
            shapes[name] = shape
    return {name: Scattered(shapes[name], tuple(of)) for name, of in pieces.items()}


def tensors_in(folder: Path) -> dict[str, Scattered]:
    """The tensors in a checkpoint's safetensors files. Raises SafetensorError, or another error for a damaged file."""
    files = sorted(file for file in folder.iterdir() if PARTS.fullmatch(file.name))
    if files:
        return read_parts(files)
    return {f"{WEIGHTS}{name}": tensor for name, tensor in read_parts([folder / WHOLE]).items()}


def weights_in(folder: Path) -> dict[str, Scattered]:
    """The weights of a checkpoint, by name."""
    named = tensors_in(folder).items()
    return {name.removeprefix(WEIGHTS): tensor for name, tensor in named if name.startswith(WEIGHTS)}


def _pieces_in(file: Path) -> Iterator[tuple[str, Piece, tuple[int, ...]]]:
    with safe_open(file, "pt") as opened:
        where: dict[str, Any] = json.loads((opened.metadata() or {}).get(WHERE, "{}"))
        for name in opened.keys():  # noqa: SIM118
            shape = tuple(opened.get_slice(name).get_shape())
            offset, whole = where.get(name, [[0] * len(shape), shape])
            yield name, Piece(Place(str(file), name), tuple(offset), shape), tuple(whole)
