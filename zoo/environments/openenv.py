"""An environment behind an OpenEnv server.

    zoo train --algo NAME --environment "openenv(url=http://127.0.0.1:8000)"

If its action is one text, an answer of the policy is that text. Other actions are written as JSON. The tools of an MCP
environment are the policy's tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zoo.environments import Environment, Message, Turn
from zoo.environments.adaptors import last_json, opening, said, settings, shown
from zoo.http import Server
from zoo.libraries.extras import needs

REFUSED = ("VALIDATION_ERROR", "EXECUTION_ERROR", "INVALID_JSON")
"""What the server says if it is the action that is wrong."""


class OpenEnv(Environment):
    """A session with an OpenEnv server. Each episode has one of its own."""

    data = "episodes"

    @classmethod
    def prepare(cls) -> None:
        needs("openenv", "openenv", "The environment openenv")
        import openenv.core.generic_client  # noqa: F401

    def __init__(self, url: str, options: str = ""):
        """url: of the server; options: for the server's reset, beside the seed."""
        self.prepare()
        from openenv.core.generic_client import GenericEnvClient

        server = Server(url)
        self.schema = dict(server.get("/schema")["action"])
        self.options = settings(options)
        self.client = GenericEnvClient(base_url=server.url).sync()
        fields = self.schema.get("properties", {})
        self.calls = "tool_name" in fields or "list_tools" in str(self.schema)
        own = {name: field for name, field in fields.items() if name != "metadata"}
        self.text = next(iter(own)) if len(own) == 1 and next(iter(own.values())).get("type") == "string" else ""
        if self.calls:
            with self.client:
                self.client.reset()
                self.tools = [_schema(tool) for tool in self._listed()]  # type: ignore[misc]

    def begin(self, record: Mapping[str, Any], seed: int) -> list[Message]:
        self.client.connect()
        result = self.client.reset(seed=seed % 2**31, **self.options)
        return opening("\n\n".join(filter(None, (self._asked(), _told(result.observation)))))

    def step(self, message: Message) -> Turn:
        if not self.calls:
            return self._acted(message)
        asked = message.get("tool_calls") or ()
        if not asked:
            return Turn(done=True)
        told, rewards, done = [], [], False
        for call in asked:
            content, reward, ends = self._answered(call)
            told.append({"role": "tool", "name": call["function"].get("name", ""), "content": content})
            rewards += [reward] if reward is not None else []
            done = done or ends
        return Turn(told, done, sum(rewards) if rewards else None)

    def cut(self, message: Message) -> float:
        # The turns before have their rewards.
        return 0.0

    def close(self) -> None:
        self.client.close()

    def _asked(self) -> str:
        if self.calls or self.text:
            return ""
        return f"Write your action as JSON: {json.dumps(self.schema.get('properties', {}))}"

    def _acted(self, message: Message) -> Turn:
        written = str(message.get("content") or "")
        action = {self.text: written} if self.text else last_json(written)
        if not isinstance(action, dict):
            return Turn(said(f"Error: the answer holds no JSON object. {self._asked()}"))
        try:
            result = self.client.step(action)
        except RuntimeError as error:
            return Turn(said(_refusal(error)))
        return Turn(said(_told(result.observation)), bool(result.done), _number(result.reward))

    def _answered(self, call: Mapping[str, Any]) -> tuple[str, float | None, bool]:
        """What a tool says, its reward, and whether the episode ends."""
        if reason := call.get("error"):
            return f"Error: {reason}", None, False
        function = call["function"]
        asked = {"type": "call_tool", "tool_name": function["name"], "arguments": function["arguments"]}
        try:
            result = self.client.step(asked)
        except RuntimeError as error:
            return _refusal(error), None, False
        observation = result.observation
        if wrong := observation.get("error"):
            return f"Error: {wrong.get('message', wrong)}", _number(result.reward), bool(result.done)
        return _content(observation.get("result")), _number(result.reward), bool(result.done)

    def _listed(self) -> list[Mapping[str, Any]]:
        return list(self.client.step({"type": "list_tools"}).observation["tools"])


def _refusal(error: RuntimeError) -> str:
    """What is told to the policy, if it is the action that is wrong. Raises the error if it is not."""
    if not any(f"code: {code})" in str(error) for code in REFUSED):
        raise error
    return f"Error: {str(error).removeprefix('Server error: ')}"


def _content(result: Any) -> str:
    """The text in the result of a tool, as MCP wraps it."""
    if isinstance(result, Mapping):
        if "data" in result and result["data"] is not None:
            return shown(result["data"])
        parts = [part.get("text", "") for part in result.get("content") or () if isinstance(part, Mapping)]
        if parts:
            return "\n".join(parts)
    return shown(result)


def _told(observation: Mapping[str, Any]) -> str:
    """An observation without what the server keeps for itself."""
    return shown({name: value for name, value in observation.items() if name not in ("metadata", "done", "reward")})


def _number(reward: Any) -> float | None:
    return None if reward is None else float(reward)


def _schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool of MCP as chat templates take it."""
    about = {
        "name": tool["name"],
        "description": tool.get("description", ""),
        "parameters": tool.get("input_schema") or {},
    }
    return {"type": "function", "function": about}
