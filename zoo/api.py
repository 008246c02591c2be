"""Everything a plugin may import.

    from zoo.api import Algorithm, Loss, logsigmoid

Version 1. What is not listed in `__all__` is the core's own and may change.
"""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from zoo.algorithm import Algorithm
from zoo.data.encode import default_collate
from zoo.data.load import load_records
from zoo.data.sources.named import DataSource
from zoo.errors import ZooError
from zoo.evals import Eval, Score, Subject, mean_score, share_score
from zoo.evals.refusals import refusal_of
from zoo.hookspecs import hookimpl
from zoo.judges.constitution import Principle, load_constitution
from zoo.rl import clipped_surrogate, group_advantages, kl_estimate, step_advantages, whiten
from zoo.rollout.engine import Engine, EngineSetup, Sampling
from zoo.types import Answer, Answers, Batch, Loss, Ragged, TokenLogps

__all__ = [
    "Algorithm",
    "Answer",
    "Answers",
    "Batch",
    "DataSource",
    "Engine",
    "EngineSetup",
    "Eval",
    "Loss",
    "Principle",
    "Ragged",
    "Sampling",
    "Score",
    "Subject",
    "TokenLogps",
    "ZooError",
    "clipped_surrogate",
    "default_collate",
    "group_advantages",
    "hookimpl",
    "kl_estimate",
    "load_constitution",
    "load_records",
    "logsigmoid",
    "mean_score",
    "refusal_of",
    "share_score",
    "step_advantages",
    "whiten",
]
