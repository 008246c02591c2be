"""SPIN: Self-Play Fine-Tuning (arXiv:2401.01335).

A game of two players, both of them the model. The opponent, a frozen copy, answers the prompts of the demonstrations;
the policy learns to tell the given answers from the opponent's, by the log-ratio of both models. Then the opponent
becomes the policy, and the next iteration begins. No preferences and no reward are needed, and the game ends where the
opponent answers as the demonstrations do.

The rest is in docs/algorithms/spin.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.api import Algorithm, Answers, Batch, Loss, Models, Point, Record, Role, logsigmoid, require, wins


class Game(Batch):
    """A given and a generated answer to each prompt. opponent_real, opponent_generated, iteration: float [B]."""

    real: Answers
    generated: Answers
    opponent_real: Tensor
    opponent_generated: Tensor
    iteration: Tensor


class SPIN(Algorithm):
    """Self-Play Fine-Tuning: given answers are raised over those of an opponent, the policy of an iteration ago."""

    api_version = 2
    paper = "arXiv:2401.01335"
    data = "demonstration"
    needs = ("policy", "opponent")
    own_roles = {"opponent": Role(about="The first opponent; by default the weights that training starts from.")}
    defaults = {
        "lr": [
            Point(135e6, 1e-5, "that of online-dpo here"),
            Point(7e9, 5e-7, "the paper's", "RMSprop"),
            Point(135e6, 1e-4, "LoRA Without Regret's tenfold rate", lora=True),
            Point(7e9, 5e-6, "LoRA Without Regret's tenfold rate", lora=True),
        ],
        "schedule": "constant", "batch_size": 16, "minibatches": 32, "rollout_epochs": 2, "max_new_tokens": 96,
    }  # fmt: skip
    reasons = {
        "lr": "Paper: 5e-7 with RMSprop for Zephyr 7B, 1e-7 from the third iteration on. Adapters: LoRA Without Regret "
        "(thinkingmachines.ai, 2025): adapters want about ten times the full rate.",
        "beta": "Paper: λ = 0.1; 5 in its last iteration.",
        "schedule": "Neither: constant, as every rollout is new.",
        "batch_size": "Neither: the starter set gets enough steps. Paper 64.",
        "minibatches": "Neither: 512 prompts an iteration. Paper 50,000.",
        "rollout_epochs": "Paper: 2 passes over the pairs of an iteration. Its authors' scripts 2 to 6.",
        "iteration_rollouts": "Paper: all pairs of an iteration are written before the first step.",
        "max_new_tokens": "Neither: the starter set's answers; set it to the task's.",
    }
    metrics = {
        "rewards/real": "λ times the log-ratio of policy to opponent on given answers; 0 when an iteration begins.",
        "rewards/generated": "The same on the opponent's answers; should fall below rewards/real.",
        "rewards/margins": "rewards/real − rewards/generated; near 0 where the opponent cannot be told from the data.",
        "rewards/accuracies": "Share of pairs whose margin is above 0; ties count half.",
        "logps/real": "log π of given answers, summed.",
        "logps/generated": "log π of the opponent's answers, summed.",
        "iteration": "The iteration, from 0: how often the opponent has become the policy.",
    }
    saved = ("rollouts",)
    conformance = {
        "start": {"loss": math.log(2), "rewards/margins": 0.0, "iteration": 0.0},
        "variants": [{"beta": 5.0}],
    }
    rollouts = 0

    @dataclass
    class Config:
        beta: float = 0.1
        """Weight λ of the log-ratios in the loss: the larger, the nearer to the opponent."""
        iteration_rollouts: int = 1
        """Rollouts of an iteration, after which the opponent becomes the policy. More, smaller rollouts need less
        memory for the pairs."""

        def __post_init__(self) -> None:
            require(self.beta > 0, "beta must be above 0")
            require(self.iteration_rollouts > 0, "iteration_rollouts must be above 0")

    def rollout(self, prompts: Sequence[Record], models: Models, config: Config) -> Game:
        """Algorithm 1: the opponent answers the prompts; before a new iteration it becomes the policy."""
        opponent = models["opponent"]
        iteration, played = divmod(self.rollouts, config.iteration_rollouts)
        if iteration and not played:
            opponent.renew()
        self.rollouts += 1
        generated = opponent.generate(prompts)
        each = len(generated) // len(prompts)
        real = Answers([prompt["completion"] for prompt in prompts for _ in range(each)]).to(generated[0].prompt.device)
        logps_real, logps_generated = opponent.logps(real, generated)
        opponent_real = logps_real.sum()
        return Game(
            real=real, generated=generated, opponent_real=opponent_real, opponent_generated=logps_generated.sum(),
            iteration=torch.full_like(opponent_real, iteration),
        )  # fmt: skip

    def loss(self, batch: Game, models: Models, config: Config) -> Loss:
        """Equation 4.7 with the logistic loss ℓ(t) = log(1 + exp(−t))."""
        real, generated = (logps.sum() for logps in models.policy.logps(batch.real, batch.generated))
        reward_real = config.beta * (real - batch.opponent_real)
        reward_generated = config.beta * (generated - batch.opponent_generated)
        margins = reward_real - reward_generated
        return Loss.per_example(-logsigmoid(margins), {
            "rewards/real": reward_real,
            "rewards/generated": reward_generated,
            "rewards/margins": margins,
            "rewards/accuracies": wins(margins, config.beta),
            "logps/real": real,
            "logps/generated": generated,
            "iteration": batch.iteration,
        })  # fmt: skip
