"""GRPO: Group Relative Policy Optimization (DeepSeekMath, arXiv:2402.03300), and its descendants.

To each prompt the policy writes a group of answers. The advantage of an answer is its reward minus the group's mean, in
standard deviations of the group; there is no critic. All its tokens get this advantage, in PPO's clipped loss, and a KL
term keeps the policy near a reference. Equal rewards teach nothing: the advantages of such a group are exactly 0.

Variants, which are presets: dr-grpo (arXiv:2503.20783), dapo (arXiv:2503.14476), gspo (arXiv:2507.18071), cispo
(arXiv:2506.13585), sapo (arXiv:2511.20347), clip-cov and kl-cov (arXiv:2505.22617), rloo (arXiv:2402.14740),
reinforce++ and reinforce++-baseline (arXiv:2501.03262).

The rest is in docs/algorithms/grpo.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.api import (
    Algorithm,
    Answers,
    Batch,
    Loss,
    Metric,
    Models,
    Point,
    Ragged,
    Record,
    Reward,
    clipped_surrogate,
    flat_groups,
    group_advantages,
    kl_estimate,
    require,
    sample_groups,
    sequence_log_ratio,
    step_advantages,
    step_rewards,
    to_go,
    whiten,
)


class Groups(Batch):
    """Answers in groups. advantage, reference, selected: [B, T], the last two with beta, covariance; the rest [B]."""

    answers: Answers
    advantage: Tensor
    reference: Tensor
    selected: Tensor
    kept: Tensor
    constant: Tensor
    overlong: Tensor
    resampled: Tensor


class GRPO(Algorithm):
    """Group Relative Policy Optimization: answers that beat their group's mean become likelier; no critic."""

    api_version = 2
    paper = "arXiv:2402.03300"
    data = "prompt"
    defaults = {
        "lr": [
            Point(135e6, 4e-5, "tuned here"),
            Point(7e9, 1e-6, "the paper's"),
            Point(32e9, 1e-6, "DAPO's"),
            Point(135e6, 4e-4, "LoRA Without Regret's tenfold rate", lora=True),
            Point(3e9, 1e-5, "TRL's", lora=True),
        ],
        "schedule": "constant", "batch_size": 64, "answers_per_prompt": 8, "max_new_tokens": 96, "epochs": 0.33,
    }  # fmt: skip
    reasons = {
        "lr": "Paper: section 4.2; DAPO at 32 B weights the same. Adapters: TRL's reproduction of LoRA Without Regret.",
        "beta": "Paper: 0.04. TRL 0.",
        "clip_low": "Neither: PPO's 0.2; the paper does not say.",
        "clip_high": "Neither: PPO's 0.2; the paper does not say.",
        "scale_epsilon": "Neither: TRL's 1e-4; the paper does not say.",
        "schedule": "Neither: constant, as Dr. GRPO's and DAPO's.",
        "batch_size": "Tuned here: 8 prompts with 8 answers each. Paper 1,024 answers.",
        "answers_per_prompt": "Tuned here: as Dr. GRPO and TRL. Paper 64.",
        "max_new_tokens": "Tuned here: the starter set's answers. Paper 1,024; set it to the task's.",
        "epochs": "Tuned here: 25 rollouts of the starter set, 14 minutes.",
    }
    variants = {
        "dr-grpo": {"beta": 0.0, "scale": "none", "reduction": "constant"},
        "dapo": {
            "beta": 0.0, "clip_high": 0.28, "reduction": "token_mean", "resample": 10, "overlong_cache": 0.2,
            "minibatches": 16, "batch_size": 16,
        },
        "gspo": {"beta": 0.0, "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "minibatches": 4},
        "cispo": {
            "beta": 0.0, "surrogate": "cispo", "clip_low": 1.0, "clip_high": 4.0, "reduction": "token_mean",
            "minibatches": 16, "batch_size": 16,
        },
        "sapo": {"beta": 0.0, "surrogate": "sapo", "minibatches": 4},
        "clip-cov": {
            "beta": 0.0, "clip_low": 1.0, "clip_high": 1.0, "covariance": "clip", "reduction": "token_mean",
            "resample": 10, "minibatches": 8, "batch_size": 32,
        },
        "kl-cov": {
            "beta": 0.0, "surrogate": "unclipped", "covariance": "kl", "covariance_share": 0.002,
            "reduction": "token_mean", "resample": 10, "minibatches": 8, "batch_size": 32,
        },
        "rloo": {
            "beta": 0.05, "kl_in": "reward", "baseline": "leave_one_out", "scale": "none", "surrogate": "reinforce",
            "reduction": "constant", "length_constant": 1,
        },
        "reinforce++": {
            "beta": 0.01, "kl_in": "token_reward", "baseline": "none", "scale": "none", "whiten": True,
            "reduction": "token_mean", "answers_per_prompt": 1,
        },
        "reinforce++-baseline": {
            "beta": 0.01, "kl_estimator": "k2", "scale": "none", "whiten": True, "reduction": "token_mean",
        },
    }  # fmt: skip
    metrics = {
        "ratio": "ρ = π/π_old, mean over tokens: exactly 1 in the first step after a rollout, near 1 later.",
        "ratio_max": "The largest ρ of a token; far above 1 + clip_high the steps are too large.",
        "clip_low": "Share of tokens that the lower clip holds: unwanted ones that have already become rare enough.",
        "clip_high": "Share of tokens that the upper clip holds: wanted ones that have already become likely enough.",
        "approx_kl": "KL(π_old ‖ π) as ρ − 1 − log ρ, mean over tokens: how far the passes over a rollout have gone.",
        "kl": "KL(π ‖ π_ref) as k1 = log π − log π_ref, mean over tokens; noisy, may be below 0. Only with beta.",
        "kl_k3": "The same KL as k3, never below 0. Its growth is the price of the reward.",
        "entropy": "Entropy of the policy, mean over tokens; near 0 all answers of a group are the same.",
        "advantage_size": "|A|, mean over tokens; 0 where nothing can be learned.",
        "high_covariance": "Share of tokens that covariance acts on. Only with covariance.",
        "kept": "Share of answers that the loss counts: not those without a reward, nor those that options leave out.",
        "overlong": "Soft punishment of long answers, mean, from 0 to −1.",
        "resampled": "Groups written for each group asked for; 1 without dynamic sampling.",
    }
    conformance = {
        "start": {"ratio": 1.0, "ratio_max": 1.0, "clip_low": 0.0, "clip_high": 0.0, "approx_kl": 0.0},
        "flat": [
            {"beta": 0.0}, {"variant": "dr-grpo"}, {"variant": "dapo"}, {"variant": "gspo"}, {"variant": "cispo"},
            {"variant": "sapo"}, {"variant": "clip-cov"}, {"variant": "kl-cov"},
        ],
        "variants": [
            {"covariance": "clip", "covariance_low": 0.0, "covariance_share": 0.02},
            {"covariance": "kl", "covariance_share": 0.2},
        ],
    }  # fmt: skip

    @dataclass
    class Config:
        beta: float = 0.04
        """Weight β of the KL term. Paper 0.04; 0 needs no reference."""
        kl_in: Literal["loss", "reward", "token_reward"] = "loss"
        """Where the KL term stands: in the loss; summed in an answer's reward, before the baseline, as in RLOO; or in
        the reward of each token, added up to the end, as in REINFORCE++. In rewards it is k1."""
        kl_estimator: Literal["k1", "k2", "k3", "k3_ratio"] = "k3"
        """KL in the loss, d = log π − log π_ref. k1 = d: no gradient in expectation, so no pull to the reference.
        k2 = d²/2: the gradient of KL(π ‖ π_ref). k3 = e^(−d) − 1 + d: the gradient of KL(π_ref ‖ π), the paper's.
        k3_ratio = ρ·k3: that of KL(π ‖ π_ref) again."""
        baseline: Literal["group", "leave_one_out", "none"] = "group"
        """What rewards are compared with: the mean of the group; of the others in the group (RLOO); or nothing."""
        scale: Literal["group", "batch", "none"] = "group"
        """What the difference is divided by: the standard deviation of the group, of all rewards, or nothing."""
        scale_epsilon: float = 1e-4
        """Added to that standard deviation."""
        whiten: bool = False
        """Bring the advantages of all tokens of a rollout to mean 0 and deviation 1 (REINFORCE++)."""
        ratio: Literal["token", "sequence", "sequence_token", "sequence_sum"] = "token"
        """ρ of each token; of the answer, as geometric mean of its tokens' (GSPO); the same with each token's own
        gradient (GSPO-token); or of the answer, as their product."""
        surrogate: Literal["clip", "cispo", "sapo", "unclipped", "reinforce"] = "clip"
        """clip: PPO's; cispo: −A·log π times the clipped ratio, detached; sapo: −A times a soft gate of the ratio,
        whose gradient fades instead of stopping; unclipped: −A·ρ; reinforce: −A·log π without any ratio, right in the
        first step after a rollout only."""
        clip_low: float = 0.2
        """ε below 1 that the ratio is clipped at."""
        clip_high: float = 0.2
        """ε above 1; DAPO takes 0.28."""
        dual_clip: float | None = None
        """Bound c of −c·A on the loss where A < 0, often 3; without it a large ratio has no bound."""
        gate_positive: float = 1.0
        """Temperature τ of surrogate=sapo where A > 0: the larger, the sooner the gradient fades."""
        gate_negative: float = 1.05
        """The same where A ≤ 0."""
        covariance: Literal["none", "clip", "kl"] = "none"
        """What happens to tokens whose log π and A are both far above, or both far below, the mean, which lower the
        entropy most: nothing; clip: some of them get no gradient (Clip-Cov); kl: they pay for moving (KL-Cov)."""
        covariance_share: float = 2e-4
        """Share of a rollout's tokens that covariance acts on. Paper 2e-4; KL-Cov at 7 B 2e-3."""
        covariance_low: float = 1.0
        """ω_low: covariance=clip draws among the tokens above this covariance."""
        covariance_high: float = 5.0
        """ω_high: and below this one."""
        covariance_weight: float = 1.0
        """Weight β of |log π − log π_old| with covariance=kl."""
        reduction: Literal["sequence_mean", "token_mean", "constant"] = "sequence_mean"
        """Mean over tokens and then over answers, short answers weighing as much as long ones (DeepSeekMath); over all
        tokens of the step (DAPO); or sums of tokens by a constant, mean over answers (Dr. GRPO)."""
        length_constant: int | None = None
        """Constant of reduction=constant; by default max_new_tokens."""
        overlong_length: int | None = None
        """L_max of the soft punishment; by default max_new_tokens."""
        overlong_cache: float = 0.0
        """Share of L_max at its end in which the reward falls by up to 1, DAPO 0.2; 0 for no punishment."""
        overlong_filter: bool = False
        """Leave answers out of the loss that the length limit has cut; the alternative to their punishment."""
        resample: int = 0
        """Rounds in which other prompts take the place of groups with equal rewards (DAPO's dynamic sampling), judged
        before any punishment; what is flat after the last one is left out. 0 for none."""
        step_rewards: bool = False
        """Process supervision: score an answer after each of its lines. Takes as many scores as there are lines."""

        def __post_init__(self) -> None:
            dual, lengths = self.dual_clip, (self.length_constant, self.overlong_length)
            gates, between = (self.gate_positive, self.gate_negative), (self.covariance_low, self.covariance_high)
            require(self.beta >= 0, "beta must be at least 0")
            require(0 < self.clip_low <= 1, "clip_low must be above 0 and at most 1")
            require(self.clip_high > 0, "clip_high must be above 0")
            require(dual is None or dual > 1, "dual_clip must be above 1")
            require(min(gates) > 0, "gate_positive and gate_negative must be above 0")
            require(0 < self.covariance_share <= 1, "covariance_share must be above 0 and at most 1")
            require(0 <= between[0] < between[1], "covariance_low must be at least 0 and below covariance_high")
            require(self.covariance_weight >= 0, "covariance_weight must be at least 0")
            require(self.scale_epsilon >= 0, "scale_epsilon must be at least 0")
            require(self.baseline != "none" or self.scale != "group", "scale=group needs a baseline")
            require(0 <= self.overlong_cache <= 1, "overlong_cache must be from 0 to 1")
            require(self.resample >= 0, "resample must be at least 0")
            require(all(length is None or length >= 1 for length in lengths), "lengths must be at least 1")
            require(
                not self.step_rewards or self.baseline == "group", "step_rewards are compared with their group's mean"
            )
            require(
                not self.step_rewards or self.kl_in != "reward", "step_rewards take the KL term in loss or token_reward"
            )
            require(
                not self.overlong_filter or not self.overlong_cache,
                "overlong_filter is the alternative to overlong_cache",
            )
            of, kl_in_loss = self.surrogate, self.kl_in == "loss"
            # Where options have no effect, whether they have one here, and which. With beta=0, a sweep's first value,
            # those of the KL term may stay.
            effects = {
                "without kl_in=loss": (kl_in_loss, ("kl_estimator",)),
                "with step_rewards": (not self.step_rewards, ("scale",)),
                "with scale=none": (self.scale != "none" or self.step_rewards, ("scale_epsilon",)),
                "with surrogate=reinforce": (
                    of != "reinforce" or (kl_in_loss and self.kl_estimator == "k3_ratio"), ("ratio",),
                ),
                "without surrogate=clip or surrogate=cispo": (of in ("clip", "cispo"), ("clip_low", "clip_high")),
                "without surrogate=clip": (of == "clip", ("dual_clip",)),
                "without surrogate=sapo": (of == "sapo", ("gate_positive", "gate_negative")),
                "without covariance": (self.covariance != "none", ("covariance_share",)),
                "without covariance=clip": (self.covariance == "clip", ("covariance_low", "covariance_high")),
                "without covariance=kl": (self.covariance == "kl", ("covariance_weight",)),
                "without reduction=constant": (self.reduction == "constant", ("length_constant",)),
                "without overlong_cache": (self.overlong_cache > 0, ("overlong_length",)),
            }  # fmt: skip
            for where, (has_effect, names) in effects.items():
                for name in names:
                    default = getattr(type(self), name)
                    require(has_effect or getattr(self, name) == default, f"{name} has no effect {where}")

    def needs(self, config: Config) -> tuple[str, ...]:
        return ("policy", "reference") if config.beta > 0 else ("policy",)

    def rollout(self, prompts: Sequence[Record], models: Models, config: Config, score: Reward) -> Groups:
        """Groups of answers, and what each of their tokens is worth."""
        answers, rewards, written = sample_groups(prompts, models.policy, score, config.resample)
        kept = _kept(answers, rewards, config)
        longest = models.policy.sampling.max_new_tokens
        lengths = answers.lengths.to(rewards.device)
        overlong = overlong_punishment(lengths, config.overlong_length or longest, config.overlong_cache)
        fields: dict[str, Ragged] = {}
        if config.beta:
            fields["reference"] = Ragged(models.reference.logps(answers).per_token, answers)
        advantage = self._advantages(answers, rewards + overlong.view_as(rewards), fields, models, config, score)
        if config.whiten:
            advantage = whiten(advantage, answers.mask & kept[:, None])
        if config.covariance != "none":
            selected = selected_tokens(answers, advantage, answers.mask & kept[:, None], config)
            fields["selected"] = Ragged(selected.to(answers.behaviour.dtype), answers)
        same = torch.ones_like(overlong)
        return Groups(
            answers=answers, advantage=Ragged(advantage.to(answers.behaviour.dtype), answers), kept=kept,
            constant=same * (config.length_constant or longest), overlong=overlong,
            resampled=same * (written / len(prompts)), **fields,
        )  # fmt: skip

    def _advantages(
        self, answers: Answers, rewards: Tensor, fields: Mapping[str, Ragged], models: Models, config: Config,
        score: Reward,
    ) -> Tensor:  # fmt: skip
        """Advantage of each token, float64 [B, T]; rewards [P, G]."""
        spent = torch.zeros_like(answers.behaviour)
        if config.beta and config.kl_in != "loss":
            # k1 under the weights that wrote the answers.
            spent = config.beta * kl_estimate(answers.behaviour, fields["reference"].padded).double() * answers.mask
        if config.kl_in == "reward" and config.beta:
            rewards = rewards - spent.sum(-1).view_as(rewards)
        if config.step_rewards:
            advantage = self._of_steps(answers, rewards, models, config, score)
        else:
            found = group_advantages(rewards, config.baseline, config.scale, config.scale_epsilon)
            advantage = found.flatten()[:, None] * answers.mask
        if config.kl_in == "token_reward" and config.beta:
            advantage = advantage - to_go(spent) * answers.mask
        return advantage

    def _of_steps(self, answers: Answers, rewards: Tensor, models: Models, config: Config, score: Reward) -> Tensor:
        """Process supervision: the advantages of steps, which are lines, compared within each group."""
        size, ends = rewards.shape[1], models.policy.line_ends(answers)
        found = step_rewards(answers, rewards.flatten(), ends, score)
        groups = [slice(i, i + size) for i in range(0, len(answers), size)]
        rows = [row for of in groups for row in step_advantages(found[of], ends[of], config.scale_epsilon)]
        return Ragged(rows).padded * answers.mask

    def loss(self, batch: Groups, models: Models, config: Config) -> Loss:
        """Equation 3 of DeepSeekMath, and its relatives."""
        logps = models.policy.logps(batch.answers, entropy=True)
        mask, advantage = logps.mask, batch.advantage
        old = logps.per_token.detach() if batch.on_policy else batch.answers.behaviour
        log_ratio = sequence_log_ratio((logps.per_token - old) * mask, mask, config.ratio)
        found = clipped_surrogate(log_ratio, advantage, config.clip_low, config.clip_high, config.dual_clip)
        ratio, losses = found.ratio.detach(), found.loss
        if config.surrogate == "cispo":
            losses = -advantage * ratio.clamp(1 - config.clip_low, 1 + config.clip_high) * logps.per_token
        elif config.surrogate == "sapo":
            losses = -advantage * soft_gate(found.ratio, advantage, config.gate_positive, config.gate_negative)
        elif config.surrogate == "unclipped":
            losses = -advantage * found.ratio
        elif config.surrogate == "reinforce":
            losses = -advantage * logps.per_token
        if config.covariance == "clip":
            losses = losses * (1 - batch.selected)
        elif config.covariance == "kl":
            losses = losses + config.covariance_weight * batch.selected * (logps.per_token - old).abs()
        losses = losses * batch.answers.correction
        reference = batch.reference if config.beta else torch.full_like(ratio, torch.nan)
        kl, kl_k3 = (kl_estimate(logps.per_token, reference, kind) for kind in ("k1", "k3"))
        if config.beta and config.kl_in == "loss":
            kind = config.kl_estimator
            of_kind = kl_k3 * found.ratio if kind == "k3_ratio" else kl_estimate(logps.per_token, reference, kind)
            losses = losses + config.beta * of_kind
        selected = batch.selected if config.covariance != "none" else torch.full_like(ratio, torch.nan)
        tokens = {
            "ratio": ratio, "ratio_max": ratio, "clip_low": found.clipped_low, "clip_high": found.clipped_high,
            "approx_kl": ratio - 1 - log_ratio.detach(), "kl": kl, "kl_k3": kl_k3, "entropy": logps.entropy,
            "advantage_size": advantage.abs(), "high_covariance": selected,
        }  # fmt: skip
        every = torch.ones_like(batch.overlong)
        return reduced(losses, mask, batch.kept, config.reduction, batch.constant, {
            **{name: (value, mask & batch.kept[:, None]) for name, value in tokens.items()},
            "kept": (batch.kept, every),
            "overlong": (batch.overlong, every),
            "resampled": (batch.resampled, every),
        })  # fmt: skip


def reduced(
    losses: Tensor, mask: Tensor, kept: Tensor, reduction: str, constant: Tensor, metrics: Mapping[str, Metric]
) -> Loss:
    """Numbers of tokens [B, T] as the loss of a step; kept [B]: the answers that count."""
    if reduction == "token_mean":
        return Loss.weighted(losses * mask, mask & kept[:, None], metrics)
    divisor = mask.sum(-1).clamp(min=1) if reduction == "sequence_mean" else constant
    return Loss.weighted((losses * mask).sum(-1) / divisor, kept, metrics)


def soft_gate(ratio: Tensor, advantage: Tensor, positive: float, negative: float) -> Tensor:
    """SAPO's (4/τ) σ(τ(ρ − 1)) of ratios [B, T]: its slope is 1 at ρ = 1 and fades to 0 on both sides."""
    temperature = torch.full_like(ratio, negative).masked_fill(advantage > 0, positive)
    return (temperature * (ratio - 1)).sigmoid() * 4 / temperature


def selected_tokens(answers: Answers, advantage: Tensor, mask: Tensor, config: GRPO.Config) -> Tensor:
    """The tokens under the mask that covariance acts on, bool [B, T]; advantage [B, T].

    The covariance of a token is (log π_old − mean)·(A − mean), with means over the rollout (arXiv:2505.22617). Equal
    tokens are selected together, so that their order does not matter.
    """
    logps = answers.behaviour.double()
    rank = ((logps - logps[mask].mean()) * (advantage - advantage[mask].mean())).where(mask, 0.0).clamp(min=0)
    if config.covariance == "clip":
        between = (config.covariance_low < rank) & (rank < config.covariance_high)
        rank = _draws(answers).to(rank).where(between, 0.0)
    count = max(1, int(config.covariance_share * mask.sum()))
    edge = rank.flatten().topk(min(count, rank.numel())).values[-1:]
    return (rank >= edge) & (rank > 0)


def _draws(answers: Answers) -> Tensor:
    """A random number for each token that counts, [B, T] in (0, 1], by the ids of these and of the prompt alone."""
    ids = [torch.cat([a.prompt, a.completion[a.mask]]).cpu().numpy().tobytes() for a in answers]
    sources = [torch.Generator().manual_seed(zlib.crc32(own)) for own in ids]
    draws = [1 - torch.rand(int(a.mask.sum()), generator=g) for a, g in zip(answers, sources, strict=True)]
    return torch.zeros(answers.mask.shape).masked_scatter(answers.mask.cpu(), torch.cat(draws))


def overlong_punishment(lengths: Tensor, longest: int, share: float) -> Tensor:
    """Equation 13 of DAPO, [B] of lengths [B]: from 0 at the cache's start to −1 at the longest length and beyond."""
    cache = max(1, round(share * longest))
    return ((longest - cache - lengths) / cache).clamp(-1, 0) * (share > 0)


def _kept(answers: Answers, rewards: Tensor, config: GRPO.Config) -> Tensor:
    """Answers that the loss counts, bool [B]."""
    kept = ~rewards.isnan()
    if config.resample:
        kept = kept & ~flat_groups(rewards)[:, None]
    if config.overlong_filter:
        kept = kept & ~answers.cut.to(kept.device).view_as(kept)
    return kept.flatten()
