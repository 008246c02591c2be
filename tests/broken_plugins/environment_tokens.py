"""Each takes what an environment said for the policy's own tokens in one place."""

import torch
from broken_plugins.sound_online import Sound

from zoo.api import Loss, Ragged, gae


class Broken(Sound):
    """The loss is a mean over all tokens of an answer."""

    def loss(self, batch, models, config):
        found = super().loss(batch, models, config)
        logps = models.policy.logps(batch.answers)
        old = logps.per_token.detach() if batch.on_policy else batch.answers.behaviour
        ratio = (logps.per_token - old).clamp(max=20).exp()
        return Loss.weighted(-batch.advantage * ratio.mean(-1), found.weights, found.metrics)


class Distance(Sound):
    """The KL of an answer is a sum over all of its tokens."""

    def _kl(self, answers, models):
        written = answers.behaviour * answers.mask
        return written - models.reference.logps(answers).per_token


class Explorer(Sound):
    """Wants much entropy, of any token."""

    def loss(self, batch, models, config):
        found = super().loss(batch, models, config)
        entropy = models.policy.logps(batch.answers, entropy=True).entropy.sum(-1)
        return Loss.weighted(found.values - 0.01 * entropy, found.weights, found.metrics)


class Longwinded(Sound):
    """Pays for long answers, by all of their ids."""

    def _more(self, answers):
        return {"length": torch.tensor([float(len(answer.completion)) for answer in answers])}

    def loss(self, batch, models, config):
        found = super().loss(batch, models, config)
        return Loss.weighted(found.values / batch.length, found.weights, found.metrics)


class Impatient(Sound):
    """The critic learns returns in which an environment's tokens are states of their own."""

    def _more(self, answers):
        return {"target": Ragged(self._returns(answers), answers)}

    def rollout(self, prompts, models, config, score):
        self._returns = lambda answers: gae(
            torch.zeros_like(answers.behaviour), models.critic.values(answers),
            torch.ones_like(answers.mask), 0.9, 0.5,
        )[1]  # fmt: skip
        return super().rollout(prompts, models, config, score)

    def loss(self, batch, models, config):
        found = super().loss(batch, models, config)
        mask = batch.answers.mask
        errors = (models.critic.values(batch.answers) - batch.target) ** 2 * mask
        return Loss.weighted(found.values + errors.sum(-1) / mask.sum(-1), found.weights, found.metrics)
