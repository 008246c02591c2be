"""Safetensors files that are written one tensor after the other, so that no process has to hold all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

TYPES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Types by the name that a file has for them, in the order in which their tensors lie in it."""


def order_of(like: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors in the order in which a file holds them."""
    ranks = list(TYPES)
    return sorted(like, key=lambda name: (ranks.index(like[name].dtype), name))


def write(
    file: Path, like: Mapping[str, Tensor], values: Iterator[Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the file that `save_file` writes, to the byte.

    like: tensors of the same shapes and types, by name; they need no values. values: the tensors in `order_of` these.
    """
    order = order_of(like)
    with file.open("wb") as stream:
        stream.write(_header([(name, like[name]) for name in order], metadata))
        for _ in order:
            stream.write(_bytes_of(next(values)))


def _header(named: Sequence[tuple[str, Tensor]], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in named:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
