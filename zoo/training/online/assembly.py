"""What a run needs to learn from its policy's own answers: a writer, rewards, and the loader of the experience."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import torch

from zoo.contract.registry import PluginManager, contributions
from zoo.data.encoding.template import ChatTemplate
from zoo.data.loader import Loader
from zoo.environments.named import make_pool
from zoo.libraries.stored import initial_values
from zoo.models.precision import autocast
from zoo.models.reference_cache import architecture, fingerprint
from zoo.models.roles import Policy
from zoo.options.checks import names_in
from zoo.options.config import TrainConfig
from zoo.paths import cache_folder
from zoo.rewards.reward import Reward
from zoo.rollout.engine import Engine, Sampling, local, make_engine
from zoo.rollout.episodes import Player
from zoo.rollout.kept import AnswerCache
from zoo.rollout.writer import Writer
from zoo.training.online.experience import Experience, count_steps
from zoo.values.types import Batch

LOCAL = TrainConfig.engine
"""The engine that every installation has, and that frozen roles write with."""
Say = Callable[[str], None]
Roll = Callable[[list[dict[str, Any]], int, int], Batch]


def sampling_of(core: TrainConfig) -> Sampling:
    """How answers are drawn."""
    stop = tuple(names_in(core.stop))
    return Sampling(core.max_new_tokens, core.temperature, core.top_k, core.top_p, stop, core.token_budget)


def writer_of(
    core: TrainConfig, template: ChatTemplate, precision: str, device: torch.device, plugins: PluginManager,
    rescores: bool = False,
) -> Callable[[Policy], Writer]:  # fmt: skip
    """A function that makes the writer of a policy, as the options say. rescores: see `Writer`.

    Raises ZooError for a way to sample that is not possible, and when it first writes for such an engine.
    """
    sampling = sampling_of(core)

    def make(policy: Policy) -> Writer:
        def engine(spec: str, model: Any) -> Engine:
            return make_engine(
                spec, model=model, eos_ids=template.eos_ids, pad_id=template.tokenizer.pad_token_id or 0,
                named={LOCAL: local, **contributions(plugins, "engines")}, tokenizer=template.tokenizer,
                progress=lambda done, total: writer.show(done, total),
            )  # fmt: skip

        def player() -> Player:
            named = contributions(plugins, "environments")
            return Player(make_pool(str(core.environment), named, core.environment_timeout), template, core.max_turns)

        writer = Writer(
            policy, lambda: engine(core.engine, policy.model), template, sampling, core.answers_per_prompt, core.seed,
            lambda: autocast(precision, device), device, rescores, lambda model: engine(LOCAL, model),
            player if core.environment else None,
        )  # fmt: skip
        return writer

    return make


def try_environment(core: TrainConfig, plugins: PluginManager) -> None:
    """Raises ZooError for an environment that cannot be made, before a model is loaded for it."""
    if core.environment:
        make_pool(core.environment, contributions(plugins, "environments"), core.environment_timeout).close()


def kept_answers(policy: Any, key: Sequence[str], template: ChatTemplate, say: Say) -> AnswerCache | None:
    """The cache of what these weights write before training; says why, and gives None, where it cannot be written."""
    ending = ",".join(str(number) for number in sorted(template.eos_ids))
    try:
        values = initial_values(policy, policy.named_parameters())
        weights = fingerprint(values, *key, ending, architecture(policy))
        return AnswerCache(cache_folder() / "answers", weights)
    except (OSError, sqlite3.Error) as error:
        say(f"What is written before training is not kept: {cache_folder()} cannot be written ({error}).")
        return None


def make_rewards(core: TrainConfig, plugins: PluginManager, device: torch.device, say: Say) -> dict[str, Reward]:
    """The reward that is trained on, and the gold one if there is one. Raises ZooError."""
    named = contributions(plugins, "rewards")
    texts = {"reward": core.reward, "gold": core.gold_reward}
    options: dict[str, Any] = {"out": core.out, "device": device, "say": say}
    options |= {"timeout": core.reward_timeout, "max_new_tokens": core.max_new_tokens, "base_dtype": core.frozen_dtype}
    return {which: Reward(text, named, **options) for which, text in texts.items() if text}


def make_experience(prompts: Loader, roll: Roll, core: TrainConfig) -> Experience:
    """The loader of an online run."""
    return Experience(prompts, roll, minibatches=core.minibatches, passes=core.rollout_epochs, max_steps=core.max_steps)


def steps_of(prompts: Loader, core: TrainConfig) -> int:
    """The optimizer steps of an online run."""
    return count_steps(prompts, core.minibatches * core.rollout_epochs, core.max_steps)
