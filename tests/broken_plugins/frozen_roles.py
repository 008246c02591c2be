"""Moves its reference towards the policy by hand, which no checkpoint knows."""

import torch
from broken_plugins.sound import Sound


class Broken(Sound):
    """Writes into the weights of a frozen role."""

    def loss(self, batch, models, config, step):
        pairs = zip(models.reference.model.parameters(), models.policy.model.parameters(), strict=True)
        with torch.no_grad():
            for frozen, trained in pairs:
                frozen.lerp_(trained, 0.5)
        return super().loss(batch, models, config, step)
