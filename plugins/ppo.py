"""PPO: Proximal Policy Optimization for language models, as InstructGPT used it (arXiv:1707.06347, arXiv:2203.02155).

The policy writes an answer to each prompt, and a reward scores it at its last token, the end of the turn. Each token
pays β·(log π − log π_ref), so that the policy stays near the reference. A critic learns the value of each state, and
the advantage of a token is estimated from rewards and values (GAE, arXiv:1506.02438). Steps over the rollout follow the
advantages, with the ratio to the policy that wrote the answers clipped.

The details are those of OpenAI's first code and of the paper that reproduced it (arXiv:2403.17031), but for λ = 1, a
critic that is a head on the policy, and one pass in two steps over four answers to each prompt. Variants: instructgpt
and n-details, which are these two papers' settings.

The rest is in docs/algorithms/ppo.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.api import (
    Algorithm,
    Answer,
    Answers,
    Batch,
    Loss,
    Measured,
    Models,
    Point,
    Ragged,
    Record,
    Records,
    Reward,
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    gae,
    kl_estimate,
    load_records,
    require,
    variance,
    whiten,
)

WHOLE = ("kl_coef", "explained_variance", "return_variance", "advantage_variance")
"""Numbers of a whole rollout."""
LONGEST_TEXT = 512
"""Tokens of a text of the pretraining mix that are used."""


class Experience(Batch):
    """Answers of a rollout. kl_k3, returns, old_values and advantages are [B, T], the rest [B]."""

    answers: Answers
    known: Tensor
    score: Tensor
    total_reward: Tensor
    kl: Tensor
    kl_k3: Tensor
    returns: Tensor
    old_values: Tensor
    advantage: Tensor
    raw_advantage: Tensor
    ptx: Answers


class PPO(Algorithm):
    """Proximal Policy Optimization: a critic, a KL penalty on each token, clipped steps over each rollout."""

    api_version = 2
    paper = "arXiv:2203.02155"
    data = "prompt"
    defaults = {
        "lr": [
            Point(135e6, 5e-5, "tuned here"),
            Point(1e9, 3e-6, "arXiv:2403.17031's"),
            Point(6.9e9, 3e-6, "arXiv:2403.17031's"),
            Point(135e6, 5e-4, "LoRA Without Regret's tenfold rate", lora=True),
            Point(6.9e9, 3e-5, "LoRA Without Regret's tenfold rate", lora=True),
        ],
        "critic_lr": [
            Point(135e6, 5e-5, "the policy's here"),
            Point(1.3e9, 9e-6, "InstructGPT's"),
            Point(6e9, 9e-6, "InstructGPT's"),
            Point(175e9, 5e-6, "InstructGPT's"),
        ],
        "schedule": "constant", "batch_size": 32, "minibatches": 2, "answers_per_prompt": 4, "epochs": 0.53,
        "optimizer": "adamw(eps=1e-5)", "max_new_tokens": 64, "critic": "head",
    }  # fmt: skip
    reasons = {
        "lr": "Neither: InstructGPT does not give it. arXiv:2403.17031 at 1 to 6.9 B weights. Adapters: LoRA Without "
        "Regret (thinkingmachines.ai, 2025): adapters want about ten times the full rate.",
        "critic_lr": "Paper: InstructGPT, appendix C.4. A head learns at five times the policy's rate, since it "
        "starts at 0.",
        "kl_coef": "Paper: 0.02.",
        "clip": "Paper: 0.2.",
        "value_clip": "Neither: 0.2, as arXiv:2403.17031 and OpenAI's first code.",
        "value_weight": "Neither: 0.1, as arXiv:2403.17031 and OpenAI's first code.",
        "gamma": "Paper: 1.",
        "gae_lambda": "Tuned here: 1, since the critic knows nothing yet. arXiv:2403.17031 0.95.",
        "schedule": "Paper: constant.",
        "optimizer": "Neither: AdamW with ε = 1e-5, as arXiv:2403.17031 and OpenAI's first code.",
        "batch_size": "Tuned here: two steps a rollout of 64 answers. Paper 64 in each of 8 steps.",
        "minibatches": "Tuned here: 2. Paper 8, arXiv:2403.17031 1.",
        "answers_per_prompt": "Tuned here: 4. Paper 1.",
        "max_new_tokens": "Tuned here: the starter set's answers; set it to the task's.",
        "epochs": "Tuned here: 20 rollouts of the starter set, 18 minutes.",
        "critic": "Neither: no second model, as in OpenAI's first code. Paper a model of its own.",
    }
    variants = {
        "instructgpt": {
            "answers_per_prompt": 1, "epochs": 1, "kl_coef": 0.02, "batch_size": 64, "minibatches": 8,
            "gae_lambda": 0.95, "ptx_weight": 27.8,
        },
        "n-details": {
            "answers_per_prompt": 1, "epochs": 1, "kl_coef": 0.05, "batch_size": 64, "minibatches": 1,
            "rollout_epochs": 4, "gae_lambda": 0.95, "missing_eos": "replace", "temperature": 0.7,
            "schedule": "linear",
        },
    }  # fmt: skip
    saved = ("kl_coef",)
    metrics = {
        "kl": "Σ (log π_old − log π_ref) of an answer, mean over the rollout: the distance from the reference.",
        "kl_k3": "The same KL per token, as k3, which is never below 0.",
        "kl_coef": "β of the rollout; moves with adaptive_kl only.",
        "score": "Reward of an answer as the algorithm takes it, after normalisation, clip and missing end.",
        "total_reward": "score − β·kl, what is maximised.",
        "ratio": "ρ = π/π_old, mean over tokens: exactly 1 in the first step after a rollout.",
        "ratio_max": "The largest ρ of a token; far above 1 + clip the steps are too large.",
        "clip_share": "Share of tokens whose loss the clip holds; above a third or so the steps are too large.",
        "approx_kl": "KL(π_old ‖ π) as ½(log ρ)², mean over tokens: how far the passes over the rollout have gone.",
        "approx_kl_k3": "The same as ρ − 1 − log ρ.",
        "entropy": "Entropy of the policy, mean over tokens; a fall to 0 ends exploration.",
        "policy_loss": "The clipped loss alone; about 0 in the first step, because advantages are whitened.",
        "value_loss": "½(V − R)² with the clip, mean over tokens.",
        "value_clip_share": "Share of tokens whose value loss the clip holds.",
        "explained_variance": "1 − Var(R − V)/Var(R) over the rollout: 1 for a perfect critic, 0 for one that says the "
        "same everywhere.",
        "value": "V before the rollout's steps, mean over tokens; should come near `return`.",
        "return": "R = A + V, mean over tokens.",
        "return_variance": "Variance of R over the tokens of the rollout.",
        "advantage": "A before whitening, mean over tokens.",
        "advantage_variance": "Variance of A over the tokens of the rollout, before whitening.",
        "ptx_loss": "−log π per token of the texts of the pretraining mix.",
    }
    conformance = {
        "start": {"ratio": 1.0, "ratio_max": 1.0, "clip_share": 0.0, "approx_kl": 0.0, "approx_kl_k3": 0.0},
        "variants": [{"kl_coef": 0.0}, {"missing_eos": "replace"}],
    }

    @dataclass
    class Config:
        kl_coef: float = 0.02
        """β, what a nat of KL costs. InstructGPT 0.02, arXiv:2403.17031 0.05; 0 needs no reference."""
        adaptive_kl: float | None = None
        """KL of an answer to steer β to, from kl_coef on (arXiv:1909.08593: 6); by default β stays."""
        adaptive_kl_horizon: int = 10_000
        """Answers in which a KL that is off by a fifth or more moves β by a fifth."""
        normalize_score: bool = False
        """Bring the scores of each rollout to mean 0 and deviation 1, before anything else."""
        score_clip: float | None = None
        """Clip scores to ± this, before KL."""
        missing_eos: Literal["none", "replace", "subtract"] = "none"
        """What the score of an answer without end of turn becomes: what it is; −missing_eos_penalty; or that much
        less."""
        missing_eos_penalty: float = 1.0
        """See missing_eos."""
        whiten_rewards: bool = False
        """Divide the rewards of all tokens of a rollout by their deviation; their mean stays."""
        gamma: float = 1.0
        """Discount γ of later rewards."""
        gae_lambda: float = 1.0
        """λ of the advantage estimate: 1 adds up all later rewards, 0 takes the token's own reward and the critic's
        value of the next state. arXiv:2403.17031 0.95."""
        clip: float = 0.2
        """ε that the ratio is clipped at."""
        dual_clip: float | None = None
        """Bound c of −c·A on the loss where A < 0, often 3."""
        value_clip: float = 0.2
        """How far a value may move from that of the rollout before its loss stops following; 0 for no clip."""
        value_weight: float = 0.1
        """Weight c_v of the value loss."""
        ptx_weight: float = 0.0
        """Weight γ_ptx of the NLL of other texts (InstructGPT: 27.8, on pretraining text)."""
        ptx: str | None = None
        """Where these texts come from, as --data takes it: plain text or demonstrations, one drawn for each answer. By
        default they are the column `demonstration` of the prompt data; prompts without one bring none."""

        def __post_init__(self) -> None:
            goal, dual = self.adaptive_kl, self.dual_clip
            require(self.kl_coef >= 0, "kl_coef must be at least 0")
            require(goal is None or goal > 0, "adaptive_kl must be above 0")
            require(goal is None or self.kl_coef > 0, "adaptive_kl needs a kl_coef above 0")
            require(self.adaptive_kl_horizon >= 1, "adaptive_kl_horizon must be at least 1")
            require(
                goal is not None or self.adaptive_kl_horizon == 10_000,
                "adaptive_kl_horizon has no effect without adaptive_kl",
            )
            require(
                self.missing_eos != "none" or self.missing_eos_penalty == 1,
                "missing_eos_penalty has no effect without missing_eos",
            )
            require(self.score_clip is None or self.score_clip > 0, "score_clip must be above 0")
            require(0 <= self.gamma <= 1, "gamma must be from 0 to 1")
            require(0 <= self.gae_lambda <= 1, "gae_lambda must be from 0 to 1")
            require(0 < self.clip < 1, "clip must be above 0 and below 1")
            require(dual is None or dual > 1, "dual_clip must be above 1")
            require(
                min(self.value_clip, self.value_weight, self.ptx_weight) >= 0, "weights and clips must be at least 0"
            )
            require(self.ptx is None or self.ptx_weight > 0, "ptx needs a ptx_weight above 0")

    def __init__(self) -> None:
        self.kl_coef = 0.0
        self.texts: list[Record] = []

    def prepare(self, records: Records, config: Config) -> Records:
        """The prompts as they are, and the texts of the pretraining mix."""
        self.texts = load_records(config.ptx, ("demonstration", "text")) if config.ptx else []
        return records

    def needs(self, config: Config) -> tuple[str, ...]:
        return ("policy", "critic") if config.kl_coef == 0 else ("policy", "critic", "reference")

    def rollout(self, prompts: Sequence[Record], models: Models, config: Config, score: Reward) -> Experience:
        """Answers, and for each token the advantage, the return, and the value that was expected."""
        beta = self.kl_coef or config.kl_coef
        answers = models.policy.generate(prompts)
        raw = score(answers)
        known = ~raw.isnan()
        mask = answers.mask & known[:, None]
        kl, kl_k3 = torch.zeros_like(answers.behaviour), torch.zeros_like(answers.behaviour)
        if config.kl_coef:
            reference = models.reference.logps(answers).per_token
            kl, kl_k3 = (kl_estimate(answers.behaviour, reference, kind) * mask for kind in ("k1", "k3"))
        scores = shaped_scores(raw, answers.ended.to(raw.device), config)
        rewards = token_rewards(scores.where(known, 0.0), kl, answers.mask, beta)
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        values = models.critic.values(answers) * mask
        advantage, returns = gae(rewards, values, mask, config.gamma, config.gae_lambda)
        if config.adaptive_kl is not None and known.any():
            over = float(kl.sum(-1)[known].mean()) / config.adaptive_kl - 1
            self.kl_coef = adapted(beta, over, int(known.sum()), config.adaptive_kl_horizon)
        over_all = {
            "kl_coef": torch.tensor(beta),
            "explained_variance": explained_variance(returns, values, mask),
            "return_variance": variance(returns, mask),
            "advantage_variance": variance(advantage, mask),
        }
        return Experience(
            answers=answers, known=known, score=scores, kl=kl.sum(-1), total_reward=scores - beta * kl.sum(-1),
            kl_k3=Ragged(kl_k3, answers), returns=Ragged(returns, answers), old_values=Ragged(values, answers),
            advantage=Ragged(whiten(advantage, mask), answers), raw_advantage=Ragged(advantage, answers),
            **{name: value.to(raw).expand(len(answers)).clone() for name, value in over_all.items()},
            **({"ptx": _pretraining(self.texts, prompts, answers, models)} if config.ptx_weight else {}),
        )  # fmt: skip

    def measure(self, batch: Experience) -> Measured:
        """Tokens of both terms, whose means have denominators of their own."""
        ptx = batch.ptx.mask.sum(-1) * batch.known if "ptx" in batch else torch.zeros(1)
        return {"tokens": (batch.answers.mask & batch.known[:, None]).sum(), "ptx_tokens": ptx.sum()}

    def loss(self, batch: Experience, models: Models, config: Config) -> Loss:
        """Equation 2 of InstructGPT, the policy's and the critic's losses being those of PPO."""
        logps = models.policy.logps(batch.answers, entropy=True)
        mask = logps.mask & batch.known[:, None]
        old = logps.per_token.detach() if batch.on_policy else batch.answers.behaviour
        log_ratio = (logps.per_token - old) * logps.mask
        policy = clipped_surrogate(log_ratio, batch.advantage, config.clip, config.clip, config.dual_clip)
        values = models.critic.values(batch.answers)
        critic, value_clipped = clipped_value_loss(values, batch.old_values, batch.returns, config.value_clip)
        losses = policy.loss * batch.answers.correction + config.value_weight * critic
        ptx = _ptx(batch, models)
        if ptx is not None:
            # A mean over its own tokens, while the core divides by those of the answers, over which it is spread.
            share = batch.measured["tokens"] / batch.measured["ptx_tokens"].clamp(min=1)
            losses = losses + (config.ptx_weight * share * ptx[0] / mask.sum(-1).clamp(min=1))[:, None]
        ratio, log_ratio = policy.ratio.detach(), log_ratio.detach()
        nothing = torch.full_like(losses, torch.nan)
        return Loss.per_token(losses, mask, {
            **{name: batch[name] for name in WHOLE},
            **{name: (batch[name], batch.known) for name in ("score", "total_reward")},
            "kl": (batch.kl if config.kl_coef else nothing[:, 0], batch.known),
            "kl_k3": batch.kl_k3 if config.kl_coef else nothing,
            "ratio": ratio,
            "ratio_max": ratio,
            "clip_share": policy.clipped_low | policy.clipped_high,
            "approx_kl": log_ratio**2 / 2,
            "approx_kl_k3": ratio - 1 - log_ratio,
            "entropy": logps.entropy,
            "policy_loss": policy.loss,
            "value_loss": critic,
            "value_clip_share": value_clipped,
            "value": batch.old_values,
            "return": batch.returns,
            "advantage": batch.raw_advantage,
            "ptx_loss": nothing[:, 0] if ptx is None else (ptx[0] / ptx[1].clamp(min=1), ptx[1]),
        })  # fmt: skip


def shaped_scores(scores: Tensor, ended: Tensor, config: PPO.Config) -> Tensor:
    """Scores [B] as the reward takes them, NaN where missing: normalised, clipped, without a good end made less."""
    if config.normalize_score:
        scores = whiten(scores, ~scores.isnan()).where(~scores.isnan(), torch.nan)
    if config.score_clip is not None:
        scores = scores.clamp(-config.score_clip, config.score_clip)
    if config.missing_eos == "none":
        return scores
    less = torch.zeros_like(scores) if config.missing_eos == "replace" else scores
    return scores.where(ended | scores.isnan(), less - config.missing_eos_penalty)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """−β·k1 of each token, and the score at the last one that counts; scores [B], kl and mask [B, T] → [B, T]."""
    places = torch.arange(mask.shape[-1], device=mask.device)
    last = torch.where(mask, places, -1).amax(-1, keepdim=True)
    return (scores[:, None] * (places == last) - beta * kl) * mask


def adapted(beta: float, over: float, answers: int, horizon: int) -> float:
    """β after a rollout of so many answers; over: KL / goal − 1 (section 2.2 of arXiv:1909.08593)."""
    error = min(max(over, -0.2), 0.2)
    # More answers than the horizon could otherwise turn its sign.
    return beta * max(1 + error * answers / horizon, 0.5)


def _ptx(batch: Experience, models: Models) -> tuple[Tensor, Tensor] | None:
    """−log π of each answer's demonstration and its tokens, [B], or None without any; at temperature 1."""
    if "ptx" not in batch:
        return None
    found = models.policy.logps(batch.ptx, temperature=1.0)
    return -found.sum() * batch.known, found.lengths * batch.known


