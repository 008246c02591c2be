"""Finds the text that the model has to write in a conversation, with the model's own chat template, unpatched.

A template is only known as a function from messages to text. What the model has to write at turn k is the difference
between two of its outputs: what `messages[:k+1]` adds to `messages[:k]` with the generation prompt, up to the token
that ends the turn. That text is trained, the rest is not. If the first output does not begin with the second (some
templates rewrite earlier turns), there is no such difference, and the turn is not trained; if it is the last turn,
the row is refused. Nothing depends on the names of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any, NamedTuple

from zoo.data.encoding.messages import called, reasoning_of, with_text_arguments
from zoo.data.encoding.segments import pattern
from zoo.data.encoding.tokens import TextTokenizer
from zoo.data.kinds import Message
from zoo.data.row_errors import RowError, shorten
from zoo.errors import ZooError, nearest
from zoo.libraries.pretrained import render
from zoo.limits import TEMPLATE_BYTES, TEMPLATE_SECONDS, size, within, within_memory

PROBE = "Seventeen."


@dataclass(frozen=True)
class Rendered:
    """A conversation as text; all positions are in characters."""

    text: str
    prompt: int
    """Where the prompt ends."""
    spans: tuple[tuple[int, int], ...]
    """The trained parts (start, end), each including its end-of-turn token."""
    closed: bool
    """Whether the text ends with an end-of-turn token; if not, EOS is appended."""
    marks: tuple[int, ...] = ()
    """Further positions at which the tokens must be cut."""
    warnings: tuple[RowError, ...] = ()


class Extras(NamedTuple):
    """What a template reads beside the messages: tool schemas, and the arguments of a row (`chat_template_kwargs`)."""

    tools: list[Any] | None = None
    args: Mapping[str, Any] | None = None


BARE = Extras()


class Turn(NamedTuple):
    """The start and end of an assistant turn in a text, end-of-turn token included, and whether it has such a token."""

    start: int
    end: int
    closed: bool


def _on_day(template: str, day: date) -> str:
    """A template with its calls of `strftime_now` replaced by what they give at midnight of a day."""
    midnight = datetime.combine(day, time())
    return re.sub(
        r"strftime_now\(\s*(['\"])((?:(?!\1).)*)\1\s*\)", lambda call: repr(midnight.strftime(call[2])), template
    )  # fmt: skip


class Renderer:
    """A chat template as a function from messages to a text with the positions of the assistant's turns.

    source: the text of a template, None for the tokenizer's own; day: what a template that writes the day takes for
    today; args: variables of the template. Raises ZooError for a template that cannot render a question and its answer,
    and for a variable that it does not read.
    """

    def __init__(
        self, tokens: TextTokenizer, source: str | None, day: date | None = None, args: Mapping[str, Any] | None = None
    ):
        self.tokenizer, self.source, self.args = tokens.tokenizer, source, dict(args or {})
        self.day = day or date.today()
        text = source or tokens.tokenizer.chat_template
        self.writes_day = "strftime_now(" in str(text)
        self.template = _on_day(text, self.day) if self.writes_day and isinstance(text, str) else source
        """The template with the same day in all texts, also when a run goes on overnight."""
        self.words = set(re.findall(r"\w+", str(text)))
        """The words of the template, among them the variables that it reads."""
        self._refuse_unread()
        self._tail = self._after_answer()
        match = pattern(tokens.added).search(self._tail)
        self.end_of_turn: str | None = match.group() if match else None
        """The token that ends a turn, as text; None if the template writes none."""
        self._tail_end = match.end() if match else 0
        if self.end_of_turn:
            tokens.count_as_special(self.end_of_turn)
        controls = pattern(tokens.specials).pattern
        self._ending = re.compile(rf"({controls})(?:\s|{controls})*\Z")

    def text(self, messages: list[Message], extras: Extras = BARE, asking: bool = False) -> str:
        """What the template writes; `asking` adds the generation prompt. Raises RowError in the template's words."""
        args = {**self.args, **(extras.args or {})}
        # A template is a program of unknown origin: any exception means that it refuses these messages.
        try:
            with within(TEMPLATE_SECONDS):
                return render(
                    self.tokenizer, messages, tools=extras.tools, asking=asking, template=self.template, args=args
                )
        except Exception as error:
            if any(called(turn) for turn in messages) and messages != (texts := with_text_arguments(messages)):
                return self.text(texts, extras, asking)
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            if isinstance(error, MemoryError):
                reason = f"it takes more than {size(TEMPLATE_BYTES)} of memory"
            raise RowError("E_TEMPLATE", "messages", f"the chat template refuses it: {reason}") from None

    def conversation(self, messages: list[Message], first: int, extras: Extras = BARE) -> Rendered:
        """A conversation up to its last assistant turn; assistant turns from message `first` on are trained."""
        speaking = [k for k, turn in enumerate(messages) if turn["role"] == "assistant" and k >= first]
        if not speaking:
            raise RowError("E_MISSING_TURN", "completion", "there is no assistant turn")
        messages = messages[: speaking[-1] + 1]
        text = self.text(messages, extras)
        turns, untrained = [self._turn(messages, speaking[-1], extras, text)], []
        for k in reversed(speaking[:-1]):
            try:
                turns.insert(0, self._turn(messages, k, extras, text))
            except RowError as error:
                untrained.append(error.message)
        warnings = []
        if untrained:
            reason = f"{len(untrained)} of {len(speaking)} assistant turns are not trained: {untrained[0]}"
            warnings.append(RowError("W_UNTRAINED_TURNS", "completion", reason))
        warnings += self.unseen(messages, extras, text)
        prompt = self._prompt_end(messages[: speaking[0]], extras, text, turns[0].start)
        spans = tuple((turn.start, turn.end) for turn in turns)
        return Rendered(text[: turns[-1].end], prompt, spans, turns[-1].closed, warnings=tuple(warnings))

    def unseen(self, messages: list[Message], extras: Extras, text: str, asking: bool = False) -> list[RowError]:
        """A warning if `text` would be the same without the tools. It may still contain their names."""
        try:
            shown = not extras.tools or self.text(messages, extras._replace(tools=None), asking) != text
        except RowError:
            shown = True
        reason = "the chat template does not show them to the model"
        return [] if shown else [RowError("W_TOOLS_UNSEEN", "tools", reason)]

    def _prompt_end(self, prompt: list[Message], extras: Extras, text: str, otherwise: int) -> int:
        """Where the prompt ends, even if untrained turns follow it, so that a pair shares its prompt."""
        try:
            opening = self.text(prompt, extras, asking=True)
        except RowError:
            return otherwise
        return len(opening) if text.startswith(opening) else otherwise

    def _turn(self, messages: list[Message], k: int, extras: Extras, whole: str) -> Turn:
        """The position of turn k in the whole text. Raises RowError if the template writes another text there."""
        before = self.text(messages[:k], extras, asking=True)
        after = whole if k == len(messages) - 1 else self.text(messages[: k + 1], extras)
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
                "the chat template does not write this answer after the prompt that asks for it: the prompt ends with "
                f"{before[-30:]!r}, the text with the answer is …{after[-60:]!r}",
            )
        if missing := [name for name in called(messages[k]) if name not in written]:
            raise RowError("E_TEMPLATE", f"messages[{k}]", f"the chat template leaves out the call of {missing[0]!r}")
        end, closed = self._end(after, len(before))
        if not whole.startswith(after[:end]):
            raise RowError("E_TEMPLATE", f"messages[{k}]", "the chat template rewrites it when other turns follow")
        return Turn(len(before), end, closed)

    def _end(self, text: str, start: int) -> tuple[int, bool]:
        """Where the last turn of the text, which begins at `start`, ends, and whether an end-of-turn token ends it."""
        if text.endswith(self._tail, start):
            return len(text) - len(self._tail) + self._tail_end, self.end_of_turn is not None
        # Turns that call tools may end with another token.
        match = self._ending.search(text, start)
        return (match.end(1), True) if match else (max(start, len(text.rstrip())), False)

    def _refuse_unread(self) -> None:
        """Raises ZooError for an argument that the template does not read."""
        for name in self.args:
            if name not in self.words:
                raise ZooError(
                    f"The chat template reads no '{name}'.{nearest(name, self.words)}",
                    "--template-args takes variables of the template; a model's own template is in chat_template.jinja "
                    "or tokenizer_config.json.",
                )

    def _after_answer(self) -> str:
        """What the template writes after the last answer."""
        question = {"role": "user", "content": "What is eight and nine?"}
        try:
            # Nothing else runs yet, so the limit of the memory meets the template alone.
            with within_memory(TEMPLATE_BYTES):
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
            "Give another template with --template FILE.jinja, or train on raw text with --template none.",
        )
