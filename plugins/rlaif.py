"""RLAIF: Reinforcement Learning from AI Feedback, without a reward model (d-RLAIF of arXiv:2309.00267).

The policy writes answers, a judge grades each from 1 to 10, and the expected grade s = Σ i·P(i) is the reward.
REINFORCE maximises J = (1 − β) r − β KL(π ‖ π_ref). The run's --reward, if there is one, is never trained on; it is
shown as `gold`. Grades that rise while gold falls, or that go with length, mean that the judge is being flattered.

The baseline is the mean of the other answers to the same prompt; --variant d-rlaif has the paper's learned value.

The rest is in docs/algorithms/rlaif.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.api import (
    Algorithm,
    Answers,
    Batch,
    Loss,
    Models,
    Point,
    Ragged,
    Record,
    Reward,
    ZooError,
    explained_variance,
    group_advantages,
    kl_estimate,
    require,
    to_go,
)


class Graded(Batch):
    """Answers with the judge's grades. advantage, kl_k3, returns: [B, T], the last with baseline=value only."""

    answers: Answers
    advantage: Tensor
    known: Tensor
    grade: Tensor
    reward: Tensor
    gold: Tensor
    objective: Tensor
    kl: Tensor
    kl_k3: Tensor
    length: Tensor
    returns: Tensor
    explained: Tensor


