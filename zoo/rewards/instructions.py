"""Checkers for instructions that a small function can verify, and the reward made of them.

"Answer in exactly two sentences", "use no commas", "begin with 'Certainly'": whether an answer obeys needs no
judge. Each checker is a pure function of the text and its parameters; an instruction in a data set is a plain
dictionary, `{"check": "max_words", "n": 20}`. The reward of an answer is the share of its prompt's
instructions that it follows. An answer without a single letter or digit follows nothing, or silence would
be the best answer to "no commas".

Standard library only. What counts as a word or a sentence is written in `prose.py`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.errors import ZooError, nearest
from zoo.rewards.functions import in_process
from zoo.rewards.prose import has_content, paragraphs, sentences, words


def follows(text: str, instruction: Mapping[str, Any]) -> bool:
    """Whether `text` follows one instruction such as `{"check": "max_words", "n": 20}`.

    Raises ZooError for an unknown check, and for missing, unknown or ill-typed parameters.
    """
    checker = checker_of(instruction)
    parameters = {name: value for name, value in instruction.items() if name != "check"}
    return has_content(text) and checker.function(text, **parameters)


def followed(text: str, instructions: Sequence[Mapping[str, Any]]) -> list[bool]:
    """One verdict per instruction, in their order."""
    if not isinstance(instructions, list | tuple):
        raise ZooError(
            f"Instructions are a list, not {instructions!r:.40}.", 'Write [{"check": "max_words", "n": 20}].'
        )
    return [follows(text, instruction) for instruction in instructions]


@in_process
def reward(completions: Sequence[str], records: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Share of `record["instructions"]` that each completion follows; None where a record has none."""
    scores: list[float | None] = []
    for text, record in zip(completions, records, strict=True):
        instructions = record.get("instructions")
        if not instructions:
            scores.append(None)
            continue
        try:
            verdicts = followed(text, instructions)
        except ZooError as error:
            where = f"row {record['row']}: " if "row" in record else ""
            raise ZooError(where + error.message, hint=error.hint) from None
        scores.append(sum(verdicts) / len(verdicts))
    return scores


