"""What a run needs to learn from its policy's own answers: a writer, rewards, and the loader of the experience."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import torch

from zoo.contract.registry import PluginManager, contributions
from zoo.data.encoding.template import ChatTemplate
from zoo.data.loader import StepLoader
from zoo.models.precision import autocast
from zoo.models.reference_cache import architecture, fingerprint
from zoo.models.roles import Models
from zoo.options.checks import names_in, prompts_in_rollout
from zoo.options.config import TrainConfig
from zoo.paths import cache_folder
from zoo.rewards.reward import Reward
from zoo.rollout.engine import Engine, Sampling, local
from zoo.rollout.kept import AnswerCache
from zoo.rollout.spec import make_engine
from zoo.rollout.writer import Writer
from zoo.training.online.experience import Experience
from zoo.values.types import Batch

Say = Callable[[str], None]
Roll = Callable[[list[dict[str, Any]], int, int], Batch]


def sampling_of(core: TrainConfig) -> Sampling:
    """How answers are drawn."""
    stop = tuple(names_in(core.stop))
    return Sampling(core.max_new_tokens, core.temperature, core.top_k, core.top_p, stop, core.token_budget)


def give_pen(
    models: Models, core: TrainConfig, template: ChatTemplate, precision: str, device: torch.device,
    plugins: PluginManager,
) -> Writer:  # fmt: skip
    """Let the policy write answers as the options say. Raises ZooError for an engine or a sampling that cannot be."""
    policy = models.built("policy")

    def engine() -> Engine:
        return make_engine(
            core.engine, model=policy.model, eos_ids=template.eos_ids, pad_id=template.tokenizer.pad_token_id or 0,
            named={"local": local, **contributions(plugins, "engines")}, tokenizer=template.tokenizer,
            progress=lambda done, total: policy.writer.show(done, total),
        )  # fmt: skip

    @contextlib.contextmanager
    def arithmetic() -> Any:
        with autocast(precision, device):
            yield

    policy.writer = Writer(
        policy, engine, template, sampling_of(core), core.answers_per_prompt, core.seed, arithmetic, device
    )  # fmt: skip
    return policy.writer


def kept_answers(policy: Any, key: Sequence[str], template: ChatTemplate, say: Say) -> AnswerCache | None:
    """Where what these weights write before training is kept; None, said, where that cannot be."""
    ending = ",".join(str(number) for number in sorted(template.eos_ids))
    try:
        found = fingerprint(policy.named_parameters(), *key, ending, architecture(policy))
        return AnswerCache(cache_folder() / "answers", found)
    except (OSError, sqlite3.Error) as error:
        say(f"What is written before training is not kept: {cache_folder()} cannot be written ({error}).")
        return None


def make_rewards(core: TrainConfig, plugins: PluginManager, device: torch.device, say: Say) -> dict[str, Reward]:
    """The reward that is trained on, and the gold one if there is one. Raises ZooError."""
    named = contributions(plugins, "rewards")
    texts = {"reward": core.reward, "gold": core.gold_reward}
    options: dict[str, Any] = {"out": core.out, "device": device, "say": say}
    options |= {"timeout": core.reward_timeout, "max_new_tokens": core.max_new_tokens}
    return {which: Reward(text, named, **options) for which, text in texts.items() if text}


def make_experience(
    records: Sequence[dict[str, Any]], roll: Roll, core: TrainConfig, rank: int, processes: int
) -> Experience:
    """The loader of an online run. Raises ZooError where the numbers do not go together."""
    prompts = StepLoader(
        records, lambda records: Batch(row=torch.tensor([record["row"] for record in records])),
        batch_size=min(prompts_in_rollout(core), len(records)), epochs=core.epochs, seed=core.seed, rank=rank,
        processes=processes,
    )  # fmt: skip
    return Experience(prompts, roll, minibatches=core.minibatches, passes=core.rollout_epochs, max_steps=core.max_steps)
