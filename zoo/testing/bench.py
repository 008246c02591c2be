"""The bench of the conformance suite: an algorithm with its variants, a tiny model, and rows to learn from."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch

from zoo.contract.algorithm import Algorithm
from zoo.contract.registry import manager
from zoo.data.encoding.encode import encode
from zoo.data.load import load
from zoo.data.loader import StepLoader, share_of
from zoo.errors import ZooError
from zoo.models.critic import Critic
from zoo.models.reference import Reference
from zoo.options.config import Resolved, resolve
from zoo.options.fields import options_of
from zoo.options.roles import POLICY
from zoo.testing.declared import Declared
from zoo.testing.networks import (
    frozen,
    moved,
    network,
    options_to_name,
    other_source,
    source,
    stranger,
    template,
    workplace,
)
from zoo.testing.rolling import ANSWERS, MOST_ANSWERS, NEW_TOKENS, Rolled, roll
from zoo.testing.steps import Stage, hooks, step
from zoo.testing.tiny import tiny_rows
from zoo.training.datasets import make_collate
from zoo.training.online.assembly import writer_of
from zoo.training.roles import make_critic, make_models
from zoo.training.step.hooks import prepared_records
from zoo.values.records import ListedRecords
from zoo.values.types import Batch

ROWS = 9
"""Odd, so that two processes have unequal shares; every prompt occurs twice."""
CORE = {
    "precision": "32-true", "reference_cache": "off", "accelerator": "cpu", "eval_fraction": 0.0, "score": "none",
    "schedule": "constant", "warmup": 0.0, "max_new_tokens": NEW_TOKENS,
}  # fmt: skip


class Variant(dict[str, Any]):
    """Options of the algorithm, and the kind of data to check them with."""

    def __init__(self, options: Mapping[str, Any], kind: str):
        super().__init__(options)
        self.kind = kind


class Bench:
    """An algorithm, its variants, and tiny rows of the kind it learns from.

    algorithm: what another process loads it by: a name, ./file.py:Class, or the class.
    """

    def __init__(self, name: str, cls: type[Algorithm], declared: Declared, algorithm: str | type[Algorithm]):
        self.name, self.cls, self.declared, self.algorithm = name, cls, declared, algorithm
        self._records: dict[str, list[dict[str, Any]]] = {}
        self._draws: dict[str, bool] = {}
        self.practised: dict[str, Any] = {}
        self._resolved: dict[str, Resolved] = {}
        self._critics: dict[tuple[Any, ...], Any] = {}
        self._rolled: dict[str, Rolled] = {}

    @cached_property
    def variants(self) -> list[Variant]:
        """Options to check, with every kind of data that the algorithm learns from."""
        return [Variant(options, kind) for kind in self.cls.kinds() for options in self._options()]

    def _options(self) -> list[dict[str, Any]]:
        """The defaults, the declared options, the presets, and every boolean and choice that is valid by itself."""
        variants: list[dict[str, Any]] = [{}, *(dict(options) for options in self.declared.variants)]
        variants += [{"variant": name} for name in self.cls.variants]
        if "critic" in self.cls().roles(self.cls.Config()):
            variants.append({"critic": "head"})
        for option in options_of(self.cls.Config):
            for choice in [not option.default] if option.is_flag else _choices(option.type):
                plain = isinstance(choice, str | bool | int | float) and choice != option.default
                if plain and {option.name: choice} not in variants and self._accepted({option.name: choice}):
                    variants.append({option.name: choice})
        return variants

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
            own = {**CORE, **self._named_models(), **core, **options}
            if self.cls.online():
                # Few short answers, unless a preset sets its own numbers.
                each = resolve(self.name, self.cls, [("conformance", own)]).core.answers_per_prompt
                own["answers_per_prompt"] = min(each, MOST_ANSWERS)
            self._resolved[key] = resolve(self.name, self.cls, [("conformance", own)])
        return copy.deepcopy(self._resolved[key])

    def _named_models(self) -> dict[str, str]:
        """A model for each role that needs one by name."""
        return {option: other_source().name for option in options_to_name(self.cls)}

    def draws(self, options: Mapping[str, Any]) -> bool:
        """Whether a training step draws random numbers, so that two ways to split it cannot be equal."""
        key = f"{self.kind(options)} {dict(options)}"
        if key not in self._draws:
            stage = self.stage(options)
            self._draws[key] = _draws(lambda: step([(stage, [self.batch(stage, options)])]))
        return self._draws[key]

    def draws_in_loss(self, options: Mapping[str, Any]) -> bool:
        """Whether the loss draws random numbers in training, of which each process of a run has its own."""
        stage = self.stage(options)
        batch = self.batch(stage, options)
        return _draws(lambda: step([(stage, [batch])]))

    # -- data ----------------------------------------------------------------------------------------------------

    def file(self, options: Mapping[str, Any], count: int = ROWS) -> Path:
        """A file of rows that the algorithm can learn from, with the columns that it declares."""
        kind = self.kind(options)
        rows = tiny_rows(kind, count)
        for name, values in self.declared.columns.items():
            rows = [{**row, name: value} for row, value in zip(rows, itertools.cycle(values), strict=False)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path = workplace() / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
        if not path.exists():
            path.write_text(text, encoding="utf-8")
        return path

    def kind(self, options: Mapping[str, Any]) -> str:
        """The kind of data that the algorithm learns from with these options."""
        return options.kind if isinstance(options, Variant) else self.cls.kinds()[0]

    def encoded(self, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        kind = self.kind(options)
        if kind not in self._records:
            data = load(str(self.file(options)), kind)
            self._records[kind] = list(encode(data.records, kind, template()).records)
        return self._records[kind]

    def records(self, stage: Stage, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Encoded records after the algorithm's `prepare`."""
        records = self.encoded(options)
        if self.cls.head == "lm":
            stage.models.built("policy").writer.begin(0)
        prepared = stage.hook.prepare(records=ListedRecords(records), models=stage.models, config=stage.config)
        return records if prepared is None else list(prepared_records(prepared, stage.algorithm))

    def batch(
        self, stage: Stage, options: Mapping[str, Any], only: Sequence[int] | None = None, rank: int = 0,
        processes: int = 1,
    ) -> Batch:  # fmt: skip
        """The batch of a step with all records, or `only` some; with several processes, the share of `rank`."""
        if self.cls.online():
            experience = self._experience(stage, options)
            part = experience if only is None else experience.select(only)
            return share_of(part, rank, processes)
        records = self.records(stage, options)
        chosen = records if only is None else [records[i] for i in only]
        longest = self.resolved(options).core.max_length
        collate = make_collate(stage.hook, template().tokenizer, stage.config, longest)
        loader = StepLoader(chosen, collate, batch_size=len(chosen), shuffle=False, rank=rank, processes=processes)
        return loader.batch(0)

    def prompts(self, stage: Stage, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The prompts of a rollout."""
        records = self.records(stage, options)
        return records[: math.ceil(ANSWERS / self.resolved(options).core.answers_per_prompt)]

    def roll(self, stage: Stage, options: Mapping[str, Any], **how: Any) -> Rolled:
        """A rollout by this stage's weights; how: arguments of `zoo.testing.rolling.roll`."""
        prompts = how.pop("prompts", None) or self.prompts(stage, options)
        rolled = roll(stage, prompts, **how)
        rolled.batch.on_policy = True
        return rolled

    def rolled(self, options: Mapping[str, Any], precision: str = "32-true", start: bool = False) -> Rolled:
        """The rollout that a variant's steps learn from: by slightly older weights, or by the policy's own."""
        key = repr((self.kind(options), dict(options), precision, start))
        if key not in self._rolled:
            writer = self.stage(options, start=start, precision=precision, behind=True)
            self._rolled[key] = self.roll(writer, options)
            self._rolled[key].batch.on_policy = start
        return self._rolled[key]

    def _experience(self, stage: Stage, options: Mapping[str, Any]) -> Batch:
        rolled = self.rolled(options, stage.precision, stage.start)
        stage.models.used |= rolled.used
        stage.algorithm.load_state(copy.deepcopy(rolled.state))
        return rolled.batch.select(range(len(rolled.batch)))

    # -- models --------------------------------------------------------------------------------------------------

    def stage(
        self, options: Mapping[str, Any], *, start: bool = False, precision: str = "32-true", own: bool = False,
        behind: bool = False,
    ) -> Stage:  # fmt: skip
        """Models and a fresh algorithm. With `start` the policy equals its reference, else it is slightly different.

        The weights are shared with other stages, unless they are the stage's `own`. behind: an online policy at the
        time of the rollout that it learns from.
        """
        resolved = self.resolved(options, precision=precision)
        algorithm = self.cls()
        moves = 0 if start else 1 if behind or not self.cls.online() else 2
        policy = network(self.cls.head, precision, moves)
        if own:
            policy = copy.deepcopy(policy)
        every = algorithm.roles(resolved.algorithm)
        roles = tuple(role for role in every if role != "critic")
        models = make_models(
            _unnamed(resolved), roles, policy, source(), template(), "shared", precision, lambda text: None,
            temperature=(resolved.core.temperature or 1.0) if self.cls.online() else 1.0,
            make_writer=writer_of(resolved.core, template(), precision, torch.device("cpu"), manager(algorithm)),
        )  # fmt: skip
        for name, role in models.frozen().items():
            assert isinstance(role, Reference)
            model = frozen if resolved.roles[name].start == POLICY else stranger
            frozen_copy = model(self.cls.head, precision)
            role.stand_in(copy.deepcopy(frozen_copy) if own else frozen_copy)
        stage = Stage(algorithm, hooks(algorithm), models, resolved.algorithm, policy, precision, start=start)
        if "critic" in every:
            self._give_critic(stage, resolved, moves, own)
        return stage

    def _give_critic(self, stage: Stage, resolved: Resolved, moves: int, own: bool) -> None:
        """A critic as the options say; after the policy's first move its weights are no longer zero."""
        kind = resolved.core.critic
        if (key := (kind, stage.precision, moves)) not in self._critics:
            policy = stage.models.built("policy")
            made = make_critic(resolved.core, policy, source(), "shared", stage.precision, lambda text: None)
            self._critics[key] = moved(made.head, moves)
        head = self._critics[key] if not own else copy.deepcopy(self._critics[key])
        stage.critic = head
        backbone = stage.models.built("policy") if kind == "head" else head
        stage.models._roles["critic"] = Critic(backbone, head, "shared")


def _unnamed(resolved: Resolved) -> Resolved:
    """The same options without models for frozen roles: those of the bench stand in."""
    resolved = copy.deepcopy(resolved)
    for role in resolved.roles.values():
        if role.is_frozen_copy:
            resolved.set(role.option, None)
    return resolved


def _draws(work: Callable[[], Any]) -> bool:
    """Whether it draws random numbers."""
    before = torch.get_rng_state(), random.getstate()
    work()
    return not torch.equal(before[0], torch.get_rng_state()) or before[1] != random.getstate()


def _choices(kind: Any) -> list[Any]:
    """The values of a Literal, also inside an optional type."""
    inside = get_args(kind)
    return list(inside) if get_origin(kind) is Literal else [one for part in inside for one in _choices(part)]
