"""Plays episodes with an environment on held-out prompts, and scores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zoo.contract.registry import contributions, manager
from zoo.environments.named import data_of, make_pool
from zoo.environments.pool import Pool
from zoo.errors import ZooError
from zoo.evals import Score, Subject, mean_score, within_0_and_1
from zoo.evals.answers import engine_of
from zoo.evals.drawing import text_of
from zoo.evals.rows import records_of, reward_for
from zoo.models.precision import autocast
from zoo.options.config import OF_ENVIRONMENT
from zoo.rollout.engine import Sampling
from zoo.rollout.episodes import Player
from zoo.rollout.sampling import seeds
from zoo.values.types import Answer


def episodes(
    subject: Subject, environment: str, data: str = "", reward: str = OF_ENVIRONMENT, split: str = "",
    columns: str = "", limit: int | None = None, max_new_tokens: int = 256, max_turns: int = 8,
    temperature: float = 0.0, timeout: float = 30.0, seed: int = 0,
) -> Score:  # fmt: skip
    """Mean reward of an episode with an environment for each prompt; greedy unless a temperature is given."""
    data = data or data_of(environment)
    if not data:
        raise ZooError(f"The environment '{environment}' has no data of its own.", "Name some: data=prompts.jsonl.")
    records = records_of(subject, data, "prompt", split, columns, limit)
    scorer = reward_for(subject, reward, data, max_new_tokens)
    pool = make_pool(environment, contributions(manager(), "environments"), timeout)
    try:
        answers = played(subject, pool, records, Sampling(max_new_tokens, temperature), seed, max_turns)
    finally:
        pool.close()
    texts, tokens = [text_of(subject, answer) for answer in answers], [int(answer.mask.sum()) for answer in answers]
    told = [answer.episode for answer in answers]
    scored = scorer.detailed(texts, records, [answer.ended for answer in answers], tokens, told)
    samples = [
        {"prompt": record["prompt"], "answer": text, "score": value, "cut": answer.cut,
         "messages": answer.episode.messages if answer.episode else []}
        for record, text, value, answer in zip(records, texts, scored.values, answers, strict=True)
    ]  # fmt: skip
    turns = [sum(turn["role"] == "assistant" for turn in one.messages) for one in told if one is not None]
    details = {
        "missing": scored.values.count(None), "turns": _mean(turns), "mean_tokens": _mean(tokens),
        "cut": _mean([answer.cut for answer in answers]), **scored.failures,
    }  # fmt: skip
    bounds = within_0_and_1([value for value in scored.values if value is not None])
    return mean_score("episodes", scored.values, bounds, samples=samples, details=details)


def played(
    subject: Subject, pool: Pool, records: Sequence[Mapping[str, Any]], sampling: Sampling, seed: int, max_turns: int
) -> list[Answer]:  # fmt: skip
    """An episode for the prompt of each record."""
    drawn = seeds(len(records), torch.Generator().manual_seed(seed))
    player = Player(pool, subject.template, max_turns)
    with autocast(subject.precision, subject.device):
        return player.play(engine_of(subject), records, 1, sampling, drawn)


def _mean(values: list[Any]) -> float:
    return round(sum(values) / max(1, len(values)), 3)
