"""The policy's turn as a message: calls in the formats of many chat templates, thoughts, and calls that are broken."""

import json
import random
import re
import time
import warnings

import pytest
from test_replies import ENDS_IN_TWO_WAYS, GROUPS_RESULTS, ONE_CALL, START
from test_template import DEFAULT_SYSTEM, GENERATE, tokenizer_of
from tokenizers import AddedToken

from zoo.data.encoding.rendering import Extras
from zoo.data.encoding.template import ChatTemplate
from zoo.environments.calls import MOST, CallReader
from zoo.environments.shapes import Named, Objects, Pairs, Python

ASKED = GENERATE + "{{ '<|im_start|>assistant\n' }}{% endif %}"
TURN = "{% for turn in messages %}" + START + "{{ turn.content }}"
END = "{{ '<|im_end|>\n' }}{% endfor %}" + ASKED
EACH = "{% for call in turn.tool_calls or [] %}"
VALUE = "{{ value if value is string else value | tojson }}"


def chat_with(calls):
    """A template in which each call is written in a way of its own."""
    return TURN + EACH + calls + "{% endfor %}" + END


LISTED = (
    TURN + "{% if turn.tool_calls %}{{ '[CALLS] [' }}" + EACH
    + "{{ {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id} | tojson }}"
    "{{ '' if loop.last else ', ' }}{% endfor %}{{ ']' }}{% endif %}" + END
)  # fmt: skip
NAME_ARGS = chat_with("{{ '[CALL]' ~ call.function.name ~ '[ARGS]' ~ call.function.arguments | tojson }}")
FENCED = chat_with(
    "{{ '<|head|>function<|body|>' ~ call.function.name ~ '\n```json\n' ~ call.function.arguments | tojson ~ '\n```' }}"
)
BY_ID = chat_with("{{ '<|head|>' ~ call.id ~ '<|body|>' ~ call.function.arguments | tojson ~ '<|eot|>' }}")
FUNCTIONS = chat_with(
    "{{ '\n<tool_call>\n<function=' ~ call.function.name ~ '>\n' }}"
    "{% for key, value in call.function.arguments.items() %}{{ '<parameter=' ~ key ~ '>\n' }}" + VALUE
    + "{{ '\n</parameter>\n' }}{% endfor %}{{ '</function>\n</tool_call>' }}"
)  # fmt: skip
KEYS_AND_VALUES = chat_with(
    "{{ '\n<tool_call>' ~ call.function.name }}{% for key, value in call.function.arguments.items() %}"
    "{{ '\n<arg_key>' ~ key ~ '</arg_key>\n<arg_value>' }}" + VALUE
    + "{{ '</arg_value>' }}{% endfor %}{{ '\n</tool_call>' }}"
)  # fmt: skip
KEYWORDS = (
    TURN + "{% if turn.tool_calls %}{{ '<|head|>[' }}" + EACH + "{{ call.function.name ~ '(' }}"
    "{% for key, value in call.function.arguments.items() %}{{ key ~ '=' ~ value | tojson }}"
    "{{ '' if loop.last else ', ' }}{% endfor %}{{ ')' }}{{ '' if loop.last else ', ' }}{% endfor %}{{ ']<|body|>' }}"
    "{% endif %}" + END
)  # fmt: skip
BARE_WORDS = chat_with(
    "{{ '<|head|>call:' ~ call.function.name ~ '{' }}{% for key, value in call.function.arguments.items() %}"
    "{{ key ~ ':' }}{% if value is string %}{{ '<q>' ~ value ~ '<q>' }}"
    "{% else %}{{ value | tojson | replace('\"', '<q>') }}{% endif %}"
    "{{ '' if loop.last else ',' }}{% endfor %}{{ '}<|body|>' }}"
)  # fmt: skip
THINKS = GROUPS_RESULTS.replace(
    "{{ turn.content }}",
    "{{ '<think>\n' ~ turn.reasoning_content ~ '\n</think>\n\n' if turn.reasoning_content else '' }}{{ turn.content }}",
)
BEGINS_THOUGHT = THINKS.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
CHANNELS = ENDS_IN_TWO_WAYS.replace(
    "{% if turn.tool_calls %}",
    "{% if turn.thinking %}{{ '<|head|>assistant analysis<|body|>' ~ turn.thinking ~ '<|im_end|>' }}{% endif %}"
    "{% if turn.tool_calls %}",
).replace("turn.role ~ '<|body|>' ~", "turn.role ~ (' final' if turn.role == 'assistant' else '') ~ '<|body|>' ~")
FORMATS = {
    "hermes": (GROUPS_RESULTS, Objects), "bare": (ONE_CALL, Objects), "listed": (LISTED, Objects),
    "name and arguments": (NAME_ARGS, Named), "fenced": (FENCED, Named), "by id": (BY_ID, Named),
    "channels": (CHANNELS, Named),
    "bare words": (BARE_WORDS, Named), "functions": (FUNCTIONS, Pairs), "keys and values": (KEYS_AND_VALUES, Pairs),
    "keywords": (KEYWORDS, Python), "thinks": (THINKS, Objects), "begins a thought": (BEGINS_THOUGHT, Objects),
}  # fmt: skip
SINGLE = ("bare", "channels")
QUESTION = {"role": "user", "content": "Is it fine?"}
TOOL = {"type": "function", "function": {"name": "shop.find", "description": "Finds.", "parameters": {
    "type": "object", "properties": {"what": {"type": "string"}, "many": {"type": "integer"}, "by": {"type": "object"}},
}}}  # fmt: skip
ARGUMENTS = [
    {"what": "8"}, {}, {"what": "a cup", "many": 8}, {"what": "é: [x] {y} <b>", "by": {"size": [1, None, True, -2.5]}},
]  # fmt: skip


