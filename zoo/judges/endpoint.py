"""An OpenAI-compatible server as a judge: `https://host/v1#model`.

If the server gives the log-probabilities of the likeliest next tokens, they give the choices' probabilities. If not,
several answers are sampled, and the probabilities are the shares of votes. Responses that cannot be read, and requests
that keep failing, are counted and left out. The key comes from the environment and is never stored.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import string
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from zoo.errors import ZooError
from zoo.http import BUSY, REDIRECTS, Server, ServerError
from zoo.judges.judge import CUT, Response
from zoo.judges.spelled import KEYS, check_endpoint
from zoo.judges.wording import Question

AGAIN = (200, 408, 500, *BUSY)
"""Statuses worth another attempt: busy, failing or slow servers (408 is a time-out here), and no JSON (200)."""
REFUSALS = (*REDIRECTS, 400, 401, 402, 403, 404, 405, 413, 422)
"""Statuses that another attempt would not change."""
FAILURES = 5
"""After this many consecutive requests that failed in all their attempts, the work ends: the server is gone."""
TOP = 20
"""The number of likeliest tokens to request; the most that the interface allows."""
CHOICE_TOKENS = 8


class Endpoint:
    """Asks a server over HTTP.

    spec: `URL#model`; votes: samples per question if there are no log-probabilities; parallel: requests at a time;
    timeout: seconds for one request; attempts: of a request; pause: seconds before the second attempt, doubled each
    time; longest_thought: most tokens in a chain of thought; say: takes a line when a request is repeated.
    """

    elsewhere = True

    def __init__(
        self,
        spec: str,
        *,
        votes: int = 5,
        parallel: int = 4,
        timeout: float = 60.0,
        attempts: int = 5,
        pause: float = 1.0,
        longest_thought: int = 256,
        say: Callable[[str], None] | None = None,
    ):
        check_endpoint(spec)
        url, _, self.model = spec.partition("#")
        parts = urlsplit(url)
        if votes < 1 or parallel < 1:
            raise ZooError("A judge needs at least one vote and one request at a time.")
        self.name = f"{url.rstrip('/')}#{self.model}"
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        self.base = parts.path.rstrip("/")
        self.server = Server(
            f"{parts.scheme}://{parts.netloc}", timeout=timeout, attempts=attempts, pause=pause, key=key, again=AGAIN,
            say=say,
        )  # fmt: skip
        self.votes, self.parallel, self.longest_thought = votes, parallel, longest_thought
        self.gives_logps = True
        self._failed = 0
        self._fatal: ZooError | None = None
        """The error that ended the work; requests that were still waiting are not made."""
        self._lock = threading.Lock()

    def fingerprint(self) -> str:
        """A hash of the address, the model's name, and how it is asked; the weights behind the name are unknown."""
        return hashlib.sha256(f"{self.name}\0{self.votes}\0{self.longest_thought}".encode()).hexdigest()

    def respond(self, questions: Sequence[Question], thinking: bool) -> Iterator[tuple[int, Response]]:
        """See `Respondent`. Raises ZooError if the server refuses or is gone."""
        self._failed, self._fatal = 0, None
        with ThreadPoolExecutor(self.parallel) as pool:
            work = {pool.submit(self._answered, question, thinking): n for n, question in enumerate(questions)}
            try:
                for done in as_completed(work):
                    yield work[done], done.result()
            finally:
                for future in work:
                    future.cancel()

    def _answered(self, question: Question, thinking: bool) -> Response:
        """The response to one question; a failed request gives a `problem`, until there are too many."""
        if self._fatal is not None:
            raise self._fatal
        try:
            response = self._ask(question, thinking)
        except ServerError as error:
            self._count_failure(error)
            status = f"status {error.status}" if error.status else "no connection"
            return Response(problem=f"the endpoint failed ({status})")
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            return Response(problem="the endpoint's answer has an unknown form")
        with self._lock:
            self._failed = 0
        return response

    def _count_failure(self, error: ServerError) -> None:
        """Raises ZooError if it is useless to continue."""
        with self._lock:
            self._failed += 1
            if error.status in REFUSALS:
                self._fatal = error
            elif self._failed >= FAILURES:
                then = "The judgements so far are kept: the same command continues from there, a run with `zoo resume`."
                hint = f"{error.hint} {then}".strip()
                message = f"The judge failed {FAILURES} times in a row. The last time: {error.message}"
                self._fatal = self._fatal or ZooError(message, hint)
            if self._fatal is not None:
                raise self._fatal from None

    def _ask(self, question: Question, thinking: bool) -> Response:
        messages = [{"role": "user", "content": question.text(thinking)}]
        if thinking:
            written = self._said(messages, self.longest_thought, temperature=question.temperature)
            thoughts = written["message"]["content"].strip()
            if question.free:
                return Response((), thoughts, CUT if written.get("finish_reason") == "length" else "")
            question = replace(question, thoughts=thoughts)
            messages += [
                {"role": "assistant", "content": thoughts},
                {"role": "user", "content": question.task.decide},
            ]
        logps = self._by_logps(messages, question.task.choices) if self.gives_logps else None
        if not self.gives_logps:
            logps = self._by_votes(messages, question.task.choices)
        return Response(logps or (), question.thoughts, "" if logps else "no choice in the answer")

    def _by_logps(self, messages: list[dict[str, str]], choices: Sequence[str]) -> tuple[float, ...] | None:
        """The choices' log-probabilities; sets `gives_logps` to False if the server gives no likeliest tokens."""
        try:
            choice = self._said(messages, CHOICE_TOKENS, logprobs=True, top_logprobs=TOP)
        except ServerError as error:
            if error.status not in (400, 422) or "logprobs" not in error.message:
                raise
            self.gives_logps = False
            return None
        tokens = (choice.get("logprobs") or {}).get("content")
        if not tokens:
            self.gives_logps = False
            return None
        return read_logps(tokens, choices, ended=choice.get("finish_reason") == "stop")

    def _by_votes(self, messages: list[dict[str, str]], choices: Sequence[str]) -> tuple[float, ...] | None:
        """The log of each choice's share of the sampled answers; answers that cannot be read do not count."""
        replies = [self._said(messages, 2 * CHOICE_TOKENS, temperature=1.0) for _ in range(self.votes)]
        chosen = Counter(read_choice(reply["message"]["content"], choices) for reply in replies)
        read = sum(chosen[number] for number in range(len(choices)))
        if not read:
            return None
        return tuple(math.log(chosen[n] / read) if chosen[n] else -math.inf for n in range(len(choices)))

    def _said(self, messages: list[dict[str, str]], max_tokens: int, **options: Any) -> dict[str, Any]:
        """The first choice of the server's response."""
        body = {"model": self.model, "messages": messages, "max_tokens": max_tokens, "temperature": 0.0, **options}
        return self.server.post(f"{self.base}/chat/completions", body)["choices"][0]


