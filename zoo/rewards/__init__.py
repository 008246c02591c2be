"""Rewards: functions from answers to numbers."""