def reader_of(name):
    return CallReader(ChatTemplate(tokenizer_of(FORMATS[name][0])), [TOOL])


def call(arguments, number=0):
    function = {"name": "shop.find", "arguments": arguments}
    return {"type": "function", "id": f"functions.shop.find:{number}", "function": function}


def written(reader, **turn):
    """What the template writes behind the prompt for a turn, without its end-of-turn token."""
    turn = {"role": "assistant", "content": "", **turn}
    renderer, extras = reader.template.renderer, Extras([TOOL])
    asked, text = renderer.text([QUESTION], extras, asking=True), renderer.text([QUESTION, turn], extras)
    assert text.startswith(asked)
    return re.sub(r"(<\|im_end\|>|<\|eot\|>|<\|im_start\|>)\s*\Z", "", text[len(asked) :])


def functions(message):
    return [call["function"] for call in message.get("tool_calls", ())]


# -- formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_is_found_in_the_template_and_calls_are_read_as_they_were_written(name):
    reader = reader_of(name)
    assert isinstance(reader.shape, FORMATS[name][1])
    for arguments in ARGUMENTS:
        if name == "begins a thought":
            text = "Hm.\n</think>\n\n" + written(reader_of("thinks"), tool_calls=[call(arguments)])
        else:
            text = written(reader, tool_calls=[call(arguments)])
        message = reader.read(text)
        assert functions(message) == [{"name": "shop.find", "arguments": arguments}]
        assert message["role"] == "assistant" and message["content"] == ""
        assert not any("error" in call for call in message["tool_calls"])


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in (*SINGLE, "begins a thought")])
def test_several_calls_and_the_text_before_them_are_told_apart(name):
    reader = reader_of(name)
    text = written(reader, content="Let me see.", tool_calls=[call(ARGUMENTS[2]), call({}, 1)])
    message = reader.read(text)
    assert [function["arguments"] for function in functions(message)] == [ARGUMENTS[2], {}]
    assert message["content"] == "Let me see."


@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_is_no_call(name):
    reader = reader_of(name)
    for content in ("It is fine.", " {not: a call} [1, 2]", "", "[8]", '{"answer": 8}'):
        text = ("Hm.</think>" if name == "begins a thought" else "") + content
        message = reader.read(text)
        assert "tool_calls" not in message and message["content"].strip() == content.strip()


