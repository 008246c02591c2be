"""Nothing that a row says is lost without a word: contents, calls, thoughts, marks, and all tokens that end a turn."""

import json

import pytest
from test_template import CALLS, DEFAULT_SYSTEM, GENERATE, TWICE, WEATHER, call, read, refused, tokenizer_of
from tiny_runs import FLOAT32, write_rows

import zoo
from zoo.data.encoding.encode import encode
from zoo.data.encoding.template import ChatTemplate
from zoo.data.load import load
from zoo.errors import ZooError

ASKED = GENERATE + "{{ '<|im_start|>assistant\n' }}{% endif %}"
TURN = "{{ '<|im_start|>' ~ turn.role ~ '\n' }}"
CALLS_OR_TEXT = (
    "{% for turn in messages %}" + TURN + "{% if turn.tool_calls %}{% for call in turn.tool_calls %}"
    "{{ 'CALL ' ~ call.function.name ~ ' ' ~ call.function.arguments | tojson }}{% endfor %}"
    "{% else %}{{ turn.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}" + ASKED
)  # fmt: skip
NAMES_ONLY = CALLS_OR_TEXT.replace(" ~ call.function.arguments | tojson", "").replace(
    "{% else %}{{ turn.content }}{% endif %}", "{% endif %}{{ turn.content }}"
)
AFTER_THOUGHT = DEFAULT_SYSTEM.replace("turn.content", "turn.content.split('</think>')[-1]")
FIRST_SYSTEM = DEFAULT_SYSTEM.replace("{% for turn in messages %}", "{% for turn in messages if loop.first or "
                                      "turn.role != 'system' %}").replace("loop.first or", "")  # fmt: skip
TWO_ENDS = DEFAULT_SYSTEM.replace("'<|im_end|>\n' }}{% endfor", "('<|eot|>' if turn.role == 'assistant' else '') ~ "
                                  "'<|im_end|>\n' }}{% endfor")  # fmt: skip
LAST_END = DEFAULT_SYSTEM + "{% if not add_generation_prompt %}{{ '<|eot|>' }}{% endif %}"
CALL_ENDS = CALLS_OR_TEXT.replace("{% endfor %}{% else %}", "{% endfor %}{{ '<|head|><|eot|>' }}{% else %}").replace(
    "{% endif %}{{ '<|im_end|>\n' }}", "{{ '<|im_end|>\n' }}{% endif %}"
)
AS_TEXT = CALLS_OR_TEXT.replace(" | tojson", "")
NEEDS_TOOLS = "{% for tool in tools %}{{ tool.function.name }}{% endfor %}" + CALLS
IN_PARTS = DEFAULT_SYSTEM.replace("turn.content ~", "turn.content[0].text ~")
THINKS = (
    "{% for turn in messages %}" + TURN + "{% if turn.thinking %}{{ '<think>' ~ turn.thinking ~ '</think>' }}"
    "{% endif %}{{ turn.content ~ '<|im_end|>\n' }}{% endfor %}" + ASKED
)  # fmt: skip
RAIN = [{"role": "user", "content": "Rain in Rome, weather?"}]
CALLED = {"role": "assistant", "content": "", "tool_calls": [call("weather", {"city": "Rome"})]}

SUNNY = {"role": "assistant", "content": "Sunny."}


def rows_of(tmp_path, kind, *rows):
    return load(write_rows(tmp_path / "rows.jsonl", rows), kind)


def said(turns):
    return {"messages": turns}


# -- A: what a row says is in the text -----------------------------------------------------------------------------


def test_text_beside_a_call_is_trained_or_the_row_refused():
    turns = [*RAIN, {**CALLED, "content": "One moment."}]
    reason = refused("E_CONTENT_DROPPED", ChatTemplate(tokenizer_of(CALLS_OR_TEXT)).render_conversation, turns)
    assert "'One moment.' of the assistant turn" in reason
    kept = ChatTemplate(tokenizer_of(CALLS))
    assert read(kept, kept.conversation(turns))[2] == ["One moment.call weather with Rome<|im_end|>"]


