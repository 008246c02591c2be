"""Evaluates answers: the reward of a model's answers to prompts, the loss on given answers, the preference in pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from zoo.data.encoding.encode import encode
from zoo.errors import PluginError
from zoo.evals import Score, Subject, mean_score, ratio_score, share_score, within_0_and_1
from zoo.evals.pairs import Pair
from zoo.models.precision import autocast
from zoo.models.scoring import balance_of, score_answers
from zoo.numbers import amount
from zoo.rewards.reward import Reward, Scored
from zoo.rollout.engine import InProcessEngine, Sampling
from zoo.values.types import Answer, TokenLogps

SCORING_TOKENS = 4096
"""Tokens in one forward pass while scoring."""


def answer_texts(subject: Subject, prompts: list[Any], sampling: Sampling, seed: int = 0) -> list[str]:
    """One answer to each prompt, as text without special tokens."""
    return [
        subject.tokenizer.decode(answer.completion, skip_special_tokens=True).strip()
        for answer in answers_to(subject, prompts, sampling, seed)
    ]


def answers_to(subject: Subject, prompts: list[Any], sampling: Sampling, seed: int = 0) -> list[Answer]:
    """One answer to each prompt, as tokens. Greedy answers are generated once per subject, for all evaluations."""
    ids = [torch.tensor(subject.template.prompt_ids(prompt)) for prompt in prompts]
    if not sampling.greedy:
        return generate(subject, ids, sampling, seed)
    keys = [(repr(sampling), tuple(prompt.tolist())) for prompt in ids]
    missing = {key: prompt for key, prompt in zip(keys, ids, strict=True) if key not in subject.answered}
    subject.answered.update(zip(missing, generate(subject, list(missing.values()), sampling, seed), strict=True))
    return [subject.answered[key] for key in keys]


def generate(
    subject: Subject, prompts: list[torch.Tensor], sampling: Sampling, seed: int, samples: int = 1
) -> list[Answer]:  # fmt: skip
    """`samples` answers to each prompt of token ids; the answers to one prompt are adjacent."""
    with autocast(subject.precision, subject.device):
        return engine_of(subject).generate(prompts, samples, sampling, torch.Generator().manual_seed(seed))


def engine_of(subject: Subject) -> InProcessEngine:
    """What generates the subject's answers."""
    return InProcessEngine(
        subject.model,
        eos_ids=subject.template.eos_ids,
        pad_id=subject.tokenizer.pad_token_id,
        tokenizer=subject.tokenizer,
        progress=subject.progress,
    )


def reward_eval(
    name: str,
    subject: Subject,
    records: list[dict[str, Any]],
    reward: Callable[[list[str], list[dict[str, Any]]], list[float | None]] | Reward,
    sampling: Sampling,
) -> Score:
    """Mean reward of the model's answers to the records' prompts; answers without a reward are left out and counted.

    For a `Reward` the details hold the mean of each of its parts and the disagreement of its reward models.
    """
    records = records[: subject.limit]
    answers = answers_to(subject, [record["prompt"] for record in records], sampling)
    texts = [subject.tokenizer.decode(answer.completion, skip_special_tokens=True).strip() for answer in answers]
    more: dict[str, Any] = {}
    if isinstance(reward, Reward):
        tokens = [len(answer.completion) for answer in answers]
        scored = reward.detailed(texts, records, [answer.ended for answer in answers], tokens)
        values, more = scored.values, {**_parts(scored), **scored.failures}
    else:
        values = reward(texts, records)
    rewards = [None if value is None or not math.isfinite(value) else value for value in values]
    if len(rewards) != len(texts):
        raise PluginError(
            f"The reward of '{name}' gave {amount(len(rewards), 'value')} for {amount(len(texts), 'answer')}."
        )
    samples = [
        {"prompt": record["prompt"], "answer": text, "score": value, "cut": answer.cut}
        for record, text, value, answer in zip(records, texts, rewards, answers, strict=True)
    ]
    words = sum(len(text.split()) for text in texts) / max(1, len(texts))
    details = {"missing": rewards.count(None), "mean_words": round(words, 1), **more}
    bounds = within_0_and_1([value for value in rewards if value is not None])
    return mean_score(name, rewards, bounds, samples=samples, details=details)


def _parts(scored: Scored) -> dict[str, Any]:
    """Means over the answers that have a value."""
    columns = dict(scored.parts) if len(scored.parts) > 1 else {}
    if scored.disagreement:
        columns["disagreement (variance over reward models)"] = scored.disagreement
    present = {name: [value for value in values if value is not None] for name, values in columns.items()}
    return {name: round(sum(values) / len(values), 4) if values else None for name, values in present.items()}


def score_all(subject: Subject, answers: list[Answer]) -> list[TokenLogps]:
    """Log-probabilities of every answer, in order; computed in batches of similar length, without gradients."""
    device = next(subject.model.parameters()).device
    balance = balance_of(subject.model)
    order = sorted(range(len(answers)), key=lambda i: len(answers[i]))
    result: list[TokenLogps | None] = [None] * len(answers)
    batch: list[int] = []

    def flush() -> None:
        with torch.no_grad(), autocast(subject.precision, device):
            moved = [answers[i].to(device) for i in batch]
            scored = score_answers(subject.model, moved, "padded", balance=balance)
        for k, i in enumerate(batch):
            result[i] = TokenLogps(scored.per_token[k : k + 1].cpu(), scored.mask[k : k + 1].cpu())
        batch.clear()

    for i in order:
        if batch and (len(batch) + 1) * len(answers[i]) > SCORING_TOKENS:
            flush()
        batch.append(i)
    if batch:
        flush()
    return [logps for logps in result if logps is not None]


def loss_eval(name: str, subject: Subject, records: list[dict[str, Any]]) -> Score:
    """Negative log-likelihood per token of given answers (demonstrations)."""
    encoded = encode(records[: subject.limit], "demonstration", subject.template)
    scored = score_all(subject, [record["completion"] for record in encoded.records])
    losses, tokens = [-float(logps.sum()) for logps in scored], [int(logps.lengths) for logps in scored]
    loss = ratio_score(name, losses, tokens, higher_is_better=False)
    loss.details = {"tokens": sum(tokens), "perplexity": math.exp(min(loss.value, 700.0))}
    return loss


def preference_eval(name: str, subject: Subject, records: list[dict[str, Any]]) -> Score:
    """Share of pairs whose chosen answer has the higher log-probability per token."""
    encoded = encode(records[: subject.limit], "preference", subject.template)
    pairs = encoded.records
    scored = score_all(subject, [pair[side] for side in ("chosen", "rejected") for pair in pairs])
    means = [float(logps.mean()) for logps in scored]
    lengths = [int(logps.lengths.sum()) for logps in scored]
    half = len(pairs)
    scored_pairs = [Pair(means[i], means[half + i], lengths[i], lengths[half + i]) for i in range(half)]
    samples = [of_it.sample_of(pair["record"]) for of_it, pair in zip(scored_pairs, pairs, strict=True)]
    return share_score(name, [pair.right for pair in scored_pairs], samples=samples)
