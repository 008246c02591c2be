"""What --template names: auto, none, a template that comes with zoo, a .jinja file, or the text of a template; and the
arguments of templates (--template-args).

A template may say in a comment which tokens it needs: `{#- tokens: <|im_start|> <|im_end|> -#}`. A run gives them to a
model that lacks them. Loads no torch and no transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from zoo.data.kinds import RESERVED_ARGS
from zoo.errors import ZooError, nearest
from zoo.options.spelling import split
from zoo.paths import typed_path

AUTO, NONE = "auto", "none"
PLAIN = "plain"
"""The template for models without one."""
COMMENT = re.compile(r"{#-?\s*(.*?)\s*-?#}", re.DOTALL)
TOKENS = "tokens:"
"""The beginning of the comment that lists tokens."""
WORDS = {"true": True, "false": False, "none": None, "null": None}
"""Values of arguments that are no text."""


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
    """The text of a template; None for auto and none. Raises ZooError where there is none, or a file that is none."""
    if template in (AUTO, NONE):
        return None
    if is_text(template):
        check_syntax(template, "that was given as a text")
        return template
    if template in named_templates():
        return named_templates()[template].text
    path = typed_path(template)
    if not path.is_file():
        raise ZooError(
            f"There is no chat template '{template}': it is no file and no name."
            f"{nearest(template.lower(), [AUTO, NONE, *named_templates()])}",
            "Give auto (the model's own), none (raw text), the path of a .jinja file, or one of "
            f"{', '.join(named_templates())} (`zoo templates` says what they are).",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ZooError(
            f"The chat template {path} cannot be read: {error}.", "A template is a text file in UTF-8."
        ) from None
    if not is_text(text) or "messages" not in text:
        raise ZooError(
            f"{path} is no chat template: it writes no messages.",
            "A template is a program in Jinja, such as the one that `zoo templates chatml` prints.",
        )
    check_syntax(text, str(path))
    return text


def check_syntax(template: str, which: str) -> None:
    """Raises ZooError for a text that is no program in Jinja, with the line. which: the template, in the message."""
    from jinja2 import TemplateSyntaxError

    try:
        _environment().compile(template)
    except TemplateSyntaxError as error:
        raise _no_jinja(which, error.message or "it cannot be read", error.lineno) from None
    except SyntaxError as error:
        # What only Python finds, such as a break outside of a loop; the line is one of the program that Jinja made.
        raise _no_jinja(which, error.msg) from None
    except (RecursionError, MemoryError):
        raise _no_jinja(which, "it is too deeply nested") from None


@cache
def _environment() -> Any:
    """Jinja with the tags that transformers adds."""
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return ImmutableSandboxedEnvironment(extensions=[Generation, "jinja2.ext.loopcontrols"])


def _no_jinja(which: str, why: str, line: int | None = None) -> ZooError:
    where = f"line {line}: " if line else ""
    return ZooError(
        f"The chat template {which} is no program in Jinja: {where}{why.rstrip('.')}.",
        "Mend it, or give a template that works: `zoo templates` lists those that come with zoo.",
    )


def template_args(value: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """The arguments of --template-args, `enable_thinking=false,budget=3`, of a JSON object, or of a mapping in a file.

    true, false, none and numbers are values, everything else is text. Raises ZooError.
    """
    args = _spelled(value) if isinstance(value, str) else dict(value or {})
    for name in args:
        if not (isinstance(name, str) and name.isidentifier()) or name in RESERVED_ARGS:
            why = "zoo gives it a value itself" if name in RESERVED_ARGS else "it is no name of a variable"
            raise ZooError(f"--template-args cannot set {name!r}: {why}.", ARGS_HINT)
    return args


def refuse_unread(args: Mapping[str, Any], template: str) -> None:
    """Raises ZooError for an argument that the text of a template does not read, with the nearest one that it does."""
    words = set(re.findall(r"\w+", template))
    for name in args:
        if name not in words:
            raise ZooError(
                f"The chat template reads no '{name}'.{nearest(name, words - KEYWORDS)}",
                "--template-args takes variables of the template; a model's own template is in chat_template.jinja or "
                "tokenizer_config.json.",
            )


ARGS_OF_NONE = ("Raw text (--template none) has no template that takes --template-args.", "Leave one out.")
KEYWORDS = frozenset((
    "for", "endfor", "if", "elif", "else", "endif", "set", "endset", "in", "is", "not", "and", "or", "defined", "none",
    "true", "false", "loop", "first", "last", "index0", "macro", "endmacro", "namespace", "generation", "endgeneration",
    "message", "messages", "role", "content", "trim", "raise_exception",
))  # fmt: skip
"""Words of templates that are no variables of theirs, or none that may be set."""
ARGS_HINT = "Write --template-args enable_thinking=false,effort=high, or a JSON object."


def _spelled(text: str) -> dict[str, Any]:
    if text.lstrip().startswith("{"):
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise ZooError(f"--template-args {text} is not a JSON object: {error}.", ARGS_HINT) from None
    pairs = [part.partition("=") for part in split(text) or ([text] if text else [])]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise ZooError(f"--template-args {text} cannot be read.", ARGS_HINT)
    args = {name.strip(): _value(written.strip()) for name, _, written in pairs}
    if len(args) < len(pairs):
        raise ZooError(f"--template-args {text} names an argument twice.", ARGS_HINT)
    return args


def _value(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def with_args(text: str, args: Mapping[str, Any]) -> str:
    """A template in which these arguments have their values unless a program gives others."""
    sets = [
        f"{{%- if {name} is not defined %}}{{%- set {name} = {_jinja(args[name])} %}}{{%- endif %}}" for name in args
    ]
    # The line break belongs to the last tag; the template goes on at the beginning of a line, as before.
    return "".join(sets) + "\n" + text if sets else text


def _jinja(value: Any) -> str:
    """A value as Jinja spells it."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_jinja(key)}: {_jinja(value[key])}' for key in value)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_jinja, value))}]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def listed(new_tokens: Sequence[str] | str) -> tuple[str, ...]:
    """The tokens of --new-tokens, each once. Raises ZooError for one that is no text, is empty or cannot be seen.

    Spaces around the commas of a text are none of the tokens.
    """
    if isinstance(new_tokens, str):
        new_tokens = [part.strip() for part in new_tokens.split(",")] if new_tokens else []
    for part in new_tokens:
        if why := _no_token(part):
            raise ZooError(f"new_tokens has {part!r}, which {why}.", "Write --new-tokens '<a>,<b>'.")
    return tuple(dict.fromkeys(new_tokens))


def _no_token(part: Any) -> str:
    """Why this cannot be a new token; empty if it can."""
    if not isinstance(part, str):
        return "is no text"
    if not part.strip():
        return "is empty"
    if part != part.strip():
        return "has white space at an end"
    return "" if part.isprintable() else "has characters that cannot be seen"


def wanted(template: str | None, new_tokens: Iterable[str]) -> dict[str, bool]:
    """What a template (its text) needs and what is asked for: each token, and whether it is a control token."""
    needed = tokens_of(template or "")
    return {token: token in needed or token in (template or "") for token in [*needed, *new_tokens]}