@pytest.mark.parametrize("content", ["So four.\n</think>\n\nFour.", "<think>So four.</think>Four."])
def test_a_thought_without_its_opening_tag_is_a_thought(content):
    template = ChatTemplate(tokenizer_of(AFTER_THOUGHT))
    answer = [{"role": "assistant", "content": content}]
    assert "So four." in refused("E_REASONING_DROPPED", template.render, "Two and two?", answer)
    assert read(template, template.answer("Hi", "Four."))[2] == ["Four.<|im_end|>"]


def test_text_before_a_thought_is_content():
    template = ChatTemplate(tokenizer_of(AFTER_THOUGHT))
    turns = [*TWICE[:2], *TWICE[2:]]
    turns[1] = {"role": "assistant", "content": "Sure.<think>a</think>Four."}
    assert "'Sure.'" in refused("E_CONTENT_DROPPED", template.render_conversation, turns)


def test_contents_are_looked_for_however_short_they_are_and_wherever_else_they_stand():
    dropped = DEFAULT_SYSTEM.replace("turn.content ~", "(turn.content if turn.role != 'tool' else '') ~")
    template = ChatTemplate(tokenizer_of(dropped))
    turns = [*RAIN, {"role": "assistant", "content": "user"}, {"role": "tool", "content": "e"}, *TWICE[:2]]
    assert "'e' of the tool turn" in refused("E_CONTENT_DROPPED", template.render_conversation, turns)


def test_a_content_that_is_written_as_json_or_with_other_white_space_is_written():
    for form in ("turn.content | tojson", "turn.content.split() | join(' ')"):
        template = ChatTemplate(tokenizer_of(DEFAULT_SYSTEM.replace("turn.content ~", f"({form}) ~")))
        turns = [{"role": "user", "content": 'a "b"\n  é'}, TWICE[1]]
        assert template.render_conversation(turns).warnings == ()


@pytest.mark.parametrize("kind", ["preference", "feedback", "prompt"])
def test_calls_are_looked_for_in_prompts_too(tiny_tokenizer, tmp_path, kind):
    answers = {"preference": {"chosen": "It rains.", "rejected": "No."}, "prompt": {},
               "feedback": {"completion": "It rains.", "label": True}}[kind]  # fmt: skip
    prompt = [*RAIN, CALLED, {"role": "tool", "content": "yes"}]
    loaded = rows_of(tmp_path, kind, {"prompt": prompt, **answers}, {"prompt": "Hi", **answers})
    encoded = encode(loaded.records, kind, ChatTemplate(tiny_tokenizer))
    assert [(problem.row, problem.code) for problem in encoded.report.problems] == [(1, "E_CALL_DROPPED")]
    assert "the call of 'weather'" in encoded.report.problems[0].message
    with pytest.raises(ZooError, match="leaves out the call of 'weather'"):
        ChatTemplate(tiny_tokenizer).prompt_ids(prompt)
    assert len(encode(loaded.records, kind, ChatTemplate(tokenizer_of(CALLS)))) == 2


def test_an_argument_is_looked_for_although_the_question_has_it_too():
    template = ChatTemplate(tokenizer_of(NAMES_ONLY))
    reason = refused("E_CALL_DROPPED", template.render_conversation, [*RAIN, CALLED], WEATHER)
    assert "the argument 'Rome' of a call" in reason
    for arguments in ({}, "", None):
        bare = {**CALLED, "tool_calls": [call("weather", arguments)]}
        assert read(template, template.conversation([*RAIN, bare]))[2] == ["CALL weather <|im_end|>"]


def test_calls_as_json_text_are_read(tmp_path):
    calls = [call("weather", {"city": "Rome"})]
    template = ChatTemplate(tokenizer_of(CALLS))
    forms = [calls, json.dumps(calls), json.dumps(calls[0]), [json.dumps(calls[0])], calls[0]]
    rows = [said([*RAIN, {"role": "assistant", "content": "", "tool_calls": form}]) for form in forms]
    loaded = rows_of(tmp_path, "demonstration", *rows)
    trained = [read(template, record["completion"])[2] for record in encode(loaded.records, "demonstration", template)]
    assert trained == [["call weather with Rome<|im_end|>"]] * 5
    wrong = [said([*RAIN, {"role": "assistant", "content": "", "tool_calls": form}]) for form in ("[x", "3")]
    loaded = rows_of(tmp_path, "demonstration", *[said(TWICE)] * 9, *wrong)
    assert [problem.code for problem in loaded.report.problems if problem.row > 9] == ["E_TYPE", "E_TYPE"]


