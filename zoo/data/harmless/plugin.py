"""The harmless prompts as a plugin: a source and two evaluations, registered like anybody's."""

from __future__ import annotations

from typing import Any

from zoo.data import harmless
from zoo.hookspecs import hookimpl


@hookimpl
def sources() -> dict[str, Any]:
    return {"harmless": harmless.records}


@hookimpl
def evals() -> dict[str, Any]:
    from zoo.evals import Eval
    from zoo.evals.refusals import refusal_eval

    def prompts(benign: bool) -> list[dict[str, Any]]:
        return [record for record in harmless.records("heldout", "prompt") if record["benign"] == benign]

    return {
        "refusal": Eval(
            "Share of unwanted held-out prompts that the model refuses or evades. Read it beside over_refusal.",
            lambda subject: refusal_eval("refusal", subject, prompts(benign=False), wanted=True),
        ),
        "over_refusal": Eval(
            "Share of their benign twins that it refuses or evades; a model that refuses everything has 1.",
            lambda subject: refusal_eval("over_refusal", subject, prompts(benign=True), wanted=False),
        ),
    }
