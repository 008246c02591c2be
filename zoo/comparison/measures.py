"""The measures of every model in a comparison, all on the same held-out rows and with the same method.

Each measure is a `Score`: a value with its number of cases and a 95 % interval over them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.contract.registry import PluginManager, contributions
from zoo.data.encoding.template import ChatTemplate
from zoo.data.kinds import prompt_key
from zoo.data.work import Prompts
from zoo.errors import ZooError
from zoo.evals import Score, Subject, mean_score, share_score
from zoo.evals.answers import answers_to, score_all
from zoo.evals.chosen import Chosen
from zoo.evals.divergence import answer_divergences
from zoo.options.config import TrainConfig
from zoo.rollout.engine import Sampling
from zoo.training.datasets import brings_held_out, load_data
from zoo.values.ties import won

EXPLAINED = {
    "preference_accuracy": (
        "Share of held-out pairs whose chosen answer gained more log-probability since the start than the rejected "
        "one: log π(c)/π₀(c) > log π(r)/π₀(r), sums over the answer. 0.5 is chance."
    ),
    "plain_accuracy": "Share of held-out pairs whose chosen answer has the higher log-probability per token.",
    "kl": (
        "KL(π ‖ π₀) to the start in nats per answer: one answer per held-out prompt, sampled from the model at "
        "temperature 1, exact over the vocabulary at each of its tokens."
    ),
    "answer_tokens": "Tokens of the greedy answers to the held-out prompts, up to the limit.",
    "cut_share": "Share of these answers that reached the limit.",
    "chosen_logps": "log π of the chosen answers of held-out pairs, summed over the answer.",
    "rejected_logps": "The same for the rejected answers.",
}


DRAWS = 16
"""Answers per prompt for the divergence, if a source has few prompts."""


@dataclass
class HeldOut:
    """The rows for all measures: pairs as encoded records, prompts as records."""

    prompts: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    draws: int = 1
    """Answers sampled for each prompt; the divergence is their mean."""

    def fingerprint(self) -> str:
        """Changes with the rows."""
        digest = hashlib.sha256()
        for record in self.prompts:
            digest.update(prompt_key(record).encode())
        for pair in self.pairs:
            for side in ("chosen", "rejected"):
                digest.update(pair[side].prompt.numpy().tobytes() + b"\0" + pair[side].completion.numpy().tobytes())
        return digest.hexdigest()


def load_held_out(
    core: TrainConfig, template: ChatTemplate, plugins: PluginManager, trained: Prompts, cases: int | None
) -> HeldOut:
    """The held-out rows of a comparison's data, as pairs and as prompts.

    trained: prompts that some run trains on, which are left out; cases: most prompts and pairs.
    Raises ZooError if nothing is held out.
    """
    notes: list[str] = []
    rows_of_kind: dict[str, list[dict[str, Any]]] = {}
    for kind in ("prompt", "preference"):
        try:
            data = load_data(core, (kind,), template, plugins, lambda text: None)
        except ZooError as error:
            rows_of_kind[kind] = []
            notes.append(f"Nothing is measured on {_NAMES[kind]}: {error.message}")
            continue
        rows = data.held_out.records if data.held_out is not None else []
        kept = [row for row in rows if row["record"] not in trained]
        if rows and not kept and brings_held_out(core, contributions(plugins, "sources")):
            what = "are" if kind == "prompt" else "have prompts that are"
            notes.append(f"All {len(rows)} held-out {_NAMES[kind]} {what} trained on: the source has no others.")
            kept = list(rows)
        elif len(kept) < len(rows):
            gone = len(rows) - len(kept)
            notes.append(f"Left out because training sees them: {gone} of {len(rows)} held-out {_NAMES[kind]}.")
        rows_of_kind[kind] = kept[:cases]
    if not any(rows_of_kind.values()):
        raise ZooError(
            f"Nothing of {core.data} is held out, so nothing can be measured. {' '.join(notes)}",
            "Name other rows with --eval-data FILE, or a share with --eval-fraction 0.1 (from 20 rows on).",
        )
    prompts = {prompt_key(row["record"]): row["record"] for row in rows_of_kind["prompt"]}
    few = any(record in trained for record in prompts.values())
    return HeldOut(list(prompts.values()), rows_of_kind["preference"], notes, DRAWS if few else 1)


_NAMES = {"prompt": "prompts", "preference": "pairs"}


@dataclass
class Measured:
    """The measures of one model. pair_logps: log π of the chosen and the rejected answer of each pair."""

    scores: dict[str, Score]
    pair_logps: list[tuple[float, float]]

    def as_json(self) -> dict[str, Any]:
        return {name: score.as_json() for name, score in self.scores.items()}


def measure(
    subject: Subject,
    held_out: HeldOut,
    evals: Mapping[str, Chosen],
    max_new_tokens: int,
    start: tuple[Any, list[tuple[float, float]]] | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> Measured:
    """The measures of one model. start: the starting model and its `pair_logps`; None if the model is the start.

    progress: maps the name of a stage to a function of (done, total).
    """
    scores: dict[str, Score] = {}
    for name, evaluation in evals.items():
        scores[name] = evaluation.run(subject)
    if held_out.prompts:
        scores |= _lengths(subject, held_out, max_new_tokens)
        if start is not None:
            show = progress("KL to the start") if progress else None
            scores["kl"] = _divergence(subject, start[0], held_out, max_new_tokens, show)
    pairs = _pair_logps(subject, held_out.pairs) if held_out.pairs else []
    if pairs:
        scores |= _pair_scores(pairs, start[1] if start else None)
    return Measured(scores, [(chosen.sum, rejected.sum) for chosen, rejected in pairs])


def _lengths(subject: Subject, held_out: HeldOut, max_new_tokens: int) -> dict[str, Score]:
    greedy = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)
    answers = answers_to(subject, [record["prompt"] for record in held_out.prompts], greedy)
    return {
        "answer_tokens": mean_score("answer_tokens", [float(len(answer.completion)) for answer in answers]),
        "cut_share": share_score("cut_share", [answer.cut for answer in answers], higher_is_better=False),
    }


def _divergence(subject: Subject, start: Any, held_out: HeldOut, max_new_tokens: int, progress: Any) -> Score:
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=1.0)
    prompts = [record["prompt"] for record in held_out.prompts for _ in range(held_out.draws)]
    answers = answers_to(subject, prompts, sampling)
    values = answer_divergences(subject.model, start, answers, subject.precision, progress)
    tokens, draws = sum(len(answer.completion) for answer in answers), held_out.draws
    means = [sum(values[i : i + draws]) / draws for i in range(0, len(values), draws)]
    return mean_score("kl", means, higher_is_better=False, details={"per_token": sum(values) / max(1, tokens)})


@dataclass
class _Logps:
    sum: float
    mean: float


def _pair_logps(subject: Subject, pairs: list[dict[str, Any]]) -> list[tuple[_Logps, _Logps]]:
    scored = score_all(subject, [pair[side] for side in ("chosen", "rejected") for pair in pairs])
    values = [_Logps(float(logps.sum()), float(logps.mean())) for logps in scored]
    return list(zip(values[: len(pairs)], values[len(pairs) :], strict=True))


def _pair_scores(
    pairs: list[tuple[_Logps, _Logps]], start: list[tuple[float, float]] | None
) -> dict[str, Score]:  # fmt: skip
    scores = {
        "plain_accuracy": share_score("plain_accuracy", [won(c.mean - r.mean) for c, r in pairs]),
        "chosen_logps": mean_score("chosen_logps", [chosen.sum for chosen, _ in pairs]),
        "rejected_logps": mean_score("rejected_logps", [rejected.sum for _, rejected in pairs]),
    }
    if start is not None:
        gained = [won((c.sum - old[0]) - (r.sum - old[1])) for (c, r), old in zip(pairs, start, strict=True)]
        scores["preference_accuracy"] = share_score("preference_accuracy", gained)
    return scores


def settings_key(*settings: Any) -> str:
    """A hash of everything but the model that measures depend on; measures with another key are computed again."""
    content = [*settings, sorted(EXPLAINED.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
