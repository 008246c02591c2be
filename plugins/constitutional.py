"""Constitutional AI, its supervised stage (SL-CAI of arXiv:2212.08073).

The model answers prompts that invite what it should not do. Then, in each of some rounds, a principle is drawn from a
constitution; the model criticises its answer by it, and revises the answer after its own critique. It is then trained
on the revisions of all rounds as answers to the original prompts, together with helpful demonstrations, without which
refusing everything would be an easy way out.

The second stage, RL-CAI, is `zoo label --constitution`, `rm` and `ppo` one after the other.

The rest is in docs/algorithms/constitutional.md.
"""

from __future__ import annotations

import json
import random
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from zoo.api import (
    Algorithm,
    Answers,
    Batch,
    Loss,
    Models,
    Point,
    Policy,
    Principle,
    Prompt,
    Record,
    Records,
    Run,
    ZooError,
    default_collate,
    load_constitution,
    load_records,
    refusal_of,
    require,
)

LABEL = re.compile(
    r"\A[\s*#]*(?:(?:sure|certainly|of course|okay)[,.!]?\s+)?(?:here(?:'s|’s| is)\s+(?:a|an|the|my)\s+)?"
    r"(?:critique|revision|(?:revised|rewritten|improved|new|updated)(?:\s+(?:answer|response|version|text))?)"
    r"(?:\s+request)?(?:\s+of\s+[^:\n]{1,40})?[\s*]*:[\s*]*",
    re.IGNORECASE,
)
"""What models put before a critique or a revision."""
CONTROL = re.compile(r"<\|[^<>|]*\|>")
"""What looks like a token of a chat template, which no text may hold."""


class Revisions(Batch):
    """Revisions and helpful answers. helpful: bool [B], which of the two."""

    completion: Answers
    helpful: Tensor


class Constitutional(Algorithm):
    """Constitutional AI (SL-CAI): a model criticises and revises its answers by principles, and learns revisions."""

    api_version = 2
    paper = "arXiv:2212.08073"
    data = "prompt"
    needs = ("policy",)
    defaults = {
        "lr": [
            Point(135e6, 1e-4, "that of sft here"),
            Point(7e9, 2e-5, "alignment-handbook's"),
            Point(135e6, 1e-3, "LoRA Without Regret's tenfold rate", lora=True),
            Point(7e9, 2e-4, "alignment-handbook's", lora=True),
        ],
        "temperature": [
            Point(135e6, 0.7, "tuned here"),
            Point(52e9, 1.0, "the paper's"),
        ],
        "top_p": [
            Point(135e6, 0.9, "tuned here"),
            Point(52e9, 1.0, "the paper's"),
        ],
        "data": "harmless", "score": "refusal,over_refusal,instructions", "eval_fraction": 0.0,
        "schedule": "constant", "max_new_tokens": 96,
    }  # fmt: skip
    reasons = {
        "lr": "Neither: the paper takes half of its pretraining's rate, and does not give that. alignment-handbook, "
        "recipes/constitutional-ai; adapters: its zephyr-7b-beta/sft/config_qlora.yaml; at 135 M LoRA "
        "Without Regret (thinkingmachines.ai, 2025).",
        "schedule": "Paper: constant.",
        "epochs": "Paper: one pass.",
        "batch_size": "Neither: paper 1,024 of a million examples.",
        "rounds": "Neither: each round costs two answers to every prompt. Paper 4.",
        "helpful_share": "Paper: 270,592 of 1,001,916.",
        "max_new_tokens": "Neither: the starter set's answers; set it to the task's.",
        "eval_fraction": "Neither: held-out prompts have no answers whose loss could be measured.",
        "temperature": "Tuned here: a small model writes nonsense at 1.",
        "top_p": "Tuned here: as temperature.",
    }
    metrics = {
        "revision_loss": "−log π per token of the revisions.",
        "helpful_loss": "−log π per token of the helpful demonstrations; should not rise.",
        "mean_token_accuracy": "Share of trained tokens that greedy decoding would have produced.",
    }
    conformance = {"variants": [{"rounds": 1, "helpful": None}]}

    @dataclass
    class Config:
        constitution: str = "default"
        """The principles: `default`, which comes with zoo, or a YAML file."""
        rounds: int = 2
        """Rounds of critique and revision; the paper 4."""
        principle_seed: int = 0
        """Seed of the principles that are drawn, and of the helpful rows."""
        helpful: str | None = "starter"
        """Demonstrations that are mixed in: any source that --data takes; none for revisions alone."""
        helpful_share: float = 0.27
        """Their share of all that is trained on. The paper has 270,592 of 1,001,916."""

        def __post_init__(self) -> None:
            require(self.rounds >= 1, "rounds must be at least 1")
            require(0 <= self.helpful_share < 1, "helpful_share must be at least 0 and below 1")
            require(
                self.helpful is not None or self.helpful_share == 0.27,
                "helpful_share has no effect without helpful rows",
            )

    def __init__(self) -> None:
        self.steps: list[Record] = []

    def prepare(self, records: Records, models: Models, config: Config) -> list[Record]:
        """Answers, critiques and revisions; then all revisions with their original prompts, and helpful rows."""
        draw = random.Random(config.principle_seed)
        principles = load_constitution(config.constitution)
        drawn = [[draw.choice(principles) for _ in records] for _ in range(config.rounds)]
        self.steps, revisions = chains(records, drawn, models.policy)
        if not revisions:
            raise ZooError("No revision says anything.", "Give the model room (--max-new-tokens), or take another one.")
        helpful = _helpful(config, len(revisions), draw, models.policy)
        _tell(self.steps, len(records), len(revisions), len(helpful))
        return revisions + helpful

    def run_start(self, run: Run) -> None:
        """Every step, beside the run's metrics."""
        lines = [json.dumps(step, ensure_ascii=False) + "\n" for step in self.steps]
        (run.path / "revisions.jsonl").write_text("".join(lines), encoding="utf-8")

    def collate(self, records: Sequence[Record]) -> Batch:
        if "completion" not in records[0]:
            raise ZooError(
                "Held-out prompts have no revisions to validate on.",
                "Leave --eval-data and --eval-fraction out: --score refusal,over_refusal measures before and after.",
            )
        return default_collate(records)

    def loss(self, batch: Revisions, models: Models) -> Loss:
        """−Σ m_t log π(y_t | x, y_<t) / Σ m_t over revisions and helpful answers."""
        logps = models.policy.logps(batch.completion)
        helpful = batch.helpful[:, None]
        return Loss.per_token(-logps.per_token, logps.mask, {
            "revision_loss": (-logps.per_token, logps.mask & ~helpful),
            "helpful_loss": (-logps.per_token, logps.mask & helpful),
            "mean_token_accuracy": logps.likeliest,
        })  # fmt: skip


