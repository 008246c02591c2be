"""How the starter prompts ask: wordings and parameters of each instruction, and which two go together."""

from __future__ import annotations

import random
from typing import Any

from starter_set.topics import Category

COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

WORDINGS: dict[str, tuple[str, ...]] = {
    "exactly_sentences": (
        "Answer in exactly {count} sentence{s}.",
        "Use exactly {n} sentence{s}.",
        "Your reply must be {count} sentence{s} long.",
        "Write {count} sentence{s}, no more and no fewer.",
        "I want exactly {count} sentence{s}.",
    ),
    "max_sentences": (
        "Use at most {count} sentences.",
        "Do not write more than {n} sentences.",
        "Keep it to {count} sentences or fewer.",
        "No more than {count} sentences, please.",
    ),
    "max_words": (
        "Use at most {n} words.",
        "Answer in no more than {n} words.",
        "Keep it to {n} words or fewer.",
        "The answer must not be longer than {n} words.",
        "Limit yourself to {n} words.",
    ),
    "min_words": (
        "Use at least {n} words.",
        "Write no fewer than {n} words.",
        "The answer should have {n} words or more.",
        "Your reply must be at least {n} words long.",
    ),
    "words_between": (
        "Use between {low} and {high} words.",
        "Write {low} to {high} words.",
        "The answer should have at least {low} and at most {high} words.",
        "Your reply must be {low} to {high} words long.",
    ),
    "no_commas": (
        "Do not use any commas.",
        "Use no commas.",
        "Write without commas.",
        "Your answer must not contain a comma.",
        "Avoid commas completely.",
    ),
    "include_words": (
        "Use the word{s} {quoted}.",
        "Your answer must contain the word{s} {quoted}.",
        "Include the word{s} {quoted}.",
        "Make sure that {quoted} appear{verb} in your answer.",
    ),
    "avoid_words": (
        "Do not use the word {quoted}.",
        "Your answer must not contain the word {quoted}.",
        "Avoid the word {quoted}.",
        "Write it without the word {quoted}.",
    ),
    "all_lowercase": (
        "Write everything in lowercase letters.",
        "Use only lowercase letters.",
        "Do not use any capital letters.",
        "Your whole answer must be in lower case.",
    ),
    "all_uppercase": (
        "Write everything in capital letters.",
        "Use only capital letters.",
        "Your whole answer must be in upper case.",
        "Answer in ALL CAPS.",
    ),
    "numbered_list": (
        "Answer with a numbered list of {count} items.",
        "Write it as a numbered list with exactly {n} points.",
        "Give {count} numbered points.",
        "Make a numbered list from 1 to {n}.",
    ),
    "dash_list": (
        "Answer with {count} items, each on its own line after a dash.",
        "Write a list of exactly {n} points that begin with a dash.",
        "Use {count} bullet points made with dashes (-).",
        "Give {count} lines, each starting with a dash.",
    ),
    "start_with": (
        'Begin your answer with "{phrase}".',
        'Start with "{phrase}".',
        'The first words of your answer must be "{phrase}".',
        'Open your reply with "{phrase}".',
    ),
    "end_with": (
        'End your answer with "{phrase}"',
        'Finish with "{phrase}"',
        'The last words of your answer must be "{phrase}"',
        'Close your reply with "{phrase}"',
    ),
    "json_object": (
        "Answer with a JSON object that has the key{s} {quoted}.",
        "Reply only with a JSON object with the key{s} {quoted}.",
        "Write your answer as JSON with the key{s} {quoted} and nothing else.",
        "Give the answer as a JSON object. Use the key{s} {quoted}.",
    ),
    "title_in_brackets": (
        "Give your answer a title in double angular brackets, like <<this>>.",
        "Add a title wrapped in << and >>.",
        "Put a title in double angular brackets above your answer.",
        "Your answer needs a title, written as <<title>>.",
    ),
    "exactly_paragraphs": (
        "Write {count} paragraphs with a blank line between them.",
        "Use exactly {count} paragraphs.",
        "Your answer must have {count} paragraphs.",
        "Split your answer into {count} short paragraphs.",
    ),
    "ends_with_question": (
        "End with a question.",
        "Your answer must end with a question mark.",
        "Finish by asking a question.",
        "Close with a question for the reader.",
    ),
    "quoted": (
        "Put your whole answer in double quotation marks.",
        "Wrap the entire answer in quotation marks.",
        "Your answer must stand between double quotes.",
        "Enclose everything you write in quotation marks.",
    ),
    "has_numbers": (
        "Use at least {count} number{s} written in digits.",
        "Include {count} or more numbers in digits.",
        "Mention at least {count} number{s} as digits.",
        "Your answer must contain at least {count} number{s} in digits.",
    ),
    "no_digits": (
        "Do not use any digits.",
        "Write without any digits.",
        "Your answer must not contain a digit.",
        "Spell out every number and use no digits.",
    ),
    "exclamation_marks": (
        "Use exactly {count} exclamation mark{s}.",
        "Your answer must contain exactly {n} exclamation mark{s}.",
        "Write it with exactly {count} exclamation mark{s}.",
        "Put exactly {count} exclamation mark{s} in your answer.",
    ),
}

