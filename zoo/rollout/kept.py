"""A disk cache of answers generated before the first step, keyed by weights, prompts, sampling and random numbers.

A resumed run prepares its records again, and so does each further process: they read the answers from this cache
instead of generating them again. Each set of weights has one SQLite file; each call is stored as soon as it is done.
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
    """Answers by call. writer: a fingerprint of the weights and everything else that answers depend on."""

    def __init__(self, folder: Path, writer: str):
        folder.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(folder / f"{writer[:32]}.sqlite", timeout=60, isolation_level=None)
        self._connection.execute("create table if not exists answers (call blob primary key, answers text)")

    def get(self, call: bytes, prompts: Sequence[Tensor], n: int) -> list[Answer] | None:
        """The answers of a call, None if it is not stored."""
        row = self._connection.execute("select answers from answers where call = ?", (call,)).fetchone()
        if row is None:
            return None
        return [
            Answer.of(prompts[i // n].tolist(), ids, ended=ended, cut=cut, behaviour=logps and torch.tensor(logps))
            for i, (ids, ended, cut, logps) in enumerate(json.loads(row[0]))
        ]

    def put(self, call: bytes, answers: Sequence[Answer]) -> None:
        """Store the answers of a call; every token in their masks was sampled."""
        rows = [
            (
                answer.completion.tolist(),
                answer.ended,
                answer.cut,
                None if answer.behaviour is None else answer.behaviour.tolist(),
            )
            for answer in answers
        ]
        self._connection.execute("insert or replace into answers values (?, ?)", (call, json.dumps(rows)))


def call_key(prompts: Sequence[Tensor], n: int, sampling: Sampling, generator: torch.Generator) -> bytes:
    """sha256 of everything except the weights that the answers of a call depend on."""
    digest = hashlib.sha256(json.dumps([n, asdict(sampling)], sort_keys=True).encode())
    digest.update(generator.get_state().numpy().tobytes())
    for prompt in prompts:
        digest.update(len(prompt).to_bytes(8, "little") + prompt.numpy(force=True).tobytes())
    return digest.digest()
