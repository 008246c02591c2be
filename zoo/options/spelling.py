"""One spelling for whatever takes options in the middle of a text: `name`, or `name(option=value, option=value)`.

    vllm(url=http://127.0.0.1:8000, timeout=60)
    pass_at_k(k=8, data=world:arithmetic(rows=200))

A value is taken as it stands: it may hold brackets of its own, and commas inside of them. What the options are, and of
which types, is said by the function that takes them: `bind` reads its signature.

And one for whatever is done with several seeds: `seeds`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from zoo.errors import ZooError, nearest

MOST_SEEDS = 20
"""What a number above it means is not clear: so many seeds are rarely wanted, one seed of that number often is."""
SEEDS_HINT = "Write --seeds 3 for the first three, --seeds 0,5,7 for these, or --seeds 100, for the one."
SPELLED = re.compile(r"\s*([\w.:-]+)\s*(?:\((.*)\))?\s*", re.DOTALL)


def parse(text: str, what: str = "name", example: str = "name(option=value)") -> tuple[str, dict[str, str]]:
    """Name and options of a text. what, example: how an error calls it, and what it shows.

    Raises ZooError for unbalanced brackets, an option without a name or a value, and one that is given twice.
    """
    match = SPELLED.fullmatch(text)
    parts = split(match[2] or "") if match else None
    pairs = [part.partition("=") for part in parts or []]
    options = {key.strip(): value.strip() for key, _, value in pairs}
    if match is None or parts is None or not all(options) or not all(options.values()) or len(options) != len(pairs):
        raise ZooError(f"The {what} '{text}' cannot be read.", f"Write a name, or a name with options: {example}.")
    return match[1], options


def split(text: str) -> list[str] | None:
    """The parts between the commas that stand outside of all brackets, empty ones left out; None if one is open."""
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


def spell(name: str, options: Mapping[str, Any]) -> str:
    """The text that `parse` reads as this: options in the order of the mapping."""
    given = ", ".join(f"{key}={value}" for key, value in options.items())
    return f"{name}({given})" if given else name


def bind(function: Callable[..., Any], options: Mapping[str, str], what: str, fixed: int = 1) -> dict[str, Any]:
    """The options in the types that `function` declares for its parameters, as keyword arguments for it.

    function: also a class, a dataclass for instance; what: how an error calls it ("engine 'vllm'"); fixed: so many of
    its first parameters are not options. Raises ZooError for an unknown option (with the nearest) or a wrong value.
    """
    from pydantic import TypeAdapter, ValidationError

    declared = list(inspect.signature(function).parameters)[fixed:]
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
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
            values[key] = TypeAdapter(hints.get(key, str)).validate_python(text)
        except ValidationError as error:
            raise ZooError(f"The {what}, option {key} = {text}: {error.errors()[0]['msg']}.") from None
    return values


def seeds(text: str | int) -> list[int]:
    """`3` as 0, 1, 2 (so many, from 0); `0,5,7` or `100,` as they stand; `0-99` as all of these. Raises ZooError.

    A single number above 20 is refused: some mean so many seeds by it, others that one.
    """
    given, found = f"--seeds {text}", list[int]()
    for part in filter(None, (part.strip() for part in str(text).split(","))):
        ends = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", part)
        if ends is None:
            raise ZooError(f"{given} is no number of seeds and no list of them.", SEEDS_HINT)
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    if str(text).strip().isdigit():
        (count,) = found
        if count > MOST_SEEDS:
            hint = f"Write --seeds {count}, (with a comma) for that one seed, --seeds 0-{count - 1} for {count} seeds."
            raise ZooError(f"{given} may mean {count} seeds, or the seed {count}.", hint)
        found = list(range(count))
    if not found:
        raise ZooError(f"{given} leaves no seed.", SEEDS_HINT)
    if len(set(found)) < len(found):
        raise ZooError(f"{given} has a seed twice.", SEEDS_HINT)
    return found