def _pretraining(texts: Sequence[Record], prompts: Sequence[Record], answers: Answers, models: Models) -> Answers:
    """A text for each answer: drawn from all, or what its prompt comes with; without one, tokens that do not count."""
    if texts:
        drawn = [texts[i] for i in torch.randint(len(texts), (len(answers),)).tolist()]
        given = [(row, row["completion"]) if "completion" in row else (None, row["text"]) for row in drawn]
        found = [models.policy.answer(prompt, text) for prompt, text in given]
        return Answers([_begun(one, LONGEST_TEXT) for one in found]).to(answers[0].prompt.device)
    found = []
    each = len(answers) // len(prompts)
    for i, one in enumerate(answers):
        prompt = prompts[i // each]
        text = prompt["record"].get("demonstration")
        nothing = Answer(one.prompt, one.completion[:1], torch.zeros_like(one.mask[:1]))
        found.append(nothing if text is None else models.policy.answer(prompt, text).to(one.prompt.device))
    if not any(one.mask.any() for one in found):
        warnings.warn("No prompt has a demonstration, so ptx_weight weighs nothing. Add --ptx SOURCE.", stacklevel=2)
    return Answers(found)


def _begun(answer: Answer, tokens: int) -> Answer:
    return Answer(answer.prompt, answer.completion[:tokens], answer.mask[:tokens])
