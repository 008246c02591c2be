"""KTO: Kahneman-Tversky Optimization (arXiv:2402.01306).

Learns from single answers, each marked good or bad. Prospect theory values an outcome by its gain or loss against a
reference point. Here the outcome is r(x, y) = log π(y|x)/π_ref(y|x), and the reference point z₀ is how far the policy
has moved from the reference on the whole, KL(π ‖ π_ref). A good answer should lie above z₀, a bad one below. Gains and
losses flatten out, so that answers far from z₀ no longer pull.

z₀ is estimated over the whole optimizer step, from each prompt with an answer to another prompt, and clamped at 0
after the mean is taken; no gradient flows into it.

The rest is in docs/algorithms/kto.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Context

import torch

from zoo.api import (
    Algorithm,
    Answer,
    Answers,
    Batch,
    FeedbackBatch,
    Loss,
    Measured,
    Models,
    Point,
    Record,
    Records,
    default_collate,
    require,
    wins,
)

BALANCED = (1.0, 4 / 3)
"""Where λ_D·n_D / (λ_U·n_U) should lie according to the ICML version of the paper and TRL; a later version: 3/2."""
ROUNDING = 1e-9
"""What a ratio of typed weights may be off by."""
UPWARDS = Context(prec=4, rounding=ROUND_CEILING)
"""Four digits of a raised weight. Rounded down it would fall short of the rule that it is raised for."""


class KTOBatch(FeedbackBatch):
    """Answers with a label, and to each prompt an answer to another one, for the reference point."""

    mismatched: Answers


class KTO(Algorithm):
    """Kahneman-Tversky Optimization: raise answers marked good and lower those marked bad; needs no pairs."""

    api_version = 2
    paper = "arXiv:2402.01306"
    data = "feedback"
    needs = ("policy", "reference")
    measured = ("mismatched",)
    defaults = {
        "lr": [
            Point(135e6, 2e-4, "tuned here"),
            Point(7e9, 5e-6, "the paper's"),
            Point(135e6, 2e-3, "LoRA Without Regret's tenfold rate", lora=True),
            Point(7e9, 5e-5, "LoRA Without Regret's tenfold rate", lora=True),
        ],
        "epochs": 1, "batch_size": 8,
    }  # fmt: skip
    reasons = {
        "lr": "Paper: 5e-6 with AdamW, as HALOs' config.yaml; its first code had RMSprop and 5e-7. Adapters: LoRA "
        "Without Regret (thinkingmachines.ai, 2025): adapters want about ten times the full rate.",
        "beta": "Paper: 0.1, at every size.",
        "desirable_weight": "Paper: 1, raised by its balance rule.",
        "undesirable_weight": "Paper: 1, raised by its balance rule.",
        "epochs": "Paper: one pass.",
        "batch_size": "Paper: 8 to 128, its code 32; here the smallest, for enough steps on the starter set.",
    }
    metrics = {
        "kl": "Mean log-ratio of policy to reference over mismatched answers: estimates KL(π ‖ π_ref), may be below 0.",
        "reference_point": "z₀, the former clamped at 0: what answers are compared with.",
        "rewards/desirable": "β times the log-ratio of policy to reference on good answers; 0 at the start, up to "
        "rounding; should rise above that of the bad ones.",
        "rewards/undesirable": "The same on bad answers; should fall below rewards/desirable.",
        "accuracies": "Share of answers on their side of z₀: good ones above it, bad ones below; ties count half, and "
        "all answers tie until the policy has moved.",
        "logps/desirable": "log π of good answers, summed. Should rise, but may fall with that of the bad ones.",
        "logps/undesirable": "log π of bad answers, summed.",
        "desirable": "Share of good answers among those of the step.",
        "desirable/weighted": "The same, each answer counted λ times: over a run ½ to 4/7 by the balance rule.",
    }
    conformance = {
        "start": {"kl": 0.0, "reference_point": 0.0, "rewards/desirable": 0.0, "rewards/undesirable": 0.0},
        "variants": [{"desirable_weight": 2.0}],
        "values": [
            {"given": {"policy": {"completion": [-12.5, -18.5, -8.25, -45.5]},
                       "reference": {"completion": [-13.0, -19.5, -8.0, -40.0]},
                       "fields": {"label": [True, False, True, False]}},
             "measured": {"kl": 0.5}, "loss": 0.4713955765342375},
        ],
    }  # fmt: skip

    @dataclass
    class Config:
        beta: float = 0.1
        """Scale β of the log-ratio: how soon the gain of an answer flattens out. Paper 0.1."""
        desirable_weight: float | None = None
        """Weight λ_D of good answers. Without any weight given, both are 1, and the class that is short is raised
        until λ_D·n_D / (λ_U·n_U) lies within [1, 4/3]; a line says so. One weight given leaves the other at 1."""
        undesirable_weight: float | None = None
        """Weight λ_U of bad answers."""

        def __post_init__(self) -> None:
            require(self.beta > 0, "beta must be above 0")
            require(
                min(_weights(self)) >= 0 and max(_weights(self)) > 0,
                "desirable_weight and undesirable_weight must be at least 0, and one of them above",
            )

    def __init__(self) -> None:
        self._weights: tuple[float, float] | None = None

    def prepare(self, records: Records, config: Config) -> Records:
        """The records as they are; what is looked at is the balance of good and bad ones."""
        good = int(records.column("label").sum())
        self._weights = _balanced(good, len(records) - good, config)
        return records

    def collate(self, records: Sequence[Record], max_length: int) -> Batch:
        """The step's answers, and with each prompt an answer to another one."""
        mismatched = _mismatched([record["completion"] for record in records], max_length)
        pairs = zip(records, mismatched, strict=True)
        return default_collate([{**record, "mismatched": answer} for record, answer in pairs])

    def measure(self, batch: KTOBatch, models: Models) -> Measured:
        """KL(π ‖ π_ref) over the step, from log π(y′|x)/π_ref(y′|x)."""
        policy, reference = (role.logps(batch.mismatched).sum() for role in (models.policy, models.reference))
        return {"kl": ((policy - reference).sum(), (batch.mismatched.lengths > 0).sum())}

    def loss(self, batch: KTOBatch, models: Models, config: Config) -> Loss:
        """λ_y − v(x, y), with v = λ_D σ(β(r − z₀)) for good answers and λ_U σ(β(z₀ − r)) for bad ones."""
        policy = models.policy.logps(batch.completion).sum()
        log_ratio = policy - models.reference.logps(batch.completion).sum()
        kl = batch.measured["kl"]
        above = log_ratio - kl.clamp(min=0)
        good = batch.label.bool()
        weight_good, weight_bad = self._weights or _weights(config)
        weight = torch.full_like(above, weight_bad).masked_fill(good, weight_good)
        # 1 − σ(z) = σ(−z).
        losses = weight * torch.sigmoid(config.beta * torch.where(good, -above, above))
        reward = config.beta * log_ratio
        return Loss.per_example(losses, {
            "kl": kl.expand(len(batch)),
            "reference_point": kl.clamp(min=0).expand(len(batch)),
            "rewards/desirable": reward.where(good, torch.nan),
            "rewards/undesirable": reward.where(~good, torch.nan),
            "accuracies": wins(torch.where(good, above, -above)),
            "logps/desirable": policy.where(good, torch.nan),
            "logps/undesirable": policy.where(~good, torch.nan),
            "desirable": good,
            "desirable/weighted": (good, weight),
        })  # fmt: skip


