"""(first draft)"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from zoo.types import Answer, Answers, Batch


@dataclass
class Encoded:
    records: list[dict[str, Any]]
    kind: str = ""

    def lines(self):
        return []

    def as_json(self):
        return {}


def encode(records, kind, template, *, max_length=1024, long_rows="drop", progress=None):
    out = []
    for r in records:
        e = {"row": r["row"], "record": r}
        if kind in ("demonstration", "feedback"):
            e["completion"] = template.answer(r["prompt"], r["completion"])
            e["conversation"] = e["completion"]
        if kind == "feedback":
            e["label"] = r["label"]
        if kind == "preference":
            e["chosen"] = template.answer(r["prompt"], r["chosen"])
            e["rejected"] = template.answer(r["prompt"], r["rejected"])
        out.append(e)
    return Encoded(out, kind)


def default_collate(records):
    fields = {}
    for name in records[0]:
        values = [r[name] for r in records]
        if isinstance(values[0], Answer):
            fields[name] = Answers(values)
        elif isinstance(values[0], (bool, float)) or name == "row":
            fields[name] = torch.tensor(values)
        else:
            fields[name] = values
    return Batch(**fields)
