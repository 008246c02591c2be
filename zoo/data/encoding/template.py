"""Chat templates: turns prompts into token ids, and conversations into answers with a mask of trained tokens.

`rendering` finds the assistant's turns in the text; `tokens` turns the text into ids that can be cut at these
positions. This module combines the two and decides what is the same for all rows of a model: the template, the ids
that end an answer, and the meaning of a bare text.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import date
from functools import partial
from itertools import takewhile
from typing import Any

from zoo.data.encoding.block import PlainAnswer, spans_of
from zoo.data.encoding.memo import Memo
from zoo.data.encoding.messages import as_turn, marks_of, prepared, texts_of, tool_list, with_texts
from zoo.data.encoding.named import ARGS_OF_NONE, AUTO, NONE, PLAIN, named_templates, template_text, wanted, with_args
from zoo.data.encoding.new_tokens import NewTokens, give, lacking
from zoo.data.encoding.probes import QUESTION
from zoo.data.encoding.rendering import BARE, Extras, Rendered, Renderer
from zoo.data.encoding.replies import Replies
from zoo.data.encoding.tokens import Cut, TextTokenizer
from zoo.data.kinds import ROW_ARGS, Message
from zoo.data.row_errors import RowError
from zoo.errors import ZooError
from zoo.numbers import amount
from zoo.values.types import Answer

Prompt = str | list[Message]
Args = Mapping[str, Any] | None
"""A row's own variables of the template (`chat_template_kwargs`), over those of `ChatTemplate`."""
NOTHING_TO_ANSWER = "ends in an assistant turn, so there is nothing to answer"