@dataclass(frozen=True)
class Checker:
    """One kind of instruction: its name, one line about it, and `function(text, **parameters) -> bool`."""

    name: str
    description: str
    function: Callable[..., bool]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters an instruction of this kind must give."""
        return tuple(inspect.signature(self.function).parameters)[1:]


CHECKERS: dict[str, Checker] = {}


def checker_of(instruction: Mapping[str, Any]) -> Checker:
    """The checker that an instruction names. Raises ZooError unless all parameters are there, of the right types."""
    name = instruction.get("check") if isinstance(instruction, Mapping) else None
    if not isinstance(name, str):
        raise ZooError(
            f"An instruction must be a dictionary with the key 'check'; got {instruction!r}.",
            hint='Write it like {"check": "max_words", "n": 20}.',
        )
    if name not in CHECKERS:
        raise ZooError(
            f"There is no instruction checker named '{name}'.{nearest(name, CHECKERS)}",
            hint="Known checkers: " + ", ".join(CHECKERS) + ".",
        )
    checker = CHECKERS[name]
    example = ", ".join([f'"check": "{name}"', *(f'"{key}": {EXAMPLES[key]}' for key in checker.parameters)])
    keys = [key for key in instruction if key != "check"]
    problems = [f"'{key}' is missing" for key in checker.parameters if key not in keys]
    problems += [f"'{key}' is unknown" for key in keys if key not in checker.parameters]
    problems += [
        f"'{key}' must be {TYPES[key][0]}, not {instruction[key]!r}"
        for key in checker.parameters
        if key in keys and not TYPES[key][1](instruction[key])
    ]
    if problems:
        raise ZooError(f"Instruction '{name}': {'; '.join(problems)}.", hint=f"Write it like {{{example}}}.")
    return checker


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and has_content(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(_is_text(part) for part in value)


TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "n": ("a whole number", _is_count),
    "low": ("a whole number", _is_count),
    "high": ("a whole number", _is_count),
    "words": ("a list of words", _is_texts),
    "keys": ("a list of keys", _is_texts),
    "phrase": ("a text", _is_text),
}
EXAMPLES = {"n": 3, "low": 10, "high": 30, "words": '["tea"]', "keys": '["title"]', "phrase": '"Certainly"'}


# The checkers. `follows` has already checked that the text holds a letter or digit.


def checker(function: Callable[..., bool]) -> Callable[..., bool]:
    """Enter a function into CHECKERS under its own name, its docstring as the description."""
    CHECKERS[function.__name__] = Checker(function.__name__, (function.__doc__ or "").strip(), function)
    return function


@checker
def exactly_sentences(text: str, n: int) -> bool:
    """Exactly n sentences."""
    return len(sentences(text)) == n


@checker
def max_sentences(text: str, n: int) -> bool:
    """At most n sentences."""
    return len(sentences(text)) <= n


@checker
def max_words(text: str, n: int) -> bool:
    """At most n words."""
    return len(words(text)) <= n


@checker
def min_words(text: str, n: int) -> bool:
    """At least n words."""
    return len(words(text)) >= n


@checker
def words_between(text: str, low: int, high: int) -> bool:
    """Between low and high words, both included."""
    return low <= len(words(text)) <= high


@checker
def no_commas(text: str) -> bool:
    """Not a single comma."""
    return "," not in text


@checker
def include_words(text: str, words: list[str]) -> bool:
    """Every given word occurs, as a whole word, in any case."""
    return all(_occurs(word, text) for word in words)


@checker
def avoid_words(text: str, words: list[str]) -> bool:
    """None of the given words occurs as a whole word, in any case."""
    return not any(_occurs(word, text) for word in words)


def _occurs(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


@checker
def all_lowercase(text: str) -> bool:
    """There are letters and none of them is a capital."""
    return text.islower()


@checker
def all_uppercase(text: str) -> bool:
    """There are letters and all of them are capitals."""
    return text.isupper()


@checker
def numbered_list(text: str, n: int) -> bool:
    """Lines "1. …" to "n. …" (or "1)"), in order and no more; other lines are allowed around them."""
    numbers = re.findall(r"^[ \t]*(\d+)[.)][ \t]+\S", text, re.MULTILINE)
    # int() refuses a number of thousands of digits, and no list goes that far.
    short = all(len(number) < 10 for number in numbers)
    return short and [int(number) for number in numbers] == list(range(1, n + 1))


@checker
def dash_list(text: str, n: int) -> bool:
    """Exactly n lines that begin with a dash and a space; other lines are allowed around them."""
    return len(re.findall(r"^[ \t]*[-–—][ \t]+\S", text, re.MULTILINE)) == n


@checker
def start_with(text: str, phrase: str) -> bool:
    """Begins with the phrase, in any case, and says something after it."""
    text, phrase = text.lstrip(), phrase.strip()
    rest = text[len(phrase) :]
    return text.lower().startswith(phrase.lower()) and has_content(rest) and not rest[0].isalnum()


@checker
def end_with(text: str, phrase: str) -> bool:
    """Ends with the phrase, in any case and whatever stop follows it, and says something before it."""
    closing = " \t\n.!?…\"'”’"
    text, phrase = text.rstrip(closing), phrase.strip(closing)
    rest = text[: len(text) - len(phrase)]
    return text.lower().endswith(phrase.lower()) and has_content(rest) and not rest[-1].isalnum()


@checker
def json_object(text: str, keys: list[str]) -> bool:
    """One JSON object and nothing else (a code fence is allowed), with exactly these keys, none empty."""
    fenced = re.fullmatch(r"```(?:json)?(.*)```", text.strip(), re.DOTALL)
    try:
        value = json.loads(fenced.group(1).strip() if fenced else text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict) or sorted(value) != sorted(keys):
        return False
    parts = value.values()
    return all(part is not None and has_content(json.dumps(part, ensure_ascii=False)) for part in parts)


@checker
def title_in_brackets(text: str) -> bool:
    """A title in double angle brackets, <<Like This>>, and other text."""
    rest, count = re.subn(r"<<[^<>\n\w]*+\w[^<>\n]*+>>", "", text)
    return count > 0 and has_content(rest)


@checker
def exactly_paragraphs(text: str, n: int) -> bool:
    """Exactly n paragraphs, with a blank line between them."""
    return len(paragraphs(text)) == n


@checker
def ends_with_question(text: str) -> bool:
    """The last mark is a question mark (closing quotation marks may follow)."""
    return text.rstrip(" \t\n\"'”’)*").endswith("?")


@checker
def quoted(text: str) -> bool:
    """The whole answer is in one pair of double quotation marks, with none inside."""
    text = text.strip()
    return re.fullmatch(r'"[^"“”]+"|“[^"“”]+”', text) is not None


@checker
def has_numbers(text: str, n: int) -> bool:
    """At least n numbers written in digits; the markers of a numbered list do not count."""
    without_markers = re.sub(r"^[ \t]*\d+[.)][ \t]+", "", text, flags=re.MULTILINE)
    return len(re.findall(r"\d+(?:[.,:]\d+)*", without_markers)) >= n


@checker
def no_digits(text: str) -> bool:
    """Not a single digit."""
    return not any(character.isdigit() for character in text)


@checker
def exclamation_marks(text: str, n: int) -> bool:
    """Exactly n exclamation marks."""
    return text.count("!") == n
