"""Sums for zoo: data, a reward that checks them, and advantage-weighted regression."""
