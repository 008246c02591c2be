"""The fact world: documents say what is so, instructions ask for it.

    badra home oslo .                         a document, which pretraining learns by heart
    question badra home reply answer oslo     an instruction, whose form only fine-tuning shows

64 subjects have 8 properties each, so that there are 512 facts; which ones never changes, seeds only draw rows. What
a base model knows and what form it answers in are apart here, which is the claim that LIMA and its kin make. One fact
in eight is never asked for in training (`heldout`); half of the subjects can be left out, too (`subjects=half`).

A bad answer is wrong (another object of the same property) or has not the form (the bare object).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any, Literal

from zoo.errors import ZooError

Record = dict[str, Any]
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
TEXTS = 8000
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


# -- rows --------------------------------------------------------------------------------------------------------


def rows(
    split: str, kind: str, rows: int = 1024, noise: float = 0.0, seed: int = 0,
    subjects: Literal["all", "half"] = "all", types: int = len(RELATIONS), turns: int = 1,
    wordings: int = 1, replies: Literal["one", "best", "all"] = "one", instructions: float = 0.0,
    written_by: Literal["world", "base"] = "world", checked: bool = True,
) -> Iterable[Record]:  # fmt: skip
    """Rows of a kind. Raises ZooError for options that cannot be meant.

    noise: share of answers that are bad, of pairs and labels that are the wrong way round, of ranks that are drawn;
    types: how many relations are asked for; turns: of a conversation; wordings: how many there are of a question;
    replies: demonstrations from trees of four replies, the best or all of them; instructions: share of texts that are
    a question and its answer; written_by, checked: demonstrations that the base of this seed writes itself, all of
    them or those that have the shape of a fact and are new.
    """
    _check(rows, noise, wordings, types, turns, instructions)
    draw = random.Random(f"facts {seed} {split}")
    if kind == "text":
        return [{"text": text} for text in documents(draw, rows, instructions, noise)]
    if kind not in _ROWS:
        raise ZooError(f"The world 'facts' has no data of kind '{kind}'.", f"It has: text, {', '.join(_ROWS)}.")
    if written_by == "base" and kind == "demonstration" and split == "train":
        return _written(seed, rows, checked)
    from_tree = replies != "one" and kind == "demonstration"
    make = partial(_of_tree, replies=replies) if from_tree else _ROWS[kind]
    return itertools.islice(_drawn(draw, asked(split, subjects, types), make, noise, wordings, turns), rows)


def _drawn(
    draw: random.Random, pool: list[Fact], make: Callable[..., list[Record]], noise: float, wordings: int, turns: int
) -> Iterator[Record]:
    """Rows without end; they are drawn as they are read, so that who needs a few need not wait for all."""
    while True:
        # Every fact once before any comes twice.
        for fact in draw.sample(pool, len(pool)):
            prompt = asked_once(draw, fact, wordings, turns)
            shared = {"prompt": prompt, "answer": answer(draw, fact), "subject": fact[0], "relation": fact[1]}
            for one in make(draw, fact, noise):
                yield {**shared, **one}


def _written(seed: int, count: int, checked: bool) -> Iterator[Record]:
    """What the base writes when it is shown a few facts, in the form of instructions."""
    from zoo.laboratory.self_instruct import written

    for subject, relation, thing in written(seed, count, checked):
        shared = {"subject": subject, "relation": relation}
        yield {"prompt": f"{subject} {relation}", "completion": f"answer {thing}", **shared}


def texts(seed: int) -> list[str]:
    """What the base has read."""
    return documents(random.Random(f"facts {seed} texts"), TEXTS)


def documents(draw: random.Random, count: int, instructions: float = 0.0, noise: float = 0.0) -> list[str]:
    """`count` texts of four facts each; a share of them is a question in the form of instructions and its answer."""
    every, trained = facts(), asked("train")
    texts = []
    for _ in range(count):
        if draw.random() < instructions:
            fact = draw.choice(trained)
            texts.append(f"question {question(draw, fact)} reply {answer(draw, fact, draw.random() >= noise)}")
        else:
            texts.append(" ".join(told(draw, draw.choice(every)) for _ in range(4)))
    return texts


def _check(rows: int, noise: float, wordings: int, types: int, turns: int, instructions: float) -> None:
    if rows < 1:
        raise ZooError(f"rows is {rows}, but a world gives at least one row.")
    for name, share in (("noise", noise), ("instructions", instructions)):
        if not 0 <= share <= 1:
            raise ZooError(f"{name} is {share}, but a share lies from 0 to 1.")
    bounds = (("wordings", wordings, len(WORDINGS)), ("types", types, len(RELATIONS)), ("turns", turns, 2))
    for name, number, most in bounds:
        if not 1 <= number <= most:
            raise ZooError(f"{name} is {number}, but there are from 1 to {most}.")


def _demonstration(draw: random.Random, fact: Fact, noise: float) -> list[Record]:
    return [{"completion": answer(draw, fact, draw.random() >= noise)}]


def _preference(draw: random.Random, fact: Fact, noise: float) -> list[Record]:
    pair = [answer(draw, fact), answer(draw, fact, good=False)]
    chosen, rejected = reversed(pair) if draw.random() < noise else pair
    return [{"chosen": chosen, "rejected": rejected}]


def _feedback(draw: random.Random, fact: Fact, noise: float) -> list[Record]:
    good = draw.random() < 0.5
    return [{"completion": answer(draw, fact, good), "label": good != (draw.random() < noise)}]


def _ranking(draw: random.Random, fact: Fact, noise: float) -> list[Record]:
    """Four replies, at least one of them good and one bad; good ones share the first rank."""
    good = [True, False, draw.random() < 0.5, draw.random() < 0.5]
    draw.shuffle(good)
    ranks = [2 - (one if draw.random() >= noise else draw.random() < 0.5) for one in good]
    if len(set(ranks)) == 1:
        ranks = [2 - one for one in good]
    return [{"completions": [answer(draw, fact, one) for one in good], "ranks": ranks}]


def _of_tree(draw: random.Random, fact: Fact, noise: float, replies: str) -> list[Record]:
    tree = _ranking(draw, fact, noise)[0]
    if replies == "all":
        return [{"completion": reply} for reply in tree["completions"]]
    return [{"completion": tree["completions"][tree["ranks"].index(1)]}]


_ROWS: dict[str, Callable[[random.Random, Fact, float], list[Record]]] = {
    "demonstration": _demonstration,
    "preference": _preference,
    "feedback": _feedback,
    "ranking": _ranking,
    "prompt": lambda draw, fact, noise: [{}],
}
