"""Environments: what answers the policy, so that a rollout is an episode of several turns.

    class Shop(Environment):
        def price(self, item: str) -> float:
            "The price of an item."
            return self.prices[item]

        tools = [price]

An object is one episode, with a state of its own. It lives in a process of its own, so that it can neither hang nor end
the run, nor another episode.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, ClassVar

__all__ = ["Environment", "Turn"]

Message = Mapping[str, Any]
"""As chat templates take it: `role`, `content`, and `tool_calls` where an assistant's turn calls some."""


@dataclass(frozen=True)
class Turn:
    """What an environment does after a turn of the policy.

    messages: what it says to the policy, usually of role `tool` or `user`; done: the episode ends here, so that the
    policy does not read them; reward: of this turn. The reward of an episode is the sum of those of its turns; it is
    missing if no turn has one.
    """

    messages: Sequence[Message] = ()
    done: bool = False
    reward: float | None = None


class Environment:
    """One episode. A subclass needs `tools` and `score`, or a `step` of its own; options are arguments of __init__.

    tools: functions of the class, whose signatures and docstrings become the schemas that the chat template shows, or
    schemas (JSON), if `step` is the class's own. data: the source of prompts for a run that names none;
    `{option}` in it stands for an option as it was written. An object may have `tools` of its own, which depend on its
    options.
    """

    tools: ClassVar[Sequence[Callable[..., Any] | Mapping[str, Any]]] = ()
    data: ClassVar[str] = ""

    @classmethod
    def prepare(cls) -> None:
        """Once, before any episode, in the process whose forks the episodes are: imports that take long."""

    def begin(self, record: Mapping[str, Any], seed: int) -> Sequence[Message] | None:
        """The episode begins; returns messages to add to the prompt, or None.

        record: of the prompt, with all its columns; seed: the same for all answers to a prompt in one iteration, which
        a group of answers needs in order to be compared.
        """
        return None

    def step(self, message: Message) -> Turn:
        """After a turn of the policy. By default it calls the tools that the turn asks for, and ends without any.

        message: role, content, and the calls as `tool_calls`: `[{"type": "function", "function": {"name": …,
        "arguments": {…}}}]`. A call that cannot be read has the reason as `error`.
        """
        calls = message.get("tool_calls") or ()
        if not calls:
            return Turn(done=True, reward=settled(self.score(message)))
        return Turn([{"role": "tool", **self._called(call)} for call in calls])

    def score(self, message: Message) -> float | None:
        """The reward of an episode that ends with this turn; None leaves it to `--reward`."""
        return None

    def cut(self, message: Message) -> float | None:
        """The reward of an episode that a limit ends: of tokens, within this turn, or of turns, after it."""
        return self.score(message)

    def close(self) -> None:
        """The episode has ended, in any way but the end of its process."""

    def _called(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """The name of a tool and its result as text. Whatever it raises is told to the policy."""
        from pydantic import ValidationError, validate_call

        name, named = call["function"].get("name", ""), {tool.__name__: tool for tool in self.tools if callable(tool)}
        if reason := call.get("error") or name not in named and f"there is no tool {name!r}, only {', '.join(named)}":
            return {"name": name, "content": f"Error: {reason}"}
        try:
            result = str(settled(validate_call(named[name])(self, **call["function"]["arguments"])))
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            result = f"Error: {'; '.join(faults)}"
        except Exception as error:
            result = f"Error: {error or type(error).__name__}"
        return {"name": name, "content": result}


def settled(value: Any) -> Any:
    """A value; of what is `async`, its result."""
    return _loop().run_until_complete(value) if inspect.isawaitable(value) else value


@functools.cache
def _loop() -> Any:
    """One for the whole episode: a client belongs to the loop that it was made in."""
    import asyncio

    return asyncio.new_event_loop()


def transcript(messages: Sequence[Message]) -> str:
    """The turns as text, each with its role and its calls."""
    return "\n".join(f"{message['role']}: {content_of(message)}" for message in messages)


def answer_in(sample: Mapping[str, Any]) -> str:
    """The answer of a line of samples.jsonl as it is shown: an episode with its turns apart."""
    return transcript(sample["messages"]) if sample.get("messages") else str(sample["answer"])


def content_of(message: Message) -> str:
    """What a turn says and calls."""
    calls = (json.dumps(call.get("function", call), ensure_ascii=False) for call in message.get("tool_calls") or ())
    return "\n".join(filter(None, (str(message.get("content") or ""), *calls)))


def schemas_of(environment: type[Environment] | Environment) -> list[dict[str, Any]]:
    """The tools as schemas that chat templates take."""
    return [dict(tool) if isinstance(tool, Mapping) else _schema(tool) for tool in environment.tools]


def _schema(function: Callable[..., Any]) -> dict[str, Any]:
    from pydantic import TypeAdapter

    bound: Any = MethodType(function, object())
    try:
        found = TypeAdapter(bound).json_schema()
    except Exception as error:
        # Pydantic's own message names neither the function nor what to write.
        why = f"the tool {function.__name__} cannot be told as a schema"
        raise TypeError(
            f"{why}: give each argument a name and a type that JSON has, and no *args or **kwargs"
        ) from error
    properties = found.get("properties", {})
    for parameter in properties.values():
        parameter.pop("title", None)
    parameters = {"type": "object", "properties": properties, "required": found.get("required", [])}
    about = {"name": function.__name__, "description": inspect.getdoc(function) or "", "parameters": parameters}
    return {"type": "function", "function": about}
