"""The options of the rewards that ask a judge, `judge(…)` and `rubric(…)`, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

from zoo.errors import ZooError, nearest
from zoo.judges.asking import GRADES, Asking
from zoo.judges.pattern import Pattern
from zoo.judges.spelled import SELF, check_judge, is_endpoint
from zoo.judges.wording import load_wording
from zoo.models.default import NAME
from zoo.options.expression import Expression, Mention
from zoo.rewards.functions import Parameter, typed_options
from zoo.rewards.rubric import is_file, load_rubric

TASKS = {"grade": "rating", "correct": "correct", "matches": "matches"}
"""What `judge(ask=…)` takes, and the task of each in the wording."""
VOTES = 5
"""Samples of a server that gives no log-probabilities, unless `votes` says otherwise."""
THOUGHT = 256


@dataclass(frozen=True)
class JudgedOptions:
    """What both rewards take. model: the judge, as in --judge (not self: a reward does not know the policy)."""

    model: str = NAME
    wording: str = ""
    chain_of_thought: bool = False
    votes: int | None = None
    temperature: float | None = None
    pattern: str = ""
    max_thought_tokens: int | None = None

    task: ClassVar[str]

    @property
    def asking(self) -> Asking:
        thinks = self.chain_of_thought or bool(self.pattern)
        votes, temperature = (self.votes or 1) if thinks else 1, 1.0 if self.temperature is None else self.temperature
        return Asking(self.chain_of_thought, votes, temperature, self.pattern)

    @property
    def of_judge(self) -> dict[str, Any]:
        """The arguments of `make_judge`. With several votes on one reasoning each, a choice is sampled once."""
        votes = VOTES if self.votes is None else 1 if self.asking.thinking else self.votes
        thought = THOUGHT if self.max_thought_tokens is None else self.max_thought_tokens
        return {"wording": self.wording or None, "votes": votes, "longest_thought": thought}

    def check(self, out: str) -> None:
        """Raises ZooError for options that cannot be, and for a judge or a file that does not exist."""
        Pattern(self.pattern)
        for name in ("votes", "max_thought_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ZooError(f"{name} must be at least 1")
        if self.temperature is not None and not self.temperature > 0:
            raise ZooError("temperature must be above 0")
        thinking, several = self.asking.thinking, (self.votes or 1) > 1
        self._only_with(thinking, "max_thought_tokens", "chain_of_thought=yes or pattern=…")
        self._only_with(several and thinking, "temperature", "votes=… and chain_of_thought=yes or pattern=…")
        self._only_with(
            thinking or is_endpoint(self.model), "votes",
            "chain_of_thought=yes or pattern=…: at once, a model in this process always chooses the same",
        )  # fmt: skip
        if self.wording:
            load_wording(self.wording)
        if self.model == SELF:
            raise ZooError("a reward knows no policy that could be its own judge", f"Name the judge: model={NAME}.")
        check_judge(self.model, out)

    def _only_with(self, condition: bool, name: str, other: str) -> None:
        if getattr(self, name) is not None and not condition:
            raise ZooError(f"{name} works only with {other}")


@dataclass(frozen=True)
class JudgeOptions(JudgedOptions):
    """ask: what the judge is asked, a key of TASKS; low, high: of the grades that the pattern finds."""

    ask: str = "grade"
    low: float | None = None
    high: float | None = None

    @property
    def task(self) -> str:  # type: ignore[override]
        return TASKS[self.ask]

    @property
    def asking(self) -> Asking:
        low, high = (default if value is None else value
                     for value, default in zip((self.low, self.high), GRADES, strict=True))  # fmt: skip
        return Asking(**{**vars(super().asking), "low": low, "high": high})

    def check(self, out: str) -> None:
        if self.ask not in TASKS:
            raise ZooError(
                f"ask cannot be '{self.ask}'", f"{nearest(self.ask, TASKS)} It is one of {', '.join(TASKS)}.".strip()
            )
        if not self.asking.low < self.asking.high:
            raise ZooError("low must be below high")
        super().check(out)
        for name in ("low", "high"):
            self._only_with(self.ask == "grade" and bool(self.pattern), name, "ask=grade and pattern=…")


@dataclass(frozen=True)
class RubricOptions(JudgedOptions):
    """criteria: a YAML file, or the column of the rows; binary: a criterion holds or not; clip: the score to 0 … 1."""

    criteria: str = ""
    binary: bool = False
    clip: bool = False

    task = "criterion"

    def check(self, out: str) -> None:
        super().check(out)
        if is_file(self.criteria):
            load_rubric(self.criteria)


JUDGED: Mapping[str, type[JudgedOptions]] = {"judge": JudgeOptions, "rubric": RubricOptions}
"""The rewards that ask a judge."""


def judged_options(mention: Mention, expression: Expression) -> JudgedOptions:
    """The options of a mention of such a reward in their types. Raises ZooError that points at the mention."""
    kind = JUDGED[mention.name]
    accepted = {of.name: Parameter(of.name, str(of.type), of.default is MISSING) for of in fields(kind)}
    return kind(**typed_options(mention, accepted, expression, {}))
