"""Environments of the library verifiers (0.4 and later): its tasks are the data, its scores the reward.

    zoo train --algo NAME --environment "verifiers(id=my-taskset, options=(level=2))"

verifiers plays the whole episode itself: its loop, its tools, its users, its stops and its scores. What it takes for
the model's server is a server in the process of the episode, which waits for the policy's next turn.
"""

from __future__ import annotations

import json
import queue
import threading
import uuid
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any

from zoo.environments import Environment, Message, Turn
from zoo.environments.adaptors import settings
from zoo.errors import NoSuchSplit, ZooError, nearest
from zoo.libraries.extras import needs

MOST_TASKS = 10_000
"""Of a taskset; some never end."""
HELD_OUT = 10
"""One task of so many is held out."""
SEAT = "zoo_seat"
"""The module by which verifiers finds the program that plays the policy's seat."""
KEY = "ZOO_NO_KEY"
OVER = "the episode is over"
"""What a request is told after a limit has cut the episode. The program then ends well, so that it is scored."""


class Verifiers(Environment):
    """An environment of verifiers. id: of an installed taskset; options: of its configuration."""

    data = "verifiers:{id}{options}"

    @classmethod
    def prepare(cls) -> None:
        needs("verifiers", "verifiers", "The environment verifiers")
        import mcp  # noqa: F401
        import verifiers.v1.harnesses.utils.mcp  # noqa: F401

    def __init__(self, id: str, options: str = ""):
        self.data = type(self).data.format(id=id, options=options)  # type: ignore[misc]
        self.environment = _environment(id, options)
        self.game: _Game | None = None

    @property
    def tools(self) -> Sequence[Mapping[str, Any]]:  # type: ignore[override]
        """The tools that the policy has in the first task, as schemas. They are known once that has begun."""
        if self.game is None and _has_tools(self.environment):
            game = _Game(self.environment, next(iter(self.environment.taskset)))
            try:
                return list(game.hear().get("tools") or ())
            finally:
                game.close()
        return []

    def begin(self, record: Mapping[str, Any], seed: int) -> list[Message]:
        number = record.get("task")
        if not isinstance(number, int):
            raise ValueError("the row is not from --data verifiers:ID: it has no task")
        task = next(islice(iter(self.environment.taskset), number, None))
        self.game = _Game(self.environment, task)
        asked = self.game.hear()
        if "messages" not in asked:
            raise RuntimeError(
                f"the episode ended before the policy's first turn: {asked['error'] or 'no reason given'}"
            )
        messages: list[Message] = [_message(message) for message in asked["messages"]]
        known = [{"role": turn["role"], "content": turn["content"]} for turn in record["prompt"]]
        return messages[len(known) :] if messages[: len(known)] == known else messages

    def step(self, message: Message) -> Turn:
        return self._turn(self._game().say(message))

    def cut(self, message: Message) -> float | None:
        return self._turn(self._game().cut(message)).reward

    def close(self) -> None:
        if self.game is not None:
            self.game.close()

    def _game(self) -> _Game:
        assert self.game is not None
        return self.game

    def _turn(self, asked: Mapping[str, Any]) -> Turn:
        if "messages" not in asked:
            if asked["error"]:
                raise RuntimeError(asked["error"])
            return Turn(done=True, reward=asked["reward"])
        messages = list(asked["messages"])
        last = max(at for at, message in enumerate(messages) if message["role"] == "assistant")
        return Turn([_message(message) for message in messages[last + 1 :]])


# -- its tasks ---------------------------------------------------------------------------------------------------


def tasks(split: str, kind: str, taskset: str = "") -> list[dict[str, Any]]:
    """A row for each task: its prompt, its number, and its data. Raises ZooError."""
    needs("verifiers", "verifiers", "The data source verifiers")
    if split not in ("train", "heldout"):
        known = ("train", "heldout")
        raise NoSuchSplit(f"verifiers has no split '{split}'.{nearest(split, known)}", f"It has: {', '.join(known)}.")
    if kind != "prompt":
        raise ZooError(f"verifiers has prompts, and no data of kind '{kind}'.")
    if not taskset:
        raise ZooError("verifiers has no taskset of its own.", "Write --data verifiers:ID.")
    name, bracket, rest = taskset.partition("(")
    found = islice(enumerate(_environment(name, bracket + rest).taskset), MOST_TASKS)
    return [_row(number, task) for number, task in found if (number % HELD_OUT == HELD_OUT - 1) == (split == "heldout")]


