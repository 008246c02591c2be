"""The data of a run: loaded, encoded and held out as its options say, and dealt out in steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoo.contract.registry import PluginManager, contributions
from zoo.data.encoding.encode import Encoded, default_collate
from zoo.data.encoding.template import ChatTemplate
from zoo.data.formats import columns_of
from zoo.data.load import judge
from zoo.data.loader import StepLoader, record_tokens
from zoo.data.prepared import MOST_HELD_OUT, Prepared, prepare
from zoo.data.sources import held_out_split
from zoo.errors import NoSuchSplit, ZooError
from zoo.options.checks import FEWEST
from zoo.options.config import TrainConfig
from zoo.training.step.schedule import decay_begin
from zoo.values.answers import answers_in
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
    decay: Encoded | None = None
    """The records of the decay phase, where it has other data."""


def load_data(
    core: TrainConfig, kinds: Sequence[str], template: ChatTemplate, plugins: PluginManager, say: Say
) -> Data:
    """Load, check, encode and split the data of a run. Prints what was kept and dropped.

    kinds: those that the algorithm learns from, the preferred one first.
    """
    named = contributions(plugins, "sources")
    options: dict[str, Any] = {
        "template": template, "columns": columns_of(core.columns), "format": core.format, "strict": core.strict,
        "named_sources": named, "limit": core.limit, "max_length": core.max_length, "long_rows": core.long_rows,
    }  # fmt: skip
    train = prepare(core.data, kinds, split=core.split, **options)
    train, held_out, why_none = _held_out(core, train, options)
    for line in train.report.lines():
        say(line)
    encoded, facts = _checked(train, core.strict), {"train": _facts(train)}
    encoded_held_out = None
    if held_out is not None and held_out.encoded.report.rows:
        encoded_held_out = _checked(held_out, core.strict)
        facts["held_out"] = _facts(held_out)
    for line in encoded.lines():
        say(line)
    decay = None
    if core.decay_data is not None:
        later = prepare(core.decay_data, train.kind, split=core.split, **options)
        decay, facts["decay"] = _checked(later, core.strict), _facts(later)
        for line in [*later.report.lines(), *decay.lines()]:
            say(line)
    count = len(encoded_held_out) if encoded_held_out else 0
    if not count:
        _refuse_without_validation(core, why_none)
    most = f", of {MOST_HELD_OUT:,} prompts, the most that a share holds out" if held_out and held_out.capped else ""
    say(
        f"Held out for validation: {count:,} records{most}."
        if count
        else f"Nothing is held out{why_none}: no validation."
    )
    return Data(encoded, encoded_held_out, facts, decay)


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


def _checked(data: Prepared, strict: bool) -> Encoded:
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


def _facts(data: Prepared) -> dict[str, Any]:
    return {
        "fingerprint": data.fingerprint,
        "format": data.format,
        **data.report.as_json(),
        "encoded": data.encoded.as_json(),
    }


def _held_out(core: TrainConfig, train: Prepared, options: dict[str, Any]) -> tuple[Prepared, Prepared | None, str]:
    """What is trained on, and the named data, else the source's own held-out split, else a share of the prompts.

    Where nothing is held out, the text says why.
    """
    if core.eval_data:
        return train, prepare(core.eval_data, train.kind, split=core.split, **options), ""
    if not core.eval_fraction:
        return train, None, ""
    if own := brings_held_out(core, options["named_sources"]):
        return train, *_own_split(core, train.kind, own, options)
    if train.report.records < FEWEST:
        return train, None, f" of fewer than {FEWEST} records"
    return *train.without_held_out(core.eval_fraction), ""


def _own_split(core: TrainConfig, kind: str, split: str, options: dict[str, Any]) -> tuple[Prepared | None, str]:
    """The source's own held-out rows. Raises ZooError where it has some that cannot be used."""
    try:
        return prepare(core.data, kind, split=split, **options), ""
    except NoSuchSplit as error:
        return None, f" ({error.message.rstrip('.')})"
    except ZooError as error:
        raise ZooError(
            f"The held-out rows that {core.data} brings cannot be used: {error.message}",
            f"{error.hint} Or name others with --eval-data, or train without validation: --eval-fraction 0.".strip(),
        ) from error


def _shares(core: TrainConfig, options: dict[str, Any]) -> bool:
    """Whether a share of the training data is held out, and not a split of the source."""
    return bool(core.eval_fraction) and not core.eval_data and not brings_held_out(core, options["named_sources"])


def brings_held_out(core: TrainConfig, named: Mapping[str, Any]) -> str | None:
    """The split of the source that is held out where no option names other data; None if it has none."""
    return None if core.eval_data else held_out_split(core.data, core.split, named)


def make_collate(hook: Any, tokenizer: Any, config: Any, max_length: int) -> Callable[[list[dict[str, Any]]], Batch]:
    """The algorithm's collation, or the default of its data kind."""

    def collate(records: list[dict[str, Any]]) -> Batch:
        batch = hook.collate(records=records, tokenizer=tokenizer, config=config, max_length=max_length)
        return default_collate(records) if batch is None else batch

    return collate


def make_loader(
    core: TrainConfig, data: Data, records: Sequence[dict[str, Any]], collate: Callable[[list[dict[str, Any]]], Batch],
    rank: int = 0, processes: int = 1,
) -> StepLoader:  # fmt: skip
    """The loader of prepared records; in the decay phase it mixes in that phase's own data, if there is some."""
    loader = StepLoader(
        records, collate, batch_size=core.batch_size, epochs=core.epochs, max_steps=core.max_steps, seed=core.seed,
        rank=rank, processes=processes,
    )  # fmt: skip
    if data.decay is not None:
        loader.switch(data.decay.records, decay_begin(len(loader), core.decay_share), core.decay_mix)
    return loader


def sample_answers(records: Sequence[dict[str, Any]], count: int = 3) -> list[Answer]:
    """A few answers for the layout's self-test, from the shortest of the first records."""
    shortest = sorted(records[:SAMPLED], key=record_tokens)[:count]
    if shortest and isinstance(shortest[0].get("prompt"), torch.Tensor):
        # Prompts have no answers yet: the text of the other prompts stands in for them.
        prompts = [record["prompt"] for record in shortest]
        every = torch.ones(PROBE, dtype=torch.bool)
        return [Answer(p, other[-PROBE:], every[-len(other) :]) for p in prompts for other in prompts]
    return [answer for record in shortest for answer in answers_in(record)]
