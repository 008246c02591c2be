"""What --template names: auto, none, a template that comes with zoo, a .jinja file, or the text of a template.

A template may say in a comment which tokens it needs: `{#- tokens: <|im_start|> <|im_end|> -#}`. A run gives them to a
model that lacks them. Loads no torch and no transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from zoo.errors import ZooError, nearest
from zoo.paths import typed_path

AUTO, NONE = "auto", "none"
PLAIN = "plain"
"""The template for models without one."""
COMMENT = re.compile(r"{#-?\s*(.*?)\s*-?#}", re.DOTALL)
TOKENS = "tokens:"
"""The beginning of the comment that lists tokens."""


class Named(NamedTuple):
    """A template that comes with zoo. about: whose format it is; tokens: those that it needs."""

    name: str
    about: str
    tokens: tuple[str, ...]
    text: str


@cache
def named_templates() -> dict[str, Named]:
    """The templates that come with zoo, by name."""
    found = {}
    for file in sorted((files(__package__) / "templates").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".jinja"):
            text = file.read_text(encoding="utf-8")
            name = file.name.removesuffix(".jinja")
            found[name] = Named(name, COMMENT.findall(text)[0], tokens_of(text), text)
    return found


def tokens_of(text: str) -> tuple[str, ...]:
    """The tokens that a template says it needs."""
    comments = [comment for comment in COMMENT.findall(text) if comment.startswith(TOKENS)]
    return tuple(token for comment in comments for token in comment.removeprefix(TOKENS).split())


def is_text(template: str) -> bool:
    """Whether this is the text of a template, not a name or a path."""
    return "{{" in template or "{%" in template


def template_text(template: str) -> str | None:
    """The text of a template; None for auto and none. Raises ZooError where there is no such template."""
    if template in (AUTO, NONE):
        return None
    if is_text(template):
        return template
    if template in named_templates():
        return named_templates()[template].text
    path = typed_path(template)
    if not path.is_file():
        raise ZooError(
            f"There is no chat template '{template}': it is no file and no name.{nearest(template, named_templates())}",
            "Give auto (the model's own), none (raw text), the path of a .jinja file, or one of "
            f"{', '.join(named_templates())} (`zoo templates` says what they are).",
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ZooError(
            f"The chat template {path} cannot be read: {error}.", "A template is a text file in UTF-8."
        ) from None


def listed(new_tokens: Sequence[str] | str) -> tuple[str, ...]:
    """The tokens of --new-tokens, each once. Raises ZooError for one that is no text."""
    parts = new_tokens.split(",") if isinstance(new_tokens, str) else new_tokens
    for part in parts:
        if not isinstance(part, str):
            raise ZooError(f"new_tokens has {part!r}, which is no text.", "Write --new-tokens '<a>,<b>'.")
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def wanted(template: str | None, new_tokens: Iterable[str]) -> dict[str, bool]:
    """What a template (its text) needs and what is asked for: each token, and whether it is a control token."""
    needed = tokens_of(template or "")
    return {token: token in needed or token in (template or "") for token in [*needed, *new_tokens]}
