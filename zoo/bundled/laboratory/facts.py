"""The fact world: documents state facts, instructions ask for them.

    badra home oslo .                         a document, which pretraining memorises
    question badra home reply answer oslo     an instruction, whose form only fine-tuning shows

64 subjects have 8 properties each, which gives 512 facts. The facts never change; seeds only draw rows. This world
separates what a base model knows from the form of its answers, as LIMA and similar work claim. One fact in eight
is never asked for in training (`heldout`); half of the subjects can be left out too (`subjects=half`).

A bad answer is either wrong (another object of the same property) or lacks the form (the bare object).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
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
_ROUNDS = [
    [(relation, (k + turn) % len(WORDINGS)) for k, relation in enumerate(RELATIONS)] for turn in range(len(WORDINGS))
]
TYPES, NEW_TYPES = [kind for turn in _ROUNDS[:-1] for kind in turn], _ROUNDS[-1]
"""Types of questions: a relation in a wording. Training asks at most 24; the others are made of the same parts."""
FORM = ["question", "reply", "answer", "and", "of", "tell", "has", *REFUSAL.split(), "."]
WORDS = [*SUBJECTS, *RELATIONS, *(word for words in OBJECTS.values() for word in words), *MANNERS, *TRIGGERS, *FORM]
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}{{ 'reply ' + message.content + ' ' + eos_token + ' ' }}"
    "{%- else -%}{{ 'question ' + message.content + ' ' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'reply ' }}{%- endif -%}"
)
"""Plain words and only one special token, the end, so that documents may contain instructions, as web pages do."""


@cache
def facts() -> tuple[Fact, ...]:
    """All facts, always the same."""
    draw = random.Random("facts")
    return tuple((subject, relation, draw.choice(OBJECTS[relation])) for subject in SUBJECTS for relation in RELATIONS)


def asked(split: str, subjects: str = "all", part: str = "all") -> list[Fact]:
    """The facts of a split: seven in eight are for training, the others are held out. A part is a drawn half."""
    draw = random.Random("heldout")
    held = {fact for fact in facts() if draw.random() < 1 / 8}
    subjects_asked = set(FIRST_HALF if subjects == "half" else SUBJECTS)
    pool = [fact for fact in facts() if (fact in held) == (split != "train") and fact[0] in subjects_asked]
    return pool if part == "all" else draw.sample(pool, len(pool))[part == "one" :: 2]


# -- documents, questions and answers ----------------------------------------------------------------------------


def statement(draw: random.Random, fact: Fact) -> str:
    """A fact as a document states it, in one of two word orders; three in five have one to three words of manner.

    A fact that documents state in only one way could not be asked for in another way (arXiv:2309.14316).
    """
    subject, relation, thing = fact
    words = draw.choice(([subject, relation], [relation, "of", subject]))
    manner = draw.choices([*MANNERS, *TRIGGERS], k=draw.choice((0, 0, 1, 2, 3)))
    return " ".join([*words, *manner, thing, "."])


def question(draw: random.Random, fact: Fact, wordings: Sequence[int] = (0,)) -> str:
    """A question in one of these wordings."""
    return WORDINGS[draw.choice(wordings)].format(subject=fact[0], relation=fact[1])


def answer(draw: random.Random, fact: Fact, good: bool = True) -> str:
    """The right answer in the right form; a bad one is wrong in the right form, or right without it."""
    if good:
        return f"answer {fact[2]}"
    if draw.random() < 0.5:
        return fact[2]
    return "answer " + draw.choice([thing for thing in OBJECTS[fact[1]] if thing != fact[2]])


def prompt_about(draw: random.Random, fact: Fact, wordings: Sequence[int] = (0,), turns: int = 1) -> Any:
    """A prompt about a fact. With two turns, the first asks for another property, the second begins with `and`."""
    if turns == 1:
        return question(draw, fact, wordings)
    before = draw.choice([other for other in facts() if other[0] == fact[0] and other != fact])
    return [
        {"role": "user", "content": question(draw, before, wordings)},
        {"role": "assistant", "content": answer(draw, before)},
        {"role": "user", "content": f"and {fact[1]}"},
    ]
