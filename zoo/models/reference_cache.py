"""Reference log-probs on disk, keyed by content: the weights that score and the token ids scored.

Another learning rate, seed, β or algorithm on the same answers finds them again; another template, truncation or
model does not. One SQLite file for each set of weights.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from zoo.libraries.sharding import cut_dims, whole
from zoo.processes import begin_exchange
from zoo.values.types import Answer


def fingerprint(parameters: Iterable[tuple[str, Tensor]], *extra: str) -> str:
    """sha256 over names and bytes of weights, and whatever else the scores depend on (precision)."""
    digest = hashlib.sha256("\0".join(extra).encode())
    begin_exchange()
    dims = cut_dims()
    for name, tensor in parameters:
        complete = whole(tensor, dims.get(id(tensor)))
        digest.update(f"\0{name} {complete.dtype} {list(complete.shape)}\0".encode())
        digest.update(complete.cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def architecture(model: Any) -> str:
    """The configuration without names and versions: with the weights, it decides a model's scores."""
    config = {k: v for k, v in model.config.to_dict().items() if not k.startswith("_") and k != "transformers_version"}
    return json.dumps(config, sort_keys=True, default=str)


def answer_key(answer: Answer) -> bytes:
    """sha256 of the prompt ids, completion ids and mask."""
    digest = hashlib.sha256()
    for part in (answer.prompt, answer.completion, answer.mask):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part.numpy(force=True).tobytes())
    return digest.digest()


class ReferenceCache:
    """Per-token log-probs by answer. With `folder=None` it lives in memory only."""

    def __init__(self, folder: Path | None, weights: str):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.path = ":memory:" if folder is None else str(folder / f"{weights[:32]}.sqlite")
        self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        self._connection.execute("create table if not exists logps (answer blob primary key, value blob)")

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
        """The cached log-probs among `keys`: float32 [T_i], one per counted token of the answer."""
        logps: dict[bytes, Tensor] = {}
        for start in range(0, len(keys), 500):
            part = list(keys[start : start + 500])
            marks = ",".join("?" * len(part))
            rows: Any = self._connection.execute(f"select answer, value from logps where answer in ({marks})", part)
            logps |= {key: torch.from_numpy(numpy.frombuffer(value, numpy.float32).copy()) for key, value in rows}
        return logps

    def put(self, values: dict[bytes, Tensor]) -> None:
        """Keep log-probs; one transaction, so that a kill leaves all of them or none."""
        rows = [(key, value.float().cpu().numpy().tobytes()) for key, value in values.items()]
        self._connection.execute("begin immediate")
        self._connection.executemany("insert or replace into logps values (?, ?)", rows)
        self._connection.execute("commit")
