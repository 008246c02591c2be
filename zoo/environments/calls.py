"""Reads the calls of tools in a turn of the policy, in the format in which its chat template writes calls."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from zoo.data.encoding.probes import CALL, NAME, PROBE, QUESTION, TOOL
from zoo.data.encoding.rendering import Extras
from zoo.data.encoding.segments import pattern
from zoo.data.encoding.template import ChatTemplate
from zoo.data.formats.message import REASONING_KEYS
from zoo.data.kinds import Message
from zoo.data.row_errors import RowError
from zoo.environments.finding import last_tag, shapes_of
from zoo.environments.shapes import TAG, Call, Objects, Shape, Types, Unreadable, bare, call_of, unreadable
from zoo.libraries.responses import knows_turns, turn_of

THINK = ("<think>", "</think>")
THOUGHT = "zqthoughtqz"
MOST = 100
"""Calls that are read of a turn."""
LONGEST = 200_000
"""Characters up to which a tokenizer's own response template, which may be slow, reads a turn."""
PROBES: tuple[dict[str, Any], ...] = ({"first": "8"}, {"first": "8 <b> é", "next": "9"}, {})
"""Arguments of calls that a format must read as the template wrote them."""


class Frame(NamedTuple):
    """What a template writes around the parts of a turn.

    tags: those around thoughts; begun: those of a thought that the prompt begins; lead: what stands before an answer,
    if it has a control token.
    """

    tags: list[tuple[str, str]]
    begun: tuple[str, str] | None = None
    lead: str = ""