class ChatTemplate:
    """A tokenizer with a chat template.

    template: "auto" for the tokenizer's own (or a plain one if it has none), "none" for raw text, the name of one that
    comes with zoo, the path of a .jinja file, or the text of a template. eos_ids: further ids that end an answer, such
    as those of the model's generation configuration; day: what a template that writes the day takes for today; args:
    variables of the template, for all texts; new_tokens: added to the tokenizer if it lacks them, together with those
    that the template needs; None adds none. Raises ZooError for a template that cannot render a question and its
    answer.
    """

    def __init__(
        self, tokenizer: Any, template: str = AUTO, *, eos_ids: Iterable[int] = (), day: date | None = None,
        new_tokens: Sequence[str] | None = None, args: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        if tokenizer.eos_token_id is None:
            raise ZooError(
                "The tokenizer has no end-of-text token, so the model could never learn to stop.",
                "Set eos_token in the model folder's tokenizer_config.json.",
            )
        self.tokenizer = tokenizer
        self._eos = tokenizer.eos_token_id
        self.notes: list[str] = []
        """Sentences on what was decided for all rows."""
        if template == NONE and args:
            raise ZooError(*ARGS_OF_NONE)
        source = self._choose(template)
        self.new = NewTokens() if new_tokens is None else give(tokenizer, wanted(source, new_tokens), new_tokens)
        """The tokens that were added, for which a model needs rows."""
        if missing := lacking(tokenizer, source):
            self._note(
                f"The tokenizer has no token {', '.join(missing)}: what the template writes there is cut into parts. "
                f"`zoo train` adds tokens with --new-tokens '{','.join(missing)}'."
            )
        self.tokens = TextTokenizer(tokenizer)
        self.renderer = None if template == NONE else Renderer(self.tokens, source, day, args)
        self.replies: Replies | None = None
        self.memo = self.renderer.memo if self.renderer else Memo()
        """Open for one record at a time, whose messages are then prepared and rendered once."""
        self.end_of_turn = self.renderer.end_of_turn if self.renderer else None
        """The token that ends a turn, as text; None if the template writes none, and for raw text."""
        ends = (self.end_of_turn, self.renderer.end_of_call) if self.renderer else ()
        ending = [text for text in ends if text]
        self.eos_ids: set[int] = {tokenizer.eos_token_id, *eos_ids, *(self.tokens.added[text] for text in ending)}
        """Ids that end an answer."""

    @property
    def ends(self) -> list[int]:
        """The ids that end an answer, that of the template's end of turn first."""
        first = [self.tokens.added[self.end_of_turn]] if self.end_of_turn else []
        return [*first, *sorted(self.eos_ids - set(first))]

    # -- single texts: errors are ZooErrors -----------------------------------------------------------------------

    def prompt_ids(self, prompt: Prompt, tools: Any = None, args: Args = None) -> list[int]:
        """The ids of a prompt, with the generation prompt at its end."""
        with _told_to_user():
            return self.tokens.ids([self.prompt_text(prompt, tools, args)])[0]

    def answer(self, prompt: Prompt, completion: Prompt, tools: Any = None, args: Args = None) -> Answer:
        """A prompt and its answer; the assistant turns in the completion are trained."""
        with _told_to_user():
            return self.tokenize([self.render(prompt, completion, tools, args)])[0][0]

    def conversation(self, messages: list[Message], tools: Any = None, args: Args = None) -> Answer:
        """A conversation in which every assistant turn is trained."""
        with _told_to_user():
            return self.tokenize([self.render_conversation(messages, tools, args)])[0][0]

    def following(
        self, before: list[Message], turn: Message, said: Sequence[Mapping[str, Any]], tools: Any = None,
        args: Args = None, ended: bool = True,
    ) -> list[int]:  # fmt: skip
        """The ids between two turns of the policy: what is said after the first, and the prompt for the second.

        before: the messages before the turn; ended: the turn has its end-of-turn token, which is otherwise among the
        ids. No message at all asks for a further turn; the policy goes on in a turn that has not ended. Control tokens
        in `said` are broken up. Nothing of the turn is tokenised: its calls give their names and ids to results.
        """
        said = self.harmless(said)
        if self.renderer is None:
            return self.tokens.continuation("".join(message["content"] for message in said))
        if not said and not ended:
            return []
        self.replies = self.replies or Replies(self.renderer, self.tokens, self._note)
        turn = {**turn, "tool_calls": with_texts(turn.get("tool_calls"), self.tokens.harmless)}
        opening = list(takewhile(lambda message: message["role"] != "assistant", before)) or [QUESTION]
        with _told_to_user():
            spoken = [self._messages(messages, "user") for messages in (self.harmless(opening), said)]
            text, place = self.replies.after(spoken[0], turn, spoken[1], self._extras(tools, args), ended)
        cut = self.tokens.cut([text], [[place]])[0]
        return cut.ids[cut.positions[0] :]

    def harmless(self, messages: Sequence[Mapping[str, Any]]) -> list[Message]:
        """Messages whose texts hold no control tokens, so that they cannot pretend to be other turns."""
        return [with_texts(message, self.tokens.harmless) for message in messages]

    def preflight(self, answers: int | None = None, unended: int = 0) -> str:
        """One sentence on whether the model learns to stop.

        answers: those of the data, of which `unended` have no end; None if there is no data yet.
        """
        counted = f"; {unended:,} of {amount(answers or 0, 'answer')} were cut and have no end" if unended else ""
        end = self.end_of_turn or self.tokenizer.eos_token
        if answers == 0:
            return f"The model's own answers end at {end}."
        if self.renderer is None or self.end_of_turn:
            return f"The model learns to stop: answers end with {end}, and it is trained{counted}."
        return (
            "Warning: with this chat template answers have no end-of-turn token, and the model would never learn to "
            f"stop. {end} is appended to the last answer of each row, and trained{counted}."
        )

    @property
    def source(self) -> Any:
        """The text of the template, or several under their names; None for raw text."""
        return None if self.renderer is None else self.renderer.source or self.tokenizer.chat_template

    @property
    def identity(self) -> str:
        """What tells this template and its arguments from others."""
        if self.renderer is None:
            return NONE
        args = self.renderer.args
        return str(self.source) + (json.dumps(args, sort_keys=True, default=str) if args else "")

    def trained_tokenizer(self) -> Any:
        """The tokenizer to save with a model: it holds the template that the model was trained with, and its arguments.

        Other programs add no BOS to what a template writes. Where it was trained with one, the template writes it.
        """
        source = self.source
        if not isinstance(source, str):
            return self.tokenizer
        assert self.renderer is not None
        source = with_args(source, self.renderer.args)
        if self.tokens.bos is not None and not self._begins_with_bos():
            source = "{{ bos_token }}" + source
        if source == self.tokenizer.chat_template:
            return self.tokenizer
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.chat_template = source
        return tokenizer

    def _begins_with_bos(self) -> bool:
        """Whether the template itself writes the token that begins every text."""
        try:
            text = self.prompt_text("Hello")
        except RowError:
            return True
        return text.startswith(self.tokenizer.bos_token)

    # -- many rows: to text, with RowErrors, then to ids ----------------------------------------------------------

    def watched(self) -> AbstractContextManager[None]:
        """Within it, rendering many texts is watched by one timer."""
        return self.renderer.watch.armed() if self.renderer else nullcontext()

    def prompt_text(self, prompt: Prompt, tools: Any = None, args: Args = None) -> str:
        """A prompt as text."""
        if self.renderer is None:
            return self._raw(prompt, "prompt", tools)
        messages = self._messages(prompt, "user")
        if messages and messages[-1]["role"] == "assistant":
            raise RowError("E_MISSING_TURN", "prompt", NOTHING_TO_ANSWER)
        return self.renderer.asked(messages, self._extras(tools, args))

    def prompt_warnings(self, prompt: Prompt, tools: Any = None, args: Args = None) -> list[RowError]:
        """Warnings about a prompt that `prompt_text` can write."""
        if self.renderer is None or not tools and not _may_think(prompt):
            return []
        messages, extras = self._messages(prompt, "user"), self._extras(tools, args)
        text = self.renderer.text(messages, extras, asking=True)
        return self.renderer.unseen(messages, extras, text, asking=True, others=range(len(messages)))

    def render(self, prompt: Prompt, completion: Prompt, tools: Any = None, args: Args = None) -> Rendered:
        """A prompt and its completion as text."""
        if self.renderer is None:
            head = self._raw(prompt, "prompt", tools)
            return self._rendered(head + self._raw(completion, "completion", tools), len(head))
        before = self._messages(prompt, "user")
        after = self._messages(completion, "assistant")
        if before and after and before[-1]["role"] == after[0]["role"] == "assistant":
            raise RowError("E_MISSING_TURN", "prompt", NOTHING_TO_ANSWER)
        marks = [*_marks(prompt), *_marks(completion)]
        return self.renderer.conversation(before + after, len(before), self._extras(tools, args), marks)

    def render_conversation(
        self, messages: list[Message], tools: Any = None, args: Args = None, only_marked: bool = False
    ) -> Rendered:
        """A conversation as text, every assistant turn trained but those that say no; or only those that say yes."""
        if self.renderer is None:
            raise self._raw_error("messages")
        turns, marks = self._messages(messages, "user"), _marks(messages)
        return self.renderer.conversation(turns, 0, self._extras(tools, args), marks, only_marked)

    def render_text(self, text: str) -> Rendered:
        """Plain text without a prompt, all of it trained, whatever the template."""
        return self._rendered(text, 0)

    def tokenize(self, rendered: Sequence[Rendered]) -> list[tuple[Answer, list[int]]]:
        """Answers, and for each mark the position (in the completion) of the last token before it."""
        return [(answer.tensors(), marks) for answer, marks in self.plain(rendered)]

    def plain(self, rendered: Sequence[Rendered]) -> list[tuple[PlainAnswer, list[int]]]:
        """The same, with answers in plain Python."""
        places = [
            sorted({text.prompt, *text.marks, *(place for span in text.spans for place in span)}) for text in rendered
        ]
        cuts = self.tokens.cut([text.text for text in rendered], places)
        return [self._answer(*text) for text in zip(rendered, places, cuts, strict=True)]

    def _answer(self, rendered: Rendered, places: list[int], cut: Cut) -> tuple[PlainAnswer, list[int]]:
        position = dict(zip(places, cut.positions, strict=True))
        start, eos = position[rendered.prompt], self._eos
        completion = cut.ids[start:]
        if not rendered.closed and completion[-1:] != [eos]:
            completion = [*completion, eos]
        spans = [(position[first] - start, position[last] - start) for first, last in rendered.spans]
        # No token precedes the first token of a text without a prompt, so nothing predicts it.
        spans = spans_of([*spans, (len(completion) - 1, len(completion))], first=int(start == 0))
        marks = [position[mark] - start - 1 for mark in rendered.marks]
        return PlainAnswer(cut.ids[:start], completion, spans), marks

    # -- input --------------------------------------------------------------------------------------------------

    def turns(self, value: Prompt, role: str) -> list[Message]:
        """Messages as they are, and a bare text as a turn of its own."""
        if not isinstance(value, str):
            return value
        self._note("Texts become turns of the chat template: a prompt a user turn, an answer an assistant turn.")
        return self.memo.once(role, (value,), lambda: [as_turn(value, role)])

    def _messages(self, value: Prompt, role: str) -> list[Message]:
        turns = enumerate(self.turns(value, role))
        return [self.memo.once("prepared", (turn,), partial(self._prepared, turn, k)) for k, turn in turns]

    def _prepared(self, turn: Message, k: int) -> Message:
        messages = prepared([turn])
        if self.renderer is not None:
            messages = self.renderer.understood(messages)
        self._refuse_special(messages[0], f"messages[{k}]", f"the {turn['role']} turn")
        return messages[0]

    def _extras(self, tools: Any, args: Args) -> Extras:
        bare = tools is None and args is None
        return BARE if bare else self.memo.once("extras", (tools, args), lambda: self._checked(tools, args))

    def _checked(self, tools: Any, args: Args) -> Extras:
        schemas = tool_list(tools)
        self._refuse_special(schemas, "tools", "a tool schema")
        self._refuse_special(args, ROW_ARGS, "an argument of the template")
        for name in args or ():
            if self.renderer is not None and name not in self.renderer.words:
                self._note(f"The chat template reads no '{name}', which rows have in {ROW_ARGS}.")
        return Extras(schemas, args)

    def _refuse_special(self, value: Any, field: str, where: str) -> None:
        """In a rendered text, a control token of the template could not be told from one that somebody typed."""
        for text in texts_of(value):
            if special := self.tokens.special_in(text):
                message = f"{where} contains {special!r}, which the model would read as a control token"
                raise RowError("E_SPECIAL_TOKEN", field, message)

    def _raw(self, value: Prompt, field: str, tools: Any) -> str:
        if not isinstance(value, str) or tools:
            raise self._raw_error("tools" if tools else f"messages as its {field}")
        return value

    def _raw_error(self, content: str) -> ZooError:
        return ZooError(
            f"Raw text was asked for (--template none), but a row has {content}.",
            "Leave out --template to use the model's chat template, or give prompts and answers as text.",
        )

    def _rendered(self, text: str, prompt: int) -> Rendered:
        """Special tokens written in raw text count as special tokens: its author meant them."""
        special = self.tokens.special_in(text)
        if special in self.tokens.rowless:
            raise RowError("E_SPECIAL_TOKEN", "text", f"the model has no row for {special!r} in its embedding")
        warnings = [RowError("W_CONTROL_TOKENS", "text", f"{special!r} is read as a control token")] if special else []
        return Rendered(text, prompt, ((prompt, len(text)),), False, warnings=tuple(warnings))

    def _choose(self, template: str) -> str | None:
        """The text of the template; None for the tokenizer's own, and for raw text."""
        if template == AUTO and not self.tokenizer.chat_template:
            self._note("The model has no chat template; a plain one is used (User: … Assistant: …).")
            return named_templates()[PLAIN].text
        return template_text(template)

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _marks(value: Prompt) -> list[bool | None]:
    return [None] if isinstance(value, str) else marks_of(value)


def _may_think(prompt: Prompt) -> bool:
    """Whether a prompt may hold thoughts."""
    return not isinstance(prompt, str) and any(len(turn) > 2 or "</think>" in str(turn["content"]) for turn in prompt)


def extras_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record has for the template beside its messages, as arguments of `ChatTemplate`'s methods."""
    return {"tools": record.get("tools"), "args": record.get(ROW_ARGS)}


@contextmanager
def _told_to_user() -> Iterator[None]:
    """Turns a RowError into a ZooError, which the user sees."""
    try:
        yield
    except RowError as error:
        raise ZooError(f"This cannot be given to the model: {error}.", "See docs/templates.md.") from None


def ends_trained(answer: Answer, eos_ids: set[int]) -> bool:
    """Whether the last token of an answer ends it and is trained."""
    return bool(len(answer.mask) and answer.mask[-1]) and int(answer.completion[-1]) in eos_ids
