"""The rows of an evaluation, from any source, and the reward that checks the answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.contract.algorithm import Algorithm
from zoo.contract.registry import contributions, manager
from zoo.data.formats import parse_columns
from zoo.data.load import DataSet, load
from zoo.data.sources import open_source
from zoo.data.sources.named import parts_of, source_defaults
from zoo.data.sources.reading import Reading
from zoo.errors import ZooError
from zoo.evals import Subject
from zoo.rewards.reward import Reward

Records = list[dict[str, Any]]


class Answering(Algorithm):
    """A stand-in for an algorithm that writes answers, if a source is asked for its reward."""

    api_version = 2
    data = "prompt"

    def rollout(self) -> None: ...


def records_of(
    subject: Subject | None, data: str, kind: str | Sequence[str], split: str = "", columns: str = "",
    limit: int | None = None,
) -> Records:  # fmt: skip
    """The records of `data_of`."""
    return data_of(subject, data, kind, split, columns, limit).records


def data_of(
    subject: Subject | None, data: str, kind: str | Sequence[str], split: str = "", columns: str = "",
    limit: int | None = None,
) -> DataSet:  # fmt: skip
    """Records of a kind from the first `limit` rows (or the subject's limit) of any source that `--data` takes.

    kind: of several kinds the source's own is used if it is among them, else the first; split: by default `heldout` for
    a named source and `train` for files, which have no other; `data@split` has priority. Raises ZooError as loading
    does.
    """
    named = contributions(manager(), "sources")
    split = split or default_split(data, named)
    renamed = parse_columns(columns) if columns else {}
    return load(data, kind, Reading(split, renamed, limit=_limit(subject, limit), named_sources=named))


def raw_rows(subject: Subject | None, data: str, split: str = "", limit: int | None = None) -> Records:
    """The raw rows of a source, for data that is not training data. Raises ZooError for an unreadable row."""
    named = contributions(manager(), "sources")
    most = _limit(subject, limit)
    rows: Records = []
    reading = Reading(split or default_split(data, named), named_sources=named)
    for line in open_source(data, "prompt", reading).rows:
        if most is not None and len(rows) == most:
            break
        if line.problems and not line.row:
            raise ZooError(f"{data}, row {line.number}: {line.problems[0].message}.", "Repair or remove this row.")
        rows.append({**line.row, "row": line.number})
    if not rows:
        raise ZooError(f"{data} holds no rows.", "Name other data.")
    return rows


def default_split(data: str, named: Any) -> str:
    return "heldout" if parts_of(data)[0] in named else "train"


def reward_for(subject: Subject, text: str, data: str, max_new_tokens: int | None = None) -> Reward:
    """The reward that was named, else the data's own reward. Raises ZooError if there is none."""
    text = text or str(source_defaults(data, Answering).get("reward") or "")
    if not text:
        raise ZooError(
            f"There is no reward that tells whether an answer to {data} is right.",
            "Name a reward, such as reward=numeric or reward=exact (docs/rewards.md).",
        )
    # There is one batch, so a reward that fails on all of it is an error at once.
    named = contributions(manager(), "rewards")
    return Reward(
        text, named, subject.out, subject.device, say=subject.say, patience=1, max_new_tokens=max_new_tokens
    )  # fmt: skip


def _limit(subject: Subject | None, limit: int | None) -> int | None:
    limits = [rows for rows in (limit, subject.limit if subject else None) if rows is not None]
    return min(limits, default=None)
