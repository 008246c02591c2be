"""Chaos: processes are killed at random moments and at every file event, and go on; nothing may be lost.

    python -m zoo.testing.chaos --kills 20
    python -m zoo.testing.chaos --minutes 100 --append results.jsonl

docs/chaos.md explains it. `aims` says what is made, killed and read back, `training` the aim of a run; `events` and
`phases` watch a process from inside; `processes` forks, kills and waits; `trials` plans and compares; `results` counts.
"""

from zoo.testing.chaos.aims import Aim

__all__ = ["Aim"]