def chains(
    records: Sequence[Record], drawn: Sequence[Sequence[Principle]], policy: Policy
) -> tuple[list[Record], list[Record]]:
    """Every step of every prompt, and the revisions to train on, both by round; drawn: principles, by round."""
    prompts = [record["record"]["prompt"] for record in records]
    chats = [[_user(prompt)] if isinstance(prompt, str) else prompt for prompt in prompts]
    initial, _ = _written(policy, records)
    answers, steps, trained = list(initial), [], []
    for k, principles in enumerate(drawn, start=1):
        turns = zip(chats, answers, principles, strict=True)
        asked = [[*chat, _assistant(answer), _user(by.critique_request)] for chat, answer, by in turns]
        critiques, _ = _written(policy, asked)
        turns = zip(asked, critiques, principles, strict=True)
        asked = [[*chat, _assistant(critique), _user(by.revision_request)] for chat, critique, by in turns]
        revisions, cut = _written(policy, asked)
        for i, record in enumerate(records):
            steps.append({
                "row": record["row"], "prompt": prompts[i], "initial": initial[i], "round": k,
                "principle": principles[i].id, "answer": answers[i], "critique": critiques[i],
                "revision": revisions[i], "cut": cut[i],
            })  # fmt: skip
            if revisions[i]:
                answers[i] = revisions[i]
                made = policy.answer(record, revisions[i], ended=not cut[i])
                trained.append({"row": record["row"], "completion": made, "helpful": False})
    return steps, trained


def stripped(text: str) -> str:
    """A critique or a revision without the label that it may begin with; colons further on are its own."""
    return LABEL.sub("", CONTROL.sub("", text), count=1).strip()


def helpful_count(revisions: int, share: float) -> int:
    """How many helpful examples give them this share of all."""
    return round(revisions * share / (1 - share))


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _written(policy: Policy, prompts: Sequence[Prompt]) -> tuple[list[str], list[bool]]:
    """One answer to each prompt as text, and whether the length limit has cut it."""
    answers = policy.generate(prompts, 1)
    return [stripped(text) for text in policy.texts(answers)], [bool(one.cut) for one in answers]


def _helpful(config: Constitutional.Config, revisions: int, draw: random.Random, policy: Policy) -> list[Record]:
    if config.helpful is None or not (wanted := helpful_count(revisions, config.helpful_share)):
        return []
    rows = load_records(config.helpful, "demonstration")
    if len(rows) < wanted:
        warnings.warn(f"{config.helpful} has {len(rows)} demonstrations, {wanted} were wanted.", stacklevel=2)
    chosen = draw.sample(rows, min(wanted, len(rows)))
    return [{"row": row["row"], "completion": policy.answer(row, row["completion"]), "helpful": True} for row in chosen]


def _tell(steps: Sequence[Record], prompts: int, revisions: int, helpful: int) -> None:
    """What came of it, in the run's output."""
    texts = [step["initial"] for step in steps[:prompts]] + [step["revision"] for step in steps]
    refused = [bool(refusal_of(text)) for text in texts]
    shares = [sum(refused[i : i + prompts]) / prompts for i in range(0, len(texts), prompts)]
    later = ", ".join(f"{share:.2f} after round {k}" for k, share in enumerate(shares[1:], start=1))
    unchanged = sum(step["revision"] == step["answer"] for step in steps) / len(steps)
    warnings.warn(
        f"{revisions} of {len(steps)} revisions are trained on, beside {helpful} helpful answers; "
        f"{len({step['principle'] for step in steps})} principles were drawn. Refused or evaded: {shares[0]:.2f} of "
        f"the first answers, {later}. Revisions equal to what they revise: {unchanged:.2f}.",
        stacklevel=2,
    )
