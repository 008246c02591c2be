"""Models: loading, roles, row layouts, log-probabilities, the reference cache."""
