"""What a chat template leaves out of a conversation: contents of messages, calls and their arguments.

A template that does not know a part of a message, such as its calls, is silent about it. So what it writes is searched
for everything that it was given. Names and arguments of calls may also stand in a question or a tool schema, and short
contents anywhere: the template is asked once more for each form of conversation, with words in the place of the parts
that stand nowhere else.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from zoo.data.encoding.messages import parts_of, split_thoughts
from zoo.data.kinds import Message
from zoo.data.row_errors import RowError, shorten

Render = Callable[[list[Message]], str]
"""A template with everything but the messages."""


class Completeness:
    """Finds what a template leaves out; forms of conversations of which it writes everything are asked about once."""

    def __init__(self) -> None:
        self._complete: set[Hashable] = set()

    def check(self, messages: list[Message], text: str, render: Render, form: Hashable = ()) -> None:
        """Raises RowError for a part of the messages that is not in the text, which `render` made of them.

        form: what else the text depends on.
        """
        forms: list[Hashable] = [form]
        lost: RowError | None = None
        place = 0
        for k, turn in enumerate(messages):
            content = turn["content"]
            # Most turns have nothing but a content.
            plain = len(turn) == 2 and "</think>" not in content
            parts = [content.strip()] if plain else parts_of(turn).contents
            forms.append((turn["role"], parts != [""]) if plain else _form(turn))
            for part in parts:
                after = text.find(part, place)
                if after < 0 and lost is None and not stands(part, text):
                    lost = _dropped(k, turn, part)
                place = after + len(part) if after >= 0 else place
        if (key := tuple(forms)) not in self._complete:
            _refuse_unwritten(messages, render)
            self._complete.add(key)
        if lost is not None:
            raise lost


def _refuse_unwritten(messages: list[Message], render: Render) -> None:
    """Raises RowError for a part of which the template writes nothing, whatever it is."""
    words = _Words()
    replaced = [words.in_turn(k, turn) for k, turn in enumerate(messages)]
    try:
        text = render(replaced)
    except RowError:
        # It takes no other names or values than these; what is found in the text of the row itself has to do.
        return
    for word, (k, what, part) in words.meaning.items():
        if word not in text:
            raise _dropped(k, messages[k], part) if what == "content" else _call_dropped(k, what, part)


class _Words:
    """Words that stand nowhere else, and what each stands for: the message, the sort of part, the part."""

    def __init__(self) -> None:
        self.meaning: dict[str, tuple[int, str, Any]] = {}
        self._number = itertools.count(1)

    def _word(self, *meaning: Any) -> str:
        word = f"zq{next(self._number)}qz"
        self.meaning[word] = meaning
        return word

    def in_turn(self, k: int, turn: Message) -> Message:
        """A turn with words in the place of its contents and of the names and arguments of its calls."""
        pieces = split_thoughts(turn)
        pieces[::2] = [self._in_text(k, text) for text in pieces[::2]]
        calls = [self._in_call(k, call) for call in turn.get("tool_calls") or ()]
        return {**turn, "content": "".join(pieces), **({"tool_calls": calls} if calls else {})}

    def _in_text(self, k: int, text: str) -> str:
        part = text.strip()
        return text.replace(part, self._word(k, "content", part)) if part else text

    def _in_call(self, k: int, call: Any) -> Any:
        if not isinstance(call, dict):
            return call
        if isinstance(call.get("function"), dict):
            return {**call, "function": self._in_call(k, call["function"])}
        name = {"name": self._word(k, "call", call["name"])} if isinstance(call.get("name"), str) else {}
        arguments = {"arguments": self._in_value(k, call["arguments"])} if "arguments" in call else {}
        return {**call, **name, **arguments}

    def _in_value(self, k: int, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._in_value(k, inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._in_value(k, inner) for inner in value]
        return self._word(k, "argument", value)


def _form(turn: Message) -> Hashable:
    """What decides, as far as one can tell from outside, which parts of a turn a template writes."""
    pieces = tuple(bool(piece.strip()) for piece in split_thoughts(turn))
    calls = tuple(json.dumps(_sorts(call)) for call in turn.get("tool_calls") or ())
    return turn["role"], pieces, calls, tuple(turn) if len(turn) > 2 else ()


def _sorts(value: Any) -> Any:
    """The keys of a value and the sorts of what they hold."""
    if isinstance(value, dict):
        return {str(key): _sorts(inner) for key, inner in value.items()}
    return [_sorts(inner) for inner in value] if isinstance(value, list) else type(value).__name__


def stands(part: str, text: str) -> bool:
    """Whether a part stands in a text, perhaps as JSON or with other white space."""
    return any(form in text for form in _spellings(part)) or "".join(part.split()) in "".join(text.split())


def _spellings(part: str) -> Iterator[str]:
    yield part
    for plain in (False, True):
        yield json.dumps(part, ensure_ascii=plain)[1:-1]


def _dropped(k: int, turn: Message, part: str) -> RowError:
    reason = f"the chat template leaves out {shorten(part)!r} of the {turn['role']} turn"
    return RowError("E_CONTENT_DROPPED", f"messages[{k}]", reason)


def _call_dropped(k: int, what: str, part: Any) -> RowError:
    which = f"the call of {part!r}" if what == "call" else f"the argument {shorten(str(part))!r} of a call"
    return RowError("E_CALL_DROPPED", f"messages[{k}]", f"the chat template leaves out {which}")
