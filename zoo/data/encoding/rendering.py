"""Finds the text that the model has to write in a conversation, with the model's own chat template, unpatched.

A template is only known as a function from messages to text. What the model has to write at turn k is the difference
between two of its outputs: what `messages[:k+1]` adds to `messages[:k]` with the generation prompt, up to the token
that ends the turn. That text is trained, the rest is not. If the first output does not begin with the second (some
templates rewrite earlier turns), there is no such difference, and the turn is not trained; if it is the last turn,
the row is refused. Nothing depends on the names of tokens.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any, NamedTuple

from zoo.data.encoding.dropped import Completeness, stands
from zoo.data.encoding.memo import Memo
from zoo.data.encoding.messages import called, in_parts, objects_of, parts_of, says_something, with_text_arguments
from zoo.data.encoding.named import refuse_unread
from zoo.data.encoding.probes import CALL, NAME, PROBE, QUESTION, TOOL, Form, closings
from zoo.data.encoding.segments import pattern
from zoo.data.encoding.tokens import TextTokenizer
from zoo.data.formats.message import REASONING_KEYS
from zoo.data.kinds import Message
from zoo.data.row_errors import RowError, shorten
from zoo.errors import ZooError
from zoo.libraries.pretrained import render
from zoo.limits import TEMPLATE_BYTES, TEMPLATE_SECONDS, Watch, size, within_memory
from zoo.numbers import amount


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
        self.memo = Memo()
        """Open for one record at a time, whose texts are then written once."""
        self.watch = Watch(TEMPLATE_SECONDS)
        self.day = day or date.today()
        text = source or tokens.tokenizer.chat_template
        self.writes_day = "strftime_now(" in str(text)
        self.template = _on_day(text, self.day) if self.writes_day and isinstance(text, str) else source
        """The template with the same day in all texts, also when a run goes on overnight."""
        self.words = set(re.findall(r"\w+", str(text)))
        """The words of the template, among them the variables that it reads."""
        refuse_unread(self.args, str(text))
        self.reasoning = [key for key in REASONING_KEYS if key in self.words]
        """The keys of a message in which the template looks for thoughts."""
        self._form = Form()
        self._tail, followed = self._after_answer()
        self._closings = closings(pattern(tokens.added), self._tail, followed)
        """Where the tokens end that close a turn, in the text behind an answer."""
        self.end_of_turn: str | None = self._token(tokens, self._tail, self._closings)
        """The token that ends a turn, as text, the last one if there are several; None if the template writes none."""
        self._controls = pattern(tokens.specials)
        self.ending = re.compile(rf"(?:{self._controls.pattern})(?:\s*(?:{self._controls.pattern}))*\s*\Z")
        """Matches the tokens that end a text, without what stands before them."""
        self.end_of_call = self._after_call()
        """The token that ends a turn with a call, as text; None if the template writes none, or no calls."""
        self._completeness = Completeness()

    @staticmethod
    def _token(tokens: TextTokenizer, tail: str, closings: list[int]) -> str | None:
        """The last token that closes a turn; all of them are special from now on."""
        found = list(pattern(tokens.added).finditer(tail[: closings[-1]])) if closings else []
        for match in found:
            tokens.count_as_special(match.group())
        return found[-1].group() if found else None

    def text(self, messages: list[Message], extras: Extras = BARE, asking: bool = False) -> str:
        """What the template writes; `asking` adds the generation prompt. Raises RowError in the template's words."""
        made_of = (extras.tools, extras.args, *messages)
        return self.memo.once(("text", asking), made_of, lambda: self._write(messages, extras, asking))

    def _write(self, messages: list[Message], extras: Extras, asking: bool) -> str:
        calls = any(called(turn) for turn in messages)
        try:
            text = self._render(messages, extras, asking)
        # A template is a program of unknown origin: any exception means that it refuses these messages.
        except Exception as error:
            if calls and messages != (texts := with_text_arguments(messages)):
                return self.text(texts, extras, asking)
            raise RowError("E_TEMPLATE", "messages", self._refusal(error, messages, extras, asking)) from None
        if calls and any(str(arguments) in text for arguments in objects_of(messages)):
            # It prints objects as Python does, which no program reads as JSON.
            return self.text(with_text_arguments(messages), extras, asking)
        return text

    def _render(self, messages: list[Message], extras: Extras, asking: bool) -> str:
        args = {**self.args, **(extras.args or {})}
        messages = in_parts(messages) if self._form.parts else messages
        with self.watch.step():
            return render(
                self.tokenizer, messages, tools=extras.tools, asking=asking, template=self.template, args=args
            )  # fmt: skip

    def _refusal(self, error: Exception, messages: list[Message], extras: Extras, asking: bool) -> str:
        """Why the template refuses messages, in its own words where it has some."""
        if isinstance(error, MemoryError):
            return f"the chat template refuses it: it takes more than {size(TEMPLATE_BYTES)} of memory"
        if isinstance(error, TypeError) and not extras.tools:
            with contextlib.suppress(Exception):
                self._render(messages, extras._replace(tools=[TOOL]), asking)
                return "the chat template needs tools, and the row has none"
        return f"the chat template refuses it: {str(error).strip().split(chr(10))[0] or type(error).__name__}"

    def understood(self, messages: list[Message]) -> list[Message]:
        """The messages with their thoughts under a key that the template reads, if it reads any."""
        return [self._with_known_key(turn) if len(turn) > 2 else turn for turn in messages]

    def _with_known_key(self, turn: Message) -> Message:
        own = [key for key in REASONING_KEYS if isinstance(turn.get(key), str)]
        if not own or not self.reasoning or own[0] in self.reasoning:
            return turn
        return {(self.reasoning[0] if key == own[0] else key): value for key, value in turn.items()}

    def asked(self, messages: list[Message], extras: Extras = BARE) -> str:
        """A prompt with the generation prompt. Raises RowError for a part of it that the template leaves out."""
        text = self.text(messages, extras, asking=True)
        self._check(messages, extras, text, asking=True)
        return text

    def _check(self, messages: list[Message], extras: Extras, text: str, asking: bool) -> None:
        """Raises RowError for a content or a call that is not in the text."""
        form = (asking, bool(extras.tools), json.dumps(extras.args, default=str) if extras.args else "")
        self._completeness.check(messages, text, lambda others: self.text(others, extras, asking), form)

    def conversation(
        self, messages: list[Message], first: int, extras: Extras = BARE, marks: Sequence[bool | None] = (),
        only_marked: bool = False,
    ) -> Rendered:  # fmt: skip
        """A conversation up to its last trained turn; assistant turns from message `first` on are trained.

        marks: what each message says about its training, None where it says nothing; a turn marked False is not
        trained. only_marked: turns without a mark are not trained either. Raises RowError.
        """
        marks = [*marks, *[None] * (len(messages) - len(marks))]
        speaking = [k for k, turn in enumerate(messages) if turn["role"] == "assistant" and k >= first]
        if not speaking:
            raise RowError("E_MISSING_TURN", "completion", "there is no assistant turn")
        speaking = [k for k in speaking if marks[k] or marks[k] is None and not only_marked]
        if not speaking:
            raise RowError("E_NO_SUPERVISED_TOKENS", "completion", "every assistant turn is marked as not trained")
        messages = messages[: speaking[-1] + 1]
        text = self.text(messages, extras)
        self._check(messages, extras, text, asking=False)
        turns, untrained = [self._turn(messages, speaking[-1], extras, text)], []
        for k in reversed(speaking[:-1]):
            if not says_something(messages[k]):
                untrained.append("the turn is empty")
                continue
            try:
                turns.insert(0, self._turn(messages, k, extras, text))
            except RowError as error:
                untrained.append(error.message)
        warnings = []
        if untrained:
            reason = f"{len(untrained)} of {amount(len(speaking), 'assistant turn')} are not trained: {untrained[0]}"
            warnings.append(RowError("W_UNTRAINED_TURNS", "completion", reason))
        elif any(mark and messages[k]["role"] != "assistant" for k, mark in enumerate(marks[: len(messages)])):
            reason = "only assistant turns can be trained, and another one is marked"
            warnings.append(RowError("W_UNTRAINED_TURNS", "messages", reason))
        warnings += self.unseen(messages, extras, text, others=[k for k in range(len(messages)) if k not in speaking])
        prompt = self._prompt_end(messages[: speaking[0]], extras, text, turns[0].start)
        spans = tuple((turn.start, turn.end) for turn in turns)
        return Rendered(text[: turns[-1].end], prompt, spans, turns[-1].closed, warnings=tuple(warnings))

    def unseen(
        self, messages: list[Message], extras: Extras, text: str, asking: bool = False, others: Sequence[int] = ()
    ) -> list[RowError]:
        """Warnings about what is not in the text: tools, if it is the same without them, and thoughts of `others`.

        others: the turns that are not trained. The text may still contain the names of the tools.
        """
        warnings = []
        try:
            shown = not extras.tools or self.text(messages, extras._replace(tools=None), asking) != text
        except RowError:
            shown = True
        if not shown:
            reason = "the chat template does not show them to the model"
            warnings.append(RowError("W_TOOLS_UNSEEN", "tools", reason))
        thoughts = [part for k in others for part in parts_of(messages[k]).thoughts if not stands(part, text)]
        if thoughts:
            reason = f"the chat template leaves out {shorten(thoughts[0])!r}"
            warnings.append(RowError("W_REASONING_UNSEEN", "prompt", reason))
        return warnings

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
        for thought in parts_of(messages[k]).thoughts:
            if not stands(thought, written):
                reason = f"the chat template leaves out the reasoning {shorten(thought)!r}, so it would not be trained"
                raise RowError("E_REASONING_DROPPED", f"messages[{k}]", reason)
        if not extends:
            raise RowError(
                "E_TEMPLATE",
                f"messages[{k}]",
                "the chat template does not write this answer after the prompt that asks for it: the prompt ends with "
                f"{before[-30:]!r}, the text with the answer is …{after[-60:]!r}",
            )
        ends, closed = self.ends(after, len(before))
        end = next((end for end in ends if whole.startswith(after[:end])), None)
        if end is None:
            raise RowError("E_TEMPLATE", f"messages[{k}]", "the chat template rewrites it when other turns follow")
        return Turn(len(before), end, closed)

    def ends(self, text: str, start: int) -> tuple[list[int], bool]:
        """Where the last turn of the text, which begins at `start`, may end, and whether a token ends it there.

        Each token that closes the turn is a place, the last one first.
        """
        if text.endswith(self._tail, start):
            behind = len(text) - len(self._tail)
            return [behind + end for end in reversed(self._closings)] or [behind], bool(self._closings)
        # Turns that call tools may end with other tokens, before what ends every text.
        last = self._tail[self._closings[-1] :] if self._closings else ""
        match = self.ending.search(text.removesuffix(last), start)
        if match is None:
            return [max(start, len(text.rstrip()))], False
        tokens = self._controls.finditer(text, match.start(), match.end())
        return [token.end() for token in tokens][::-1], True

    def _after_answer(self) -> tuple[str, str]:
        """What the template writes after the last answer, and after an answer that a question follows.

        Templates for pictures take contents as lists of parts, and some need tools.
        """
        reason = ""
        for self._form in (Form(), Form(tools=[TOOL]), Form(parts=True)):
            try:
                # Nothing else runs yet, so the limit of the memory meets the template alone.
                with within_memory(TEMPLATE_BYTES):
                    return self._probed()
            except RowError as error:
                reason = reason or error.message
        raise ZooError(
            f"The chat template cannot render a question and its answer: {reason}",
            "Give another template with --template FILE.jinja, or train on raw text with --template none.",
        )

    def _probed(self) -> tuple[str, str]:
        extras, answered = Extras(self._form.tools), [QUESTION, {"role": "assistant", "content": PROBE}]
        self.text([QUESTION], extras, asking=True)
        text = self.text(answered, extras)
        if PROBE not in text:
            raise RowError("E_TEMPLATE", "", f"the answer is not in what it writes: {shorten(text, 80)!r}")
        tail = text[text.rindex(PROBE) + len(PROBE) :]
        try:
            longer = self.text([*answered, QUESTION], extras)
        except RowError:
            return tail, tail
        return tail, longer[longer.rfind(PROBE) + len(PROBE) :] if PROBE in longer else tail

    def _after_call(self) -> str | None:
        """The last token of a turn that calls a tool; None where the template writes no calls, or no token there."""
        call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
        try:
            text = self.text([QUESTION, call], Extras([TOOL]))
        except RowError:
            return None
        place = text.rfind(NAME)
        ends, closed = self.ends(text, max(place, 0))
        tokens = list(self._controls.finditer(text, 0, ends[0])) if closed else []
        return tokens[-1].group() if place >= 0 and tokens else None