class CallReader:
    """Turns of the policy as messages. tools: the schemas of those that it may call.

    The tokenizer's own response template reads them if it has one. Otherwise the format is the first that reads a call
    back which the chat template has written. A template that writes no calls gets the format of most models: a
    JSON object between <tool_call> tags.
    """

    def __init__(self, template: ChatTemplate, tools: Sequence[Mapping[str, Any]] = ()):
        self.template, self.tools = template, [dict(tool) for tool in tools]
        self._control = pattern(template.tokens.specials)
        self._frame = Frame([THINK])
        self.shape: Shape = Objects()
        self._wrappers: frozenset[str] = frozenset()
        """Tags that the template writes around calls, beside those that belong to one."""
        self._own = False
        if template.renderer is None:
            return
        # A template that refuses these tools refuses every prompt, which is told there.
        with suppress(RowError):
            self._asked = self._text([QUESTION], asking=True)
            self._frame = self._framed()
            self._own = knows_turns(template.tokenizer) and self._reads_back(self._read_by_own)
            self._find_shape()

    def _find_shape(self) -> None:
        """Take the first shape that reads what the template writes, if there is one."""
        for shape in shapes_of(self._written, _types(self.tools)):
            if self._reads_back(partial(self._cut, shape=shape)):
                self.shape = shape
                left = self._cut(self._written(NAME, PROBES[0]), shape)[0]
                self._wrappers = frozenset(TAG.findall(left)) - {tag for pair in self._frame.tags for tag in pair}
                return

    def read(self, text: str) -> Message:
        """A turn as a message: role, content, and where it has some `reasoning_content` and `tool_calls`.

        text: with its special tokens, without the one that ended it. A call that cannot be read has the reason as
        `error`. Raises nothing.
        """
        if self._own and len(text) <= LONGEST:
            # The library's reader and the model's template for it are others' code.
            try:
                return self._by_own(text)
            except Exception as error:
                refused = Unreadable(str(error).strip().split("\n")[0][:200] or type(error).__name__)
                message = self._by_shape(text)
                return {**message, "tool_calls": message.get("tool_calls") or [unreadable(refused)]}
        return self._by_shape(text)

    # -- by the tokenizer's own response template -------------------------------------------------------------------

    def _by_own(self, text: str) -> Message:
        found = turn_of(self.template.tokenizer, text, self._asked, self.tools)
        thoughts = next((found[key] for key in REASONING_KEYS if isinstance(found.get(key), str)), "")
        calls = []
        for call in found.get("tool_calls") or ():
            function = call.get("function") if isinstance(call, dict) else None
            function = function if isinstance(function, dict) else {}
            try:
                calls.append(call_of(function.get("name"), function.get("arguments")))
            except Unreadable as error:
                calls.append(unreadable(error))
        return _message(self._plain(str(found.get("content") or "")), [thoughts] if thoughts else [], _the_first(calls))

    def _read_by_own(self, text: str) -> tuple[str, list[Call]]:
        message = self._by_own(text)
        return message["content"], message.get("tool_calls", [])

    # -- by the shape of calls --------------------------------------------------------------------------------------

    def _by_shape(self, text: str) -> Message:
        rest, thoughts = self._without_thoughts(text)
        rest, calls = self._cut(rest, self.shape)
        if self._frame.lead:
            _, found, after = rest.partition(self._frame.lead)
            rest = after if found else "" if calls else rest
        if calls:
            rest = TAG.sub(lambda tag: "" if tag.group() in self._wrappers else tag.group(), rest)
        rest = self._plain(rest)
        return _message(rest.strip() if calls or thoughts else rest, thoughts, calls)

    def _plain(self, text: str) -> str:
        return self._control.sub("", text)

    def _without_thoughts(self, text: str) -> tuple[str, list[str]]:
        """A turn without its thoughts, and these. One that has no end is a thought up to the end of the turn."""
        thoughts: list[str] = []
        for tags in self._frame.tags:
            begin, end = tags
            place, kept = 0, []
            close, begun = text.find(end), self._frame.begun == tags
            if begun or tags == THINK and close >= 0 and not 0 <= text.find(begin) < close:
                thoughts.append(text[: close if close >= 0 else len(text)].removeprefix(begin))
                place = close + len(end) if close >= 0 else len(text)
            while begin and (start := text.find(begin, place)) >= 0:
                kept.append(text[place:start])
                close = text.find(end, start + len(begin))
                thoughts.append(text[start + len(begin) : close if close >= 0 else len(text)])
                place = close + len(end) if close >= 0 else len(text)
            text = "".join([*kept, text[place:]])
        return text, [thought for part in thoughts if (thought := self._plain(part).strip())]

    def _cut(self, text: str, shape: Shape) -> tuple[str, list[Call]]:
        """A turn without its calls, and these."""
        if not shape.opening:
            rest, calls = bare(self._plain(text), shape)
            return rest, _the_first(calls)
        found: list[Call] = []
        kept, place, closes = [], 0, bool(shape.closing)
        while len(found) <= MOST and (start := text.find(shape.opening, place)) >= 0:
            kept.append(text[place:start])
            inside = start + len(shape.opening)
            try:
                calls, place = shape.read(text, inside)
            except Unreadable as error:
                calls = [unreadable(error)]
                ends = [text.find(shape.closing, inside) if closes else -1, text.find(shape.opening, inside), len(text)]
                closes = ends[0] >= 0
                place = error.end if error.end is not None else min(end for end in ends if end >= 0)
            found += calls
            place = _behind(text, place, shape.closing)
        return "".join([*kept, text[place:]]), _the_first(found)

    # -- what the template writes -----------------------------------------------------------------------------------

    def _text(self, messages: list[Message], asking: bool = False) -> str:
        assert self.template.renderer is not None
        return self.template.renderer.text(messages, Extras(self.tools or [TOOL]), asking)

    def _turn(self, turn: Message) -> tuple[str, bool]:
        """What the template writes for a turn, up to its end, and whether it goes on where the prompt ends."""
        text = self._text([QUESTION, turn])
        shared = len(os.path.commonprefix([text, self._asked]))
        goes_on = shared == len(self._asked)
        if not goes_on:
            shared = 1 + max(text.rfind(letter, 0, shared) for letter in ">\n")
        assert self.template.renderer is not None
        ends, _ = self.template.renderer.ends(text, shared)
        return text[shared : ends[0]], goes_on

    def _written(self, name: str, arguments: Mapping[str, Any]) -> str:
        call = {**CALL, "function": {"name": name, "arguments": dict(arguments)}}
        turn = {"role": "assistant", "content": "", "tool_calls": [call]}
        text, _ = self._turn(turn)
        # Some templates write the id of a call, in which their models have its name, and not the name.
        return text if name in text else self._turn({**turn, "tool_calls": [{**call, "id": f"functions.{name}:0"}]})[0]

    def _reads_back(self, read: Callable[[str], tuple[str, list[Call]]]) -> bool:
        try:
            for arguments in PROBES:
                calls = read(self._written(NAME, arguments))[1]
                if [call["function"] for call in calls] != [{"name": NAME, "arguments": arguments}]:
                    return False
        # A response template may fail in any way.
        except Exception:
            return False
        return True

    def _framed(self) -> Frame:
        renderer = self.template.renderer
        assert renderer is not None
        tags, lead = [THINK], ""
        with suppress(RowError):
            text, goes_on = self._turn({"role": "assistant", "content": PROBE})
            before = self._without_thoughts(text[: text.find(PROBE)])[0].strip()
            lead = before if goes_on and self._control.search(before) else ""
        answers: tuple[Message, ...] = ({"content": PROBE}, {"content": "", "tool_calls": [CALL]})
        for key, answer in itertools.product(renderer.reasoning[:1], answers):
            with suppress(RowError):
                text, goes_on = self._turn({"role": "assistant", **answer, key: THOUGHT})
                before, found, after = text.partition(THOUGHT)
                end = TAG.match(after.strip())
                begin = before.strip() if goes_on and before.strip() else last_tag(before)
                if found and end and begin and (begin, end.group()) not in tags:
                    tags.append((begin, end.group()))
        begun = next((pair for pair in tags if self._asked.rstrip().endswith(pair[0])), None)
        return Frame(tags, begun, lead)


def _message(content: str, thoughts: list[str], calls: list[Call]) -> Message:
    more: Message = {"reasoning_content": "\n\n".join(thoughts)} if thoughts else {}
    return {"role": "assistant", "content": content, **more, **({"tool_calls": calls} if calls else {})}


def _the_first(calls: list[Call]) -> list[Call]:
    """As many calls as may be made in a turn."""
    if len(calls) <= MOST:
        return calls
    return [*calls[:MOST], unreadable(Unreadable(f"there are more than {MOST} calls in this turn"))]


def _behind(text: str, place: int, closing: str) -> int:
    """The place behind what closes a call, if it stands there."""
    spaces = re.compile(r"\s*").match(text, place)
    after = spaces.end() if spaces else place
    return after + len(closing) if closing and text.startswith(closing, after) else place


def _types(tools: Sequence[Mapping[str, Any]]) -> Types:
    """The types of parameters, by tool and name."""
    functions = [tool.get("function", tool) for tool in tools]
    return {
        str(function.get("name")): {
            name: schema.get("type")
            for name, schema in ((function.get("parameters") or {}).get("properties") or {}).items()
            if isinstance(schema, Mapping)
        }
        for function in functions
    }
