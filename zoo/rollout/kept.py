"""What was written before the first step, on disk, keyed by content: weights, prompts, sampling and random numbers.

A run that is resumed prepares its records again, and so does each further process: they find what was written instead
of writing it once more. One SQLite file for each set of weights; a call is there as soon as it is done.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from zoo.rollout.sampling import Sampling
from zoo.values.types import Answer


class AnswerCache:
    """Answers by call. writer: a fingerprint of the weights and of everything else besides the call."""

    def __init__(self, folder: Path, writer: str):
        folder.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(folder / f"{writer[:32]}.sqlite", timeout=60, isolation_level=None)
        self._connection.execute("create table if not exists answers (call blob primary key, answers text)")

    def get(self, call: bytes, prompts: Sequence[Tensor], n: int) -> list[Answer] | None:
        """The answers of a call, None where it was not made yet."""
        row = self._connection.execute("select answers from answers where call = ?", (call,)).fetchone()
        if row is None:
            return None
        return [
            Answer.of(prompts[i // n].tolist(), ids, ended=ended, cut=cut, behaviour=logps and torch.tensor(logps))
            for i, (ids, ended, cut, logps) in enumerate(json.loads(row[0]))
        ]

    def put(self, call: bytes, answers: Sequence[Answer]) -> None:
        """Keep the answers of a call; every counted token of theirs was drawn."""
        rows = [
            (one.completion.tolist(), one.ended, one.cut, None if one.behaviour is None else one.behaviour.tolist())
            for one in answers
        ]
        self._connection.execute("insert or replace into answers values (?, ?)", (call, json.dumps(rows)))


def call_key(prompts: Sequence[Tensor], n: int, sampling: Sampling, generator: torch.Generator) -> bytes:
    """sha256 of everything that the answers of a call depend on, besides the weights."""
    digest = hashlib.sha256(json.dumps([n, asdict(sampling)], sort_keys=True).encode())
    digest.update(generator.get_state().numpy().tobytes())
    for prompt in prompts:
        digest.update(len(prompt).to_bytes(8, "little") + prompt.numpy(force=True).tobytes())
    return digest.digest()
