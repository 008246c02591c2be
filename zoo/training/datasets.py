"""The data of a run: loaded, encoded and held out as its options say, and dealt out in steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from zoo.contract.registry import PluginManager, contributions
from zoo.data.encoding.encode import Encoded, default_collate
from zoo.data.encoding.statistics import Statistics
from zoo.data.encoding.template import ChatTemplate
from zoo.data.loader import Loader, StepLoader, record_tokens
from zoo.data.prepared import MOST_HELD_OUT, Prepared
from zoo.data.sources import held_out_split
from zoo.data.sources.mixture import Part, labelled, read_mixture
from zoo.data.store import made_again
from zoo.errors import ZooError
from zoo.numbers import amount
from zoo.options.checks import FEWEST, prompts_in_rollout
from zoo.options.config import TrainConfig
from zoo.training.mixing import Collate, Mixing
from zoo.training.reading import Reader, checked, kept_apart
from zoo.training.step.parts import Parts
from zoo.training.streaming import Streaming, open_streams, stream_loader
from zoo.values.answers import answers_in
from zoo.values.records import JoinedRecords, Record, Records, first_of_each
from zoo.values.types import Answer, Batch

Say = Callable[[str], None]
SAMPLED = 2000
"""Records among which those for the self-test are."""
PROBE = 16
"""Tokens of the text that stands in for an answer that is not written yet."""


@dataclass
class Data:
    """Encoded training and held-out records, and what data.json says of them."""

    train: Encoded
    held_out: Encoded | None
    facts: dict[str, Any]
    mixing: Mixing | None = None
    """How several parts are mixed, those of the decay phase too; None for a single source."""
    held_out_parts: Parts | None = None
    """The parts of the held-out records, where there are several."""
    streaming: Streaming | None = None
    """The streams, where the training records are read as they come; `train` then holds the first of them."""

    @property
    def labels(self) -> Parts | None:
        """The parts of a mixture, by the rows of their records."""
        if self.streaming is not None:
            return self.streaming.labels
        return None if self.mixing is None else self.mixing.labels


def load_data(
    core: TrainConfig, kinds: Sequence[str], template: ChatTemplate, plugins: PluginManager, say: Say
) -> Data:
    """Load, check, encode and split the data of a run. Prints what was kept and dropped.

    kinds: those that the algorithm learns from, the preferred one first. A damaged store is made again.
    """
    return made_again(lambda: _loaded(core, kinds, template, plugins, say), say)


def _loaded(core: TrainConfig, kinds: Sequence[str], template: ChatTemplate, plugins: PluginManager, say: Say) -> Data:
    reader = Reader(core, template, contributions(plugins, "sources"), say)
    parts = reader.parts("data")
    if core.stream:
        return _streamed(reader, open_streams(reader, parts, kinds, say), say)
    kinds = reader.kind_of(parts, kinds)
    train, held_out, why_none = _split(reader, parts, [reader.read(part, kinds) for part in parts], say)
    encoded = _told(train, core, say)
    facts = {"train": _facts(core.data, parts, train)}
    validation, held_out_parts = _validation(core, held_out, why_none, facts, say)
    shares = [held for held in held_out.values() if any(held.report is data.report for data in train)]
    added, of_decay = _decay(reader, parts, train[0].kind, shares, facts, say)
    mixing = Mixing([*parts, *added], [*encoded, *of_decay], core, len(added)) if added or len(parts) > 1 else None
    whole = _whole(encoded, None if mixing is None else mixing.records)
    return Data(whole, validation, facts, mixing, held_out_parts)


def _streamed(reader: Reader, streaming: Streaming, say: Say) -> Data:
    """The data of a run that reads it as it comes."""
    core, kind = reader.core, streaming.first.kind
    held_out = {part: reader.read(part, kind) for part in reader.parts("eval_data")}
    facts = {"train": streaming.facts()}
    validation, parts = _validation(core, held_out, "", facts, say)
    return Data(streaming.first, validation, facts, None, parts, streaming)


def _validation(
    core: TrainConfig, held_out: Mapping[Part, Prepared], why_none: str, facts: dict[str, Any], say: Say
) -> tuple[Encoded | None, Parts | None]:
    """The held-out records, and their parts where there are several."""
    validated = [checked(data, core.strict) for data in held_out.values()]
    if held_out:
        facts["held_out"] = _facts(core.eval_data or core.data, [*held_out], [*held_out.values()])
    counts = {part.label: len(of_part) for part, of_part in zip(held_out, validated, strict=True)}
    _tell_held_out(core, counts, any(data.capped for data in held_out.values()), why_none, say)
    together = JoinedRecords([of_part.records for of_part in validated]) if len(validated) > 1 else None
    parts = None if together is None else Parts([*counts], together.before)
    return _whole(validated, together) if validated else None, parts


def _split(
    reader: Reader, parts: Sequence[Part], data: Sequence[Prepared], say: Say
) -> tuple[list[Prepared], dict[Part, Prepared], str]:
    """What is trained on, and what is held out by its part: --eval-data, or some of each part.

    Where nothing is held out, the text says why.
    """
    if evaluation := reader.parts("eval_data"):
        return [*data], {part: reader.read(part, data[0].kind) for part in evaluation}, ""
    sides = [reader.held_out(part, of_part) for part, of_part in zip(parts, data, strict=True)]
    held_out = {
        part: held for part, (_, held, _) in zip(parts, sides, strict=True) if held and held.encoded.report.rows
    }  # fmt: skip
    if len(parts) == 1:
        return [sides[0][0]], held_out, sides[0][2]
    for part, (_, _, why) in zip(parts, sides, strict=True):
        if part not in held_out:
            say(f"Nothing of {part.source} is held out{why}.")
    shares = [held for train, held, _ in sides if held and train is not held and held.report is train.report]
    return [kept_apart(train, shares) for train, _, _ in sides], held_out, ""


def _told(data: Sequence[Prepared], core: TrainConfig, say: Say) -> list[Encoded]:
    """The records of each part, with its report printed."""
    encoded = []
    for of_part in data:
        for line in of_part.report.lines():
            say(line)
        encoded.append(checked(of_part, core.strict))
        for line in encoded[-1].lines():
            say(line)
    return encoded


def _decay(
    reader: Reader, first: Sequence[Part], kind: str, shares: Sequence[Prepared], facts: dict[str, Any], say: Say
) -> tuple[list[Part], list[Encoded]]:
    """The parts that the decay phase adds, with their records.

    first: the parts of the data before it; shares: what those hold out, whose prompts are not trained on.
    """
    parts = labelled([*first, *reader.parts("decay_data")])[len(first) :]
    data = [kept_apart(reader.read(part, kind), shares) for part in parts]
    encoded = _told(data, reader.core, say)
    if parts:
        facts["decay"] = _facts(str(reader.core.decay_data), parts, data)
    return parts, encoded


def _whole(encoded: Sequence[Encoded], records: Records | None) -> Encoded:
    """All parts as one. records: of all, and those of a decay phase; None of a single part."""
    if records is None:
        return encoded[0]
    statistics = Statistics()
    for of_part in encoded:
        statistics.merge(of_part.statistics)
    return replace(encoded[0], records=records, statistics=statistics)


def _tell_held_out(core: TrainConfig, counts: Mapping[str, int], capped: bool, why_none: str, say: Say) -> None:
    """Say how many records are held out of each part. Raises ZooError where options need some and there are none."""
    count = sum(counts.values())
    if not count:
        _refuse_without_validation(core, why_none)
        say(f"Nothing is held out{why_none}: no validation.")
        return
    most = f", of {MOST_HELD_OUT:,} prompts, the most that a share holds out" if capped else ""
    each = f" ({', '.join(f'{label} {of_part:,}' for label, of_part in counts.items())})" if len(counts) > 1 else ""
    say(f"Held out for validation: {amount(count, 'record')}{each}{most}.")


def _refuse_without_validation(core: TrainConfig, why: str) -> None:
    """Raises ZooError for options that choose by validation, where there is none."""
    asked = [name for name in ("keep_best", "keep_top", "patience") if getattr(core, name)]
    if asked:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise ZooError(
            f"Nothing is held out{why}, so there is no validation for {flags}.",
            "Name held-out rows with --eval-data FILE, or hold out a share: --eval-fraction 0.1 (from "
            f"{FEWEST} rows on).",
        )


SUMMED = ("rows", "kept", "dropped", "records", "duplicates")
"""Numbers of a mixture that are the sums over its parts."""


def _facts(text: str, parts: Sequence[Part], data: Sequence[Prepared]) -> dict[str, Any]:
    """What data.json says of a source, or of a mixture and its parts."""
    facts = [_facts_of(of_part) for of_part in data]
    if len(facts) == 1:
        return facts[0]
    listed = {part.label: of_part for part, of_part in zip(parts, facts, strict=True)}
    prints = "\n".join(f"{label} {of_part['fingerprint']}" for label, of_part in listed.items())
    return {
        "source": text,
        "fingerprint": f"sha256:{hashlib.sha256(prints.encode()).hexdigest()}",
        **{name: sum(of_part[name] for of_part in facts) for name in SUMMED},
        "encoded": {name: sum(of_part["encoded"][name] for of_part in facts) for name in ("dropped", "records")},
        "parts": listed,
    }


def _facts_of(data: Prepared) -> dict[str, Any]:
    return {
        "fingerprint": data.fingerprint,
        "format": data.format,
        **data.report.as_json(),
        "encoded": data.encoded.as_json(),
    }


def brings_held_out(core: TrainConfig, named: Mapping[str, Any]) -> bool:
    """Whether a source of the data keeps a split that is held out, as no option names other data."""
    parts = [] if core.eval_data else read_mixture(core.data, named)
    return any(held_out_split(part.source, part.split or core.split, named) for part in parts)


def make_collate(hook: Any, tokenizer: Any, config: Any, max_length: int) -> Callable[[list[dict[str, Any]]], Batch]:
    """The algorithm's collation, or the default of its data kind."""

    def collate(records: list[dict[str, Any]]) -> Batch:
        batch = hook.collate(records=records, tokenizer=tokenizer, config=config, max_length=max_length)
        return default_collate(records) if batch is None else batch

    return collate