def test_a_template_that_writes_no_calls_has_them_between_tags():
    for template in (ChatTemplate(tokenizer_of(DEFAULT_SYSTEM)), ChatTemplate(tokenizer_of(None), "none")):
        text = 'Sure. <tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
        message = CallReader(template).read(text)
        assert functions(message) == [{"name": "f", "arguments": {"x": 1}}] and message["content"] == "Sure."


def test_values_in_tags_have_the_types_of_the_schema():
    reader = reader_of("functions")
    for text, value in (("8", 8), ("eight", "eight")):
        made = f"<parameter=what>\n8\n</parameter>\n<parameter=many>\n{text}\n</parameter>\n</function>"
        found = functions(reader.read(f"<tool_call>\n<function=shop.find>\n{made}"))
        assert found[0]["arguments"] == {"what": "8", "many": value}


def test_white_space_that_the_policy_writes_otherwise_changes_nothing():
    wanted = [{"name": "shop.find", "arguments": {"what": "8"}}]
    assert functions(reader_of("hermes").read('<tool_call>{"name":"shop.find","arguments":{"what":"8"}}')) == wanted
    text = "<tool_call><function=shop.find><parameter=what>8</parameter></function></tool_call>"
    assert functions(reader_of("functions").read(text)) == wanted
    assert functions(reader_of("keywords").read("<|head|>[ shop.find( what = '8' ) ]")) == wanted
    text = '<|head|>assistant to=shop.find  json <|body|> {"what": "8"}'
    assert functions(reader_of("channels").read(text)) == wanted


@pytest.mark.parametrize("text", [
    '<s>{"name": "f", "parameters": {"x": 1}}', '{"name": "f", "arguments": {"x": 1}}; {"name": "g"}',
    '[{"name": "f", "parameters": {"x": 1}}]',
    '{"type": "function", "function": {"name": "f", "arguments": "{\\"x\\": 1}"}}',
])  # fmt: skip
def test_bare_calls_come_in_several_dresses(text):
    found = functions(reader_of("bare").read(text))
    assert found[0] == {"name": "f", "arguments": {"x": 1}} and [f["name"] for f in found[1:]] in ([], ["g"])


def test_text_behind_a_bare_call_is_content():
    message = reader_of("bare").read('{"name": "f", "parameters": {"x": 1}}\nand then')
    assert functions(message) == [{"name": "f", "arguments": {"x": 1}}] and message["content"] == "and then"


def test_ids_are_kept_if_templates_take_them():
    text = '[CALLS] [{"name": "f", "arguments": {}, "id": "a1b2c3d4e"}, {"name": "f", "arguments": {}, "id": "no"}]'
    first, second = reader_of("listed").read(text)["tool_calls"]
    assert first["id"] == "a1b2c3d4e" and "id" not in second


# -- thoughts ------------------------------------------------------------------------------------------------------


def test_thoughts_are_apart_and_calls_in_them_are_none():
    reader = reader_of("thinks")
    inside = written(reader, tool_calls=[call({})])
    text = written(reader, content="Let me see.", reasoning_content=f"Hm.{inside}", tool_calls=[call({"what": "8"})])
    message = reader.read(text)
    assert message["reasoning_content"].startswith("Hm.") and message["content"] == "Let me see."
    assert functions(message) == [{"name": "shop.find", "arguments": {"what": "8"}}]
    assert reader.read(f"<think>{inside}") == {"role": "assistant", "content": "", "reasoning_content": inside.strip()}


def test_a_thought_that_the_prompt_begins_ends_in_the_turn():
    reader = reader_of("begins a thought")
    assert reader.read("Hm.\n</think>\n\nFour.") == {
        "role": "assistant", "content": "Four.", "reasoning_content": "Hm.",
    }  # fmt: skip
    assert reader.read("Hm. So") == {"role": "assistant", "content": "", "reasoning_content": "Hm. So"}


