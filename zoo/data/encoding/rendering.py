"""Where in a conversation the model speaks, found with the model's own chat template, unpatched.

A template turns messages into text, and no more is known of it. What the model has to write at a turn is the
difference of two of its outputs: all that `messages[:k+1]` has beyond `messages[:k]` with the generation prompt, up
to the token that ends the turn. That text is trained, the rest is not. Where the first does not begin with the second
(a template that rewrites earlier turns), there is no such difference, and the turn is not trained; if it is the last
one, the row is refused. Nothing depends on the names of tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from zoo.data.encoding.messages import called, reasoning_of, with_text_arguments
from zoo.data.encoding.tokens import TextTokenizer
from zoo.data.kinds import Message
from zoo.data.row_errors import RowError, shorten
from zoo.errors import ZooError
from zoo.libraries.pretrained import render

PLAIN = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}{{ 'Assistant: ' + message.content + eos_token + '\n\n' }}"
    "{%- else -%}{{ message.role | capitalize + ': ' + message.content + '\n\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
)
"""For models without a template. The space before an answer belongs to its first word, not to the prompt."""

PROBE = "Seventeen."


@dataclass(frozen=True)
class Rendered:
    """A conversation as text; all places are characters of it."""

    text: str
    prompt: int
    """Where the prompt ends."""
    spans: tuple[tuple[int, int], ...]
    """What is trained: each from its first character to behind its end-of-turn token."""
    closed: bool
    """Whether the text ends with an end-of-turn token; if not, EOS is put behind it."""
    marks: tuple[int, ...] = ()
    """Further places whose tokens are asked for."""
    warnings: tuple[RowError, ...] = ()


class Turn(NamedTuple):
    """Where an assistant turn stands in a text, end-of-turn token included, and whether it has one."""

    start: int
    end: int
    closed: bool


class Renderer:
    """A chat template as a function from messages to text and the places where the assistant speaks.

    source: the text of a template, None for the tokenizer's own. Raises ZooError for a template that cannot render
    a question and its answer.
    """

    def __init__(self, tokens: TextTokenizer, source: str | None):
        self.tokenizer, self.source = tokens.tokenizer, source
        self._tail = self._after_answer()
        found = TextTokenizer.pattern(tokens.added).search(self._tail)
        self.end_of_turn: str | None = found.group() if found else None
        """The token that ends a turn, as text, where the template writes one."""
        self._tail_end = found.end() if found else 0
        if self.end_of_turn:
            tokens.count_as_special(self.end_of_turn)
        controls = TextTokenizer.pattern(tokens.specials).pattern
        self._ending = re.compile(rf"({controls})(?:\s|{controls})*\Z")

    def text(self, messages: list[Message], tools: Any = None, asking: bool = False) -> str:
        """What the template writes; `asking` adds the generation prompt. Raises RowError in the template's words."""
        # A template is a program of unknown origin: any exception is its verdict on these messages.
        try:
            return render(self.tokenizer, messages, tools=tools, asking=asking, template=self.source)
        except Exception as error:
            if any(called(turn) for turn in messages) and messages != (texts := with_text_arguments(messages)):
                return self.text(texts, tools, asking)
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise RowError("E_TEMPLATE", "messages", f"the chat template refuses it: {reason}") from None

    def conversation(self, messages: list[Message], first: int, tools: Any = None) -> Rendered:
        """A conversation up to its last assistant turn; the assistant's turns from message `first` on are trained."""
        speaking = [k for k, turn in enumerate(messages) if turn["role"] == "assistant" and k >= first]
        if not speaking:
            raise RowError("E_MISSING_TURN", "completion", "there is no assistant turn")
        messages = messages[: speaking[-1] + 1]
        text = self.text(messages, tools)
        turns, untrained = [self._turn(messages, speaking[-1], tools, text)], []
        for k in reversed(speaking[:-1]):
            try:
                turns.insert(0, self._turn(messages, k, tools, text))
            except RowError as error:
                untrained.append(error.message)
        warnings = []
        if untrained:
            reason = f"{len(untrained)} of {len(speaking)} assistant turns are not trained: {untrained[0]}"
            warnings.append(RowError("W_UNTRAINED_TURNS", "completion", reason))
        warnings += self.unseen(messages, tools, text)
        prompt = self._prompt_end(messages[: speaking[0]], tools, text, turns[0].start)
        spans = tuple((turn.start, turn.end) for turn in turns)
        return Rendered(text[: turns[-1].end], prompt, spans, turns[-1].closed, warnings=tuple(warnings))

    def unseen(self, messages: list[Message], tools: Any, text: str, asking: bool = False) -> list[RowError]:
        """A warning when `text` would be the same without the tools. Their names may stand in it all the same."""
        try:
            shown = not tools or self.text(messages, None, asking) != text
        except RowError:
            shown = True
        reason = "the chat template does not show them to the model"
        return [] if shown else [RowError("W_TOOLS_UNSEEN", "tools", reason)]

    def _prompt_end(self, prompt: list[Message], tools: Any, text: str, otherwise: int) -> int:
        """Where the prompt ends: also before turns that are not trained, so that a pair shares its prompt."""
        try:
            opening = self.text(prompt, tools, asking=True)
        except RowError:
            return otherwise
        return len(opening) if text.startswith(opening) else otherwise

    def _turn(self, messages: list[Message], k: int, tools: Any, whole: str) -> Turn:
        """Where turn k stands in the whole text. Raises RowError when the template shows something else there."""
        before = self.text(messages[:k], tools, asking=True)
        after = whole if k == len(messages) - 1 else self.text(messages[: k + 1], tools)
        extends = after.startswith(before)
        written = after[len(before) :] if extends else after
        reasoning = reasoning_of(messages[k])
        if reasoning not in written:
            message = f"the chat template leaves out the reasoning {shorten(reasoning)!r}, so it would not be trained"
            raise RowError("E_REASONING_DROPPED", f"messages[{k}]", message)
        if not extends:
            raise RowError(
                "E_TEMPLATE",
                f"messages[{k}]",
                "the chat template writes this answer otherwise than it asks for it: the prompt ends with "
                f"{before[-30:]!r}, the text with the answer is …{after[-60:]!r}",
            )
        if missing := [name for name in called(messages[k]) if name not in written]:
            raise RowError("E_TEMPLATE", f"messages[{k}]", f"the chat template leaves out the call of {missing[0]!r}")
        end, closed = self._end(after, len(before))
        if not whole.startswith(after[:end]):
            raise RowError("E_TEMPLATE", f"messages[{k}]", "the chat template rewrites it when other turns follow")
        return Turn(len(before), end, closed)

    def _end(self, text: str, start: int) -> tuple[int, bool]:
        """Where the turn that begins at `start`, the last of the text, ends, and whether a token says so."""
        if text.endswith(self._tail, start):
            return len(text) - len(self._tail) + self._tail_end, self.end_of_turn is not None
        # Turns that call tools may end with a token of their own.
        found = self._ending.search(text, start)
        return (found.end(1), True) if found else (max(start, len(text.rstrip())), False)

    def _after_answer(self) -> str:
        """What the template writes behind the last answer."""
        question = {"role": "user", "content": "What is eight and nine?"}
        try:
            self.text([question], asking=True)
            text = self.text([question, {"role": "assistant", "content": PROBE}])
            place = text.rfind(PROBE)
            if place >= 0:
                return text[place + len(PROBE) :]
            reason = f"the answer is not in what it writes: {shorten(text, 80)!r}"
        except RowError as error:
            reason = error.message
        raise ZooError(
            f"The chat template cannot render a question and its answer: {reason}",
            "Give another one with --template FILE.jinja, or train on raw text with --template none.",
        )
