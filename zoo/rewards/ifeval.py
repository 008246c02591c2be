"""Verifiable instructions as the benchmark IFEval has them (arXiv:2311.07911): the checkers of its authors.

A row has the columns of google/IFEval: `instruction_id_list`, names such as "punctuation:no_comma", and `kwargs`, an
object with options for each of them. The checkers are Google's, as the library lm-eval ships them: it is kept up, and
an extra of zoo in any case. Packages that hold the checkers alone have one author and few users.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from zoo.errors import ZooError, nearest
from zoo.libraries.extras import needs
from zoo.rewards.missing import Missing

PUNKT = "tokenizers/punkt_tab"
"""NLTK's data for cutting a text into sentences, which two of the checkers read."""
Level = Literal["instructions", "prompt"]
LETTER = re.compile("[A-Za-z]")
FORM = 'the row has not the form "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]'


def ifeval(
    completions: Sequence[str], records: Sequence[Mapping[str, Any]], level: Level = "instructions", loose: bool = False
) -> list[float | Missing]:
    """Share of the record's instructions that each answer follows, or whether it follows all (level=prompt).

    loose: an instruction is followed too if it is without the answer's first or last line, or without its asterisks.
    Raises ZooError for a missing package or missing data of NLTK.
    """
    ready()
    scores: list[float | Missing] = []
    for text, record in zip(completions, records, strict=True):
        verdicts = followed(text, record)
        if isinstance(verdicts, Missing):
            scores.append(verdicts)
            continue
        own = verdicts["loose" if loose else "strict"]
        scores.append(float(all(own)) if level == "prompt" else sum(own) / len(own))
    return scores


def ready() -> None:
    """Raises ZooError unless the checkers can run."""
    needs("lm_eval", "ifeval", "ifeval")
    for module in ("langdetect", "immutabledict", "nltk"):
        needs(module, "ifeval", "ifeval")
    import langdetect
    import nltk

    # It guesses the language of a short text by chance otherwise.
    langdetect.DetectorFactory.seed = 0
    try:
        nltk.data.find(PUNKT)
    except LookupError:
        # Importing the checkers would download it.
        raise ZooError(
            "ifeval needs NLTK's data punkt_tab, which cuts texts into sentences.",
            "Type: python -m nltk.downloader punkt_tab",
        ) from None


def library() -> tuple[dict[str, Any], Any]:
    """The checkers by the names of their instructions, and lm-eval's function that runs them; seconds of imports."""
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT
    from lm_eval.tasks.ifeval.utils import process_results

    return INSTRUCTION_DICT, process_results


def prepare() -> None:
    """Imports everything, in the process of the reward, before the time of its first answers counts."""
    ready()
    library()


ifeval.prepare = prepare  # type: ignore[attr-defined]


def followed(text: str, record: Mapping[str, Any]) -> dict[str, list[bool]] | Missing:
    """For each instruction of a record whether the text follows it, strictly and loosely."""
    checkers, process_results = library()
    names, options = record.get("instruction_id_list"), record.get("kwargs")
    if not isinstance(names, list) or not isinstance(options, list) or not names or len(names) != len(options):
        return Missing(FORM)
    options = [dict(given or {}) for given in options]
    for name, given in zip(names, options, strict=True):
        if name not in checkers:
            return Missing(f"IFEval has no instruction '{name}'.{nearest(str(name), checkers)}")
        # The checkers draw by lot what the row does not say.
        if lacking := [key for key in checkers[name](name).get_instruction_args_keys() if not given.get(key)]:
            return Missing(f"the row's kwargs for {name} lack {' and '.join(lacking)}")
        if not LETTER.fullmatch(str(given.get("letter", "a"))):
            return Missing(f"the checker of {name} counts letters only, not {given['letter']!r}")
    row = {"key": 0, "prompt": record.get("prompt"), "instruction_id_list": names, "kwargs": options}
    found = process_results(row, [text])
    return {how: [bool(verdict) for verdict in found[f"inst_level_{how}_acc"]] for how in ("strict", "loose")}