def test_arguments_are_json_also_where_the_template_writes_them_as_they_are():
    template = ChatTemplate(tokenizer_of(AS_TEXT))
    assert read(template, template.conversation([*RAIN, CALLED]))[2] == ['CALL weather {"city": "Rome"}<|im_end|>']
    empty = {**CALLED, "tool_calls": [call("weather", "")]}
    with_json = ChatTemplate(tokenizer_of(CALLS_OR_TEXT))
    assert read(with_json, with_json.conversation([*RAIN, empty]))[2] == ["CALL weather {}<|im_end|>"]


def test_thoughts_stand_under_the_key_that_the_template_reads():
    template = ChatTemplate(tokenizer_of(THINKS))
    for key in ("reasoning_content", "reasoning", "thinking"):
        answer = [{"role": "assistant", "content": "Four.", key: "So four."}]
        assert read(template, template.answer("Hi", answer))[2] == ["<think>So four.</think>Four.<|im_end|>"]


def test_thoughts_in_details_are_read_and_unreadable_ones_told(tmp_path):
    details = [{"type": "reasoning.text", "text": "So"}, {"type": "reasoning.summary", "summary": "four."}]
    template = ChatTemplate(tokenizer_of(THINKS))
    rows = [said([TWICE[0], {**TWICE[1], "reasoning_details": value}]) for value in (details, [{"data": "x"}])]
    loaded = rows_of(tmp_path, "demonstration", *rows)
    encoded = encode(loaded.records, "demonstration", template)
    assert read(template, encoded[0]["completion"])[2] == ["<think>So\nfour.</think>Four.<|im_end|>"]
    assert [problem.row for problem in loaded.report.problems if problem.code == "W_UNKNOWN_KEYS"] == [2]


def test_thoughts_of_a_prompt_that_the_template_leaves_out_are_told(tiny_tokenizer):
    template = ChatTemplate(tiny_tokenizer)
    prompt = [TWICE[0], {**TWICE[1], "reasoning_content": "So four."}, TWICE[2]]
    (warning,) = template.render(prompt, "Five.").warnings
    assert warning.code == "W_REASONING_UNSEEN" and "'So four.'" in warning.message
    assert [warning.code for warning in template.prompt_warnings(prompt)] == ["W_REASONING_UNSEEN"]


# -- B: keys with a meaning ----------------------------------------------------------------------------------------


def test_the_old_form_of_calls_is_read(tmp_path):
    old = {"name": "weather", "arguments": '{"city": "Rome"}'}
    turns = [*RAIN, {"role": "assistant", "content": None, "function_call": old},
             {"role": "function", "name": "weather", "content": "sun"}, SUNNY]  # fmt: skip
    template = ChatTemplate(tokenizer_of(CALLS))
    loaded = rows_of(tmp_path, "demonstration", said(turns), said([*RAIN, {**turns[1], "content": "Wait. "}]))
    first, second = encode(loaded.records, "demonstration", template)
    assert read(template, first["conversation"])[2] == ["call weather with Rome<|im_end|>", "Sunny.<|im_end|>"]
    assert "<|im_start|>tool\nsun" in read(template, first["completion"])[0]
    assert read(template, second["completion"])[2] == ["Wait. call weather with Rome<|im_end|>"]