def test_channels_are_thoughts_calls_and_answers():
    reader = reader_of("channels")
    text = written(reader, thinking="Hm.", content="Four.")
    assert text == " analysis<|body|>Hm.<|im_end|><|head|>assistant final<|body|>Four."
    assert reader.read(text) == {"role": "assistant", "content": "Four.", "reasoning_content": "Hm."}
    message = reader.read(written(reader, thinking="Hm.", tool_calls=[call({"what": "8"})]))
    assert (message["content"], message["reasoning_content"]) == ("", "Hm.")
    assert functions(message) == [{"name": "shop.find", "arguments": {"what": "8"}}]


def test_control_tokens_are_no_content():
    assert reader_of("hermes").read("Four.<|eot|>")["content"] == "Four."


# -- calls that cannot be read -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x": }}</tool_call>', "its JSON is broken at character 34"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x": 1}', "its JSON is broken"),
        ("hermes", '<tool_call>{"arguments": {"x": 1}}</tool_call>', "the call has no name"),
        ("hermes", '<tool_call>{"name": 8, "arguments": {}}</tool_call>', "the call has no name"),
        ("hermes", '<tool_call>{"name": "f", "arguments": [8]}</tool_call>', "its arguments are not an object"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x": NaN}}', "NaN is no value of JSON"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x": 1e999}}', "a number in its arguments is too large"),
        ("hermes", "<tool_call></tool_call>", "its JSON is broken"),
        ("hermes", "<tool_call>8</tool_call>", "it is no object"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x": ' + "[" * 60 + "]" * 60 + "}}", "nested more than 50"),
        ("bare", '{"name": "f", "parameters": {"x": 1}', "its JSON is broken"),
        ("name and arguments", '[CALL]f{"x": 1}', "'[ARGS]' and the arguments do not follow its name"),
        ("name and arguments", '[CALL][ARGS]{"x": 1}', "the call has no name"),
        ("functions", "<tool_call>\n<function=f>\n<parameter=x>\n1", "the value of 'x' has no end"),
        ("functions", "<tool_call>\n<function=f", "does not follow its name"),
        ("bare words", "<|head|>call:f{x:<q>1", "its arguments have no end"),
        ("keywords", "<|head|>[f(8)]<|body|>", "its arguments have no names"),
        ("keywords", "<|head|>[f(x=g())]<|body|>", "its arguments are no values"),
        ("keywords", "<|head|>f(x=1)<|body|>", "it is no list of calls"),
        ("keywords", "<|head|>[f(x='\\d<|body|>", "it is no list of calls"),
    ],
)
def test_a_call_that_cannot_be_read_says_why(name, text, reason):
    message = reader_of(name).read(text)
    (found,) = message["tool_calls"]
    assert found["error"].startswith("This call cannot be read: ") and reason in found["error"]
    assert (
        found["type"] == "function" and found["function"]["name"] in ("f", "") and found["function"]["arguments"] == {}
    )


def test_a_broken_call_hides_neither_the_next_one_nor_the_text():
    good = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    for broken in ('<tool_call>{"name": "f",</tool_call>', '<tool_call>{"name": '):
        message = reader_of("hermes").read(f"One {broken}{good} two")
        assert ["error" in call for call in message["tool_calls"]] == [True, False]
        assert message["content"] == "One  two"


def test_a_turn_has_only_so_many_calls():
    for text in (
        '<tool_call>{"name": "f"}</tool_call>' * 500,
        "<tool_call>[" + '{"name": "f"},' * 499 + '{"name": "f"}]',
    ):
        calls = reader_of("hermes").read(text)["tool_calls"]
        assert len(calls) == MOST + 1 and f"more than {MOST} calls" in calls[-1]["error"]


# -- any text ------------------------------------------------------------------------------------------------------

ODD = [
    "\ud800",
    "\\ud800",
    "\0",
    "é",
    "1e999",
    "NaN",
    "null",
    "9" * 50,
    "<think>",
    "</think>",
    "[f(a=",
    "<",
    '"',
    "\\d",
]


def checked(reader, text):
    message = reader.read(text)
    for found in message.get("tool_calls", ()):
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
        assert isinstance(found["function"]["name"], str) and isinstance(found["function"]["arguments"], dict)
    assert isinstance(message["content"], str)


