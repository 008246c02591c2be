"""Asks for an argument that no hook has."""

from broken_plugins.sound import Sound


class Broken(Sound):
    """Says `model` for `models`."""

    def loss(self, batch, model, config, step):
        return super().loss(batch, model, config, step)