COMPATIBLE: dict[str, tuple[str, ...]] = {
    "exactly_sentences": (
        "no_commas",
        "include_words",
        "avoid_words",
        "all_lowercase",
        "all_uppercase",
        "start_with",
        "quoted",
        "no_digits",
    ),
    "max_sentences": (
        "no_commas",
        "include_words",
        "avoid_words",
        "all_lowercase",
        "all_uppercase",
        "start_with",
        "quoted",
        "no_digits",
        "min_words",
    ),
    "max_words": (
        "no_commas",
        "include_words",
        "avoid_words",
        "all_lowercase",
        "all_uppercase",
        "start_with",
        "end_with",
        "quoted",
        "ends_with_question",
        "has_numbers",
        "no_digits",
        "title_in_brackets",
        "exclamation_marks",
    ),
    "min_words": ("no_commas", "avoid_words", "all_lowercase", "start_with", "end_with", "no_digits"),
    "words_between": (
        "include_words",
        "avoid_words",
        "no_commas",
        "start_with",
        "ends_with_question",
        "quoted",
        "title_in_brackets",
    ),
    "no_commas": ("all_lowercase", "start_with", "end_with", "numbered_list", "dash_list", "title_in_brackets"),
    "include_words": ("dash_list", "numbered_list", "exactly_paragraphs", "ends_with_question", "all_lowercase"),
    "avoid_words": ("dash_list", "numbered_list", "exactly_paragraphs", "ends_with_question", "has_numbers"),
    "all_lowercase": ("numbered_list", "dash_list", "ends_with_question", "no_digits"),
    "all_uppercase": ("dash_list", "ends_with_question", "exclamation_marks"),
    "numbered_list": ("start_with", "end_with", "title_in_brackets"),
    "dash_list": ("end_with", "title_in_brackets", "no_digits"),
    "start_with": ("end_with", "exactly_paragraphs", "ends_with_question"),
    "exactly_paragraphs": ("title_in_brackets", "end_with"),
    "quoted": ("ends_with_question", "exclamation_marks"),
}
"""Checks that may stand in one prompt without contradicting each other, each pair written once."""


def compatible(first: str, second: str) -> bool:
    """Whether two checks may be asked for together."""
    return second in COMPATIBLE.get(first, ()) or first in COMPATIBLE.get(second, ())


def instruction(check: str, category: Category, draw: random.Random) -> dict[str, Any]:
    """An instruction of the given check with parameters that fit the category."""
    parameters: dict[str, Any] = {}
    if check == "exactly_sentences":
        parameters = {"n": draw.choice((1, 1, 2, 2, 3))}
    elif check == "max_sentences":
        parameters = {"n": draw.choice((2, 3))}
    elif check == "max_words":
        parameters = {"n": draw.choice((20, 25, 30, 40))}
    elif check == "min_words":
        parameters = {"n": draw.choice((30, 40, 50))}
    elif check == "words_between":
        low = draw.choice((10, 15, 20, 30))
        parameters = {"low": low, "high": low + draw.choice((15, 20))}
    elif check == "include_words":
        parameters = {"words": draw.sample(category.include, draw.choice((1, 1, 1, 2)))}
    elif check == "avoid_words":
        parameters = {"words": [draw.choice(category.avoid)]}
    elif check in ("numbered_list", "dash_list"):
        parameters = {"n": draw.choice((2, 3, 3, 4))}
    elif check == "start_with":
        parameters = {"phrase": draw.choice(category.starts)}
    elif check == "end_with":
        parameters = {"phrase": draw.choice(category.ends)}
    elif check == "json_object":
        parameters = {"keys": list(draw.choice(category.keys))}
    elif check == "exactly_paragraphs":
        parameters = {"n": 2}
    elif check in ("has_numbers", "exclamation_marks"):
        parameters = {"n": draw.choice((1, 2))}
    return {"check": check, **parameters}


def phrased(instruction: dict[str, Any], draw: random.Random) -> str:
    """The instruction as a sentence, in one of its wordings."""
    names = instruction.get("words") or instruction.get("keys") or []
    n = instruction.get("n", 0)
    many = n > 1 or len(names) > 1
    return draw.choice(WORDINGS[instruction["check"]]).format(
        **{name: value for name, value in instruction.items() if name in ("low", "high", "phrase")},
        n=n,
        count=COUNTS[n] if n < len(COUNTS) else n,
        quoted=_joined(names),
        s="s" if many else "",
        verb="" if many else "s",
    )


def _joined(names: list[str]) -> str:
    marked = [f'"{name}"' for name in names]
    return " and ".join([", ".join(marked[:-1]), marked[-1]]) if len(marked) > 1 else "".join(marked)