@pytest.mark.parametrize(
    ("first", "second", "trained"),
    [({"weight": 0}, {"weight": 1}, ["Five."]), ({"train": False}, {}, ["Five."]), ({}, {"weight": 0.0}, ["Four."]),
     ({"train": True}, {"train": True}, ["Four.", "Five."]), ({"weight": 1.0, "train": True}, {}, ["Four.", "Five."])],
)  # fmt: skip
def test_turns_are_trained_as_they_say(tiny_tokenizer, tmp_path, first, second, trained):
    turns = [TWICE[0], {**TWICE[1], **first}, TWICE[2], {**TWICE[3], **second}]
    template = ChatTemplate(tiny_tokenizer)
    loaded = rows_of(tmp_path, "demonstration", said(turns))
    (record,) = encode(loaded.records, "demonstration", template)
    assert read(template, record["conversation"])[2] == [f"{text}<|im_end|>" for text in trained]
    assert read(template, record["completion"])[2] == [f"{trained[-1]}<|im_end|>"]
    assert loaded.report.count("W_TRAILING_TURNS") == (len(trained) == 1 and trained[0] == "Four.")


def test_marks_in_answers_of_several_turns_and_in_pairs_are_obeyed(tmp_path):
    template = ChatTemplate(tokenizer_of(CALLS))
    answer = [{**CALLED, "train": False}, {"role": "tool", "content": "sun"}, {"role": "assistant", "content": "Sun."}]
    loaded = rows_of(tmp_path, "preference", {"prompt": RAIN, "chosen": answer, "rejected": "No."})
    (record,) = encode(loaded.records, "preference", template)
    assert read(template, record["chosen"])[2] == ["Sun.<|im_end|>"]


def test_other_weights_and_rows_without_a_trained_turn_are_refused(tiny_tokenizer, tmp_path):
    marks = [{"weight": 0.5}, {"weight": "1"}, {"train": "yes"}, {"weight": 2}, {"weight": 1, "train": False}]
    rows = [said([TWICE[0], {**TWICE[1], **mark}]) for mark in marks]
    loaded = rows_of(tmp_path, "demonstration", *[said(TWICE)] * 30, *rows, said([TWICE[0], {**TWICE[1], "weight": 0}]))
    codes = [problem.code for problem in loaded.report.problems if problem.row > 30]
    assert codes == ["E_WEIGHT"] * 5 + ["E_NO_SUPERVISED_TOKENS"]
    template = ChatTemplate(tiny_tokenizer)
    untrained = [{"role": "assistant", "content": "Ho", "train": False}]
    assert "marked as not trained" in refused("E_NO_SUPERVISED_TOKENS", template.render, "Hi", untrained)


def test_a_mark_does_not_reach_the_template_nor_make_another_prompt(tiny_tokenizer):
    from zoo.data.kinds import prompt_key

    marked = [TWICE[0], {**TWICE[1], "train": False}, TWICE[2]]
    assert prompt_key({"prompt": marked}) == prompt_key({"prompt": TWICE[:3]})
    template = ChatTemplate(tokenizer_of(DEFAULT_SYSTEM.replace("turn.content ~", "turn.content ~ turn.train ~")))
    assert template.prompt_text(marked) == template.prompt_text(TWICE[:3])
    question = [{**TWICE[0], "train": True}, TWICE[1]]
    (warning,) = ChatTemplate(tiny_tokenizer).render_conversation(question).warnings
    assert warning.code == "W_UNTRAINED_TURNS" and "only assistant turns" in warning.message


def test_unknown_keys_of_messages_are_counted_and_told_once(tmp_path):
    rows = [said([TWICE[0], {**TWICE[1], "mood": "good", "name": "Ann"}])] * 2 + [said(TWICE)]
    report = rows_of(tmp_path, "demonstration", *rows).report
    assert report.count("W_UNKNOWN_KEYS") == 2
    assert sum("the key 'mood'" in note for note in report.notes) == 1 and "'name'" not in " ".join(report.notes)


# -- C, D: what ends a turn ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["", " \n", "<think>\n\n</think>\n\n"])
def test_the_end_of_a_turn_that_says_nothing_is_not_trained(tiny_tokenizer, empty):
    template = ChatTemplate(tiny_tokenizer)
    turns = [TWICE[0], {"role": "assistant", "content": empty}, *TWICE[2:]]
    rendered = template.render_conversation(turns)
    assert [warning.code for warning in rendered.warnings] == ["W_UNTRAINED_TURNS"]
    assert "1 of 2 assistant turns are not trained: the turn is empty" in rendered.warnings[0].message
    assert read(template, template.conversation(turns))[2] == ["Five.<|im_end|>"]