def read_logps(
    tokens: Sequence[dict[str, Any]], choices: Sequence[str], ended: bool = False
) -> tuple[float, ...] | None:
    """The log-probabilities of the choices from a server's tokens, each with `token` and `top_logprobs`.

    Blanks, brackets and asterisks before the choice are skipped; the probabilities of different spellings are summed.
    If a choice may continue ("1" followed by "0"), its probability is split by the next token's, if these were given;
    it is kept if the text `ended` there; else it is left out. None if no choice is among the likeliest tokens.
    """
    names = [_bare(choice) for choice in choices]
    place = next((i for i, token in enumerate(tokens) if _bare(token["token"])), None)
    if place is None:
        return None
    p = dict.fromkeys(names, 0.0)
    for token in _likeliest(tokens[place]):
        if (name := _bare(token["token"])) in p:
            p[name] += math.exp(token["logprob"])
    written = _bare(tokens[place]["token"])
    for name in names:
        longer = {other[len(name) :]: other for other in names if other != name and other.startswith(name)}
        # A vocabulary that has the longer choice as one token never writes it in two.
        if not longer or not p[name] or any(p[other] for other in longer.values()):
            continue
        following = None
        if written == name and (place + 1 < len(tokens) or ended):
            following = [one for token in tokens[place + 1 : place + 2] for one in _likeliest(token)]
        whole, p[name] = p[name], (p[name] if following is not None else 0.0)
        for token in following or ():
            # Unstripped at its start: after a blank, the next token begins another word.
            if token["token"].rstrip() in longer:
                part = whole * math.exp(token["logprob"])
                p[longer[token["token"].rstrip()]] += part
                p[name] = max(0.0, p[name] - part)
    if not sum(p.values()):
        return None
    return tuple(math.log(p[name]) if p[name] else -math.inf for name in names)


def _likeliest(token: dict[str, Any]) -> list[dict[str, Any]]:
    return list(token.get("top_logprobs") or [token])


def read_choice(text: str, choices: Sequence[str]) -> int | None:
    """The index of the choice in a text; None if the text has no choice, or more than one."""
    names = [_bare(choice) for choice in choices]
    if _bare(text) in names:
        return names.index(_bare(text))
    words = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    # A letter within a sentence may be an article, so only a letter in brackets counts. A number or a word counts
    # anywhere except within another one, or after a slash, as in 7/10.
    plain = all(name.isdigit() or len(name) > 1 for name in names)
    pattern = rf"(?<![\w./])({words})(?!\w|\.\w)" if plain else rf"\(({words})\)"
    matches = set(re.findall(pattern, text))
    return names.index(matches.pop()) if len(matches) == 1 else None


def _bare(text: str) -> str:
    """The text without blanks and punctuation at its ends."""
    return text.strip(string.whitespace + string.punctuation)
