"""Best-of-n: the gold reward of the answer with the highest proxy reward, for many n from one pool of answers.

The proxy reward must rise with n; the gold reward shows whether the answers really improve (arXiv:2210.10760). Any
reward may be the proxy, also an ensemble: `min(runs/a, runs/b)`, `mean(…) - 0.5*var(…)` (arXiv:2310.02743). Then the
details have the gold reward if each of its rewards chose by itself, on average.
"""

from __future__ import annotations

import math
from typing import Any

from zoo.errors import ZooError
from zoo.evals import Score, Subject, mean_score, within_0_and_1
from zoo.evals.drawing import draw
from zoo.evals.estimators import best_of, divergence_of_best
from zoo.evals.rows import records_of, reward_for
from zoo.numbers import amount
from zoo.rollout.engine import Sampling

Pool = tuple[list[float], list[float]]
"""Proxy and gold reward of the answers to one prompt."""


def best_of_n(
    subject: Subject, reward: str, data: str, gold: str = "", n: str = "1 4 16 64", pool: int = 256, split: str = "",
    columns: str = "", limit: int | None = 32, max_new_tokens: int = 64, temperature: float = 1.0, seed: int = 0,
) -> Score:  # fmt: skip
    """Gold reward of the best of n answers by a proxy; the value is for the largest n, the details have every n."""
    sizes = _sizes(n, pool)
    records = records_of(subject, data, "prompt", split, columns, limit)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    proxy, truth = (reward_for(subject, text, data, max_new_tokens) for text in (reward, gold))
    try:
        drawn = draw(subject, records, pool, sampling, seed)
        chosen_by, golds = drawn.scored(proxy), drawn.rewards(truth)[0]
    finally:
        proxy.close()
        truth.close()
    pools = _pools(drawn.by_prompt(chosen_by.values), golds)
    apart = [chosen_by.parts[mention.label] for mention in proxy.functions]
    usable = [scores for scores in pools if len(scores[0]) >= sizes[-1]]
    if not usable:
        raise ZooError(
            f"best_of_n: no prompt has {sizes[-1]} answers with both rewards.",
            "Draw more answers (pool=…), or give a smaller n.",
        )
    curve = [_point(size, usable) for size in sizes]
    values = [best_of(*scores, sizes[-1]) if len(scores[0]) >= sizes[-1] else None for scores in pools]
    missing = sum(pool - len(proxies) for proxies, _ in pools)
    members = [_pools(drawn.by_prompt(values), golds) for values in apart]
    alone = _alone(members, sizes) if len(members) > 1 else {}
    details = {**_flat(curve), **_shape(curve), **alone, "curve": curve, "pool": pool, "missing": missing,
               "left_out": len(pools) - len(usable)}  # fmt: skip
    return mean_score("best_of_n", values, within_0_and_1([g for _, golds in usable for g in golds]), details=details)


def _sizes(n: str, pool: int) -> list[int]:
    try:
        sizes = sorted({int(part) for part in n.replace(" ", ",").split(",") if part})
    except ValueError:
        sizes = []
    if not sizes or not 1 <= sizes[0] <= sizes[-1] <= pool:
        raise ZooError(
            f"best_of_n: n = {n} cannot be drawn from pools of {amount(pool, 'answer')}.",
            'Give whole numbers separated by blanks, none above pool: n="1 4 16", pool=256.',
        )
    return sizes


def _pools(proxies: list[list[float | None]], golds: list[list[float | None]]) -> list[Pool]:
    return [_scored_by_both(*of_prompt) for of_prompt in zip(proxies, golds, strict=True)]


def _alone(members: list[list[Pool]], sizes: list[int]) -> dict[str, float]:
    """The gold reward if each reward of the expression chose by itself, and how far it falls; means over them."""
    curves = []
    for pools in members:
        usable = [scores for scores in pools if len(scores[0]) >= sizes[-1]]
        if usable:
            curves.append([_point(size, usable) for size in sizes])
    if not curves:
        return {}
    means = {f"alone_{n}": sum(curve[k]["gold"] for curve in curves) / len(curves) for k, n in enumerate(sizes)}
    return {**means, "alone_drop": sum(_shape(curve)["drop"] for curve in curves) / len(curves)}


