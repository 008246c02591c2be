"""A stand-in for an OpenAI-compatible server, and a respondent without a model: not a test file itself."""

import contextlib
import math
import re
from collections import Counter

from json_server import JsonServer

from zoo.judges.judge import Response


class Scripted:
    """Answers questions by a function of their text; counts what it was asked."""

    name = "scripted"

    def __init__(self, logps):
        self.logps, self.asked = logps, Counter()

    def fingerprint(self):
        return "0" * 64

    def respond(self, questions, thinking):
        for number, question in enumerate(questions):
            self.asked[question.text(thinking)] += 1
            found = self.logps(question.text(thinking))
            yield number, Response(problem=found) if isinstance(found, str) else Response(tuple(found))


def longer_is_better(text):
    """A judge that prefers the longer answer, and a bit the first one."""
    first, second = re.search(r"Answer 1:\n(.*)\n\nAnswer 2:\n(.*)\n\n", text).groups()
    return (0.5 * (len(first) - len(second)) + 0.1, 0.0)


def tokens_of(texts, alternatives):
    """`logprobs.content` of an answer: its tokens, and the likeliest ones {text: probability} in each place."""
    content = []
    for text, likeliest in zip(texts, alternatives, strict=True):
        top = [{"token": token, "logprob": math.log(p)} for token, p in likeliest.items()]
        content.append({"token": text, "logprob": -0.1, "top_logprobs": top})
    return content


def completion(text, content=None):
    """The body of an answer."""
    logprobs = {"content": content} if content is not None else None
    return {"choices": [{"message": {"role": "assistant", "content": text}, "logprobs": logprobs}]}


@contextlib.contextmanager
def serving(answer):
    """A server on this machine: `answer(body, number)` gives (status, body or bytes). Yields (address, requests)."""
    server = JsonServer(answer)
    try:
        yield f"{server.url}/v1#little-judge", server.requests
    finally:
        server.stop()
