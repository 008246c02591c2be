"""Labelling: pairs of answers become preference rows by a judge (arXiv:2309.00267, 2212.08073) or by a reward."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.judges.constitution import Principle
from zoo.judges.judge import Clamp, Judge
from zoo.judges.verdicts import Tally, Verdict
from zoo.judges.wording import as_text
from zoo.labelling.by_reward import ByReward
from zoo.labelling.label_file import LabelFile
from zoo.labelling.pairs import CHUNK, Cut, Draw, Group, Pair, pairs_of


@dataclass(frozen=True)
class How:
    """How to label. principles: one is drawn for each pair; without principles the general question is asked."""

    principles: Sequence[Principle] = ()
    chain_of_thought: bool = False
    clamp: Clamp | None = None
    seed: int = 0


def label(
    groups: Sequence[Group],
    judge: Judge | ByReward,
    file: LabelFile,
    how: How,
    draw: Draw | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Judge the pairs that the file does not have yet, a few prompts at a time; returns and stores the summary."""
    total, left_out = sum(group.count for group in groups), Counter[str]()
    seen, done = 0, file.done
    for start in range(0, len(groups), CHUNK):
        chunk = groups[start : start + CHUNK]
        seen += sum(group.count for group in chunk)
        if all((group.row, number) in done for group in chunk for number in range(group.count)):
            continue
        pairs = [pair for pair in _drawn(chunk, how.seed, draw, left_out) if pair.key not in done]
        file.append(_judged(pairs, judge, how))
        if progress is not None:
            progress(seen, total)
    summary = summarize(file.rows, judge.statistics.unusable + left_out)
    file.finish(summary)
    return summary


def _drawn(chunk: Sequence[Group], seed: int, draw: Draw | None, left_out: Counter[str]) -> Iterator[Pair]:
    """The pairs of some groups. The samples depend only on the seed and on these groups, so a resume repeats them."""
    lacking = [group for group in chunk if group.draw]
    answers = draw(lacking, seed * 1_000_003 + chunk[0].row) if lacking and draw is not None else []
    drawn = {id(group): texts for group, texts in zip(lacking, answers, strict=True)}
    for group in chunk:
        texts = drawn.get(id(group), [])
        if texts is None:
            left_out["the model cannot take this prompt"] += group.count
            continue
        for pair in pairs_of(group, texts):
            a, b = as_text(pair.a), as_text(pair.b)
            if not a or not b:
                left_out["an empty answer"] += 1
            elif a == b:
                left_out["two equal answers"] += 1
            else:
                yield pair


def _judged(pairs: Sequence[Pair], judge: Judge | ByReward, how: How) -> list[dict[str, Any]]:
    """The rows of pairs; pairs without a verdict are left out, and the judge counts them."""
    principles = [_principle(pair, how) for pair in pairs]
    verdicts = (
        judge.compare(pairs)
        if isinstance(judge, ByReward)
        else judge.compare(
            [pair.group.prompt for pair in pairs],
            [pair.a for pair in pairs],
            [pair.b for pair in pairs],
            principle=principles,
            chain_of_thought=how.chain_of_thought,
            clamp=how.clamp,
        )
    )
    return [
        _row(pair, verdict, principle, judge)
        for pair, verdict, principle in zip(pairs, verdicts, principles, strict=True)
        if not verdict.problem
    ]


def _principle(pair: Pair, how: How) -> Principle | None:
    """The principle of a pair; it is the same whenever the pair is labelled."""
    if not how.principles:
        return None
    return random.Random(f"{how.seed} {pair.group.row} {pair.number}").choice(how.principles)


def _row(pair: Pair, verdict: Verdict, principle: Principle | None, judge: Judge | ByReward) -> dict[str, Any]:
    """A row of preference data, in which the answer with the higher probability is chosen."""
    a_wins = verdict.p >= 0.5
    seen = verdict if a_wins else verdict.turned()
    agrees = None if pair.a_is_better is None else 0.5 if verdict.p == 0.5 else float(a_wins == pair.a_is_better)
    return {
        "prompt": pair.group.prompt,
        "chosen": pair.a if a_wins else pair.b,
        "rejected": pair.b if a_wins else pair.a,
        "p_chosen": seen.p,
        "p_orders": [seen.first, seen.second],
        **judge.settings,
        "principle": principle.id if principle else None,
        **({"thoughts": list(verdict.thoughts)} if verdict.thoughts else {}),
        "agrees": agrees,
        **({"cut_answers": cut} if (cut := sum(isinstance(text, Cut) for text in (pair.a, pair.b))) else {}),
        "source_row": pair.group.row,
        "pair": pair.number,
        **pair.group.rest,
    }


def summarize(rows: Sequence[dict[str, Any]], unusable: Counter[str]) -> dict[str, Any]:
    """Statistics of labels to look at before training on them; None for a statistic without rows.

    agreement: the share of rows on which judge and data agree; an exact tie counts half. chosen_longer: the share of
    rows whose chosen answer has more characters, because judges prefer long answers. cut_answers: the sampled answers
    that have no end.
    """
    tally = Tally(unusable=Counter(unusable))
    for row in rows:
        tally.add(Verdict(row["p_chosen"], *row["p_orders"]))
    agreements = [row["agrees"] for row in rows if row["agrees"] is not None]
    longer = [len(as_text(row["chosen"])) > len(as_text(row["rejected"])) for row in rows]
    counts = {name: value for name, value in tally.summary().items() if not name.endswith(("grades", "grade"))}
    return {
        **counts,
        "agreement": sum(agreements) / len(agreements) if agreements else None,
        "agreement_pairs": len(agreements),
        "chosen_longer": sum(longer) / len(longer) if longer else None,
        "cut_answers": sum(row.get("cut_answers", 0) for row in rows),
        "principles": dict(Counter(row["principle"] for row in rows if row["principle"])),
    }
