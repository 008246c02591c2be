"""Small edits that make an answer follow its instructions: choose its sentences, then dress them.

The sentences of the answer stay the model's own. An edit keeps the first few that fit, removes commas,
changes case, sets them as a list or a JSON object, puts a phrase or a title in front. Whatever comes out is
checked again; when nothing passes the answer is `None` and the build looks elsewhere.
"""

from __future__ import annotations

import json
import re
from typing import Any

from starter_set.prompts import Prompt
from zoo.rewards.instructions import follows
from zoo.rewards.prose import sentences, words

LONGEST = 60
"""Words that a repaired answer has at most."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
QUESTIONS = (
    "Would you like to know more?",
    "What do you think?",
    "Does that help?",
    "What would you do?",
    "Have you seen it yourself?",
)
GLUE = {
    "Certainly": ", ",
    "Of course": ", ",
    "In short": ", ",
    "In other words": ", ",
    "To sum up": ", ",
    "Good question": ". ",
    "Once upon a time": ", ",
    "One morning": ", ",
    "Long ago": ", ",
    "At last": ", ",
    "Hello": ", ",
    "Dear friend": ", ",
    "Good morning": ", ",
    "Hi there": ", ",
    "Well done": ". ",
    "Take heart": ". ",
    "Do not worry": ". ",
}
"""What joins an opening phrase to the sentence behind it; a phrase not listed here cannot simply be put
in front."""
CHATTER = re.compile(
    r"\b(smollm|ai|chatbot|assistant|language model|rewritten|revised|rephrased?|here(?:'s| is) an?|sorry|"
    r"i (?:cannot|can't|can help|don't have)|i'd be|i'm (?:here|happy|glad|ready|not able|just a)|happy to|"
    r"digits?|commas?|lower ?case|upper ?case|capital letters|sentences?|exclamation|quotation|json|bullet|"
    r"your answer|the answer|the text|the word|the phrase|paragraphs?|clarify|python|code|to do list|"
    r"let me know|hugging face|keywords|do not use|make sure)\b",
    re.IGNORECASE,
)
"""Signs that an answer talks about the request or its writer instead of the topic."""
LIST_OPENINGS = ("Certainly", "Of course", "In short", "Good question", "To sum up")
"""Phrases that can stand alone before a list."""
LOWERABLE = frozenset(
    (
        "a", "an", "the", "there", "this", "that", "these", "those", "it", "its", "he", "she", "they",
        "we", "you", "your", "his", "her", "their", "our", "my", "in", "on", "at", "to", "for", "with",
        "when", "while", "if", "as", "after", "before", "once", "one", "some", "many", "most", "every",
        "all", "first", "by", "during", "both",
    )
)
"""Words that lose their capital when a phrase comes in front of them."""
NAMING_KEYS = frozenset(
    (
        "name", "dish", "title", "subject", "product", "topic", "question", "city", "place", "hero",
        "goal", "job", "animal_or_place", "problem",
    )
)
"""JSON keys that the topic itself can fill."""


def repaired(text: str, prompt: Prompt, number: int = 0) -> str | None:
    """The answer after the edits its instructions call for, or None where no edit helps.

    `number` varies the stock questions, so that not every answer ends with the same one.
    """
    rules = {instruction["check"]: instruction for instruction in prompt.instructions}
    listed = "dash_list" in rules or "numbered_list" in rules
    for found in (list_items(text) if listed else [], whole_sentences(text)):
        suited = [piece for piece in (_suited(piece, rules) for piece in found) if piece]
        answer = _first_passing(list(dict.fromkeys(suited)), prompt, rules, number)
        if answer is not None:
            return answer
    return None


def _first_passing(pieces: list[str], prompt: Prompt, rules: dict[str, dict[str, Any]], number: int) -> str | None:
    """The longest opening stretch of the pieces that can be dressed to follow everything."""
    for count in range(min(len(pieces), 8), 0, -1):
        answer = _dressed(pieces[:count], rules, prompt.topic, number)
        if answer is None or len(words(answer)) > LONGEST:
            continue
        if all(follows(answer, instruction) for instruction in prompt.instructions):
            return answer
    return None


def trimmed(text: str) -> str | None:
    """A text that was cut off, up to the end of its last full sentence; None where there is none."""
    ends = [match.end() for match in re.finditer(r"[.!?][\"”)]*(?=\s)", text)]
    for end in reversed(ends):
        start = text[:end]
        if not re.search(r"(?:^|\n)\s*\d+[.)]$|\b(?:Dr|Mr|Mrs|Ms|St|vs|e\.g|i\.e)\.$", start):
            return start
    return None


def list_items(text: str) -> list[str]:
    """The items of a list in an answer; the last may be cut off and counts only where it ends in a stop."""
    found = re.findall(r"^[ \t]*(?:\d+[.)]|[-–—•*])[ \t]+(\S.*)$", text, re.MULTILINE)
    items = [re.sub(r"[*_#`“”\"<>]", "", item).strip() for item in found]
    if items and not items[-1].endswith((".", "!", "?")):
        items.pop()
    return [
        item
        for item in items
        if len(words(item)) <= 25 and not re.search(r"[\[\]{}]|:$|\d{5}", item) and not CHATTER.search(item)
    ]


def whole_sentences(text: str) -> list[str]:
    """The plain sentences of an answer, without list marks, headings, placeholders and a cut-off last one."""
    # the values of a JSON object, finished or not, are text like any other
    text = re.sub(r'"\s*,\s*"\w+"\s*:\s*"?|[{}]|"\w+"\s*:\s*"?', "\n", text)
    text = re.sub(r"<<.*?>>|\*\*|[*_#`“”\"]", "", text)
    text = re.sub(r"^[ \t]*(?:\d+[.)]|[-–—•])[ \t]*", "", text, flags=re.MULTILINE)
    found = (re.sub(r"\s+", " ", sentence).strip() for sentence in sentences(text))
    return [
        sentence
        for sentence in found
        if re.fullmatch(r"[A-Z0-9'(].*[.!?]", sentence)
        and len(words(sentence)) >= 4
        and not re.search(r"[\[\]{}<>]|:\S*$|:\s*\d+\.$", sentence)
        and not CHATTER.search(sentence)
    ]


def _suited(piece: str, rules: dict[str, dict[str, Any]]) -> str | None:
    """One sentence with its words and marks adapted, or None where it has to go."""
    if "no_commas" in rules:
        piece = re.sub(r"(?<=\d),(?=\d)", "", piece).replace(",", "")
    if "no_digits" in rules:
        piece = re.sub(r"(?<![\w.,:])(10|\d)(?![\w:]|[.,]\d)", lambda match: NUMBERS[int(match[0])], piece)
        piece = piece[0].upper() + piece[1:]
    if "has_numbers" in rules:
        spelled = "|".join(NUMBERS[2:])
        piece = re.sub(rf"\b(?:{spelled})\b", lambda match: str(NUMBERS.index(match[0])), piece)
    if "exclamation_marks" in rules:
        piece = piece.replace("!", ".")
    for check in ("no_digits", "avoid_words"):
        if check in rules and not follows(piece, rules[check]):
            return None
    return piece


def _dressed(pieces: list[str], rules: dict[str, dict[str, Any]], topic: str, number: int) -> str | None:
    """The sentences laid out, opened and closed as the rules ask."""
    pieces = list(pieces)
    listed = "dash_list" in rules or "numbered_list" in rules
    if "start_with" in rules and listed:
        if rules["start_with"]["phrase"] not in LIST_OPENINGS:
            return None
    elif "start_with" in rules:
        opened = _opened(pieces[0], rules["start_with"]["phrase"])
        if opened is None:
            return None
        pieces[0] = opened.replace(",", "") if "no_commas" in rules else opened
    for position in range(min(rules.get("exclamation_marks", {}).get("n", 0), len(pieces))):
        pieces[position] = re.sub(r"\.$", "!", pieces[position])
    if "json_object" in rules:
        return _object(pieces, rules["json_object"]["keys"], topic)
    text = _laid_out(pieces, rules)
    if text is None:
        return None
    if "ends_with_question" in rules and not text.endswith("?"):
        text += ("\n" if listed else " ") + QUESTIONS[number % len(QUESTIONS)]
    if "end_with" in rules and not follows(text, rules["end_with"]):
        text += ("\n" if listed else " ") + rules["end_with"]["phrase"]
    if "title_in_brackets" in rules:
        text = f"<<{heading(topic)}>>\n{text}"
    if "all_lowercase" in rules:
        text = text.lower()
    if "all_uppercase" in rules:
        text = text.upper()
    return f'"{text}"' if "quoted" in rules else text


def _opened(piece: str, phrase: str) -> str | None:
    """`phrase` in front of a sentence; None where the join would read badly."""
    if follows(piece, {"check": "start_with", "phrase": phrase}):
        return piece
    glue = GLUE.get(phrase)
    if glue is None:
        return None
    first, _, rest = piece.partition(" ")
    if glue == ", " and first.lower() in LOWERABLE:
        piece = f"{first.lower()} {rest}"
    elif glue == ", " and not first.startswith(("I ", "I'")) and first != "I":
        # an unknown first word may be a name: a full stop is right for both
        glue = ". "
        if phrase in ("Once upon a time", "One morning", "Long ago", "At last", "In other words"):
            return None
    return phrase + glue + piece


def _laid_out(pieces: list[str], rules: dict[str, dict[str, Any]]) -> str | None:
    for check, mark in (("dash_list", "- "), ("numbered_list", "{number}. ")):
        if check in rules:
            if len(pieces) != rules[check]["n"]:
                return None
            opening = [rules["start_with"]["phrase"] + ":"] if "start_with" in rules else []
            items = [mark.format(number=number) + piece for number, piece in enumerate(pieces, start=1)]
            return "\n".join(opening + items)
    if "exactly_paragraphs" in rules:
        half = (len(pieces) + 1) // 2
        return " ".join(pieces[:half]) + "\n\n" + " ".join(pieces[half:])
    return " ".join(pieces)


def _object(pieces: list[str], keys: list[str], topic: str) -> str | None:
    """Sentences shared out among the keys; a key that names something takes the topic."""
    values: dict[str, str] = {}
    if len(keys) > 1 and keys[0] in NAMING_KEYS:
        values[keys[0]] = heading(topic) + ("?" if keys[0] == "question" else "")
    open_keys = [key for key in keys if key not in values]
    if len(pieces) < len(open_keys) or "price" in open_keys:
        return None
    for position, key in enumerate(open_keys):
        last = position == len(open_keys) - 1
        values[key] = " ".join(pieces[position:] if last else pieces[position : position + 1])
    return json.dumps(values, ensure_ascii=False)


def heading(topic: str) -> str:
    """A title made of a topic."""
    if len(topic.split()) > 12:
        return "In short"
    if topic.startswith("to "):
        topic = "note " + topic
    return topic[0].upper() + topic[1:]
