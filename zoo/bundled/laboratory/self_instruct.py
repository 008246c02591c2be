"""Instructions that the fact world's base model writes itself after a few examples, as in Self-Instruct.

It reads three of eight seed facts as a document and writes the next fact; the first two words become a question and the
last word becomes its answer. With `checked`, texts without the form of a fact are discarded, and so are questions that
occurred before: Self-Instruct compares instructions, not answers. What is true depends on what the base knows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from zoo.bundled.laboratory.facts import OBJECTS, SUBJECTS, asked

if TYPE_CHECKING:
    import torch

SEEDS, SHOWN = 8, 3
TEMPERATURE = 1.2
AT_ONCE = 256
ROUNDS = 40
LONGEST = 8

Pair = tuple[str, str, str]


def written(seed: int, count: int, checked: bool) -> Iterator[Pair]:
    """Up to `count` triples of subject, relation and object, the eight seed facts first. The base has the same seed.

    The base is asked for more only when the seeds have been read.
    """
    _, seeds = _begun(seed)
    yield from seeds[:count]
    yield from _written(seed, count, checked)[SEEDS:]


def _begun(seed: int) -> tuple[random.Random, list[Pair]]:
    """The seed facts, and the random generator that drew them."""
    draw = random.Random(f"self-instruct {seed}")
    return draw, draw.sample(asked("train"), SEEDS)


@cache
def _written(seed: int, count: int, checked: bool) -> tuple[Pair, ...]:
    import torch

    (draw, seeds), generator = _begun(seed), torch.Generator().manual_seed(seed)
    triples: list[Pair] = list(seeds)
    questions = {triple[:2] for triple in triples}
    write = _writer(seed)
    for _ in range(ROUNDS):
        prompts = [" ".join(f"{' '.join(example)} ." for example in draw.sample(seeds, SHOWN)) for _ in range(AT_ONCE)]
        for text in write(prompts, generator):
            triple = _read(text, checked)
            if triple is not None and not (checked and triple[:2] in questions):
                triples.append(triple)
                questions.add(triple[:2])
        if len(triples) >= count:
            break
    return tuple(triples[:count])


def _writer(seed: int) -> Callable[[list[str], torch.Generator], list[str]]:
    """A function that continues documents with the base of this seed."""
    import torch

    from zoo.data.encoding.tokens import TextTokenizer
    from zoo.models.loading import load_model, load_tokenizer
    from zoo.models.names import resolve_model
    from zoo.rollout.engine import InProcessEngine, Sampling

    source = resolve_model(f"world:facts(seed={seed})", print)
    tokenizer, model = load_tokenizer(source), load_model(source, torch.float32).eval()
    engine = InProcessEngine(model, eos_ids={tokenizer.eos_token_id}, pad_id=tokenizer.pad_token_id)

    def write(prompts: list[str], generator: torch.Generator) -> list[str]:
        ids = [torch.tensor(prompt) for prompt in TextTokenizer(tokenizer).ids(prompts)]
        answers = engine.generate(ids, 1, Sampling(LONGEST, TEMPERATURE), generator)
        return [tokenizer.decode(answer.completion, skip_special_tokens=True) for answer in answers]

    return write


def _read(text: str, checked: bool) -> Pair | None:
    """The first fact of a text; None if there is none, or (if checked) if it lacks the form of a fact."""
    words = text.split(" .")[0].split()
    if words[1:2] == ["of"]:
        words = [*words[2:3], words[0], *words[3:]]
    if len(words) < 3:
        return None
    subject, relation, thing = words[0], words[1], words[-1]
    if checked and not (subject in SUBJECTS and thing in OBJECTS.get(relation, ()) and " ." in text):
        return None
    return subject, relation, thing
