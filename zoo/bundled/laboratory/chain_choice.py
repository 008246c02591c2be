"""How well a verifier chooses among the scripted solver's solutions: a measure of process reward models.

Best-of-n on held-out chains, compared with the majority of the same n solutions, a single solution, and the best one.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any, Literal

from zoo.bundled.laboratory.chains import LENGTH, SLIPS, Chain, chains
from zoo.evals import Eval, Score, Subject, share_score

DETAILS = ("single", "majority", "possible", "step_accuracy")


def chain_choice(
    subject: Subject, n: int = 16, problems: int = 300, read: Literal["min", "product", "last"] = "min",
    slips: float = SLIPS, seed: int = 0,
) -> Score:  # fmt: skip
    """Share of chains for which the solution chosen among `n` has the right answer.

    read: the score of a solution: its worst step, the product of its steps' probabilities, or its last step alone, as
    for an outcome verifier.
    """
    draw = random.Random(f"chain choice {seed}")
    asked = chains(draw, "heldout", problems)[: subject.limit]
    solved = [[chain.solve(draw, slips) for _ in range(n)] for chain in asked]
    scores = _step_scores(subject, asked, solved)
    hits: dict[str, list[float]] = {name: [] for name in ("chosen", *DETAILS)}
    for k, (chain, solutions) in enumerate(zip(asked, solved, strict=True)):
        right = [values[-1] == chain.result for values in solutions]
        own = scores[k * n : (k + 1) * n]
        best = max(range(n), key=lambda i: _reading(own[i], read))
        common = Counter(values[-1] for values in solutions).most_common(1)[0][0]
        true = [chain.labels(draw, values, "true", slips, 0) for values in solutions]
        agree = sum(
            (score > 0) == (label > 0)
            for step_scores, labels in zip(own, true, strict=True)
            for score, label in zip(step_scores, labels, strict=True)
        )
        outcome = (right[best], sum(right) / n, common == chain.result, any(right), agree / (n * LENGTH))
        for name, hit in zip(hits, outcome, strict=True):
            hits[name].append(float(hit))
    details = {name: round(sum(hits[name]) / len(asked), 4) for name in DETAILS}
    return share_score("chain_choice", hits["chosen"], details=details)


def _step_scores(subject: Subject, asked: list[Chain], solved: list[list[list[int]]]) -> list[list[float]]:
    """The score after each step of each solution; the solutions of one chain are adjacent."""
    from zoo.data.encoding.stages import render_steps
    from zoo.models.scalar import score_many

    rendered = [
        render_steps({"prompt": chain.prompt, "steps": chain.steps(values)}, subject.template)
        for chain, solutions in zip(asked, solved, strict=True)
        for values in solutions
    ]
    tokens = subject.template.tokenize(rendered)
    answers, ends = [answer for answer, _ in tokens], [marks for _, marks in tokens]
    return score_many(subject.model, answers, at=ends, progress=subject.progress)


def _reading(scores: list[float], read: str) -> float:
    """The score of a solution. σ is monotone, so the worst step needs no σ; the product is a sum of log σ."""
    if read == "last":
        return scores[-1]
    if read == "min":
        return min(scores)
    return sum(min(score, 0.0) - math.log1p(math.exp(-abs(score))) for score in scores)


def evals() -> dict[str, Any]:
    return {
        "chain_choice": Eval(
            "How often a verifier of steps chooses a right solution among n for world:chains.", chain_choice,
            head="scalar", details=DETAILS, by_default=False,
        )
    }  # fmt: skip
