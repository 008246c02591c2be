"""From content to a page: templates that escape everything, and sanitised text of models and data.

The text of a model or a dataset may be hostile: it can contain markup, terminal codes or marks that change the
direction of the text. Every value is escaped, control codes are shown as �, and the page forbids loading anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from zoo import numbers
from zoo.numbers import amount
from zoo.paths import write_text
from zoo.report.plots.axes import number

LONGEST_TEXT = 2000
"""Maximum characters of one text on a page."""
DARKEST = 6.0
"""The loss of a token, in nats, at which its colour is darkest."""
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control codes other than line breaks and tabs, incomplete characters, direction marks."""


def clean(text: str) -> str:
    """The text without control codes, direction marks and incomplete characters; line breaks and tabs stay."""
    return HIDDEN.sub("�", text)


def shortened(text: str) -> str:
    """The beginning of a long text, and how many characters are left out."""
    left = len(text) - LONGEST_TEXT
    return text if left <= 0 else f"{text[:LONGEST_TEXT]} … ({amount(left, 'more character')})"


def said(prompt: Any) -> str:
    """A prompt as text: itself, or the turns of a conversation; a single turn without its role."""
    if isinstance(prompt, str):
        return prompt
    turns = [(str(turn.get("role", "")), str(turn.get("content", ""))) for turn in prompt]
    return turns[0][1] if len(turns) == 1 else "\n".join(f"{role}: {content}" for role, content in turns)


def shown(value: Any) -> str:
    """A short number, a dash for none, everything else as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float):
        return number(value)
    return str(value)


def signed(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else numbers.signed(value)


def interval(change: Mapping[str, Any]) -> str:
    """`+0.012 to +0.187` for a change, and whether it is not paired; a dash if it is not known."""
    if change["low"] is None or change["high"] is None:
        return "–"
    other = "" if change["paired"] else ", not paired"
    return f"{signed(change['low'])} to {signed(change['high'])}{other}"


def shade(nats: float) -> int:
    """The darkness of a token with this loss, in percent."""
    return round(80 * min(max(nats, 0.0), DARKEST) / DARKEST)


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, Path(__file__).parents[1]]), autoescape=True,
        undefined=StrictUndefined, finalize=finalize, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    filters: dict[str, Callable[[Any], Any]] = {
        "shown": shown, "signed": signed, "interval": interval, "said": said, "shortened": shortened,
        "shade": shade, "clean": clean,
    }  # fmt: skip
    environment.filters.update(filters)
    return environment


def render(template: str, **content: Any) -> str:
    """A page from a template in this folder, or in another room: `board/list.html`.

    Plots are finished SVG and are inserted with `| safe`.
    """
    return _environment().get_template(template).render(**content)


def write(path: Path, page: str) -> Path:
    """Write a page atomically."""
    write_text(path, page, errors="replace")
    return path
