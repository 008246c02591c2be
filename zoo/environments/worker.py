"""The process of one episode: it makes the environment, lets it answer the policy, and says what went wrong.

It is a fork of the zygote. The run sends pickles, it answers in JSON. If an answer takes too long, a thread that does
not need the interpreter ends the process, and prints the line at which it hung.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import pickle
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.contract.own_process import GRACE, Failure, describe
from zoo.environments import Environment, Turn, schemas_of, settled
from zoo.environments.channel import MOST, Channel
from zoo.secrets import scrubbed

FLOOD = 100_000
"""Characters of a message; the rest is cut off, which the end of the message says."""
LEAST_MEMORY = 1 << 28
SHOWN_TRACEBACK = 20_000


class Life:
    """An environment from its begin to its end. make: makes it; file: in which its class is written."""

    def __init__(self, make: Callable[[], Any], file: str):
        self.make, self.file = make, file
        self.environment: Environment | None = None

    def describe(self) -> dict[str, Any]:
        """What the run asks of an environment before there are episodes."""
        environment = self._made()
        return {"tools": schemas_of(environment), "data": str(environment.data)}

    def begin(self, record: Mapping[str, Any], seed: int) -> dict[str, Any]:
        random.seed(seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(seed % 2**32)
        if "torch" in sys.modules:
            sys.modules["torch"].manual_seed(seed % 2**63)
        said = settled(self._made().begin(record, seed))
        return {"messages": [] if said is None else _messages(said, "begin")}

    def step(self, message: Mapping[str, Any]) -> dict[str, Any]:
        turn = settled(self.environment.step(message))  # type: ignore[union-attr]
        if not isinstance(turn, Turn):
            raise Failure("raised", f"step gave {turn!r:.80}, not a Turn")
        return {"messages": _messages(turn.messages, "step"), "done": bool(turn.done), "reward": _number(turn.reward)}

    def cut(self, message: Mapping[str, Any]) -> dict[str, Any]:
        return {"done": True, "reward": _number(settled(self.environment.cut(message)))}  # type: ignore[union-attr]

    def reply(self, order: str, arguments: bytes, until: float) -> bytes:
        """The answer to an order, or why there is none. The process ends when the time is up."""
        faulthandler.dump_traceback_later(max(until - time.monotonic(), 0.001), exit=True)
        try:
            return _encoded(getattr(self, order)(*pickle.loads(arguments)), order)
        except Failure as failure:
            return json.dumps({"failed": failure.kind, "reason": failure.reason}).encode()
        except BaseException as error:
            kind = "memory" if isinstance(error, MemoryError) else "raised"
            whole = scrubbed("".join(traceback.format_exception(error)))[-SHOWN_TRACEBACK:]
            return json.dumps({"failed": kind, "reason": describe(error, self.file), "traceback": whole}).encode()
        finally:
            faulthandler.cancel_dump_traceback_later()

    def close(self) -> None:
        if self.environment is not None:
            faulthandler.dump_traceback_later(GRACE, exit=True)
            settled(self.environment.close())  # type: ignore[func-returns-value]

    def _made(self) -> Environment:
        made = self.make()
        if not isinstance(made, Environment):
            raise Failure("raised", f"it is of the class {type(made).__name__}, not an Environment")
        self.environment = made
        return made


def live(channel: Channel, life: Life, memory: int | None, inherited: int) -> None:
    """Answer until the run closes the episode.

    memory: bytes for all episodes together, None for no limit; inherited: those that the zygote has, see `held`.
    """
    with contextlib.suppress(EOFError, OSError):
        while True:
            order, arguments, until, episodes = pickle.loads(channel.receive())
            if order == "close":
                break
            _limit_memory(memory, inherited, episodes)
            reply = life.reply(order, arguments, until)
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            channel.send(reply)
    life.close()


def _encoded(reply: Mapping[str, Any], order: str) -> bytes:
    try:
        encoded = json.dumps(reply, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Failure("raised", f"{order} gave what JSON cannot hold: {error}") from None
    if len(encoded) > MOST:
        raise Failure("raised", f"{order} gave {len(encoded):,} bytes, more than the {MOST:,} of an answer")
    return encoded


def _messages(said: Any, order: str) -> list[dict[str, Any]]:
    """Messages as plain dicts, none of them longer than FLOOD."""
    if isinstance(said, str | bytes | Mapping) or not isinstance(said, Iterable):
        raise Failure("messages", f"{order} gave {said!r:.80}, not a list of messages")
    messages = []
    for number, message in enumerate(said, start=1):
        for key in ("role", "content"):
            if not isinstance(message, Mapping) or not isinstance(message.get(key), str):
                raise Failure("messages", f"{order} gave {message!r:.80} as message {number}, without a text as {key}")
        messages.append({**message, "content": _cut(message["content"])})
    return messages


def _number(reward: Any) -> float | None:
    if reward is None:
        return None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if not isinstance(reward, str | bytes) and math.isfinite(number := float(reward)):
            return number
    raise Failure("raised", f"step gave the reward {reward!r:.80}, which is no finite number")


def _cut(text: str) -> str:
    if len(text) > FLOOD:
        text = f"{text[:FLOOD]}\n[cut here: only {FLOOD:,} of {len(text):,} characters are shown]"
    return text


def held() -> int:
    """Bytes that this process holds, as RLIMIT_DATA counts them; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _limit_memory(memory: int | None, inherited: int, episodes: int) -> None:
    """Let this process hold its share beside what it has from the zygote."""
    if memory is not None:
        import resource

        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        share = min(inherited + max(LEAST_MEMORY, memory // episodes), most if most >= 0 else memory)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (share, most))
