"""Bundled plugins, built like any other: data sets with their rewards and evaluations, and the laboratory's worlds."""
