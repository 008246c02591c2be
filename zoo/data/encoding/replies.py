"""What follows a turn of the policy in an episode: the messages that answer it, and the prompt for its next turn.

The policy's own ids are kept as they are, so the text behind its turn is needed alone. A template may write a turn in
another way than the policy did, and differently when others follow. So the turn is never rendered: one of known content
stands in for it, which calls as many tools as give results. Only the messages in front of the first assistant turn
stand before it.

Templates differ in what they take after a turn. For each sequence of roles it is tried out once, with words in the
place of the contents, in which form the template writes all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from zoo.data.encoding.messages import calls_of
from zoo.data.encoding.probes import NAME
from zoo.data.encoding.rendering import Extras, Renderer
from zoo.data.encoding.segments import pattern
from zoo.data.encoding.tokens import TextTokenizer
from zoo.data.kinds import Message
from zoo.data.row_errors import RowError

AS_USER = "The chat template takes no results of tools in this place. They are told to the model as a user turn."


class Form(NamedTuple):
    """How messages are given to a template.

    calls: the turn in front of them calls so many tools, and only says something if it is 0; users: results of tools
    are user turns; one: all messages are one user turn.
    """

    calls: int = 0
    users: bool = False
    one: bool = False


class Following(NamedTuple):
    """A text, and the place in it behind the turn of the policy."""

    text: str
    place: int


class Replies:
    """The text that follows a turn of the policy. note: takes a sentence that is to be told once."""

    def __init__(self, renderer: Renderer, tokens: TextTokenizer, note: Callable[[str], None]):
        self.renderer, self._note = renderer, note
        self._controls = pattern(tokens.specials)
        self._forms: dict[Any, Form] = {}

    def after(
        self, opening: list[Message], turn: Message, said: list[Message], extras: Extras, ended: bool
    ) -> Following:
        """The text from within a stand-in for the turn to the prompt for the next one.

        opening: the messages before the first assistant turn; ended: the policy wrote the token that ends its turn.
        Raises RowError if the template takes no answer.
        """
        said = _with_calls(said, turn)
        key = *(tuple(message["role"] for message in part) for part in (opening, said)), bool(extras.tools)
        if key not in self._forms:
            self._forms[key] = self._form(opening, said, extras)
        reason: RowError | None = None
        # What is said, and the names and ids of calls, may be such that the template refuses them in this form.
        for form in dict.fromkeys((self._forms[key], *_forms(said))):
            try:
                found = self._written(opening, said, extras, form, ended)
            except RowError as error:
                reason = reason or error
                continue
            if any(message["role"] == "tool" for message in said) and (form.users or form.one):
                self._note(AS_USER)
            return found
        assert reason is not None
        raise reason

    def _form(self, opening: list[Message], said: list[Message], extras: Extras) -> Form:
        """The first form in which the template writes all that is said."""
        words = [f"zq{k}qz" for k in range(len(said))]
        spoken = [{**message, "content": word} for message, word in zip(said, words, strict=True)]
        reason: RowError | None = None
        for form in _forms(said):
            try:
                text, place = self._written(opening, spoken, extras, form, ended=True)
            except RowError as error:
                reason = reason or error
                continue
            if all(word in text[place:] for word in words):
                return form
        roles = ", ".join(message["role"] for message in said)
        raise reason or RowError(
            "E_TEMPLATE", "messages", f"the chat template leaves out what follows a turn ({roles})"
        )

    def _written(
        self, opening: list[Message], said: list[Message], extras: Extras, form: Form, ended: bool
    ) -> Following:
        mark = next(word for k in itertools.count() if (word := f"Answer{k}") not in str((opening, said, extras)))
        begun = [*opening, _stand_in(mark, said, form.calls)]
        whole = self.renderer.text([*begun, *_given(said, form)], extras, asking=True)
        if mark not in whole:
            raise RowError("E_TEMPLATE", "messages", "the chat template leaves out the turn that is answered")
        start = whole.rindex(mark)
        behind = start + len(mark)
        end = self._end(begun, extras, mark, whole, behind)
        if not ended:
            # A call goes on behind the mark, and nobody knows how much of its end the policy wrote.
            closing = self.renderer.ending.search(whole[:end], behind) if form.calls else None
            end = closing.start() if closing else end if form.calls else behind
        return Following(whole[start:], end - start)

    def _end(self, begun: list[Message], extras: Extras, mark: str, whole: str, behind: int) -> int:
        """Where the turn ends in the whole text, the token that ends it included. behind: the place behind the mark."""
        try:
            alone = self.renderer.text(begun, extras)
        except RowError:
            alone = ""
        if mark in alone:
            place = alone.rindex(mark) + len(mark)
            for end in self.renderer.ends(alone, place)[0]:
                if whole.startswith(alone[place:end], behind):
                    return behind + end - place
        # It ends in another way when others follow.
        token = self._controls.search(whole, behind)
        return token.end() if token else behind


def _forms(said: Sequence[Message]) -> Iterator[Form]:
    """The forms in which messages may be given, the best one first."""
    results = sum(message["role"] == "tool" for message in said)
    yield from (Form(calls=calls) for calls in dict.fromkeys((results, min(results, 1), 0)))
    if results:
        yield Form(users=True)
    if said:
        yield Form(one=True)


def _given(said: list[Message], form: Form) -> list[Message]:
    if form.one:
        return [{"role": "user", "content": "\n\n".join(message["content"] for message in said)}]
    if form.users:
        return [{"role": "user", "content": m["content"]} if m["role"] == "tool" else m for m in said]
    return said


def _with_calls(said: list[Message], turn: Message) -> list[Message]:
    """Messages in which the results of tools have the names and ids of the calls in the turn, in their order."""
    calls, found = iter(calls_of(turn)), []
    for k, message in enumerate(said):
        if message["role"] == "tool":
            call = next(calls, {})
            name = (call.get("function") or call).get("name")
            own = {"name": str(name or NAME), "tool_call_id": str(call.get("id") or f"{k:09d}")}
            message = {**own, **message}
        found.append(message)
    return found


def _stand_in(mark: str, said: list[Message], calls: int) -> Message:
    """A turn of known content, in the place of the policy's."""
    if not calls:
        return {"role": "assistant", "content": mark}
    results = [message for message in said if message["role"] == "tool"][:calls]
    made = [
        {
            "type": "function",
            "id": result["tool_call_id"],
            "function": {"name": result["name"], "arguments": {"of": mark}},
        }
        for result in results
    ]
    return {"role": "assistant", "content": "", "tool_calls": made}
