"""Chat templates: where in a conversation the model speaks, found with the model's own template, unpatched.

A template turns messages into text, and no more is known of it. What the model has to write at a turn is the
difference of two of its outputs: all that `messages[:k+1]` has beyond `messages[:k]` with the generation prompt, up
to the token that ends the turn. That text is trained, the rest is not. Where the first does not begin with the second
(a template that rewrites earlier turns), there is no such difference: then only the last turn is trained, or the row
is refused. Nothing depends on the names of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.formats.message import Message, RowError, shorten
from zoo.data.messages import calls_of, prepared, reasoning_of, texts_of, tool_list
from zoo.data.tokens import TextTokenizer
from zoo.errors import ZooError
from zoo.types import Answer

PLAIN = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}{{ 'Assistant: ' + message.content + eos_token + '\n\n' }}"
    "{%- else -%}{{ message.role | capitalize + ': ' + message.content + '\n\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
)
"""For models that have no template. The space before an answer belongs to its first word, not to the prompt."""

PROBE = "Seventeen."
Prompt = str | list[Message]


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


@dataclass(frozen=True)
class _Turn:
    start: int
    end: int
    closed: bool


class ChatTemplate:
    """A tokenizer with a chat template: prompts to ids, conversations to `Answer`s.

    template: "auto" for the tokenizer's own (or a plain one where it has none), "none" for raw text, the path of a
    .jinja file, or the text of a template. eos_ids: further ids that end an answer, such as those of the model's
    generation configuration. Raises ZooError for a template that cannot render a question and its answer.
    """

    def __init__(self, tokenizer: Any, template: str = "auto", *, eos_ids: Iterable[int] = ()):
        self.tokenizer = tokenizer
        self.tokens = TextTokenizer(tokenizer)
        self.notes: list[str] = []
        """What was decided for all rows at once, in sentences."""
        if tokenizer.eos_token_id is None:
            raise ZooError(
                "The tokenizer has no token for the end of a text, so the model could never learn to stop.",
                "Set eos_token in the model folder's tokenizer_config.json.",
            )
        self.raw = template == "none"
        self._source = None if self.raw else self._choose(template)
        self._tail, self.end_of_turn = ("", None) if self.raw else self._probe()
        ending = [self.end_of_turn] if self.end_of_turn else []
        self._ending = re.compile(rf"({self._controls(ending)})(?:\s|{self._controls(ending)})*\Z")
        self.eos_ids: set[int] = {tokenizer.eos_token_id, *eos_ids, *(self.tokens.added[text] for text in ending)}
        """Ids that end an answer."""

    # -- prompts and answers -------------------------------------------------------------------------------------

    def prompt_ids(self, prompt: Prompt, tools: Any = None) -> list[int]:
        """The ids of a prompt, with what asks the model to answer at the end. Raises RowError."""
        return self.tokens.ids([self.prompt_text(prompt, tools)])[0]

    def answer(self, prompt: Prompt, completion: Prompt, tools: Any = None) -> Answer:
        """A prompt and its answer; the assistant's turns in the completion are trained. Raises RowError."""
        return self.tokenize([self.render(prompt, completion, tools)])[0][0]

    def conversation(self, messages: list[Message], tools: Any = None) -> Answer:
        """A conversation of which every assistant turn is trained. Raises RowError."""
        return self.tokenize([self.render_conversation(messages, tools)])[0][0]

    def preflight(self, records: Sequence[dict[str, Any]] = ()) -> str:
        """One sentence on whether the model learns to stop; `records` are encoded ones to count in."""
        end = self.end_of_turn or self.tokenizer.eos_token
        answers = [value for record in records for value in record.values() if isinstance(value, Answer)]
        trained = sum(_end_is_trained(answer, self.eos_ids) for answer in answers)
        cut = len(answers) - trained
        counted = f"; {cut:,} of {len(answers):,} answers have no trained end, because they were cut" if cut else ""
        if self.raw or self.end_of_turn:
            return f"The model learns to stop: answers end with {end}, and it is trained{counted}."
        return (
            "Warning: with this chat template answers have no end-of-turn token, and the model would never learn to "
            f"stop. {end} is put behind the last answer of each row and trained{counted}."
        )

    # -- rendering -----------------------------------------------------------------------------------------------

    def prompt_text(self, prompt: Prompt, tools: Any = None) -> str:
        """A prompt as text. Raises RowError."""
        if self.raw:
            return self._raw_text(prompt, "prompt", tools)
        messages = self._messages(prompt, "user")
        if messages and messages[-1]["role"] == "assistant":
            raise RowError("E_MISSING_TURN", "prompt", "ends in an assistant turn, so there is nothing to answer")
        return self._text(messages, tool_list(tools), asking=True)

    def render(self, prompt: Prompt, completion: Prompt, tools: Any = None) -> Rendered:
        """A prompt and its completion as text. Raises RowError."""
        if self.raw:
            head = self._raw_text(prompt, "prompt", tools)
            return self._raw_rendered(head + self._raw_text(completion, "completion", tools), len(head))
        before = self._messages(prompt, "user")
        return self._conversation(before + self._messages(completion, "assistant"), len(before), tool_list(tools))

    def render_conversation(self, messages: list[Message], tools: Any = None) -> Rendered:
        """A conversation as text, every assistant turn trained. Raises RowError."""
        if self.raw:
            self._raw_text(messages, "messages", tools)
        messages = self._messages(messages, "user")
        first = next((k for k, turn in enumerate(messages) if turn["role"] == "assistant"), len(messages))
        return self._conversation(messages, first, tool_list(tools))

    def render_text(self, text: str) -> Rendered:
        """Plain text without a prompt, all of it trained, whatever the template."""
        return self._raw_rendered(text, 0)

    def tokenize(self, rendered: Sequence[Rendered]) -> list[tuple[Answer, list[int]]]:
        """Rendered conversations as answers, and for each mark the position of the completion token before it."""
        places = [
            sorted({one.prompt, *one.marks, *(place for span in one.spans for place in span)}) for one in rendered
        ]
        cuts = self.tokens.cut([one.text for one in rendered], places)
        return [
            self._answer(one, cut.ids, dict(zip(where, cut.positions, strict=True)))
            for one, where, cut in zip(rendered, places, cuts, strict=True)
        ]

    # -- turns ---------------------------------------------------------------------------------------------------

    def _conversation(self, messages: list[Message], first: int, tools: Any) -> Rendered:
        """The turns from `first` on, up to the last assistant turn, trained where the assistant speaks."""
        speaking = [k for k, turn in enumerate(messages) if turn["role"] == "assistant" and k >= first]
        if not speaking:
            raise RowError("E_MISSING_TURN", "completion", "there is no assistant turn")
        messages = messages[: speaking[-1] + 1]
        text = self._text(messages, tools)
        end = self._turn(messages, speaking[-1], tools, text)
        turns, warnings = [], []
        try:
            turns = [self._turn(messages, k, tools, text) for k in speaking[:-1]]
        except RowError as error:
            warnings.append(RowError("W_LAST_TURN", "completion", f"only the last turn is trained: {error.message}"))
        opening = self._text(messages[: speaking[0]], tools, asking=True) if len(speaking) > 1 else ""
        prompt = len(opening) if opening and text.startswith(opening) else end.start
        if tools and not any(name in text for name in tools_names(tools)):
            warnings.append(RowError("W_TOOLS_UNSEEN", "tools", "the chat template does not show them to the model"))
        spans = tuple((turn.start, turn.end) for turn in [*turns, end])
        return Rendered(text[: end.end], prompt, spans, end.closed, warnings=tuple(warnings))

    def _turn(self, messages: list[Message], k: int, tools: Any, whole: str) -> _Turn:
        """Where turn k stands in the whole text. Raises RowError when the template shows something else there."""
        before = self._text(messages[:k], tools, asking=True)
        after = whole if k == len(messages) - 1 else self._text(messages[: k + 1], tools)
        extends = after.startswith(before)
        written = after[len(before) :] if extends else after
        reasoning = reasoning_of(messages[k])
        if reasoning not in written:
            raise RowError(
                "E_REASONING_DROPPED",
                f"messages[{k}]",
                f"the chat template leaves out the reasoning {shorten(reasoning)!r}, so it would not be trained",
            )
        if not extends:
            raise RowError(
                "E_TEMPLATE",
                f"messages[{k}]",
                "the chat template writes this answer otherwise than it asks for it: the prompt ends with "
                f"{before[-30:]!r}, the text with the answer is {after[-60:]!r}",
            )
        missing = [name for name in calls_of(messages[k]) if name not in written]
        if missing:
            raise RowError("E_TEMPLATE", f"messages[{k}]", f"the chat template leaves out the call of {missing[0]!r}")
        end, closed = self._end(after, len(before))
        if not whole.startswith(after[:end]):
            raise RowError("E_TEMPLATE", f"messages[{k}]", "the chat template rewrites this turn when others follow it")
        return _Turn(len(before), end, closed)

    def _end(self, text: str, start: int) -> tuple[int, bool]:
        """Where the turn that begins at `start` and is the last one ends, and whether a token says so."""
        if text.endswith(self._tail, start):
            end = len(text) - len(self._tail)
            return (end + self._tail.index(self.end_of_turn) + len(self.end_of_turn), True) if self.end_of_turn else (
                end,
                False,
            )
        # Turns that call tools may end with a token of their own.
        found = self._ending.search(text, start)
        return (found.end(1), True) if found else (len(text.rstrip()), False)

    def _probe(self) -> tuple[str, str | None]:
        """What the template writes behind an answer, and the token in it that ends the turn."""
        question = {"role": "user", "content": "What is eight and nine?"}
        try:
            text = self._text([question, {"role": "assistant", "content": PROBE}], None)
            self._text([question], None, asking=True)
        except RowError as error:
            reason = error.message
        else:
            place = text.rfind(PROBE)
            if place >= 0:
                tail = text[place + len(PROBE) :]
                found = TextTokenizer.pattern(self.tokens.added).search(tail)
                return tail, found.group() if found else None
            reason = f"the answer is not in what it writes: {shorten(text, 80)!r}"
        raise ZooError(
            f"The chat template cannot render a question and its answer: {reason}",
            "Give another one with --template FILE.jinja, or train on raw text with --template none.",
        )

    # -- text ----------------------------------------------------------------------------------------------------

    def _text(self, messages: list[Message], tools: Any, asking: bool = False) -> str:
        """What the template writes. Raises RowError with the template's own words."""
        options = {"tokenize": False, "add_generation_prompt": asking, "chat_template": self._source}
        try:
            return self.tokenizer.apply_chat_template(messages, tools=tools, **options)
        except Exception as error:
            # A template is a program of unknown origin: any exception is its verdict on these messages.
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise RowError("E_TEMPLATE", "messages", f"the chat template refuses it: {reason}") from None

    def _messages(self, value: Prompt, role: str) -> list[Message]:
        if isinstance(value, str):
            self._note("Texts become turns of the chat template: a prompt one user turn, an answer one assistant turn.")
            value = [{"role": role, "content": value}]
        messages = prepared(value)
        for k, turn in enumerate(messages):
            for text in texts_of(turn):
                if special := self.tokens.special_in(text):
                    raise RowError(
                        "E_SPECIAL_TOKEN",
                        f"messages[{k}]",
                        f"the {turn['role']} turn contains {special!r}, which the model would read as a control token",
                    )
        return messages

    def _raw_text(self, value: Any, field: str, tools: Any) -> str:
        if not isinstance(value, str) or tools:
            raise ZooError(
                f"Raw text was asked for (--template none), but a row has {'tools' if tools else 'messages'}.",
                "Leave out --template to use the model's chat template, or give prompts and answers as text.",
            )
        return value

    def _raw_rendered(self, text: str, prompt: int) -> Rendered:
        """Raw text is what its author made it: special tokens written in it are meant as such."""
        special = self.tokens.special_in(text)
        warnings = [RowError("W_CONTROL_TOKENS", "text", f"{special!r} is read as a control token")] if special else []
        return Rendered(text, prompt, ((prompt, len(text)),), False, warnings=tuple(warnings))

    def _answer(self, one: Rendered, ids: list[int], position: dict[int, int]) -> tuple[Answer, list[int]]:
        start = position[one.prompt]
        completion = ids[start:]
        if not one.closed and completion[-1:] != [self.tokenizer.eos_token_id]:
            completion = [*completion, self.tokenizer.eos_token_id]
        mask = [False] * len(completion)
        for a, b in one.spans:
            mask[position[a] - start : position[b] - start] = [True] * (position[b] - position[a])
        mask[-1] = True
        if start == 0:
            # Nothing stands before the first token, so nothing predicts it.
            mask[0] = False
        return Answer.of(ids[:start], completion, mask), [position[mark] - start - 1 for mark in one.marks]

    def _choose(self, template: str) -> str | None:
        """The text of the template; None for the tokenizer's own."""
        if template == "auto":
            if self.tokenizer.chat_template:
                return None
            self._note("The model has no chat template; a plain one is used (User: … Assistant: …).")
            return PLAIN
        if "{{" in template or "{%" in template:
            return template
        path = Path(template).expanduser()
        if not path.is_file():
            raise ZooError(
                f"There is no chat template '{template}': it is not a file.",
                "Give auto (the model's own), none (raw text), or the path of a .jinja file.",
            )
        return path.read_text(encoding="utf-8")

    def _controls(self, more: Iterable[str]) -> str:
        specials = [text for text, number in self.tokens.added.items() if number in self.tokens.special_ids]
        return TextTokenizer.pattern({*specials, *more}).pattern

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _end_is_trained(answer: Answer, eos_ids: set[int]) -> bool:
    return bool(len(answer.mask) and answer.mask[-1]) and int(answer.completion[-1]) in eos_ids


def tools_names(tools: Any) -> list[str]:
    """Names of the functions in tool schemas."""
    return [tool.get("function", tool).get("name", "") for tool in tools if isinstance(tool, dict)]
