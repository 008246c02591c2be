"""A labelling job from its options to the finished file, for `zoo label` and for a stage of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.contract import registry
from zoo.data.load import load, source_kind
from zoo.data.sources.reading import Reading
from zoo.errors import ZooError
from zoo.evals.subject import load_subject
from zoo.judges.constitution import constitution_id, load_constitution
from zoo.judges.judge import Judge
from zoo.judges.make import make_judge
from zoo.judges.spelled import SELF
from zoo.labelling.by_reward import ByReward
from zoo.labelling.drawing import Drawer
from zoo.labelling.label import How, label
from zoo.labelling.label_file import LabelFile
from zoo.labelling.options import LabelOptions
from zoo.labelling.pairs import groups_of
from zoo.labelling.teaching import KINDS as TAUGHT
from zoo.labelling.teaching import teach
from zoo.numbers import amount
from zoo.rollout.engine import Sampling

Say = Callable[[str], None]
KINDS = ("preference", "feedback", "prompt")
THOUGHT_CLAMP = (0.4, 0.6)
"""The range of labels by principles after reasoning, which is overconfident (arXiv:2212.08073, section 4.1)."""


def label_data(
    options: LabelOptions, out: Path, runs: str, say: Say, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Write labels as the options say to the file `out`, after the labels that it already has; returns the summary.

    runs: the folder in which runs are looked up by name. Raises ZooError if nothing could be judged.
    """
    if options.teacher is not None:
        return teach(options, _load(options, say, TAUGHT), out, runs, say, progress)
    clamp = clamp_of(options.clamp, THOUGHT_CLAMP if options.constitution and options.chain_of_thought else None)
    if clamp and options.clamp is None:
        say(f"Labels are clamped to {clamp[0]} … {clamp[1]}, because the judge reasons first; --clamp 0,1 for none.")
    principles = load_constitution(options.constitution) if options.constitution else ()
    how = How(principles, options.chain_of_thought, clamp, options.seed)
    sampling = Sampling(max_new_tokens=options.max_new_tokens, temperature=options.temperature)
    loaded = _load(options, say, KINDS)
    groups = groups_of(loaded.records, loaded.kind, options.samples)
    draws = any(group.draw for group in groups)
    drawing = {"model": options.model, "samples": options.samples, "sampling": repr(sampling)} if draws else {}
    judge, subject = _judge(options, draws, runs, say)
    file = LabelFile(out, {"data": loaded.fingerprint, "kind": loaded.kind, **_asked(judge, how), **drawing})
    say(_plan(groups, judge, how, file))
    draw = Drawer(subject.model, subject.template, subject.precision, sampling) if draws else None
    try:
        summary = label(groups, judge, file, how, draw, progress)
    finally:
        if isinstance(judge, ByReward):
            judge.close()
    if not summary["pairs"]:
        file.discard()
        silent = any("endpoint" in reason for reason in summary["unusable_reasons"])
        raise ZooError(
            f"Nothing could be judged: {reasons(summary)}.",
            f"Check that the server of --judge {options.judge} runs, and that its address is right." if silent
            else f"`zoo data {options.data}` shows the prompts and answers.",
        )  # fmt: skip
    return summary


def clamp_of(text: str | None, otherwise: tuple[float, float] | None = None) -> tuple[float, float] | None:
    """`0.4,0.6` as two numbers around a half; `otherwise` without a text. Raises ZooError."""
    if text is None:
        return otherwise
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low <= 0.5 <= high <= 1:
        raise ZooError(f"--clamp {text} is not two numbers around a half.", "Write --clamp 0.4,0.6.")
    return low, high


def reasons(summary: dict[str, Any]) -> str:
    """Why pairs were left out."""
    return (
        "; ".join(f"{count:,} {reason}" for reason, count in summary["unusable_reasons"].items())
        or "there are no pairs"
    )


def _judge(options: LabelOptions, draws: bool, runs: str, say: Say) -> tuple[Judge | ByReward, Any]:
    """The judge, and the model that answers if one is needed; if they are the same, it is loaded once."""
    is_self = options.reward is None and options.judge in (SELF, options.model)
    rewarded = None if options.reward is None else ByReward(options.reward, runs, say, options.max_new_tokens)
    subject: Any = (
        load_subject(options.model, runs, say, head="lm", args=options.template_args) if draws or is_self else None
    )
    asking: dict[str, Any] = {
        "wording": options.wording, "votes": options.votes, "parallel": options.parallel,
        "longest_thought": options.max_thought_tokens, "device": "cuda" if torch.cuda.is_available() else "cpu",
        "cache": True, "out": runs, "say": say,
    }  # fmt: skip
    if rewarded is not None:
        return rewarded, subject
    if not is_self:
        return make_judge(options.judge, **asking), subject
    judge = make_judge(SELF, subject.model, subject.template, subject.precision, **asking)
    # The rows may be read elsewhere, where "self" would have no meaning.
    judge.respondent.name = options.model
    return judge, subject


def _plan(groups: Sequence[Any], judge: Judge | ByReward, how: How, file: LabelFile) -> str:
    pairs = sum(group.count for group in groups)
    before = f"; {len(file.rows):,} are labelled already" if file.rows else ""
    if isinstance(judge, ByReward):
        return f"{amount(pairs, 'pair')} for the reward {judge.name}{before}."
    asked = f"wording {judge.wording.id}" + (f", {amount(len(how.principles), 'principle')}" if how.principles else "")
    return f"{amount(pairs, 'pair')} for the judge {judge.name} ({asked}), in both orders{before}."


def _load(options: LabelOptions, say: Say, kinds: Sequence[str]) -> Any:
    """The data as one of these kinds: of what it is not, the ranking's pairs, or its prompts."""
    if options.kind is not None and options.kind not in kinds:
        how = " with --teacher" if options.teacher else ""
        raise ZooError(f"--kind {options.kind} cannot be labelled{how}.", f"Choose one of {', '.join(kinds)}.")
    named = registry.contributions(registry.manager(), "sources")
    reading = Reading.of(options, named)
    kind = options.kind or source_kind(options.data, reading)
    wanted = kind if kind in kinds else "preference" if kind == "ranking" and "preference" in kinds else "prompt"
    loaded = load(options.data, wanted, reading)
    for line in loaded.report.lines():
        say(line)
    return loaded


def _asked(judge: Judge | ByReward, how: How) -> dict[str, Any]:
    """The settings that a label depends on."""
    if isinstance(judge, ByReward):
        return {**judge.settings, "reward_fingerprint": judge.fingerprint()[:16], "seed": how.seed}
    return {
        **judge.settings,
        "judge_fingerprint": judge.respondent.fingerprint()[:16],
        "constitution": constitution_id(how.principles) if how.principles else None,
        "chain_of_thought": how.chain_of_thought,
        "clamp": how.clamp,
        "seed": how.seed,
    }
