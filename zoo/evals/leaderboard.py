"""Length bias of judges, without a model: AlpacaEval 2.0's own leaderboard, and a simulated judge with a known bias.

The package alpaca-eval has the results of 223 models, with plain and length-controlled win rates (arXiv:2404.04475).
They show how strongly the rates correlate with the length of the answers, and how much the same model gains if it is
asked to write more.
"""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from zoo.errors import ZooError
from zoo.evals import Score
from zoo.evals.estimators import spearman
from zoo.evals.length_control import length_controlled

TABLE = "leaderboards/data_AlpacaEval_2/weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
NULL_MODEL = "NullModel"
"""An attack that gives one answer to everything; it is not a model."""
ASKED = ("concise", "verbose")
"""The endings of the names of models that were asked to write less or more."""
Z = 1.959964


def lc_alpacaeval(subject: Any) -> Score:
    """Spearman's correlation of length-controlled win rates with length, over AlpacaEval 2.0's leaderboard.

    The details have the same for plain win rates, and how much both vary (population deviation over mean) if a model
    is asked to be concise or verbose, averaged over models. Needs the package alpaca-eval.
    """
    rows = _leaderboard()
    models = [row for name, row in rows.items() if name != NULL_MODEL]
    length = [row["avg_length"] for row in models]
    plain, controlled = (spearman([row[key] for row in models], length) for key in ("win_rate", "lc"))
    spreads = {key: [_spread([row[key] for row in group]) for group in _asked(rows)] for key in ("win_rate", "lc")}
    details = {
        "spearman_win_rate": plain,
        "spearman_length_controlled": controlled,
        **{f"verbosity_{key}": sum(values) / len(values) for key, values in spreads.items()},
        "models_asked": len(spreads["lc"]),
    }
    low, high = spearman_interval(controlled, len(models))
    return Score("lc_alpacaeval", controlled, len(models), low, high, False, details)


def _leaderboard() -> dict[str, dict[str, float]]:
    """The rows by model. The package itself is not imported: it needs packages that no number depends on."""
    spec = importlib.util.find_spec("alpaca_eval")
    if spec is None or spec.origin is None:
        raise ZooError(
            "lc_alpacaeval reads the leaderboard in the package alpaca-eval, which is not installed.",
            "Type: pip install --no-deps alpaca-eval",
        )
    path = Path(spec.origin).parent / TABLE
    if not path.is_file():
        raise ZooError(f"This alpaca-eval has no {TABLE}.", "Type: pip install --no-deps alpaca-eval==0.6.6")
    with path.open(encoding="utf-8", newline="") as file:
        return {
            row[""]: {
                "win_rate": float(row["win_rate"]),
                "lc": float(row["length_controlled_winrate"]),
                "avg_length": float(row["avg_length"]),
            }
            for row in csv.DictReader(file)
        }


def _asked(rows: dict[str, dict[str, float]]) -> list[list[dict[str, float]]]:
    """The models that were also asked to be concise and verbose, each with all three of its rows."""
    names = sorted(name.removesuffix("_verbose") for name in rows if name.endswith("_verbose"))
    groups = [[rows.get(row_name) for row_name in (name, *(f"{name}_{how}" for how in ASKED))] for name in names]
    return [[row for row in group if row is not None] for group in groups if None not in group]


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)) / mean


def spearman_interval(value: float, n: int) -> tuple[float, float]:
    """95 % interval by Fisher's z with the variance 1.06/(n − 3) of rank correlations (Fieller et al. 1957)."""
    if n < 4 or abs(value) >= 1:
        return min(value, -1.0), max(value, 1.0)
    half = Z * math.sqrt(1.06 / (n - 3))
    return math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)


def lc_simulation(
    subject: Any, models: int = 20, prompts: int = 800, bias: float = 2.0, verbosity: float = 0.5, seed: int = 0
) -> Score:
    """Rank correlation of length-controlled win rates with the true quality, under a simulated judge that likes length.

    The judge prefers a model to a common opponent with probability σ(quality + bias · tanh(d)), where d is the
    difference of their lengths; its mean differs between models by `verbosity` deviations. The details have the
    correlation of the plain win rates.
    """
    if models < 4 or prompts < 10:
        raise ZooError("lc_simulation needs at least 4 models and 10 prompts.", "Leave out the options for 20 and 800.")
    draw = numpy.random.default_rng(seed)
    quality, offset = draw.standard_normal(models), verbosity * draw.standard_normal(models)
    plain, controlled = [], []
    for skill, wordiness in zip(quality.tolist(), offset.tolist(), strict=True):
        difference = wordiness + draw.standard_normal(prompts)
        chance = 1 / (1 + numpy.exp(-(skill + bias * numpy.tanh(difference))))
        wins = (draw.random(prompts) < chance).astype(float)
        plain.append(float(wins.mean()))
        controlled.append(length_controlled(wins.tolist(), difference.tolist()).rate)
    values = {"plain": spearman(plain, quality.tolist()), "length_controlled": spearman(controlled, quality.tolist())}
    low, high = spearman_interval(values["length_controlled"], models)
    return Score("lc_simulation", values["length_controlled"], models, low, high, True, {**values, "prompts": prompts})
