"""Trains one side only of what it believes to train: gradients of the step before stay in the weights."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """Calls backward itself."""

    def loss(self, batch, models, config, step):
        found = super().loss(batch, models, config, step)
        if found.values.requires_grad:
            found.numerator.backward(retain_graph=True)
        return found
