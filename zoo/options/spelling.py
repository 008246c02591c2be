"""One spelling for everything that takes options inside a text: `name`, or `name(option=value, option=value)`.

    vllm(url=http://127.0.0.1:8000, timeout=60)
    pass_at_k(k=8, data=world:arithmetic(rows=200))
    ./games/rooms.py:Rooms(size=4)

A value is used literally: it may contain brackets, with commas inside them. The function that takes the options defines
their names and types: `bind` reads its signature.

`seeds` reads the spelling of several seeds.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from zoo.errors import ZooError, nearest
from zoo.limits import EXPRESSION, SEEDS

MOST_SEEDS = 20
"""A larger number is ambiguous: few want that many seeds, but many want the seed with that number."""
SEEDS_HINT = "Write --seeds 3 for the first three seeds, --seeds 0,5,7 for these three, or --seeds 100, for seed 100."
SPELLED = re.compile(r"\s*([\w.:/~-]+)\s*(?:\((.*)\))?\s*", re.DOTALL)


def parse(text: str, what: str = "name", example: str = "name(option=value)") -> tuple[str, dict[str, str]]:
    """Name and options of a text. what: its name in errors; example: the example in errors.

    Raises ZooError for unbalanced brackets, an option without a name or a value, and a repeated option.
    """
    if len(text) > EXPRESSION:
        raise ZooError(f"The {what} has {len(text):,} characters; at most {EXPRESSION:,} are read.")
    match = SPELLED.fullmatch(text)
    parts = split(match[2] or "") if match else None
    pairs = [part.partition("=") for part in parts or []]
    options = {key.strip(): value.strip() for key, _, value in pairs}
    if match is None or parts is None or not all(options) or not all(options.values()) or len(options) != len(pairs):
        raise ZooError(f"The {what} '{text}' cannot be read.", f"Write a name, or a name with options: {example}.")
    return match[1], options


def split(text: str) -> list[str] | None:
    """The non-empty parts between commas outside brackets; None if a bracket is not closed."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return None
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return None if depth else [part.strip() for part in parts if part.strip()]


def name_in(text: str) -> str:
    """The name in a text, whatever its options are."""
    return text.partition("(")[0].strip()


def spell(name: str, options: Mapping[str, Any]) -> str:
    """The inverse of `parse`: a text with the options in the order of the mapping."""
    spelled = ", ".join(f"{key}={value}" for key, value in options.items())
    return f"{name}({spelled})" if spelled else name


def bind(function: Callable[..., Any], options: Mapping[str, str], what: str, fixed: int = 1) -> dict[str, Any]:
    """The options as keyword arguments of the types that `function` declares for its parameters.

    function: may be a class, such as a dataclass; what: its name in errors ("engine 'vllm'"); fixed: number of first
    parameters that are not options. Raises ZooError for an unknown option (with the nearest) or a wrong value.
    """
    from pydantic import TypeAdapter, ValidationError

    declared = list(inspect.signature(function).parameters)[fixed:]
    declaring = function.__init__ if inspect.isclass(function) else function
    hints, bounded = get_type_hints(declaring), get_type_hints(declaring, include_extras=True)
    values = {}
    for key, text in options.items():
        if key not in declared:
            raise ZooError(
                f"The {what} has no option '{key}'.{nearest(key, declared)}",
                f"It takes: {', '.join(declared) or 'none'}.",
            )
        if text == "none" and isinstance(None, hints.get(key, str)):
            values[key] = None
            continue
        try:
            values[key] = TypeAdapter(bounded.get(key, str)).validate_python(text)
        except ValidationError as error:
            raise ZooError(f"The {what}, option {key} = {text}: {error.errors()[0]['msg']}.") from None
    return values


def bound(
    kind: str, name: str, function: Callable[..., Any], given: Mapping[str, str], fixed: int = 1
) -> dict[str, Any]:
    """The same for what is chosen by its name. Raises ZooError also for an option that it needs and does not get."""
    options = bind(function, given, f"{kind} '{name}'", fixed)
    declared = list(inspect.signature(function).parameters.values())[fixed:]
    stars = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [one.name for one in declared if one.default is one.empty and one.kind not in stars]
    if missing := [key for key in needed if key not in options]:
        raise ZooError(f"The {kind} '{name}' needs {' and '.join(missing)}.", f"Write {name}({missing[0]}=…).")
    return options


def seeds(text: str | int) -> list[int]:
    """`3` means 0, 1, 2; `0,5,7` and `100,` mean these seeds; `0-99` means all of these. Raises ZooError.

    A single number above 20 is refused: it may mean that many seeds or that one seed.
    """
    flag, numbers = f"--seeds {text}", list[int]()
    for part in filter(None, (part.strip() for part in str(text).split(","))):
        ends = re.fullmatch(r"(\d{1,18})(?:\s*-\s*(\d{1,18}))?", part)
        if ends is None:
            raise ZooError(f"{flag} is neither a number of seeds nor a list of seeds.", SEEDS_HINT)
        first, last = int(ends[1]), int(ends[2] or ends[1])
        if len(numbers) + last - first >= SEEDS:
            raise ZooError(f"{flag} is more than {SEEDS:,} seeds.", SEEDS_HINT)
        numbers += range(first, last + 1)
    if str(text).strip().isdigit():
        (count,) = numbers
        if count > MOST_SEEDS:
            hint = f"Write --seeds {count}, (with a comma) for that one seed, --seeds 0-{count - 1} for {count} seeds."
            raise ZooError(f"{flag} may mean {count} seeds, or the seed {count}.", hint)
        numbers = list(range(count))
    if not numbers:
        raise ZooError(f"{flag} leaves no seed.", SEEDS_HINT)
    if len(set(numbers)) < len(numbers):
        raise ZooError(f"{flag} has a seed twice.", SEEDS_HINT)
    return numbers
