"""Templates against conversations in which every part has a word of its own: all of it is in the text once, or refused.

The templates are those that come with zoo, and small ones with the traits of those that do not.
"""

import itertools
import re

import pytest
from test_template import (
    CALLS,
    DEFAULT_SYSTEM,
    FORGETS_THOUGHTS,
    MODEL_ROLE,
    NEVER_THINKS,
    NO_END,
    WRITES_BOS,
    tokenizer_of,
)
from test_template_rules import AFTER_THOUGHT, AS_TEXT, CALL_ENDS, CALLS_OR_TEXT, IN_PARTS, LAST_END, THINKS, TWO_ENDS

from zoo.data.encoding.encode import encode
from zoo.data.encoding.named import named_templates
from zoo.data.encoding.template import ChatTemplate

EMPTY_THINK = DEFAULT_SYSTEM.replace(
    "{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}"
)
CLOSED_THINK = EMPTY_THINK.replace(
    "turn.content ~", "('<think>\n\n</think>\n\n' if turn.role == 'assistant' else '') ~ turn.content ~"
)
OWN = {
    "bos": WRITES_BOS, "roles": MODEL_ROLE, "forgets": FORGETS_THOUGHTS, "never thinks": NEVER_THINKS, "no end": NO_END,
    "calls": CALLS, "calls or text": CALLS_OR_TEXT, "calls as text": AS_TEXT, "calls end": CALL_ENDS,
    "two ends": TWO_ENDS, "last end": LAST_END, "parts": IN_PARTS, "thoughts": THINKS, "after thought": AFTER_THOUGHT,
    "empty think": EMPTY_THINK, "closed think": CLOSED_THINK,
}  # fmt: skip
REFUSALS = {"E_TEMPLATE", "E_CONTENT_DROPPED", "E_CALL_DROPPED", "E_REASONING_DROPPED"}
TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}


def asks(k):
    return {"role": "user", "content": f"xuser{k}x?"}


def says(k, **more):
    return {"role": "assistant", "content": f"xsaid{k}x.", **more}


def calls(k, content=""):
    call = {"type": "function", "function": {"name": f"xcall{k}x", "arguments": {"city": f"xcity{k}x"}}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


RESULT = {"role": "tool", "content": "xresultx"}
OTHER = {"role": "tool", "content": "xotherx"}
TURNS = {
    "one": [asks(1), says(1)],
    "three": [asks(1), says(1), asks(2), says(2), asks(3), says(3)],
    "tags": [asks(1), says(1) | {"content": "<think>xthought1x</think>xsaid1x."}, asks(2),
             says(2) | {"content": "<think>xthought2x</think>xsaid2x."}],
    "open": [asks(1), says(1) | {"content": "xthought1x\n</think>\n\nxsaid1x."}],
    "key": [asks(1), says(1, reasoning_content="xthought1x"), asks(2), says(2, reasoning_content="xthought2x")],
    "call": [asks(1), calls(1)],
    "text and call": [asks(1), calls(1, "xbesidex")],
    "call and answer": [asks(1), calls(1), RESULT, says(1)],
    "calls": [asks(1), calls(1), RESULT, says(1), asks(2), calls(2), OTHER, says(2)],
    "empty": [asks(1), {"role": "assistant", "content": ""}, asks(2), says(2)],
}  # fmt: skip


def template(name):
    return ChatTemplate(tokenizer_of(OWN.get(name)), "auto" if name in OWN else name, new_tokens=())


def words(turn):
    return re.findall(r"x[a-z]+\d?x", str({key: value for key, value in turn.items() if key != "role"}))


def record_of(turns, kind):
    start = max(k for k, turn in enumerate(turns) if turn["role"] == "user") + 1
    if kind == "demonstration":
        start = max(k for k, turn in enumerate(turns) if turn["role"] == "assistant")
        return {"prompt": turns[:start], "completion": turns[start:]}, 0
    answers = {"chosen": turns[start:], "rejected": "No."} if kind == "preference" else {}
    return {"prompt": turns[:start], **answers}, start


def check(chat, turns, kind, encoded, start):
    """Every word of a kept record is in the text once, and only the assistant's are trained, with its ends."""
    decode, warned = chat.tokenizer.decode, {problem.code for problem in encoded.report.problems}
    if kind == "prompt":
        turns, text, trained = turns[:start], decode(encoded[0]["prompt"].tolist()), ""
    else:
        answer = encoded[0]["conversation" if kind == "demonstration" else "chosen"]
        text = decode([*answer.prompt.tolist(), *answer.completion.tolist()])
        trained = "|".join(decode([number]) for number in answer.completion[answer.mask].tolist()).replace("|", "")
        assert answer.mask[-1] and int(answer.completion[-1]) in chat.eos_ids
        speaking = [k for k, turn in enumerate(turns) if turn["role"] == "assistant" and k >= start]
        asked = [chat.prompt_ids(turns[:k]) for k in speaking if turns[k - 1]["role"] != "assistant"]
        assert answer.prompt.tolist() in asked
    for k, turn in enumerate(turns):
        for word in words(turn):
            told = {"W_UNTRAINED_TURNS", "W_REASONING_UNSEEN"} & warned
            assert text.count(word) == 1 or "thought" in word and told and k < len(turns) - 1, (word, text)
            learns = turn["role"] == "assistant" and k >= start and kind != "prompt"
            assert (word in trained) == learns or learns and told and k < len(turns) - 1, (word, trained)


@pytest.mark.parametrize("name", [*named_templates(), *OWN])
def test_everything_is_in_the_text_once_or_the_row_is_refused(name):
    chat, outcomes = template(name), {}
    for (label, turns), system, kind in itertools.product(
        TURNS.items(), (False, True), ("demonstration", "preference", "prompt")
    ):
        turns = [{"role": "system", "content": "xsystemx"}, *turns] if system else turns
        record, start = record_of(turns, kind)
        encoded = encode([record], kind, chat)
        if len(encoded):
            check(chat, turns, kind, encoded, start)
            outcomes[label, system, kind] = ""
        else:
            (problem,) = [problem for problem in encoded.report.problems if problem.code.startswith("E_")]
            assert problem.code in REFUSALS, problem
            outcomes[label, system, kind] = problem.code
    assert not outcomes["one", False, "demonstration"] or name == "empty think"
    assert "E_CALL_DROPPED" not in outcomes.values() or name not in (
        "calls",
        "calls or text",
        "calls as text",
        "calls end",
    )