def _scored_by_both(proxies: list[float | None], golds: list[float | None]) -> Pool:
    both = [(p, g) for p, g in zip(proxies, golds, strict=True) if p is not None and g is not None]
    return [p for p, _ in both], [g for _, g in both]


def _point(n: int, pools: list[Pool]) -> dict[str, float]:
    """Means over prompts."""
    proxy = sum(best_of(proxies, proxies, n) for proxies, _ in pools) / len(pools)
    gold = sum(best_of(proxies, golds, n) for proxies, golds in pools) / len(pools)
    return {"n": n, "kl": divergence_of_best(n), "proxy": proxy, "gold": gold}


def _flat(curve: list[dict[str, float]]) -> dict[str, float]:
    return {f"{name}_{point['n']:.0f}": point[name] for point in curve for name in ("gold", "proxy", "kl")}


def _shape(curve: list[dict[str, float]]) -> dict[str, Any]:
    """The best gold reward, how far the last one is below it, and Gao's fit gain(d) = d (α − β d), d = √KL.

    Gains are relative to the smallest n; the fit is by least squares, None with fewer than three points.
    """
    peak = max(curve, key=lambda point: point["gold"])
    shape: dict[str, Any] = {
        "peak": peak["gold"], "peak_n": peak["n"], "drop": peak["gold"] - curve[-1]["gold"],
        "alpha": None, "beta": None,
    }  # fmt: skip
    points = [(math.sqrt(point["kl"]), point["gold"] - curve[0]["gold"]) for point in curve]
    if len(points) < 3 or curve[0]["n"] != 1:
        return shape
    # Normal equations of gain = α d − β d².
    s2, s3, s4 = (sum(d**power for d, _ in points) for power in (2, 3, 4))
    g1, g2 = sum(d * gain for d, gain in points), sum(d * d * gain for d, gain in points)
    determinant = s2 * s4 - s3 * s3
    alpha, beta = (g1 * s4 - g2 * s3) / determinant, (g1 * s3 - g2 * s2) / determinant
    return {**shape, "alpha": alpha, "beta": beta}


def sampled_reward(
    subject: Subject, data: str, reward: str = "", samples: int = 1, split: str = "", columns: str = "",
    limit: int | None = None, max_new_tokens: int = 128, temperature: float = 1.0, seed: int = 0,
) -> Score:  # fmt: skip
    """Mean reward of sampled answers: with a gold reward it shows changes of the policy that greedy answers hide."""
    records = records_of(subject, data, "prompt", split, columns, limit)
    scorer = reward_for(subject, reward, data, max_new_tokens)
    try:
        drawn = draw(subject, records, samples, Sampling(max_new_tokens=max_new_tokens, temperature=temperature), seed)
        values, failures = drawn.rewards(scorer)
    finally:
        scorer.close()
    by_prompt = [[value for value in rewards if value is not None] for rewards in values]
    flat = [value for rewards in by_prompt for value in rewards]
    # Answers to one prompt are not independent, so the prompts are the cases.
    means = [sum(rewards) / len(rewards) if rewards else None for rewards in by_prompt]
    details = {
        "reward_std": math.sqrt(sum((v - sum(flat) / len(flat)) ** 2 for v in flat) / len(flat)) if flat else None,
        "answers": len(flat), "missing": sum(map(len, values)) - len(flat), "mean_tokens": round(drawn.mean_tokens, 2),
        **failures,
    }  # fmt: skip
    samples_to_read = [
        {"prompt": record["prompt"], "answer": texts[0], "score": rewards[0]}
        for record, texts, rewards in zip(drawn.records, drawn.texts, values, strict=True)
    ]
    return mean_score("sampled_reward", means, within_0_and_1(flat), details=details, samples=samples_to_read)
