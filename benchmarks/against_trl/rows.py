"""Rows for the comparison: English-looking nonsense of given lengths, the same on every machine.

Chosen and rejected answers draw on different words, so that a few steps of DPO move the loss and the two programs
can be seen to learn the same.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def _words(text: str) -> list[str]:
    return text.split()


COMMON = _words("""
the a an and of to in on with for from by at over under near after before between through without about some every
old new small large quiet early late warm cold dark bright simple narrow open second first last other same own
""")
PLAIN = _words("""
river road house garden letter window table paper morning evening winter summer market school teacher farmer child
people city town village hill field bread water stone wood glass light sound story question answer number reason
reads walks opens carries finds keeps makes shows leaves brings writes holds follows learns asks gives sees builds
""")
ODD = _words("""
engine signal cable bridge tower rocket metal copper circuit battery pressure vector column matrix kernel buffer
packet server client driver module target budget profit market stock credit bank lawyer contract office manager
burns spins drops breaks shifts sends blocks counts sells trades signs drives prints loads locks scans pulls cuts
""")


@dataclass(frozen=True)
class Scenario:
    """What is trained: lengths are in words, about as many tokens."""

    name: str
    title: str
    algo: str
    batch_size: int
    prompt: tuple[int, int]
    answer: tuple[int, int]
    same_rows_every_step: bool = False

    def rows_needed(self, steps: int) -> int:
        return self.batch_size * (1 if self.same_rows_every_step else steps)


SCENARIOS = (
    Scenario("dpo-mixed", "DPO, prompts of 20-200 tokens, answers of 20-200", "dpo", 4, (18, 178), (18, 178)),
    Scenario("dpo-long", "DPO, prompts of about 500 tokens, answers of about 30", "dpo", 4, (430, 470), (22, 32)),
    # TRL packs a whole data set at once. With the same rows in every step both programs learn the same in each.
    Scenario("sft-packing", "SFT, texts of 30-300 tokens, packed", "sft", 16, (9, 89), (18, 178), True),
    Scenario("kto-mixed", "KTO, prompts of 20-200 tokens, answers of 20-200", "kto", 8, (18, 178), (18, 178)),
    Scenario("orpo-mixed", "ORPO, prompts of 20-200 tokens, answers of 20-200", "orpo", 4, (18, 178), (18, 178)),
    Scenario("rm-mixed", "Reward model, prompts of 20-200 tokens, answers of 20-200", "rm", 4, (18, 178), (18, 178)),
)
PAIRED = ("dpo", "orpo", "rm")


def make_rows(scenario: Scenario, steps: int) -> list[dict[str, Any]]:
    """The rows of one scenario, in the columns prompt, chosen, rejected or prompt, completion (and label)."""
    source = random.Random(scenario.name)
    rows = []
    for number in range(scenario.rows_needed(steps)):
        # The line break keeps the last word of the prompt and the first of the answer apart for any tokenizer.
        row = {"prompt": _text(source, PLAIN + ODD, source.randint(*scenario.prompt)) + "\n"}
        if scenario.algo in PAIRED:
            row["chosen"] = _text(source, PLAIN, source.randint(*scenario.answer))
            row["rejected"] = _text(source, ODD, source.randint(*scenario.answer))
        elif scenario.algo == "kto":
            row["label"] = number % 2 == 0
            row["completion"] = _text(source, PLAIN if row["label"] else ODD, source.randint(*scenario.answer))
        else:
            row["completion"] = _text(source, PLAIN, source.randint(*scenario.answer))
        rows.append(row)
    return rows


def write_rows(rows: list[dict[str, Any]], file: Path) -> None:
    """One JSON object a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _text(source: random.Random, words: list[str], length: int) -> str:
    """Sentences of 6 to 14 words; every other word is a common one."""
    sentences = []
    while length > 0:
        size = min(length, source.randint(6, 14))
        sentence = [source.choice(words if i % 2 else COMMON) for i in range(size)]
        sentences.append(" ".join(sentence).capitalize() + ".")
        length -= size
    return " ".join(sentences)
