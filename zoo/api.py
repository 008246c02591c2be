"""Everything a plugin may import.

    from zoo.api import Algorithm, Loss, logsigmoid

Version 2. What is not listed in `__all__` is the core's own and may change. Each name is loaded when it is asked for:
a plugin that brings data or rewards alone does not make `zoo algos` wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn.functional import logsigmoid

    from zoo.contract.algorithm import Algorithm
    from zoo.contract.hookspecs import hookimpl
    from zoo.contract.roles import Critic, Frozen, Judge, Models, Policy, Prompt, Reward, Scorer, Tokenizer, Writer
    from zoo.data.encoding.encode import default_collate
    from zoo.data.load import load_records
    from zoo.data.sources.named import DataSource
    from zoo.data.teacher_logps import check_stored_logps, stored_logps
    from zoo.environments import Environment, Turn
    from zoo.errors import NoSuchSplit, ZooError
    from zoo.evals import Eval, Score, Subject, mean_score, share_score
    from zoo.evals.refusals import refusal_of
    from zoo.guards import Guard, GuardSetup
    from zoo.judges.constitution import Principle, load_constitution
    from zoo.optimizers import ParameterGroup
    from zoo.options.fields import require
    from zoo.options.points import Point
    from zoo.options.roles import Role
    from zoo.rollout.engine import Engine, EngineSetup, Sampling
    from zoo.runs import Run
    from zoo.values.batches import (
        DemonstrationBatch,
        FeedbackBatch,
        PreferenceBatch,
        RankingBatch,
        StepwiseBatch,
        TextBatch,
    )
    from zoo.values.groups import flat_groups, group_advantages, sample_groups, step_advantages, step_rewards
    from zoo.values.loss import Measured
    from zoo.values.records import Record, Records
    from zoo.values.rl import (
        clipped_surrogate,
        clipped_value_loss,
        explained_variance,
        gae,
        kl_estimate,
        sequence_log_ratio,
        to_go,
        variance,
        whiten,
    )
    from zoo.values.ties import wins
    from zoo.values.types import Answer, Answers, Batch, Loss, Metric, Ragged, StepScores, TokenLogps, TopLogps

__all__ = [
    "Algorithm",
    "Answer",
    "Answers",
    "Batch",
    "Critic",
    "DataSource",
    "DemonstrationBatch",
    "Engine",
    "EngineSetup",
    "Environment",
    "Eval",
    "FeedbackBatch",
    "Frozen",
    "Guard",
    "GuardSetup",
    "Judge",
    "Loss",
    "Measured",
    "Metric",
    "Models",
    "NoSuchSplit",
    "ParameterGroup",
    "Point",
    "Policy",
    "PreferenceBatch",
    "Principle",
    "Prompt",
    "Ragged",
    "RankingBatch",
    "Record",
    "Records",
    "Reward",
    "Role",
    "Run",
    "Sampling",
    "Score",
    "Scorer",
    "StepScores",
    "StepwiseBatch",
    "Subject",
    "TextBatch",
    "TokenLogps",
    "Tokenizer",
    "TopLogps",
    "Turn",
    "Writer",
    "ZooError",
    "check_stored_logps",
    "clipped_surrogate",
    "clipped_value_loss",
    "default_collate",
    "explained_variance",
    "flat_groups",
    "gae",
    "group_advantages",
    "hookimpl",
    "kl_estimate",
    "load_constitution",
    "load_records",
    "logsigmoid",
    "mean_score",
    "refusal_of",
    "require",
    "sample_groups",
    "sequence_log_ratio",
    "share_score",
    "step_advantages",
    "step_rewards",
    "stored_logps",
    "to_go",
    "variance",
    "whiten",
    "wins",
]

_HOMES = {
    "torch.nn.functional": ("logsigmoid",),
    "zoo.contract.algorithm": ("Algorithm",),
    "zoo.data.encoding.encode": ("default_collate",),
    "zoo.data.load": ("load_records",),
    "zoo.data.sources.named": ("DataSource",),
    "zoo.data.teacher_logps": ("check_stored_logps", "stored_logps"),
    "zoo.environments": ("Environment", "Turn"),
    "zoo.errors": ("NoSuchSplit", "ZooError"),
    "zoo.evals": ("Eval", "Score", "Subject", "mean_score", "share_score"),
    "zoo.evals.refusals": ("refusal_of",),
    "zoo.guards": ("Guard", "GuardSetup"),
    "zoo.optimizers": ("ParameterGroup",),
    "zoo.values.groups": ("flat_groups", "group_advantages", "sample_groups", "step_advantages", "step_rewards"),
    "zoo.contract.hookspecs": ("hookimpl",),
    "zoo.contract.roles": (
        "Critic", "Frozen", "Judge", "Models", "Policy", "Prompt", "Reward", "Scorer", "Tokenizer", "Writer",
    ),
    "zoo.judges.constitution": ("Principle", "load_constitution"),
    "zoo.options.fields": ("require",),
    "zoo.options.points": ("Point",),
    "zoo.options.roles": ("Role",),
    "zoo.values.rl": (
        "clipped_surrogate", "clipped_value_loss", "explained_variance", "gae", "kl_estimate", "sequence_log_ratio",
        "to_go", "variance", "whiten",
    ),
    "zoo.rollout.engine": ("Engine", "EngineSetup", "Sampling"),
    "zoo.values.ties": ("wins",),
    "zoo.values.batches": (
        "DemonstrationBatch", "FeedbackBatch", "PreferenceBatch", "RankingBatch", "StepwiseBatch", "TextBatch",
    ),
    "zoo.values.loss": ("Measured",),
    "zoo.values.records": ("Record", "Records"),
    "zoo.runs": ("Run",),
    "zoo.values.types": (
        "Answer", "Answers", "Batch", "Loss", "Metric", "Ragged", "StepScores", "TokenLogps", "TopLogps",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zoo.api' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