def test_all_tokens_that_close_a_turn_are_trained():
    template = ChatTemplate(tokenizer_of(TWO_ENDS))
    assert read(template, template.conversation(TWICE))[2] == ["Four.<|eot|><|im_end|>", "Five.<|eot|><|im_end|>"]
    assert template.end_of_turn == "<|im_end|>" and "answers end with <|im_end|>" in template.preflight()


def test_a_token_that_ends_only_the_whole_text_closes_no_turn():
    template = ChatTemplate(tokenizer_of(LAST_END))
    assert read(template, template.conversation(TWICE))[2] == ["Four.<|im_end|>", "Five.<|im_end|>"]
    assert template.end_of_turn == "<|im_end|>"


def test_the_end_of_a_call_is_trained_stops_and_is_no_cut():
    tokenizer = tokenizer_of(CALL_ENDS)
    template = ChatTemplate(tokenizer)
    turns = [*RAIN, CALLED, {"role": "tool", "content": "sun"}, {"role": "assistant", "content": "Sunny."}]
    trained = ['CALL weather {"city": "Rome"}<|head|><|eot|>', "Sunny.<|im_end|>"]
    assert read(template, template.conversation(turns))[2] == trained
    assert read(template, template.conversation(turns[:2]))[2] == trained[:1]
    assert {tokenizer.convert_tokens_to_ids(text) for text in ("<|eot|>", "<|im_end|>")} == template.eos_ids
    encoded = encode([{"prompt": RAIN, "completion": [CALLED]}], "demonstration", template)
    assert "cut" not in template.preflight(*encoded.statistics.ends())


# -- templates with wishes -----------------------------------------------------------------------------------------


def test_a_template_that_needs_tools_says_so_and_takes_rows_that_have_them():
    template = ChatTemplate(tokenizer_of(NEEDS_TOOLS))
    assert "needs tools, and the row has none" in refused("E_TEMPLATE", template.render, "Weather?", "Sun.")
    assert read(template, template.answer("Weather?", "Sun.", WEATHER))[2] == ["Sun.<|im_end|>"]


def test_a_template_that_takes_contents_as_parts_gets_them_so():
    template = ChatTemplate(tokenizer_of(IN_PARTS))
    assert read(template, template.conversation(TWICE))[2] == ["Four.<|im_end|>", "Five.<|im_end|>"]


# -- marked --------------------------------------------------------------------------------------------------------

MARKED = [TWICE[0], {**TWICE[1], "train": True}, *TWICE[2:]]


def test_a_record_has_its_marked_turns_if_it_marks_some(tiny_tokenizer, tmp_path):
    template = ChatTemplate(tiny_tokenizer)
    both = [TWICE[0], {**TWICE[1], "weight": 1}, TWICE[2], {**TWICE[3], "weight": 1}]
    first, second, third = encode(
        rows_of(tmp_path, "demonstration", said(MARKED), said(both), said(TWICE)).records, "demonstration", template
    )
    assert read(template, first["marked"])[2] == ["Four.<|im_end|>"]
    assert read(template, first["conversation"])[2] == ["Four.<|im_end|>", "Five.<|im_end|>"]
    assert second["marked"] is second["conversation"] and "marked" not in third


def test_only_marked_turns_are_learned_and_rows_without_are_left_out(tiny_folder, tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", [said(MARKED)] * 3 + [said(TWICE)] * 3)
    options = {"model": str(tiny_folder), "data": file, "score": "none", "quiet": True, "out": str(tmp_path),
               "max_steps": 1, **FLOAT32}  # fmt: skip
    held_out = {"eval_data": file, "eval_every": 1}
    run = zoo.train("sft", train_on="marked", **options, **held_out)
    tokens = [row["train/tokens"] for row in run.log_history if "train/tokens" in row] or run.log_history
    assert run.status == "finished" and any("val/loss" in row for row in run.log_history), tokens
    with pytest.raises(ZooError, match="No row marks a turn"):
        zoo.train("sft", train_on="marked", **{**options, "data": write_rows(tmp_path / "no.jsonl", [said(TWICE)] * 3)})