class RLAIF(Algorithm):
    """Reinforcement learning from AI feedback: a judge's grade of each answer is its reward (d-RLAIF)."""

    api_version = 2
    paper = "arXiv:2309.00267"
    data = "prompt"
    defaults = {
        "lr": [
            Point(135e6, 1e-5, "zoo's"),
            Point(6.9e9, 1e-6, "RLOO's"),
            Point(135e6, 1e-4, "LoRA Without Regret's tenfold rate", lora=True),
            Point(6.9e9, 1e-5, "LoRA Without Regret's tenfold rate", lora=True),
        ],
        "critic_lr": [
            Point(135e6, 1e-5, "the policy's here"),
            Point(6.9e9, 1e-6, "the policy's"),
        ],
        "schedule": "constant", "batch_size": 64, "answers_per_prompt": 8, "temperature": 0.9, "max_new_tokens": 64,
        "epochs": 0.33,
    }  # fmt: skip
    reasons = {
        "lr": "Neither: the paper's 1e-5 is for Adafactor and models whose sizes are not public. RLOO "
        "(arXiv:2402.14740), section C, whose baseline it is. Adapters: LoRA Without Regret (thinkingmachines.ai, "
        "2025): adapters want about ten times the full rate.",
        "critic_lr": "Neither: the policy's; with adapters that of full training.",
        "beta": "Paper: 0.05.",
        "temperature": "Paper: 0.9.",
        "schedule": "Neither: constant, as every rollout is new.",
        "batch_size": "Neither: 8 prompts with 8 answers each. Paper 128.",
        "answers_per_prompt": "Neither: a group to compare with. Paper 1, with a critic.",
        "max_new_tokens": "Neither: the starter set's answers; set it to the task's.",
        "epochs": "Neither: a third of the starter set, for time. Paper 8.",
    }
    variants = {"d-rlaif": {"baseline": "value", "answers_per_prompt": 1, "batch_size": 128, "epochs": 8}}
    metrics = {
        "grade": "The judge's expected grade, from 1 to 10: what is trained on.",
        "judge_reward": "r = 2 (grade − 1)/9 − 1, from −1 to 1.",
        "gold": "The run's --reward of the same answers, which is not trained on. Should not fall while grades rise.",
        "objective": "J = (1 − β) r − β·kl of an answer, what is maximised.",
        "kl": "KL(π ‖ π_ref) as Σ log π − log π_ref of an answer: how far the policy has gone for its grades.",
        "kl_k3": "The same KL per token, as k3, which is never below 0.",
        "ungraded": "Share of answers that the judge gave no grade.",
        "length_correlation": "Correlation of grade and length over the rollout; near 1 the judge grades length.",
        "ratio": "π/π_old, mean over tokens: exactly 1 in the first step after a rollout; nothing corrects later ones.",
        "entropy": "Entropy of the policy, mean over tokens; a fall to 0 ends exploration.",
        "advantage_size": "|A|, mean over tokens.",
        "value_loss": "½(V − G)², mean over tokens. Only with baseline=value, as the next.",
        "explained_variance": "1 − Var(G − V)/Var(G) over the rollout: 1 for a perfect critic, 0 for a constant one.",
    }
    conformance = {"start": {"ratio": 1.0}, "variants": [{"beta": 0.0}]}

    @dataclass
    class Config:
        beta: float = 0.05
        """Share β of the KL term in J; the reward has the rest. 0 needs no reference."""
        baseline: Literal["group", "value"] = "group"
        """What an answer is compared with: the mean of the others to its prompt, which needs no second model; or a
        critic's value of each state, as in the paper."""
        chain_of_thought: bool = False
        """Let the judge reason before it grades: slower by far, and for large judges better."""
        value_weight: float = 0.1
        """Weight of the critic's loss."""

        def __post_init__(self) -> None:
            require(0 <= self.beta < 1, "beta must be at least 0 and below 1")
            require(self.value_weight >= 0, "value_weight must be at least 0")
            require(
                self.baseline == "value" or self.value_weight == 0.1,
                "value_weight has no effect without baseline=value",
            )

    def needs(self, config: Config) -> tuple[str, ...]:
        roles = ["policy", "judge"] + ["reference"] * (config.beta > 0) + ["critic"] * (config.baseline == "value")
        return tuple(roles)

    def rollout(self, prompts: Sequence[Record], models: Models, config: Config, score: Reward) -> Graded:
        """Answers, their grades, and what each of their tokens is worth."""
        answers = models.policy.generate(prompts)
        each = len(answers) // len(prompts)
        if config.baseline == "group" and each == 1:
            raise ZooError(
                "baseline=group compares answers to one prompt, and answers_per_prompt is 1.",
                "Make it 4 or more, or take --baseline value.",
            )
        asked = [prompt for prompt in prompts for _ in range(each)]
        grades = models.judge.rate(asked, models.policy.texts(answers), chain_of_thought=config.chain_of_thought)
        gold = score(answers)
        grades = grades.to(gold)
        known, rewards = ~grades.isnan(), reward_of(grades)
        kl, kl_k3 = torch.zeros_like(answers.behaviour), torch.zeros_like(answers.behaviour)
        if config.beta:
            reference = models.reference.logps(answers).per_token
            kl, kl_k3 = (kl_estimate(answers.behaviour, reference, kind) * answers.mask for kind in ("k1", "k3"))
        goals = objective(rewards, kl.sum(-1), config.beta)
        fields: dict[str, Ragged | Tensor] = {}
        if config.baseline == "value":
            values, mask = models.critic.values(answers), answers.mask & known[:, None]
            returns = still_to_come(rewards.nan_to_num(), kl, answers.mask, config.beta) * mask
            advantage = (returns - values) * mask
            explained = explained_variance(returns, values, mask)
            fields = {"returns": Ragged(returns, answers), "explained": explained.to(gold).expand(len(answers)).clone()}
        else:
            found = group_advantages(goals.view(len(prompts), -1), "leave_one_out", "none")
            advantage = found.to(gold).flatten()[:, None] * answers.mask
        return Graded(
            answers=answers, advantage=Ragged(advantage, answers), known=known, grade=grades, reward=rewards,
            gold=gold, objective=goals, kl=kl.sum(-1), kl_k3=Ragged(kl_k3, answers),
            length=_correlation(grades, answers.lengths.to(gold)).expand(len(answers)).clone(), **fields,
        )  # fmt: skip

    def loss(self, batch: Graded, models: Models, config: Config) -> Loss:
        """REINFORCE: −Σ_t A_t log π(y_t | x, y_<t), mean over answers."""
        logps = models.policy.logps(batch.answers, entropy=True)
        mask, known = logps.mask, batch.known
        losses = (-batch.advantage * logps.per_token * batch.answers.correction * mask).sum(-1)
        nothing = torch.full_like(logps.per_token, torch.nan)
        value_loss = nothing
        if config.baseline == "value":
            value_loss = (models.critic.values(batch.answers) - batch.returns) ** 2 / 2
            losses = losses + config.value_weight * (value_loss * mask).sum(-1) / mask.sum(-1).clamp(min=1)
        old = logps.per_token.detach() if batch.on_policy else batch.answers.behaviour
        tokens = {
            "kl_k3": batch.kl_k3 if config.beta else nothing,
            "ratio": ((logps.per_token - old) * mask).exp(),
            "entropy": logps.entropy,
            "advantage_size": batch.advantage.abs(),
            "value_loss": value_loss,
        }
        return Loss.weighted(losses, known, {
            **{name: (value, mask & known[:, None]) for name, value in tokens.items()},
            "grade": (batch.grade, known),
            "judge_reward": (batch.reward, known),
            "gold": (batch.gold, torch.ones_like(batch.gold)),
            "objective": (batch.objective, known),
            "kl": (batch.kl if config.beta else nothing[:, 0], known),
            "ungraded": (~known, torch.ones_like(batch.gold)),
            "length_correlation": (batch.length, known),
            "explained_variance": (batch.explained if config.baseline == "value" else nothing[:, 0], known),
        })  # fmt: skip


def reward_of(grades: Tensor) -> Tensor:
    """Grades from 1 to 10 as rewards from −1 to 1; NaN stays."""
    return 2 * (grades - 1) / 9 - 1


def objective(rewards: Tensor, kl: Tensor, beta: float) -> Tensor:
    """J = (1 − β) r − β KL of each answer (appendix A.3)."""
    return (1 - beta) * rewards - beta * kl


def still_to_come(rewards: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """G_t: what of J is still to come at each token, [B, T]; rewards [B] come with the last, kl [B, T] with each."""
    return objective(rewards[:, None], to_go(kl * mask), beta) * mask


def _correlation(grades: Tensor, lengths: Tensor) -> Tensor:
    """Pearson's, over the answers with a grade; NaN where one of both does not vary."""
    known = ~grades.isnan()
    pair = torch.stack([grades[known], lengths[known]])
    varies = known.sum() > 1 and (pair.std(1) > 0).all()
    return torch.corrcoef(pair)[0, 1] if varies else grades.new_tensor(torch.nan)