def make_loader(
    core: TrainConfig, data: Data, records: Records, collate: Collate, rank: int = 0, processes: int = 1
) -> Loader:
    """The loader of prepared records."""
    if data.streaming is not None:
        return stream_loader(core, data.streaming, records, collate, rank, processes)
    return _dealt(core, data, records, collate, core.batch_size, core.max_steps, rank, processes)


def make_prompts(core: TrainConfig, data: Data, records: Records, rank: int = 0, processes: int = 1) -> Loader:
    """The loader of prompts, a step for each rollout. Raises ZooError where there are too few."""

    def collate(prompts: list[Record]) -> Batch:
        return Batch(row=torch.tensor([prompt["row"] for prompt in prompts]))

    if data.streaming is not None:
        return stream_loader(core, data.streaming, records, collate, rank, processes, online=True)
    size = min(prompts_in_rollout(core), len(records))
    return _dealt(core, data, records, collate, size, None, rank, processes)


def _dealt(
    core: TrainConfig, data: Data, records: Records, collate: Collate, batch_size: int, max_steps: int | None,
    rank: int, processes: int,
) -> StepLoader:  # fmt: skip
    """A loader that deals each record once an epoch, or as the shares of a mixture say."""
    if data.mixing is not None:
        return data.mixing.loader(records, collate, batch_size, max_steps, rank, processes)
    return StepLoader(
        records, collate, batch_size=batch_size, epochs=core.epochs, max_steps=max_steps, seed=core.seed, rank=rank,
        processes=processes,
    )  # fmt: skip


def sample_answers(records: Sequence[dict[str, Any]], count: int = 3) -> list[Answer]:
    """A few answers for the layout's self-test, from the shortest of the first records."""
    shortest = sorted(first_of_each(records, SAMPLED), key=record_tokens)[:count]
    if shortest and isinstance(shortest[0].get("prompt"), torch.Tensor):
        # Prompts have no answers yet: the text of the other prompts stands in for them.
        prompts = [record["prompt"] for record in shortest]
        every = torch.ones(PROBE, dtype=torch.bool)
        return [Answer(p, other[-PROBE:], every[-len(other) :]) for p in prompts for other in prompts]
    return [answer for record in shortest for answer in answers_in(record)]
