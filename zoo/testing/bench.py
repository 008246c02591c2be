"""The bench of the conformance suite: an algorithm on a tiny model, with its variants and with rows to learn from."""

from __future__ import annotations

import atexit
import copy
import json
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch

from zoo.algorithm import Algorithm
from zoo.config import Resolved, TrainConfig, resolve
from zoo.data.encode import encode
from zoo.data.load import load
from zoo.data.loader import StepLoader
from zoo.data.template import ChatTemplate
from zoo.errors import ZooError
from zoo.models.loading import Source
from zoo.options import options_of
from zoo.testing.declared import Declared
from zoo.testing.steps import Stage, hooks, step
from zoo.testing.tiny import make_tokenizer, tiny_rows, write_folder
from zoo.training import setup
from zoo.types import Batch

ROWS = 9
"""Odd, so that two processes have unequal shares; prompts come in pairs."""
CORE = {
    "precision": "32-true", "reference_cache": "off", "accelerator": "cpu", "eval_fraction": 0.0, "score": "none",
    "schedule": "constant", "warmup": 0.0,
}  # fmt: skip


class Variant(dict[str, Any]):
    """Options of the algorithm, and the kind of data that they are checked with."""

    def __init__(self, options: Mapping[str, Any], kind: str):
        super().__init__(options)
        self.kind = kind


class Bench:
    """An algorithm, its variants, and tiny rows of the kind it learns from."""

    def __init__(self, name: str, cls: type[Algorithm], declared: Declared):
        self.name, self.cls, self.declared = name, cls, declared
        self._records: dict[str, list[dict[str, Any]]] = {}
        self._draws: dict[str, bool] = {}
        self.practised: dict[str, Any] = {}
        self._resolved: dict[str, Resolved] = {}
        self._networks: dict[tuple[str, bool], tuple[Any, Any]] = {}

    @cached_property
    def variants(self) -> list[Variant]:
        """Options to check, with every kind of data that the algorithm learns from."""
        return [Variant(options, kind) for kind in self.cls.kinds() for options in self._options()]

    def _options(self) -> list[dict[str, Any]]:
        """The defaults, the options declared, and every truth value and choice that goes alone."""
        found: list[dict[str, Any]] = [{}, *(dict(options) for options in self.declared.variants)]
        for option in options_of(self.cls.Config):
            for choice in [not option.default] if option.is_flag else _choices(option.type):
                plain = isinstance(choice, str | bool | int | float) and choice != option.default
                if plain and {option.name: choice} not in found and self._accepted({option.name: choice}):
                    found.append({option.name: choice})
        return found

    def _accepted(self, options: Mapping[str, Any]) -> bool:
        try:
            self.resolved(options)
            return True
        except ZooError:
            return False

    def resolved(self, options: Mapping[str, Any], **core: Any) -> Resolved:
        """The complete configuration of a variant."""
        key = repr((dict(options), core))
        if key not in self._resolved:
            self._resolved[key] = resolve(self.name, self.cls, [("conformance", {**CORE, **core, **options})])
        return copy.deepcopy(self._resolved[key])

    def draws(self, options: Mapping[str, Any]) -> bool:
        """Whether a training step draws random numbers, so that no two ways to cut it can be equal."""
        key = f"{self.kind(options)} {dict(options)}"
        if key not in self._draws:
            stage = self.stage(options)
            before = torch.get_rng_state(), random.getstate()
            step([(stage, [self.batch(stage, options)])])
            self._draws[key] = not torch.equal(before[0], torch.get_rng_state()) or before[1] != random.getstate()
        return self._draws[key]

    # -- data ----------------------------------------------------------------------------------------------------

    def file(self, options: Mapping[str, Any], count: int = ROWS) -> Path:
        """Rows that the algorithm can learn from, as a file."""
        kind = self.kind(options)
        path = workplace() / f"{kind}-{count}.jsonl"
        if not path.exists():
            path.write_text("".join(json.dumps(row) + "\n" for row in tiny_rows(kind, count)), encoding="utf-8")
        return path

    def kind(self, options: Mapping[str, Any]) -> str:
        """The kind of data that the algorithm learns from with these options."""
        return options.kind if isinstance(options, Variant) else self.cls.kinds()[0]

    def encoded(self, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        kind = self.kind(options)
        if kind not in self._records:
            data = load(str(self.file(options)), kind)
            self._records[kind] = encode(data.records, kind, template()).records
        return self._records[kind]

    def records(self, stage: Stage, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Encoded records as the algorithm's `prepare` leaves them."""
        records = self.encoded(options)
        prepared = stage.hook.prepare(records=list(records), models=stage.models, config=stage.config)
        return records if prepared is None else prepared

    def batch(
        self, stage: Stage, options: Mapping[str, Any], only: Sequence[int] | None = None, rank: int = 0,
        processes: int = 1,
    ) -> Batch:  # fmt: skip
        """The batch of one step with all records, or `only` some; with several processes the share of `rank`."""
        records = self.records(stage, options)
        chosen = records if only is None else [records[i] for i in only]
        collate = setup.make_collate(stage.hook, template().tokenizer, stage.config)
        loader = StepLoader(chosen, collate, batch_size=len(chosen), shuffle=False, rank=rank, processes=processes)
        return loader.batch(0)

    # -- models --------------------------------------------------------------------------------------------------

    def stage(
        self, options: Mapping[str, Any], *, start: bool = False, precision: str = "32-true", own: bool = False
    ) -> Stage:
        """Models and a fresh algorithm. With `start` the policy is its reference, else a little away from it.

        The weights are those of other stages too, unless they are to be the stage's `own`.
        """
        resolved = self.resolved(options, precision=precision)
        algorithm = self.cls()
        policy, frozen = self._weights(precision, start)
        if own:
            policy, frozen = copy.deepcopy(policy), copy.deepcopy(frozen)
        roles = algorithm.roles(resolved.algorithm)
        models = setup.make_models(resolved, roles, policy, source(), template(), "shared", precision, lambda text: None)
        if "reference" in models:
            models._roles["reference"].stand_in(frozen)
        return Stage(algorithm, hooks(algorithm), models, resolved.algorithm, policy, precision)

    def _weights(self, precision: str, start: bool) -> tuple[Any, Any]:
        """A policy and its reference."""
        key = precision, start
        if key not in self._networks:
            policy = copy.deepcopy(pristine(self.cls.head, precision))
            frozen = copy.deepcopy(policy).requires_grad_(False)
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in policy.parameters() if not start else ():
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter)
            self._networks[key] = policy, frozen
        return self._networks[key]


def _choices(kind: Any) -> list[Any]:
    """The values that a type names: those of a Literal, also of one that may be none."""
    inside = get_args(kind)
    return list(inside) if get_origin(kind) is Literal else [one for part in inside for one in _choices(part)]


@cache
def workplace() -> Path:
    """A folder for the tiny model and rows, gone with this process."""
    folder = Path(tempfile.mkdtemp(prefix="zoo-conformance-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def source() -> Source:
    folder = write_folder(workplace() / "tiny")
    return Source(str(folder), folder)


@cache
def template() -> ChatTemplate:
    return ChatTemplate(make_tokenizer())


@cache
def pristine(head: str, precision: str) -> Any:
    """The model as a run would load it, before any change; copy it."""
    return setup.load_policy(TrainConfig(accelerator="cpu"), source(), precision, head)
