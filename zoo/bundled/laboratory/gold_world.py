"""The gold world as a `World`: its base, its default options, and evaluations of the true value of answers."""

from __future__ import annotations

from typing import Any

from zoo.bundled.laboratory.gold import TOPICS, WORDS, counts, texts, worth
from zoo.bundled.laboratory.gold_rows import rows
from zoo.bundled.laboratory.worlds import World
from zoo.contract.algorithm import Algorithm
from zoo.errors import ZooError
from zoo.evals import Eval, Score, Subject, mean_score, ratio_cases, share_score

DETAILS = ("length", "good", "bad", "repeats", "topic", "ended")
SHOWN = 20


def gold_eval(subject: Subject, samples: int = 512, temperature: float = 1.0, seed: int = 0) -> Score:
    """Mean true value of sampled answers."""
    answers = _answers(subject, samples, temperature, seed)
    values = [worth(text, topic) for topic, text, _ in answers]
    shown = [
        {"prompt": topic, "answer": text, "score": round(value, 2)}
        for (topic, text, _), value in zip(answers[:SHOWN], values, strict=False)
    ]
    return mean_score("gold", values, details=_means(answers), samples=shown)


def harm_eval(subject: Subject, samples: int = 512, temperature: float = 1.0, seed: int = 0) -> Score:
    """Share of bad words among all words; an answer of fewer than two words counts as evasive."""
    answers = _answers(subject, samples, temperature, seed)
    seen = [counts(text, topic) for topic, text, _ in answers]
    bad, words = [counted["bad"] for counted in seen], [counted["length"] for counted in seen]
    harmless = sum(counted["bad"] == 0 for counted in seen) / len(seen)
    evasive = sum(counted["length"] < 2 for counted in seen) / len(seen)
    details = {**_means(answers), "harmless_answers": harmless, "evasive_answers": evasive}
    found_bad, word_count = sum(bad), sum(words)
    cases = ratio_cases(bad, words, found_bad / max(1, word_count))
    return share_score("harm", found_bad, word_count, higher_is_better=False, details=details, cases=cases)


def pairs_eval(subject: Subject, rows: int = 8000, seed: int = 1000) -> Score:
    """Share of noise-free pairs that a reward model orders correctly."""
    from zoo.evals.reward_models import pair_eval

    return pair_eval("gold_pairs", subject, _pairs(rows, seed))


def _pairs(count: int, seed: int) -> list[dict[str, Any]]:
    return list(rows("heldout", "preference", rows=count, seed=seed))


def _answers(subject: Subject, samples: int, temperature: float, seed: int) -> list[tuple[str, str, bool]]:
    """Topic, answer, and whether it ended, with equally many answers per topic. Generated once per subject."""
    from zoo.evals.answers import generate
    from zoo.rollout.engine import Sampling

    if samples < len(TOPICS):
        raise ZooError(f"{samples} samples are too few for {len(TOPICS)} topics.", "Give for example samples=512.")
    samples = min(samples, subject.limit or samples)
    key = ("gold", samples, temperature, seed)
    if key not in subject.answered:
        asked = [TOPICS[k % len(TOPICS)] for k in range(samples)]
        ids = subject.template.tokens.ids([subject.template.prompt_text(topic) for topic in asked])
        generated = generate(subject, [_tensor(prompt) for prompt in ids], Sampling(20, temperature), seed)
        decode = subject.tokenizer.decode
        subject.answered[key] = [
            (topic, decode(answer.completion, skip_special_tokens=True), answer.ended)
            for topic, answer in zip(asked, generated, strict=True)
        ]
    return subject.answered[key]


def _tensor(ids: list[int]) -> Any:
    import torch

    return torch.tensor(ids)


def _means(answers: list[tuple[str, str, bool]]) -> dict[str, float]:
    seen = [{**counts(text, topic), "ended": int(ended)} for topic, text, ended in answers]
    return {name: round(sum(counted[name] for counted in seen) / len(seen), 4) for name in DETAILS}


def evals() -> dict[str, Eval]:
    more = (*DETAILS, "harmless_answers", "evasive_answers")
    return {
        "gold": Eval(
            "True value of sampled answers in world:gold, in deviations of the grammar's own answers.", gold_eval,
            details=DETAILS, by_default=False,
        ),
        "harm": Eval(
            "Share of bad words in sampled answers in world:gold.", harm_eval, details=more, by_default=False
        ),
        "gold_pairs": Eval(
            "Share of noise-free pairs of world:gold that a reward model orders correctly.", pairs_eval, head="scalar",
            by_default=False,
        ),
    }  # fmt: skip


def defaults(algorithm: type[Algorithm]) -> dict[str, Any]:
    """A few hundred steps for algorithms that learn from rows, sixty for those that write answers; all take seconds."""
    if algorithm.head == "scalar":
        return {"score": "gold_pairs", "batch_size": 64, "epochs": 3}
    if algorithm.online():
        return {"score": "gold", "reward": "gold", "batch_size": 64, "max_steps": 60}
    return {"score": "gold", "batch_size": 64, "epochs": 3}


WORLD = World(WORDS, rows, texts, training={"steps": 400, "batch": 64, "lr": 5e-3}, defaults=defaults)
