"""Worked examples for the few-shot prompt: the same instructions, obeyed on other topics.

Three plain answers are repaired to follow whatever a prompt asks for; two of them stand in earlier turns of
the conversation. Where that is not possible (a word that they do not contain), the instruction is repeated.
"""

from __future__ import annotations

from dataclasses import replace

from starter_set.prompts import Prompt
from starter_set.repair import repaired

PLAIN = (
    (
        "growing tomatoes",
        "Tell me something about growing tomatoes.",
        "Tomatoes need 6 hours of sun and 2 litres of water a day. "
        "Put each plant in a deep pot, with rich soil. "
        "Tie the stem to a stick so that the wind cannot break it. "
        "Pick the fruit when it is red and soft. "
        "A plant on a warm wall can feed a family of 4 for weeks.",
    ),
    (
        "a kite",
        "Write a few lines about a kite.",
        "A red kite hung in the window of a small shop. "
        "On the first day of spring a boy bought it with 3 coins. "
        "The wind carried it 20 metres over the old mill. "
        "In the evening he brought it home and smiled. "
        "They flew together every Sunday after that.",
    ),
    (
        "washing the dishes",
        "How should I go about washing the dishes?",
        "You need 5 litres of hot water, 1 spoon of soap and a brush. "
        "First wash the glasses because they are the least greasy. "
        "Then take the plates and leave the pans for the end. "
        "Rinse everything for a few seconds with clean water. "
        "Let it dry in the air while you have a cup of tea.",
    ),
)
"""Topic, task, answer."""

OPENINGS = (
    ("title_in_brackets", "<<"),
    ("quoted", '"'),
    ("dash_list", "-"),
    ("numbered_list", "1."),
)


def few_shot(prompt: Prompt) -> tuple[dict[str, str], ...]:
    """The conversation that asks for `prompt` after up to two worked examples."""
    messages: list[dict[str, str]] = []
    start = sum(map(ord, prompt.id))
    for number in range(len(PLAIN)):
        topic, task, text = PLAIN[(start + number) % len(PLAIN)]
        example = replace(prompt, topic=topic, task=task)
        answer = repaired(text, example, number)
        if answer and len(messages) < 4:
            messages += [{"role": "user", "content": example.text}, {"role": "assistant", "content": answer}]
    asked = prompt.text
    if not messages:
        asked = " ".join([asked, "Keep in mind:", *prompt.phrases, "Be brief."])
    return (*messages, {"role": "user", "content": asked})


def in_any_case(prompt: Prompt) -> Prompt:
    """The prompt without its instructions about case, which an edit fulfils better than this model does."""
    kept = [
        (phrase, instruction)
        for phrase, instruction in zip(prompt.phrases, prompt.instructions, strict=True)
        if instruction["check"] not in ("all_lowercase", "all_uppercase")
    ]
    return replace(prompt, phrases=tuple(one for one, _ in kept), instructions=tuple(other for _, other in kept))


def opening(prompt: Prompt) -> str:
    """The first characters of any answer that obeys, put into the model's mouth; empty if they are open."""
    rules = {instruction["check"]: instruction for instruction in prompt.instructions}
    if "title_in_brackets" not in rules and "start_with" in rules:
        return rules["start_with"]["phrase"]
    if "json_object" in rules:
        return '{"' + rules["json_object"]["keys"][0] + '": "'
    return next((mark for check, mark in OPENINGS if check in rules), "")
