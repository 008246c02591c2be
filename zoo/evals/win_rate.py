"""Win rate: how often a model's answer is preferred to another answer, by a judge in both orders or by a reward."""

from __future__ import annotations

import math
from typing import Any

from zoo.errors import ZooError
from zoo.evals import Score, Subject, mean_score
from zoo.evals.drawing import draw
from zoo.evals.length_control import length_controlled
from zoo.evals.rows import records_of, reward_for
from zoo.judges.make import make_judge
from zoo.judges.verdicts import TIE
from zoo.rollout.engine import Sampling

START, DATA = "start", "data"


def win_rate(
    subject: Subject, data: str = "starter", judge: str = "", reward: str = "", against: str = START, split: str = "",
    columns: str = "", limit: int | None = None, max_new_tokens: int = 256, temperature: float = 0.0,
    wording: str = "", seed: int = 0,
) -> Score:  # fmt: skip
    """How often its answer beats the start's answer (against=start) or the data's (against=data).

    A judge is asked in both orders, and its two probabilities are averaged; a reward gives 1, ½ or 0. The details have
    the length-controlled rate.
    """
    if bool(judge) == bool(reward) or against not in (START, DATA):
        raise ZooError(
            "win_rate needs a judge or a reward, and against=start or against=data.",
            "Write for example win_rate(data=starter, reward=instructions), or judge=smollm2-135m for the reward.",
        )
    kind = "prompt" if against == START else "demonstration"
    records = records_of(subject, data, kind, split, columns, limit)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    mine = [texts[0] for texts in draw(subject, records, 1, sampling, seed).texts]
    theirs = (
        [texts[0] for texts in draw(subject.compared, records, 1, sampling, seed).texts]
        if against == START
        else [_text(record["completion"]) for record in records]
    )
    prefer = _by_judge if judge else _by_reward
    wins, more = prefer(subject, judge or reward, data, records, mine, theirs, wording)
    return _scored(records, mine, theirs, wins, more)


def _by_judge(
    subject: Subject, spec: str, data: str, records: list[dict[str, Any]], mine: list[str], theirs: list[str],
    wording: str,
) -> tuple[list[float | None], dict[str, Any]]:  # fmt: skip
    judge = make_judge(
        spec, precision=subject.precision, device=subject.device, out=subject.out, say=subject.say,
        wording=wording or None,
    )  # fmt: skip
    judge.progress = subject.progress
    verdicts = judge.compare([record["prompt"] for record in records], mine, theirs)
    turned = [(v.first > 0.5) != (v.second > 0.5) for v in verdicts if not math.isnan(v.p)]
    return [None if math.isnan(v.p) else v.p for v in verdicts], {"order_decides": sum(turned) / max(1, len(turned))}


def _by_reward(
    subject: Subject, text: str, data: str, records: list[dict[str, Any]], mine: list[str], theirs: list[str],
    wording: str,
) -> tuple[list[float | None], dict[str, Any]]:  # fmt: skip
    scorer = reward_for(subject, text, data)
    try:
        both = [scorer.score(texts, records) for texts in (mine, theirs)]
    finally:
        scorer.close()
    return [None if a is None or b is None else (a > b) + (a == b) / 2 for a, b in zip(*both, strict=True)], {}


def _scored(
    records: list[dict[str, Any]], mine: list[str], theirs: list[str], wins: list[float | None], more: dict[str, Any]
) -> Score:
    decided = [i for i, win in enumerate(wins) if win is not None]
    if not decided:
        raise ZooError("win_rate: no pair of answers could be decided.", "Use another judge or reward.")
    values = [float(wins[i]) for i in decided]  # type: ignore[arg-type]
    lengths = [(len(mine[i]), len(theirs[i])) for i in decided]
    details: dict[str, Any] = {
        "won": sum(win > 0.5 + TIE for win in values) / len(values),
        "tied": sum(abs(win - 0.5) <= TIE for win in values) / len(values),
        "lost": sum(win < 0.5 - TIE for win in values) / len(values),
        "characters": sum(a for a, _ in lengths) / len(lengths),
        "characters_other": sum(b for _, b in lengths) / len(lengths),
        "missing": len(wins) - len(decided),
        **more,
    }
    fitted = length_controlled(values, [a - b for a, b in lengths])
    details |= {
        "length_controlled": fitted.rate, "length_controlled_low": fitted.low,
        "length_controlled_high": fitted.high, "length_effect": fitted.length_effect,
    }  # fmt: skip
    read = [
        {"prompt": record["prompt"], "answer": f"{a} [against] {b}", "score": win}
        for record, a, b, win in zip(records, mine, theirs, wins, strict=True)
    ]
    return mean_score("win_rate", wins, (0.0, 1.0), details=details, samples=read)


def _text(answer: Any) -> str:
    return answer if isinstance(answer, str) else answer[-1]["content"]
