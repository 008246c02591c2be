"""Online algorithms for the tests of rollouts: not a test file itself."""

import random
from dataclasses import replace

import numpy
import torch

from zoo.api import Algorithm, Answers, Batch, Loss, Ragged


class Reinforce(Algorithm):
    """Raises its own answers by how much better than the group's mean they were rewarded."""

    api_version = 2
    data = "prompt"
    defaults = {"answers_per_prompt": 2, "batch_size": 4, "lr": 1e-3}
    metrics = {"advantage": "Reward minus the mean of its group.", "ratio": "π/π_old."}
    variants = {"patient": {"lr": 1e-4, "temperature": 0.5}}

    def rollout(self, prompts, models, config, score):
        answers = models.policy.generate(prompts)
        rewards = score(answers).view(len(prompts), -1)
        advantage = rewards - rewards.nanmean(1, keepdim=True)
        return Batch(answers=answers, advantage=advantage.flatten(), old=Ragged(self._old(models, answers), answers))

    def _old(self, models, answers):
        return models.policy.logps(answers).per_token

    def loss(self, batch, models, config):
        known = ~batch.advantage.isnan()
        logps = models.policy.logps(batch.answers)
        old = logps.per_token.detach() if batch.on_policy else batch.old
        ratio = ((logps.per_token - old) * logps.mask).sum(-1).exp()
        values = -batch.advantage.where(known, 0.0) * ratio
        return Loss.weighted(values, known.float(), {"advantage": batch.advantage, "ratio": ratio})


class Beginnings(Reinforce):
    """The same, and asks what the first token of each answer is worth."""

    metrics = {**Reinforce.metrics, "asked": "Share of beginnings with a reward."}

    def rollout(self, prompts, models, config, score):
        batch = super().rollout(prompts, models, config, score)
        begun = [
            replace(one, completion=one.completion[:1], mask=one.mask[:1], ended=False, behaviour=None)
            for one in batch.answers
        ]
        return Batch(**batch.fields, asked=~score(Answers(begun), unfinished=True).isnan())

    def loss(self, batch, models, config):
        loss = super().loss(batch, models, config)
        loss.metrics["asked"] = (batch.asked.float(), torch.ones(len(batch)))
        return loss


class SecondThoughts(Reinforce):
    """The same, but the answers to the first prompt of a rollout are written twice."""

    metrics = {**Reinforce.metrics, "worth": "Reward.", "words": "Tokens of an answer."}

    def rollout(self, prompts, models, config, score):
        first = models.policy.generate(prompts)
        rewards, size = score(first), len(first) // len(prompts)
        again = models.policy.generate(prompts[:1])
        rewards[:size] = score(again, instead_of=first[:size])
        answers = Answers([*again, *first[size:]])
        old = Ragged(self._old(models, answers), answers)
        return Batch(answers=answers, advantage=rewards, old=old)

    def loss(self, batch, models, config):
        loss = super().loss(batch, models, config)
        loss.metrics["worth"] = batch.advantage
        loss.metrics["words"] = torch.tensor([float(len(one)) for one in batch.answers.completions])
        return loss


class Capricious(Reinforce):
    """The same, with advantages that are moved by whatever random numbers there are."""

    def rollout(self, prompts, models, config, score):
        batch = super().rollout(prompts, models, config, score)
        moved = torch.rand(len(batch)) + random.random() + float(numpy.random.rand())
        return Batch(**{**batch.fields, "advantage": batch.advantage + moved})


class ActorCritic(Reinforce):
    """The same with a critic and a reference."""

    needs = ("policy", "critic", "reference")
    defaults = {**Reinforce.defaults, "critic_lr": 1e-2}
    metrics = {**Reinforce.metrics, "value": "V.", "kl": "KL to the reference."}

    def rollout(self, prompts, models, config, score):
        batch = super().rollout(prompts, models, config, score)
        answers = batch.answers
        reference = models.reference.logps(answers).per_token
        values = models.critic.values(answers)
        rest = {name: Ragged(one, answers) for name, one in (("reference", reference), ("value", values))}
        return Batch(**batch.fields, **rest)

    def loss(self, batch, models, config):
        loss = super().loss(batch, models, config)
        value = models.critic.values(batch.answers)
        target = batch.advantage.nan_to_num()[:, None] * batch.answers.mask
        loss.values = loss.values + ((value - target) ** 2).mean(-1)
        kl = ((batch.old - batch.reference) * batch.answers.mask).sum(-1)
        loss.metrics |= {"value": torch.where(batch.answers.mask, value, torch.nan), "kl": kl}
        return loss