@pytest.mark.parametrize("name", FORMATS)
def test_any_text_is_read(name):
    reader, rng = reader_of(name), random.Random(name)
    sample = written(reader_of("thinks") if name == "begins a thought" else reader, tool_calls=[call(ARGUMENTS[3])])
    pieces = (
        [piece for piece in re.split(r"(\W)", sample) if piece] + [reader.shape.opening, reader.shape.closing] + ODD
    )
    with warnings.catch_warnings(action="error"):
        for _ in range(300):
            checked(reader, "".join(rng.choices(pieces, k=rng.randrange(1, 40))))
            place = rng.randrange(len(sample))
            checked(reader, sample[:place] + rng.choice(pieces) + sample[place + rng.randrange(3) :])


@pytest.mark.parametrize("name", FORMATS)
def test_long_texts_are_read_in_a_bounded_time(name):
    reader = reader_of(name)
    opening = reader.shape.opening
    sample = written(reader_of("thinks") if name == "begins a thought" else reader, tool_calls=[call(ARGUMENTS[3])])
    repeated = [
        sample,
        sample[: len(sample) // 2],
        opening + "f",
        opening + '{"',
        opening + "[f(a=",
        "<think>",
        "<",
        "[",
    ]
    long = [piece * (100_000 // len(piece)) for piece in repeated if piece]
    long += [opening + piece * (100_000 // len(piece)) for piece in ("[", '{"a":', "9", '"', "-", "a.b", "[f(a=", "1+")]
    before = time.process_time()
    for text in long:
        checked(reader, text)
    assert time.process_time() - before < len(long)


# -- a tokenizer that says itself how turns are read ---------------------------------------------------------------


def told_by_itself():
    tokenizer = tokenizer_of(CHANNELS.replace("<|head|>assistant to=", "<|head|>assistant calls "))
    calls = {
        "open_pattern": r"calls (?P<name>\S+?)<\|body\|>", "close": "<|im_start|>", "repeats": True, "content": "json",
        "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
    }  # fmt: skip
    fields = {
        "thinking": {"open": " analysis<|body|>", "close": "<|im_end|>"}, "tool_calls": calls,
        "content": {"close": "<|eot|>"},
    }  # fmt: skip
    tokenizer.response_template = {"start_anchor": "<|head|>assistant", "fields": fields, "defaults": {}}
    return CallReader(ChatTemplate(tokenizer), [TOOL])


def test_a_tokenizers_own_response_template_is_used():
    reader = told_by_itself()
    assert reader._own
    message = reader.read(' analysis<|body|>Hm.<|im_end|> calls f<|body|>{"x": 1}')
    assert functions(message) == [{"name": "f", "arguments": {"x": 1}}] and message["reasoning_content"] == "Hm."
    assert reader.read("Four.") == {"role": "assistant", "content": "Four."}
    (broken,) = reader.read(' calls f<|body|>{"x": <|im_start|>')["tool_calls"]
    assert "cannot be read" in broken["error"]
    (listed,) = reader.read(" calls f<|body|>[8]<|im_start|>")["tool_calls"]
    assert listed["function"]["name"] == "f" and "not an object" in listed["error"]


def test_a_response_template_that_does_not_read_the_chat_template_is_not_used():
    tokenizer = tokenizer_of(GROUPS_RESULTS)
    tokenizer.response_template = {"start_anchor": "<|im_start|>", "fields": {"content": {}}}
    reader = CallReader(ChatTemplate(tokenizer), [TOOL])
    assert not reader._own and isinstance(reader.shape, Objects)


def test_calls_that_are_special_tokens_are_found():
    tokenizer = tokenizer_of(GROUPS_RESULTS)
    tokenizer.add_tokens(
        [AddedToken(f"<{end}tool_call>", special=True, normalized=False) for end in ("", "/")], special_tokens=True
    )
    reader = CallReader(ChatTemplate(tokenizer), [TOOL])
    assert functions(reader.read('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'))[0]["name"] == "f"
