"""Training: the Lightning module, checkpoints, callbacks, and the run from start to end."""
