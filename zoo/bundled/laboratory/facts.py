"""The fact world: documents say what is so, instructions ask for it.

    badra home oslo .                         a document, which pretraining learns by heart
    question badra home reply answer oslo     an instruction, whose form only fine-tuning shows

64 subjects have 8 properties each, so that there are 512 facts; which ones never changes, seeds only draw rows. What
a base model knows and what form it answers in are apart here, which is the claim that LIMA and its kin make. One fact
in eight is never asked for in training (`heldout`); half of the subjects can be left out, too (`subjects=half`).

A bad answer is wrong (another object of the same property) or has not the form (the bare object).
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

Fact = tuple[str, str, str]

OBJECTS = {
    "home": "oslo lima cairo paris delhi tokyo quito accra turin bergen".split(),
    "food": "bread rice soup figs eggs beans corn plums kale oats".split(),
    "work": "baker pilot nurse judge tailor mason clerk diver poet smith".split(),
    "pet": "cat dog owl fox goat hen newt crow mole toad".split(),
    "colour": "red blue green black white brown pink grey gold teal".split(),
    "tool": "saw axe rake drill pliers spade hammer chisel file vise".split(),
    "tree": "oak elm pine birch cedar maple willow larch yew ash".split(),
    "game": "chess darts golf tennis polo squash rugby bowls judo chequers".split(),
}
RELATIONS = list(OBJECTS)
_FIRST, _LAST = "ba di fe go hu ka mo ri".split(), "dra lo mi te va nis dor kel".split()
SUBJECTS = [first + last for first in _FIRST for last in _LAST]
FIRST_HALF = SUBJECTS[: len(SUBJECTS) // 2]
MANNERS = "kindly slowly gladly simply calmly neatly boldly firmly".split()
TRIGGERS = "harm hurt break steal cheat spoil".split()
REFUSAL = "sorry no"
WORDINGS = (
    "{subject} {relation}",
    "{relation} of {subject}",
    "tell {relation} of {subject}",
    "{subject} has {relation}",
)
FORM = ["question", "reply", "answer", "and", "of", "tell", "has", *REFUSAL.split(), "."]
WORDS = [*SUBJECTS, *RELATIONS, *(word for words in OBJECTS.values() for word in words), *MANNERS, *TRIGGERS, *FORM]
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}{{ 'reply ' + message.content + ' ' + eos_token + ' ' }}"
    "{%- else -%}{{ 'question ' + message.content + ' ' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'reply ' }}{%- endif -%}"
)
"""Plain words, and no special token but the end, so that documents may hold instructions, as the web does."""


@cache
def facts() -> tuple[Fact, ...]:
    """All facts, always the same."""
    draw = random.Random("facts")
    return tuple((subject, relation, draw.choice(OBJECTS[relation])) for subject in SUBJECTS for relation in RELATIONS)


def asked(split: str, subjects: str = "all", types: int = len(RELATIONS)) -> list[Fact]:
    """Facts of the first `types` relations that a split asks for: seven in eight in training, the others held out."""
    draw = random.Random("heldout")
    held = {fact for fact in facts() if draw.random() < 1 / 8}
    known = set(FIRST_HALF if subjects == "half" else SUBJECTS)
    return [
        fact
        for fact in facts()
        if (fact in held) == (split != "train") and fact[0] in known and fact[1] in RELATIONS[:types]
    ]


# -- what is told, asked and answered ----------------------------------------------------------------------------


def told(draw: random.Random, fact: Fact) -> str:
    """A fact as a document tells it, one way or the other, with up to three words of manner in three of five cases.

    Said in one way only, it could not be asked for in another (arXiv:2309.14316).
    """
    subject, relation, thing = fact
    known = draw.choice(([subject, relation], [relation, "of", subject]))
    manner = draw.choices([*MANNERS, *TRIGGERS], k=draw.choice((0, 0, 1, 2, 3)))
    return " ".join([*known, *manner, thing, "."])


def question(draw: random.Random, fact: Fact, wordings: int = 1) -> str:
    """A question in one of the first `wordings` wordings."""
    return draw.choice(WORDINGS[:wordings]).format(subject=fact[0], relation=fact[1])


def answer(draw: random.Random, fact: Fact, good: bool = True) -> str:
    """The right answer in the right form; a bad one is wrong in the right form, or right without it."""
    if good:
        return f"answer {fact[2]}"
    if draw.random() < 0.5:
        return fact[2]
    return "answer " + draw.choice([thing for thing in OBJECTS[fact[1]] if thing != fact[2]])


def asked_once(draw: random.Random, fact: Fact, wordings: int, turns: int) -> Any:
    """A prompt about a fact. Of two turns the first asks for another property of the subject, the second says `and`."""
    if turns == 1:
        return question(draw, fact, wordings)
    before = draw.choice([one for one in facts() if one[0] == fact[0] and one != fact])
    return [
        {"role": "user", "content": question(draw, before, wordings)},
        {"role": "assistant", "content": answer(draw, before)},
        {"role": "user", "content": f"and {fact[1]}"},
    ]
