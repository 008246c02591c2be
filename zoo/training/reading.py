"""The sources of a run, one by one: read and encoded as its options and their own say, and held out in part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy

from zoo.data.convert import CONVERSIONS
from zoo.data.encoding.encode import Encoded
from zoo.data.encoding.records import PROMPT_HASH
from zoo.data.encoding.template import ChatTemplate
from zoo.data.load import Opening, judge, open_data
from zoo.data.prepared import Prepared, Say, prepare
from zoo.data.sources import held_out_split
from zoo.data.sources.mixture import Part, read_mixture
from zoo.data.sources.reading import Reading
from zoo.data.stream_opening import prepare_first
from zoo.data.streams import Files
from zoo.errors import NoSuchSplit, ZooError
from zoo.numbers import amount
from zoo.options.checks import FEWEST
from zoo.options.config import TrainConfig
from zoo.values.records import ChosenRecords, Without


class Reader:
    """Reads the parts of a run's data. named: the sources of plugins, by name; say: gets how far reading is."""

    def __init__(self, core: TrainConfig, template: ChatTemplate, named: Mapping[str, Any], say: Say):
        self.core, self.template, self.named, self.say = core, template, named, say
        self.reading = Reading.of(core, named)

    def parts(self, option: str) -> list[Part]:
        """The parts that an option names; none without it. Raises ZooError."""
        text = getattr(self.core, option)
        parts = read_mixture(text, self.named) if text else []
        if option == "eval_data" and any(part.weight is not None for part in parts):
            raise ZooError(f"--eval-data {text} has weights.", "Leave the numbers out: all held-out rows are scored.")
        return parts

    def read(self, part: Part, kinds: Sequence[str] | str, split: str | None = None) -> Prepared:
        """The encoded rows of a part, of one of the kinds. Raises ZooError."""
        core, reading = self.core, part.reading(self.reading)
        return prepare(
            part.source, kinds, self.template, replace(reading, split=split or reading.split),
            max_length=core.max_length, long_rows=core.long_rows, workers=core.data_workers, say=self.say,
        )  # fmt: skip

    def kind_of(self, parts: Sequence[Part], kinds: Sequence[str]) -> Sequence[str]:
        """The kinds of which all parts can become the same one, as far as their first rows tell. Raises ZooError.

        Of several parts it is one kind: their own if that is the same, else the first of `kinds` that all become.
        """
        if len(parts) == 1:
            return kinds
        return [one_kind([open_data(part.source, kinds, part.reading(self.reading)) for part in parts], kinds)]

    def first_of(self, part: Part, kinds: Sequence[str], number: int) -> tuple[Files, Prepared]:
        """The files of a part that is read as it comes, and its first rows. number: how many files stand before."""
        return prepare_first(
            part.source, kinds, self.template, part.reading(self.reading), number=number,
            max_length=self.core.max_length, long_rows=self.core.long_rows,
        )  # fmt: skip

    def held_out(self, part: Part, train: Prepared) -> tuple[Prepared, Prepared | None, str]:
        """What is trained on, and the part's own held-out split, else a share of its prompts.

        Where nothing is held out, the text says why.
        """
        if not self.core.eval_fraction:
            return train, None, ""
        if own := held_out_split(part.source, part.split or self.core.split, self.named):
            return train, *self._own_split(part, train.kind, own)
        if train.report.records < FEWEST:
            return train, None, f" of fewer than {FEWEST} records"
        rest, held = train.without_held_out(self.core.eval_fraction)
        if not len(held.encoded.records):
            return train, None, ", for all records have the same prompt"
        return rest, held, ""

    def _own_split(self, part: Part, kind: str, split: str) -> tuple[Prepared | None, str]:
        """The source's own held-out rows. Raises ZooError where it has some that cannot be used."""
        try:
            return self.read(part, kind, split), ""
        except NoSuchSplit as error:
            return None, f" ({error.message.rstrip('.')})"
        except ZooError as error:
            hint = f"{error.hint} Or name others with --eval-data, or train without validation: --eval-fraction 0."
            raise ZooError(
                f"The held-out rows that {part.source} brings cannot be used: {error.message}", hint.strip()
            ) from error


def one_kind(openings: Sequence[Opening], kinds: Sequence[str]) -> str:
    """The kind that all openings have, else the first of `kinds` that all can become. Raises ZooError."""
    if len({opening.kind for opening in openings}) == 1:
        return openings[0].kind
    for kind in kinds:
        if all(opening.format.kind == kind or (opening.format.kind, kind) in CONVERSIONS for opening in openings):
            return kind
    listed = ", ".join(f"{opening.report.name} {opening.format.kind}" for opening in openings)
    raise ZooError(
        f"The parts of the mixture are of kinds that do not become one: {listed}.",
        "docs/data.md says which kinds convert.",
    )


def checked(data: Prepared, strict: bool) -> Encoded:
    """The encoded records. Raises ZooError if none is left, or `strict` allows none to be dropped."""
    encoded = data.encoded
    if strict:
        judge(encoded.report, len(encoded.records), strict, data.report)
    if not encoded.records:
        raise ZooError(
            f"No row of {data.name} is left after encoding: {'; '.join(line.strip() for line in encoded.lines())}",
            f"`zoo data {data.name} --for {data.kind}` shows the rows; --max-length and --long-rows cut may help.",
        )
    return encoded


def kept_apart(train: Prepared, held_out: Sequence[Prepared]) -> Prepared:
    """A part without the training records whose prompts other parts hold out."""
    encoded, hashes = train.encoded, train.encoded.records.column(PROMPT_HASH)
    held = [data.encoded.records.column(PROMPT_HASH) for data in held_out]
    places = numpy.flatnonzero(numpy.isin(hashes, numpy.concatenate([hashes[:0], *held])))
    if not len(places):
        return train
    records = ChosenRecords(encoded.records, Without(len(encoded.records), places))
    have = f"{amount(len(places), 'record')} ha{'s' if len(places) == 1 else 've'}"
    note = f"{have} prompts that another part holds out, and {'is' if len(places) == 1 else 'are'} not trained on."
    report = replace(encoded.report, records=len(records))
    return replace(train, encoded=replace(encoded, records=records, report=report, notes=[*encoded.notes, note]))