def _weights(config: KTO.Config) -> tuple[float, float]:
    """(λ_D, λ_U) as given."""
    desirable, undesirable = config.desirable_weight, config.undesirable_weight
    return 1.0 if desirable is None else desirable, 1.0 if undesirable is None else undesirable


def _balanced(good: int, bad: int, config: KTO.Config) -> tuple[float, float]:
    """(λ_D, λ_U) for so many good and bad answers, with a line where that is not plain 1 and 1."""
    low, high = BALANCED
    weights = _weights(config)
    if not good or not bad:
        warnings.warn(
            f"All answers are marked {'bad' if bad else 'good'}: KTO can only move all of them.", stacklevel=2
        )
        return weights
    if 0 in weights:
        # One class only, as asked for.
        return weights
    ratio = weights[0] * good / (weights[1] * bad)
    if low * (1 - ROUNDING) <= ratio <= high * (1 + ROUNDING):
        return weights
    raised = low / ratio * weights[0] if ratio < low else ratio / high * weights[1]
    raised = float(UPWARDS.create_decimal(f"{raised:.12g}"))
    advice = (raised, weights[1]) if ratio < low else (weights[0], raised)
    found = f"{good} good and {bad} bad answers: λ_D·n_D / (λ_U·n_U) is {ratio:.3g}; the paper wants [1, 4/3]."
    shown = [str(weight).removesuffix(".0") for weight in advice]
    flags = f"--desirable-weight {shown[0]} --undesirable-weight {shown[1]}"
    if config.desirable_weight is None and config.undesirable_weight is None:
        warnings.warn(f"{found} Balanced as by {flags}; give the weights yourself for others.", stacklevel=2)
        return advice
    warnings.warn(f"{found} To follow the paper type {flags}", stacklevel=2)
    return weights


def _mismatched(answers: Sequence[Answer], max_length: int) -> list[Answer]:
    """For each answer its prompt with the completion of an answer to another prompt, cut at max_length."""
    partners = _partners([answer.prompt.numpy(force=True).tobytes() for answer in answers])
    if partners is None:
        warnings.warn(
            "A step has answers to one prompt only, so that none can be mismatched: z₀ is 0 there. "
            "A larger --batch-size mends it.", stacklevel=2,
        )  # fmt: skip
        return [replace(a, mask=torch.zeros_like(a.mask)) for a in answers]
    made = []
    for answer, partner in zip(answers, partners, strict=True):
        # Not at the longest text of the step: the estimate must not depend on what else is in it.
        other, room = answers[partner], max_length - len(answer.prompt)
        ended = other.ended and len(other.completion) <= room
        made.append(replace(answer, completion=other.completion[:room], mask=other.mask[:room], ended=ended))
    return made


def _partners(prompts: Sequence[bytes]) -> list[int] | None:
    """For each prompt the place of a different one, or None where all are equal.

    A cyclic shift over the prompts, equal ones side by side and the most frequent first, by the number of those: so
    nobody stays among equals. Where they are more than half, all others serve them in turn.
    """
    places: dict[bytes, list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(place)
    blocks = sorted(places.values(), key=len, reverse=True)
    line = [place for block in blocks for place in block]
    shift, others = len(blocks[0]), len(line) - len(blocks[0])
    if not others:
        return None
    partners = {}
    for i, place in enumerate(line):
        partners[place] = line[shift + i % others if i < shift else (i + shift) % len(line)]
    return [partners[place] for place in range(len(line))]
