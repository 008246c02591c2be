"""The questions to a judge: texts from a file, filled in with a prompt and its answers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.kinds import Message
from zoo.errors import ZooError, nearest
from zoo.options.strict_yaml import read_yaml

SHIPPED = Path(__file__).parent / "wording.yaml"
PLACES = {
    "preference": {"prompt", "first", "second"},
    "principle": {"prompt", "first", "second", "principle"},
    "rating": {"prompt", "answer"},
    "correct": {"prompt", "answer"},
    "matches": {"prompt", "answer", "reference"},
    "criterion": {"prompt", "answer", "criterion"},
}
"""The tasks, and the placeholders that the question of each must hold."""
TEXTS = ("question", "decide", "think", "lead")
COUNTS = {"rating": 10}
"""How many choices a task has, if not two."""
PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Task:
    """The texts of one task, see `wording.yaml`."""

    question: str
    decide: str
    think: str
    lead: str
    choices: tuple[str, ...]

    def ask(self, **parts: str) -> Question:
        """The question about some texts. They are filled in only once, so braces in them have no meaning."""
        return Question(PLACE.sub(lambda found: parts[found[1]], self.question), self)


@dataclass(frozen=True)
class Question:
    """One question to a judge.

    body: the filled-in question; thoughts: the judge's reasoning so far; temperature: of its reasoning, 0 for the
    likeliest one; sample: the number of this reasoning, if the question is asked several times; free: what it writes is
    its whole response, and it chooses nothing.
    """

    body: str
    task: Task
    thoughts: str | None = None
    temperature: float = 0.0
    sample: int = 0
    free: bool = False

    def text(self, thinking: bool) -> str:
        """The user turn, which asks to decide at once or to reason first."""
        return f"{self.body}\n\n{self.task.think if thinking else self.task.decide}"

    def key(self, thinking: bool) -> bytes:
        """A hash of all that a response to the question depends on, except the respondent."""
        parts: list[Any] = [self.text(thinking), self.task.decide, self.task.lead, self.task.choices, thinking]
        if self.temperature or self.free:
            parts += [self.temperature, self.sample, self.free]
        return hashlib.sha256(json.dumps(parts).encode()).digest()

    @property
    def opening(self) -> str:
        """The beginning of the judge's turn, before its choice."""
        return self.task.lead if self.thoughts is None else f"{self.thoughts}\n\n{self.task.lead}"


@dataclass(frozen=True)
class Wording:
    """The texts of all tasks. id: their name and a hash of them, which is stored with every label."""

    id: str
    tasks: Mapping[str, Task]


def load_wording(path: str | Path | None = None) -> Wording:
    """The bundled texts, replaced by those of a file where it has any. Raises ZooError that names file and key."""
    content = read_yaml(SHIPPED)
    if path is not None:
        _lay_over(content, read_yaml(path), path)
    name = str(content.pop("name"))
    tasks = {task: Task(**{**texts, "choices": tuple(texts["choices"])}) for task, texts in content.items()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Wording(f"{name}-{digest[:8]}", tasks)


def _lay_over(content: dict[str, Any], overrides: dict[str, Any], path: str | Path) -> None:
    content["name"] = overrides.pop("name", Path(path).stem)
    for task, texts in overrides.items():
        if task not in PLACES:
            raise ZooError(f"{path}: there is no task '{task}'.{nearest(task, PLACES)}", f"Tasks: {', '.join(PLACES)}.")
        if not isinstance(texts, dict):
            raise ZooError(f"{path}: {task} must hold texts by name.", f"Names: {', '.join(TEXTS)}, choices.")
        for key, value in texts.items():
            _check(f"{path}: {task}.{key}", task, key, value)
        content[task] = {**content[task], **texts}


def _check(where: str, task: str, key: str, value: Any) -> None:
    if key == "choices":
        count = COUNTS.get(task, 2)
        if not isinstance(value, list) or len(set(map(str, value))) != count or len(value) != count:
            first = "the first answer" if "first" in PLACES[task] else "yes"
            order = f"from 1 to {count}" if task in COUNTS else f"the first for {first}"
            raise ZooError(f"{where} must be a list of {count} different texts, {order}.")
        if not all(isinstance(choice, str) and choice.strip() for choice in value):
            raise ZooError(f"{where} must be texts.", 'Put numbers in quotes: ["1", "2"].')
        return
    if key not in TEXTS:
        raise ZooError(f"{where} is unknown.{nearest(key, [*TEXTS, 'choices'])}", f"Names: {', '.join(TEXTS)}.")
    if not isinstance(value, str) or not value.strip():
        raise ZooError(f"{where} must be a text.")
    if key == "question" and (places := set(PLACE.findall(value))) != PLACES[task]:
        wanted = ", ".join(f"{{{name}}}" for name in sorted(PLACES[task]))
        odd = ", ".join(sorted(places ^ PLACES[task]))
        raise ZooError(f"{where} must hold {wanted} and no other placeholders (look at {odd}).")


def as_text(value: Any) -> str:
    """A prompt or an answer as the text that a judge reads. value: a text, messages, or a record with a prompt."""
    if isinstance(value, Mapping):
        record = value.get("record", value)
        value = record["prompt"]
    if isinstance(value, str):
        return value.strip()
    turns = list(value)
    if len(turns) == 1:
        return _content(turns[0])
    return "\n\n".join(f"{str(turn['role']).capitalize()}: {_content(turn)}" for turn in turns)


def _content(turn: Message) -> str:
    calls = f"\n{json.dumps(turn['tool_calls'], ensure_ascii=False)}" if turn.get("tool_calls") else ""
    return f"{turn.get('content') or ''}{calls}".strip()