def _row(number: int, task: Any) -> dict[str, Any]:
    data = json.loads(task.data.model_dump_json())
    prompt: list[dict[str, Any]] = []
    if data["system_prompt"]:
        prompt.append({"role": "system", "content": data["system_prompt"]})
    if isinstance(data["prompt"], str):
        prompt.append({"role": "user", "content": data["prompt"]})
    else:
        prompt += [_message(message) for message in data["prompt"] or ()]
    return {"prompt": prompt, "task": number, "info": {name: value for name, value in data.items() if name != "prompt"}}


# -- an episode --------------------------------------------------------------------------------------------------


class _Game:
    """An episode that verifiers plays in a thread. It asks for the policy's turns over HTTP, as of any model."""

    def __init__(self, environment: Any, task: Any):
        self.asked: queue.Queue[dict[str, Any]] = queue.Queue()
        self.said: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.waiting, self.over, self.result = False, False, dict[str, Any]()
        self.last: Message | None = None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        threading.Thread(target=self._play, args=(environment, task), daemon=True).start()

    def hear(self) -> dict[str, Any]:
        """What the episode asks of the policy: messages and tools; or its reward and its error, when it has ended."""
        heard = self.asked.get()
        self.waiting = "messages" in heard
        self.result = heard
        return heard

    def say(self, message: Message, why: str = "") -> dict[str, Any]:
        """Gives a turn of the policy; what comes then. why: `length` for a turn that a limit has cut."""
        self.last = message
        self.said.put(_completion(message, why))
        return self.hear()

    def cut(self, message: Message) -> dict[str, Any]:
        """Ends the episode with this turn, or after it if it has been given already."""
        self.over = True
        if not self.waiting:
            return self.result
        if message != self.last:
            return self.say(message, "length")
        self.said.put(None)
        return self.hear()

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """The policy's turn, for a request of the episode; None if there are no more."""
        if self.over:
            return None
        self.asked.put({"messages": body["messages"], "tools": body.get("tools")})
        return self.said.get()

    def close(self) -> None:
        self.over = True
        self.said.put(None)
        self.server.shutdown()

    def _play(self, environment: Any, task: Any) -> None:
        import asyncio

        try:
            self.asked.put(asyncio.run(self._episode(environment, task)))
        except BaseException as error:
            self.asked.put({"reward": None, "error": f"{type(error).__name__}: {error}"})

    async def _episode(self, environment: Any, task: Any) -> dict[str, Any]:
        from verifiers.v1 import EvalClientConfig, ModelContext

        client = EvalClientConfig(base_url=f"http://127.0.0.1:{self.server.server_port}/v1", api_key_var=KEY)
        async with environment.serving():
            episode = await environment.run_episode(task, ModelContext("policy", client))
        errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
        if not episode.ok and not self.over:
            return {
                "reward": None,
                "error": "; ".join(f"{error.type}: {error.message}" for error in errors) or "it failed",
            }
        return {"reward": float(sum(trace.reward for trace in episode.traces)), "error": ""}


