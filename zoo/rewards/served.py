"""Rewards that a server gives: `http(url=http://127.0.0.1:5000/rewards)`.

The body of a request has all that OpenRLHF's and slime's reward servers read, so that these can be asked as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

from zoo.errors import TrainingStopped, ZooError
from zoo.http import BUSY, REDIRECTS, Server, ServerError
from zoo.numbers import amount
from zoo.rewards.functions import Say, in_process
from zoo.rewards.missing import Missing
from zoo.rewards.references import reference_of
from zoo.terminal import Slow

KEY = "ZOO_REWARD_KEY"
OK = 200
AGAIN = (408, 500, 501, *BUSY)
"""Statuses worth another attempt: busy, failing or slow servers (408 is a time-out here)."""


@in_process
def http(
    completions: Sequence[str], records: Sequence[Mapping[str, Any]], url: str, batch: int = 32, parallel: int = 4,
    timeout: float = 60.0, attempts: int = 9, field: str = "", say: Say = lambda line: None,
) -> list[float | None | Missing]:  # fmt: skip
    """What the server at `url` gives for each answer; None where it gives null.

    It gets a POST for at most `batch` answers, `parallel` at a time: `prompts`, `completions`, both joined as `query`,
    `labels` (reference answers, from the column `field`, or null) and `records` (the rows), a list each. It returns
    {"rewards": [a number or null for each answer]}. timeout: seconds of a request; attempts: of a request, 1, 2, 4 …
    seconds apart. A key in ZOO_REWARD_KEY is sent as bearer token.

    Raises TrainingStopped for a server that refuses, or that is gone in all attempts.
    """
    server, path = _server(url, timeout, attempts, say)
    for name, value in (("batch", batch), ("parallel", parallel)):
        if value < 1:
            raise ZooError(f"{name} must be at least 1")
    parts = [slice(start, start + batch) for start in range(0, len(completions), batch)]

    def rewards(part: slice) -> list[float | None | Missing]:
        count = len(completions[part])
        try:
            return _read(server.post(path, _body(completions[part], records[part], field)), count)
        except ServerError as error:
            if error.status != OK:
                raise
            # An answer that cannot be read.
            return [Missing(error.message.rstrip("."))] * count

    pool = ThreadPoolExecutor(parallel)
    try:
        asked = [pool.submit(rewards, part) for part in parts]
        tell = Slow(say, f"Batches of answers scored by {server.url}")
        while (waiting := wait(asked, tell.first, FIRST_EXCEPTION)).not_done:
            for answered in waiting.done:
                answered.result()
            tell(len(waiting.done), len(asked))
        return [value for answered in asked for value in answered.result()]
    except ServerError as error:
        raise TrainingStopped(error.message, f"{_remedy(error)} `zoo resume` then goes on with a run.") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _remedy(error: ServerError) -> str:
    if error.status in (401, 403):
        return f"Set the server's key in the environment, as {KEY}."
    if error.status in REDIRECTS:
        return f"{error.hint or 'The address is another one:'} It is the option url=."
    return f"{error.hint} Correct url=, or start the server.".strip()


def _server(url: str, timeout: float, attempts: int, say: Say) -> tuple[Server, str]:
    """The server, and the path and query to ask. Raises ZooError for an address that cannot be used."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ZooError(f"'{url}' is not the address of a server", "Write it like url=http://127.0.0.1:5000/rewards.")
    if parts.username or parts.password:
        raise ZooError("the address of a server must not hold a key", f"Set it in the environment, as {KEY}.")
    if not (timeout > 0 and attempts >= 1):
        raise ZooError("timeout must be above 0, and attempts at least 1")
    server = Server(
        f"{parts.scheme}://{parts.netloc}", timeout=timeout, attempts=attempts, key=os.environ.get(KEY), again=AGAIN,
        say=say,
    )  # fmt: skip
    return server, f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"


def _body(completions: Sequence[str], records: Sequence[Mapping[str, Any]], field: str) -> dict[str, Any]:
    prompts = [str(record.get("prompt", "")) for record in records]
    labels = [reference_of(record, field) for record in records]
    return {
        "prompts": prompts,
        "completions": list(completions),
        "query": [prompt + text for prompt, text in zip(prompts, completions, strict=True)],
        "labels": [None if isinstance(label, Missing) else _plain(label) for label in labels],
        "records": [_plain(dict(record)) for record in records],
    }


def _plain(value: Any) -> Any:
    """A value of a row as JSON has it; dates and the like as texts."""
    return json.loads(json.dumps(value, default=str))


def _read(answer: Any, count: int) -> list[float | None | Missing]:
    """The rewards in the server's answer; all missing if it is no list of so many."""
    rewards = answer.get("rewards") if isinstance(answer, Mapping) else answer
    if not isinstance(rewards, list) or len(rewards) != count:
        got = amount(len(rewards), "reward") if isinstance(rewards, list) else f"{answer!r:.60}"
        return [Missing(f"the server gave {got} for {amount(count, 'answer')}")] * count
    return [_number(reward) for reward in rewards]


def _number(reward: Any) -> float | None | Missing:
    if reward is None or (isinstance(reward, int | float) and not isinstance(reward, bool)):
        return reward
    return Missing(f"the server gave {reward!r:.60}, not a number")
