"""Plugins like anybody's that come along: data sets with their rewards and evaluations, and the laboratory's worlds."""
