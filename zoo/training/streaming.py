"""The data of a run that is read as it comes: its streams, and what their first rows tell before the first step."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from zoo.contract.hook_arguments import named_hook
from zoo.data.encoding.encode import Encoded
from zoo.data.encoding.records import EncodedRecords
from zoo.data.encoding.statistics import Statistics
from zoo.data.prepared import Prepared
from zoo.data.report import Report
from zoo.data.sources.mixture import Part
from zoo.data.stream_loader import StreamLoader, StreamPart, Streams
from zoo.data.stream_opening import open_stream
from zoo.data.streams import Files, Stream
from zoo.errors import ZooError
from zoo.numbers import amount
from zoo.options.checks import prompts_in_rollout
from zoo.options.config import TrainConfig
from zoo.training.reading import Reader, one_kind
from zoo.training.step.parts import Parts
from zoo.values.records import NeedsAll, Records, StreamedRecords

Say = Callable[[str], None]
NEXT_SEED = 500_009
"""The distance between the seeds of two streams of a mixture."""


@dataclass
class Streaming:
    """The streams of a run. first: their first records, which stand for all until these come."""

    streams: Streams
    first: Encoded
    text: str
    """What `--data` names."""

    @property
    def labels(self) -> Parts | None:
        """The parts of a mixture, by the row numbers of their records."""
        parts = self.streams.parts
        if len(parts) == 1:
            return None
        return Parts([part.label for part in parts], [part.stream.files.before for part in parts])

    def where(self, row: int) -> str:
        """`file:row` of a row number."""
        files = [part.stream.files for part in self.streams.parts]
        return next(of_part for of_part in reversed(files) if row > of_part.before).where(row)

    def close(self) -> None:
        """End the processes that encode ahead."""
        for part in self.streams.parts:
            part.stream.close()

    def facts(self) -> dict[str, Any]:
        """What data.json says of what was read so far."""
        facts = {part.label: part.stream.facts() for part in self.streams.parts}
        if len(facts) == 1:
            return next(iter(facts.values()))
        prints = "\n".join(f"{label} {of_part['fingerprint']}" for label, of_part in facts.items())
        return {
            "source": self.text, "fingerprint": f"stream:{hashlib.sha256(prints.encode()).hexdigest()}", "parts": facts,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """What was read so far, for printing."""
        return [line for part in self.streams.parts for line in part.stream.lines()]


def open_streams(reader: Reader, parts: Sequence[Part], kinds: Sequence[str], say: Say) -> Streaming:
    """The streams of a run's data. Raises ZooError for what cannot be read as it comes."""
    opened = _opened(reader, parts, kinds)
    core, streams = reader.core, []
    for number, (part, (files, first)) in enumerate(zip(parts, opened, strict=True)):
        stream = Stream(
            files, first.work, seed=core.seed + NEXT_SEED * number, buffer=core.shuffle_buffer, strict=core.strict,
            workers=core.data_workers or 1, say=say,
        )  # fmt: skip
        streams.append(StreamPart(part.label, part.weight or Fraction(1), stream))
        count = amount(len(files.files), "file")
        say(f"{part.source}: {count}, read as it comes. {first.kept.shards[0].counts.reading}")
        say(f"Of the first {first.report.rows:,} rows:")
        for line in first.encoded.lines():
            say(line)
    say(f"Each example is drawn among {core.shuffle_buffer:,} records or more, and each process reads all rows.")
    return Streaming(Streams(streams), _first([first for _, first in opened]), core.data)


def _opened(reader: Reader, parts: Sequence[Part], kinds: Sequence[str]) -> list[tuple[Files, Prepared]]:
    """The files of each part, numbered through, and its first rows."""
    if len(parts) > 1:
        openings = [open_stream(part.source, kinds, part.reading(reader.reading))[1] for part in parts]
        kinds = [one_kind(openings, kinds)]
    opened: list[tuple[Files, Prepared]] = []
    for part in parts:
        number = sum(len(files.files) for files, _ in opened)
        opened.append(reader.first_of(part, kinds, number))
    return opened


def _first(parts: Sequence[Prepared]) -> Encoded:
    """The first records of all parts."""
    statistics = Statistics()
    for part in parts:
        statistics.merge(part.encoded.statistics)
    blocks = [shard.block for part in parts for shard in part.kept.shards]
    records = StreamedRecords(EncodedRecords(blocks))
    return Encoded(parts[0].kind, records, Report("As tokens"), [], statistics)


def stream_loader(
    core: TrainConfig, streaming: Streaming, records: Any, collate: Any, rank: int, processes: int, online: bool = False
) -> StreamLoader:  # fmt: skip
    """The loader of a run's steps; of an online run that of its rollouts."""
    assert core.max_steps is not None
    each = core.minibatches * core.rollout_epochs
    size, steps = (
        (prompts_in_rollout(core), -(-core.max_steps // each)) if online else (core.batch_size, core.max_steps)
    )
    return StreamLoader(
        streaming.streams, records, collate, batch_size=size, steps=steps, seed=core.seed, rank=rank,
        processes=processes,
    )  # fmt: skip


# -- what an algorithm makes of them -------------------------------------------------------------------------------


@contextlib.contextmanager
def needing_all(algorithm: Any) -> Iterator[None]:
    """Within it an algorithm that looks at all records before training is refused in words."""
    try:
        yield
    except NeedsAll as error:
        raise ZooError(
            f"{named_hook(algorithm, 'prepare')} looks at all records before training, and --stream reads them as they "
            f"come. {error.message}",
            "Leave out --stream, or give the options that make it unnecessary (docs/data.md, 'Streams').",
        ) from None


def refuse_own_records(prepared: Records, algorithm: Any) -> None:
    """Raises ZooError for records that an algorithm has made itself: a stream would never reach them."""
    if not isinstance(prepared, StreamedRecords):
        raise ZooError(
            f"{named_hook(algorithm, 'prepare')} gives records of its own, and --stream reads them as they come.",
            "Leave out --stream.",
        )
