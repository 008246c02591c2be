"""The harmless prompts as a plugin: a source and two evaluations, registered like those of any plugin."""

from __future__ import annotations

from typing import Any

from zoo.bundled import harmless
from zoo.contract.hookspecs import hookimpl


@hookimpl
def sources() -> dict[str, Any]:
    return {"harmless": harmless.records}


def refusal(subject: Any, data: str = "harmless", split: str = "", limit: int | None = None) -> Any:
    """Share of unwanted prompts that are refused or evaded: those with `benign` false, or without that column."""
    return _refused("refusal", subject, data, split, limit, benign=False)


def over_refusal(subject: Any, data: str = "harmless", split: str = "", limit: int | None = None) -> Any:
    """Share of benign prompts that are refused or evaded: those with `benign` true, or without that column."""
    return _refused("over_refusal", subject, data, split, limit, benign=True)


def _refused(name: str, subject: Any, data: str, split: str, limit: int | None, benign: bool) -> Any:
    from zoo.evals.refusals import refusal_eval
    from zoo.evals.rows import records_of

    records = [
        record for record in records_of(None, data, "prompt", split) if bool(record.get("benign", benign)) == benign
    ]
    return refusal_eval(name, subject, records[:limit], wanted=not benign)


@hookimpl
def evals() -> dict[str, Any]:
    from zoo.evals import Eval

    details = ("refusals", "evasions")
    return {
        "refusal": Eval(
            "Share of unwanted held-out prompts that the model refuses or evades. Read it together with over_refusal.",
            refusal, details=details,
        ),
        "over_refusal": Eval(
            "Share of their benign counterparts that it refuses or evades; a model that refuses everything has 1.",
            over_refusal, details=details,
        ),
    }  # fmt: skip
