"""The options of a labelling: flags of `zoo label`, keys of a recipe's `label` stage. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from zoo.judges.spelled import SELF
from zoo.options.fields import require
from zoo.options.roles import ONE, ROLES


@dataclass
class _Main:
    """Options."""

    data: str
    """A file, folder, hub data set, or named source."""
    judge: str = SELF
    """self (the model), a model, folder or run, or https://host/v1#model."""
    reward: str | None = None
    """Instead of a judge: a reward such as runs/rm; of two answers the one with more is chosen."""
    model: str = "smollm2-135m"
    """The model that answers prompts, and the judge if --judge is self."""
    teacher: str | None = None
    """Instead of a judge: write this model's log-probs beside demonstrations, to distil from."""
    top_k: int = 64
    """The teacher's likeliest words at each token that are written."""


@dataclass
class _Questions:
    """Asking the judge."""

    constitution: str | None = None
    """Compare by principles, one drawn per pair: default, or a file."""
    chain_of_thought: bool = False
    """Let the judge reason before it chooses."""
    clamp: str | None = None
    """Least and greatest label, such as 0.4,0.6."""
    wording: str | None = None
    """A file with the texts of the questions."""
    max_thought_tokens: int = 256
    """Longest reasoning, in tokens."""
    votes: int = 5
    """Samples per question from an endpoint without log-probs."""
    parallel: int = 4
    """Simultaneous requests to an endpoint."""


@dataclass
class _Drawing:
    """Sampling answers."""

    samples: int = 2
    """Answers sampled for a prompt without answers."""
    temperature: float = 1.0
    """Temperature of these samples."""
    max_new_tokens: int = 128
    """Longest sampled answer, in tokens."""
    keep_cut: bool = False
    """Keep a teacher's answers that max_new_tokens cut too; training takes them for finished."""
    template_args: dict[str, Any] | str | None = None
    """Variables of the model's chat template: enable_thinking=false."""
    seed: int = 0
    """Seed of answers and principles."""


@dataclass
class _Reading:
    """Reading the data."""

    kind: str | None = None
    """Read the data as preference, feedback or prompt, with a teacher as demonstration or prompt; default: its own."""
    split: str = "train"
    """Split of the data."""
    columns: str | None = None
    """Names of columns: prompt=question."""
    format: str | None = None
    """The format of the rows, if it cannot be detected."""
    limit: int | None = None
    """Read the first N rows only."""


@dataclass
class LabelOptions(_Reading, _Drawing, _Questions, _Main):
    """Labelling."""

    def __post_init__(self) -> None:
        least = 2 if self.teacher is None else 1
        require(self.samples >= least, "samples must be 2 or more: a pair has two answers")
        self._check_instead()
        for name in ("top_k", "max_thought_tokens", "votes", "parallel", "max_new_tokens", "limit"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be 1 or more")

    def _check_instead(self) -> None:
        """Raises ValueError for options of a judge beside a teacher or a reward, and of a teacher without one."""
        given = {option.name for option in fields(self) if getattr(self, option.name) != option.default}
        asked = {option.name for option in fields(_Questions)} | {"judge"}
        for name in given & (asked | {"model", "reward"} if self.teacher else {"top_k", "keep_cut"}):
            require(False, f"{name} has no effect {'beside' if self.teacher else 'without'} a teacher")
        for name in given & asked if self.reward is not None else ():
            require(False, f"{name} has no effect beside a reward")
        require(
            self.teacher is None or ONE in ROLES["teacher"].models(self.teacher),
            "teacher takes one name here: label the rows of each domain by themselves, each with its teacher, and "
            "train on all files, 'math.jsonl + code.jsonl'",
        )