def _handler(game: _Game) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = game.answer(body)
            reply = json.dumps(answer or {"error": {"message": OVER}}).encode()
            self.send_response(200 if answer else 400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler


def _completion(message: Message, why: str) -> dict[str, Any]:
    """A turn as a server of models gives it. Calls that cannot be read stay text."""
    turn: dict[str, Any] = {"role": "assistant", "content": str(message.get("content") or "")}
    calls = [call["function"] for call in message.get("tool_calls") or () if not call.get("error")]
    if thought := message.get("reasoning_content"):
        turn["reasoning_content"] = thought
    if calls:
        turn["tool_calls"] = [
            {"id": f"call{number}", "type": "function",
             "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])}}
            for number, call in enumerate(calls)
        ]  # fmt: skip
    reason = why or ("tool_calls" if calls else "stop")
    choice = {"index": 0, "message": turn, "finish_reason": reason}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    about = {"id": uuid.uuid4().hex, "object": "chat.completion", "created": 0, "model": "policy"}
    return {**about, "choices": [choice], "usage": usage}


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of the episode as a chat template takes it. Images are left out."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "\n".join(str(part.get("text", "")) for part in content if part.get("type") == "text")
    return {"role": message["role"], "content": content}


# -- the environment ---------------------------------------------------------------------------------------------


def _environment(id: str, options: str) -> Any:
    """The environment with the policy in its only seat. Raises ZooError."""
    import sys
    from types import ModuleType

    Verifiers.prepare()
    from verifiers.v1 import load_environment, resolve_env_config

    if SEAT not in sys.modules:
        seat = ModuleType(SEAT)
        seat.__all__, seat.Seat = ["Seat"], _seat()  # type: ignore[attr-defined]
        sys.modules[SEAT] = seat
    taskset = {"id": id, **settings(options)}
    from verifiers.v1.configs.agent import agent_config_fields

    try:
        seats = list(agent_config_fields(resolve_env_config({"taskset": taskset})))
        if len(seats) != 1:
            raise ZooError(
                f"'{id}' has {len(seats)} seats: {', '.join(seats)}.", "Only environments with one are played."
            )
        play = {"harness": {"id": SEAT}, "runtime": {"type": "subprocess"}}
        return load_environment(resolve_env_config({"taskset": taskset, seats[0]: play}))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ZooError(f"verifiers has no taskset '{id}' with these options: {error}") from None


def _has_tools(environment: Any) -> bool:
    taskset = environment.taskset
    return bool(taskset.toolsets(taskset.config) or type(taskset).task_type().toolsets(taskset.config.task))


def _seat() -> type:
    """The program that plays the policy's seat: a chat, in this process, with the tools of the task."""
    import contextlib

    import httpx
    from verifiers.v1 import Harness, HarnessConfig, ProgramResult
    from verifiers.v1.dialects.chat import message_to_wire
    from verifiers.v1.harnesses.utils.mcp import call_mcp, connect_mcp

    class Seat(Harness[HarnessConfig]):
        APPENDS_SYSTEM_PROMPT = SUPPORTS_MCP = SUPPORTS_RESUME = True
        EXECUTES_CODE = NEEDS_CONTAINER = False

        async def launch(
            self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: dict[str, str], data: Any
        ) -> Any:  # fmt: skip
            system, prompt = self.resolve_prompt(data)
            messages = [{"role": "system", "content": system}] if system else []
            if isinstance(prompt, str):
                messages.append({"role": "user", "content": prompt})
            else:
                messages += [message_to_wire(message) for message in prompt or ()]
            servers = {name: {"url": url, "timeout": self.config.tool_timeout} for name, url in mcp_urls.items()}
            async with contextlib.AsyncExitStack() as stack:
                tools, dispatch, connections = await connect_mcp({"mcpServers": servers}, stack)
                client = await stack.enter_async_context(httpx.AsyncClient(timeout=None))
                while True:
                    reply = await client.post(
                        f"{endpoint.rstrip('/')}/chat/completions",
                        headers={"Authorization": f"Bearer {secret}"},
                        json={"model": ctx.model, "messages": messages, **({"tools": tools} if tools else {})},
                    )
                    if reply.status_code != httpx.codes.OK:
                        return ProgramResult(int(OVER not in reply.text), "", reply.text)
                    choice = reply.json()["choices"][0]
                    messages.append(choice["message"])
                    calls = choice["message"].get("tool_calls") or ()
                    if not calls:
                        return ProgramResult(0, "", "")
                    for call in calls:
                        content = await _called(connections, dispatch, call["function"], call_mcp)
                        messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})

    return Seat


async def _called(connections: Any, dispatch: Any, function: Mapping[str, Any], call_mcp: Any) -> Any:
    """What a tool answers. Whatever is wrong is told to the policy."""
    if function["name"] not in dispatch:
        return f"Error: there is no tool {function['name']!r}, only {', '.join(dispatch)}"
    try:
        return await call_mcp(connections, dispatch, function["name"], json.loads(function["arguments"]))
    except Exception as error:
        return f"Error: {error or type(error).__name__}"
