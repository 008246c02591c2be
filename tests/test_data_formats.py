"""Every format is told from its columns and becomes the canonical record of its kind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from zoo.data.checks import check
from zoo.data.formats import FORMATS, check_columns, detect, named_format, parse_columns, rename, to_record
from zoo.data.formats.message import ROLES
from zoo.data.formats.shape import Sample
from zoo.data.kinds import KINDS
from zoo.data.row_errors import CODES, RowError
from zoo.errors import ZooError

DOCS = Path(__file__).parents[1] / "docs" / "data.md"


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


SYSTEM = {"role": "system", "content": "Be kind."}
HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
HH_PROMPT = [user("Hi"), assistant("Hello"), user("Why?")]
RATED = {"response": "good", "annotations": {"helpfulness": {"Rating": "5"}, "honesty": {"Rating": "N/A"}}}

# name of the case: (format, raw row, canonical record without `row`)
CASES = {
    "texts": ("prompt-completion", {"prompt": "Q", "completion": "A", "source": "web"},
              {"prompt": "Q", "completion": "A", "source": "web"}),
    "conversational": ("prompt-completion", {"prompt": [user("Q")], "completion": [assistant("A")]},
                       {"prompt": [user("Q")], "completion": [assistant("A")]}),
    "text and messages mixed": ("prompt-completion", {"prompt": [user("Q")], "completion": "A"},
                                {"prompt": [user("Q")], "completion": [assistant("A")]}),
    "system column": ("prompt-completion", {"system": "Be kind.", "prompt": "Q", "completion": "A"},
                      {"prompt": [SYSTEM, user("Q")], "completion": [assistant("A")]}),
    "completion of several exchanges": (
        "prompt-completion", {"prompt": [user("Q")],
                              "completion": [assistant("A"), user("R"), assistant("B")]},
        {"prompt": [user("Q"), assistant("A"), user("R")], "completion": [assistant("B")]}),
    "prompt only": ("prompt-only", {"prompt": "2 + 2?", "answer": "4"}, {"prompt": "2 + 2?", "answer": "4"}),
    "prompt only, messages": ("prompt-only", {"prompt": [user("Q")]}, {"prompt": [user("Q")]}),
    "text": ("text", {"text": "Once upon a time", "id": 7}, {"text": "Once upon a time", "id": 7}),
    "unpaired": ("prompt-completion-label", {"prompt": "Q", "completion": "A", "label": False},
                 {"prompt": "Q", "completion": "A", "label": False}),
    "unpaired, words": ("prompt-completion-label", {"prompt": "Q", "completion": "A", "label": "desirable"},
                        {"prompt": "Q", "completion": "A", "label": True}),
    "a class name is no label": ("prompt-completion", {"prompt": "Q", "completion": "A", "label": "sports"},
                                 {"prompt": "Q", "completion": "A", "label": "sports"}),
    "rated pair": ("preference", {"prompt": "Q", "chosen": "A", "rejected": "B", "rating": "Slightly better"},
                   {"prompt": "Q", "chosen": "A", "rejected": "B", "rating": "Slightly better", "margin": 1 / 3}),
    "pair with a rating and a margin": (
        "preference", {"prompt": "Q", "chosen": "A", "rejected": "B", "rating": "better", "margin": 3},
        {"prompt": "Q", "chosen": "A", "rejected": "B", "rating": "better", "margin": 3.0}),
    "pair with another rating": ("preference", {"prompt": "Q", "chosen": "A", "rejected": "B", "rating": 5},
                                 {"prompt": "Q", "chosen": "A", "rejected": "B", "rating": 5}),
    "explicit pair": ("preference", {"prompt": "Q", "chosen": "A", "rejected": "B", "margin": "0.5"},
                      {"prompt": "Q", "chosen": "A", "rejected": "B", "margin": 0.5}),
    "explicit pair, messages": (
        "preference", {"prompt": [user("Q")], "chosen": [assistant("A")], "rejected": [assistant("B")]},
        {"prompt": [user("Q")], "chosen": [assistant("A")], "rejected": [assistant("B")]}),
    "explicit pair that repeats its prompt": (
        "preference",
        {"prompt": [user("Q")], "chosen": [user("Q"), assistant("A")],
         "rejected": [user("Q"), assistant("B")]},
        {"prompt": [user("Q")], "chosen": [assistant("A")], "rejected": [assistant("B")]}),
    "implicit pair": (
        "preference-implicit", {"chosen": [user("Q"), assistant("A")],
                                "rejected": [user("Q"), assistant("B")]},
        {"prompt": [user("Q")], "chosen": [assistant("A")], "rejected": [assistant("B")]}),
    "implicit pair with tools used on the way": (
        "preference-implicit",
        {"chosen": [user("Q"), assistant("", tool_calls=[{"id": "1"}]), {"role": "tool", "content": "r"},
                    assistant("A")], "rejected": [user("Q"), assistant("B")]},
        {"prompt": [user("Q")], "rejected": [assistant("B")],
         "chosen": [assistant("", tool_calls=[{"id": "1"}]), {"role": "tool", "content": "r"},
                    assistant("A")]}),
    "implicit pair of texts": (
        "preference-implicit", {"chosen": "The sky is blue.", "rejected": "The sky is blank."},
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " blank."}),
    "implicit pair, one text beginning the other": (
        "preference-implicit", {"chosen": "One two three", "rejected": "One two"},
        {"prompt": "One", "chosen": " two three", "rejected": " two"}),
    "binarised UltraFeedback": (
        "ultrafeedback-binarized",
        {"prompt": "Q", "prompt_id": "x", "chosen": [user("Q"), assistant("A")],
         "rejected": [user("Q"), assistant("B")], "messages": [user("Q"), assistant("A")],
         "score_chosen": 8.0, "score_rejected": 6.5},
        {"prompt": [user("Q")], "chosen": [assistant("A")], "rejected": [assistant("B")],
         "prompt_id": "x", "score_chosen": 8.0, "score_rejected": 6.5}),
    "HH transcripts": ("hh-rlhf", {"chosen": HH + " Because.", "rejected": HH + " No idea."},
                       {"prompt": HH_PROMPT, "chosen": [assistant("Because.")],
                        "rejected": [assistant("No idea.")]}),
    "HH with a prompt column": ("hh-rlhf", {"prompt": HH, "chosen": " Because.", "rejected": " No idea."},
                                {"prompt": HH_PROMPT, "chosen": [assistant("Because.")],
                                 "rejected": [assistant("No idea.")]}),
    "summaries": (
        "summarize-comparisons",
        {"info": {"post": "Long.", "title": "Me", "subreddit": "r/x"}, "choice": 1,
         "summaries": [{"text": "bad"}, {"text": "good"}], "worker": "w"},
        {"prompt": "SUBREDDIT: r/x\n\nTITLE: Me\n\nPOST: Long.\n\nTL;DR:", "chosen": "good",
         "rejected": "bad",
         "worker": "w"}),
    "SHP": ("shp", {"history": "Q", "human_ref_A": "A", "human_ref_B": "B", "labels": 0},
            {"prompt": "Q", "chosen": "B", "rejected": "A"}),
    "messages": ("messages", {"messages": [SYSTEM, user("Q"), assistant("A"), user("R"), assistant("B")]},
                 {"prompt": [SYSTEM, user("Q"), assistant("A"), user("R")], "completion": [assistant("B")]}),
    "messages with None keys": (
        "messages", {"messages": [{**user("Q"), "tool_calls": None, "name": None},
                                  assistant("A", tool_calls=[])]},
        {"prompt": [user("Q")], "completion": [assistant("A")]}),
    "messages in parts": (
        "messages", {"messages": [user([{"type": "text", "text": "Q"}]),
                                  assistant([{"type": "reasoning", "value": "hm"},
                                             {"type": "text", "value": "A"}])]},
        {"prompt": [user("Q")], "completion": [assistant("A", reasoning_content="hm")]}),
    "messages with label": ("messages-feedback", {"messages": [user("Q"), assistant("A")], "label": 1},
                            {"prompt": [user("Q")], "completion": [assistant("A")], "label": True}),
    "ultrachat": ("messages", {"prompt": "Q", "prompt_id": "x", "messages": [user("Q"), assistant("A")]},
                  {"prompt": [user("Q")], "completion": [assistant("A")], "prompt_id": "x"}),
    "ShareGPT": (
        "sharegpt", {"system": "Be kind.", "conversations": [{"from": "human", "value": "Q"},
                                                             {"from": "gpt", "value": "A"}]},
        {"prompt": [SYSTEM, user("Q")], "completion": [assistant("A")]}),
    "ShareGPT with label": (
        "sharegpt-feedback", {"kto_tag": "false", "conversations": [{"from": "human", "value": "Q"},
                                                                    {"from": "gpt", "value": "A"}]},
        {"prompt": [user("Q")], "completion": [assistant("A")], "label": False}),
    "ShareGPT pair": (
        "sharegpt-preference", {"conversations": [{"from": "human", "value": "Q"}],
                                "chosen": {"from": "gpt", "value": "A"},
                                "rejected": {"from": "gpt", "value": "B"}},
        {"prompt": [user("Q")], "chosen": [assistant("A")], "rejected": [assistant("B")]}),
    "Alpaca": ("alpaca", {"instruction": "Add", "input": "", "output": "4", "text": "Below is …"},
               {"prompt": "Add", "completion": "4", "text": "Below is …"}),
    "Alpaca with input": ("alpaca", {"instruction": "Add", "input": "2 and 2", "output": "4"},
                          {"prompt": "Add\n\n2 and 2", "completion": "4"}),
    "Alpaca with system and history": (
        "alpaca", {"instruction": "R", "output": "B", "system": "Be kind.", "history": [["Q", "A"]]},
        {"prompt": [SYSTEM, user("Q"), assistant("A"), user("R")], "completion": [assistant("B")]}),
    "Alpaca pair": ("alpaca-preference", {"instruction": "Q", "input": "x", "chosen": "A", "rejected": "B"},
                    {"prompt": "Q\n\nx", "chosen": "A", "rejected": "B"}),
    "Alpaca with label": ("alpaca-feedback", {"instruction": "Q", "output": "A", "label": True},
                          {"prompt": "Q", "completion": "A", "label": True}),
    "ranking": ("ranking", {"prompt": "Q", "completions": ["A", "B"], "ranking": [2, 1]},
                {"prompt": "Q", "completions": ["A", "B"], "ranks": [2, 1]}),
    "ranking by scores": ("ranking", {"prompt": "Q", "completions": ["A", "B", "C"], "scores": [1, 9.5, 1]},
                          {"prompt": "Q", "completions": ["A", "B", "C"], "ranks": [2, 1, 2]}),
    "ranking of messages": (
        "ranking", {"prompt": [user("Q")], "completions": [[assistant("A")], [assistant("B")]],
                    "ranks": [0, 1]},
        {"prompt": [user("Q")], "completions": [[assistant("A")], [assistant("B")]], "ranks": [0, 1]}),
    "Nectar": ("ranked-answers", {"prompt": "\n\nHuman: Q\n\nAssistant: ",
                                  "answers": [{"answer": "A", "rank": 1.0, "model": "m"},
                                              {"answer": "B", "rank": 2.0, "model": "n"}]},
               {"prompt": [user("Q")], "completions": [[assistant("A")], [assistant("B")]],
                "ranks": [1.0, 2.0]}),
    "raw UltraFeedback": (
        "ultrafeedback",
        {"instruction": "Q", "completions": [{"response": "bad", "annotations": {"honesty": {"Rating": "2"}}},
                                             RATED]},
        {"prompt": "Q", "completions": ["bad", "good"], "ranks": [2, 1]}),
    "stepwise": ("stepwise", {"prompt": "Q", "completions": ["one", "two"], "labels": [True, False]},
                 {"prompt": "Q", "steps": ["one", "two"], "labels": [1, 0]}),
    "stepwise, canonical": ("stepwise", {"prompt": "Q", "steps": ["one", "two"], "labels": [1, -1]},
                            {"prompt": "Q", "steps": ["one", "two"], "labels": [1, -1]}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_row_of_each_format_is_recognised_and_becomes_its_canonical_record(name):
    format_name, row, expected = CASES[name]
    format = detect(Sample([row]), "data")
    assert format.name == format_name
    record = to_record(row, 5, format)
    assert record == {**expected, "row": 5}
    check(record, format.kind)
    assert set(KINDS[format.kind].required) <= set(record)


def test_every_format_has_a_case_above():
    assert {case[0] for case in CASES.values()} == set(FORMATS)


@pytest.mark.parametrize("name", CASES)
def test_a_canonical_record_is_itself_in_a_known_format_and_stays_as_it_is(name):
    format_name, row, expected = CASES[name]
    # An Alpaca `text` or a foreign label beside the record does not change how it is read.
    again = detect(Sample([expected]), "data")
    assert again.kind == FORMATS[format_name].kind
    assert to_record(expected, 1, again) == {**expected, "row": 1}


def test_docs_name_every_format_kind_code_and_role():
    text = DOCS.read_text(encoding="utf-8")
    missing = [name for name in (*FORMATS, *KINDS, *CODES, *ROLES) if f"`{name}`" not in text]
    assert not missing


def test_two_fitting_formats_are_an_error_that_names_both_choices():
    row = {"prompt": "Q", "completion": "A", "chosen": "A", "rejected": "B"}
    with pytest.raises(ZooError) as caught:
        detect(Sample([row]), "pairs.jsonl")
    assert "pairs.jsonl can be read in 2 ways" in caught.value.message
    assert "--format prompt-completion" in caught.value.hint and "--format preference" in caught.value.hint


def test_unknown_columns_are_listed_with_every_accepted_shape_and_the_mapping_to_type():
    with pytest.raises(ZooError) as caught:
        detect(Sample([{"question": "Q", "reply": "A", "stars": 3}]), "data.csv")
    assert "question (text), reply (text), stars (number)" in caught.value.message
    assert "--columns prompt=question,completion=reply" in caught.value.hint
    assert all(f"  {format.name} ({format.kind}): {format.looks_like}" in caught.value.hint
               for format in FORMATS.values())


def test_pairs_beside_a_question_column_are_not_taken_for_pairs_that_hold_their_prompt():
    row = {"question": "Q", "chosen": "The sky is blue", "rejected": "The sky is red"}
    with pytest.raises(ZooError, match="match no known format"):
        detect(Sample([row]), "data")


@pytest.mark.parametrize(
    ("kind", "row", "columns"),
    [
        ("preference", {"question": "Q", "worse": "B", "better": "A"}, "prompt=question,chosen=better,rejected=worse"),
        ("preference", {"question": "Q", "chosen": "A", "rejected": "B"}, "prompt=question"),
        ("preference", {"question": "Q", "answer": "A"}, "prompt=question,chosen=CHOSEN,rejected=REJECTED"),
        ("prompt", {"question": "Q", "stars": 3}, "prompt=question"),
        ("feedback", {"question": "Q", "reply": "A", "ok": "yes"}, "prompt=question,completion=reply,label=LABEL"),
        ("text", {"body": "A"}, "text=body"),
    ],
)
def test_columns_that_are_asked_for_are_those_of_the_wanted_kind(kind, row, columns):
    with pytest.raises(ZooError) as caught:
        detect(Sample([row]), "data.csv", [kind])
    first, _, *formats = caught.value.hint.splitlines()
    assert first.endswith(f"--columns {columns}")
    assert formats and all(f" ({kind}): " in line for line in formats)


def test_one_odd_row_does_not_decide_how_the_others_are_read():
    rows = [{"prompt": "Q", "completion": "A"}] * 9 + [{"prompt": "Q", "chosen": "A", "rejected": "B"}]
    assert detect(Sample(rows), "data").name == "prompt-completion"


def test_a_misspelt_format_is_answered_with_the_nearest():
    with pytest.raises(ZooError, match="Did you mean 'sharegpt'"):
        named_format("sharegtp")


@pytest.mark.parametrize(
    "name, row",
    [
        ("alpaca", {"output": "A"}),
        ("alpaca-feedback", {"output": "A", "label": True}),
        ("alpaca-preference", {"chosen": "A", "rejected": "B"}),
    ],
)
def test_alpacas_input_follows_an_empty_line_or_as_elsewhere_one_line_break(name, row):
    for text, between in ((name, "\n\n"), (f"{name}(join=paragraph)", "\n\n"), (f"{name}(join=line)", "\n")):
        for given, prompt in (({"input": "2"}, f"Add{between}2"), ({}, "Add"), ({"input": " "}, "Add")):
            format = named_format(text)
            assert to_record({"instruction": "Add", **given, **row}, 1, format)["prompt"] == prompt
            assert (format.name, format.kind) == (text, FORMATS[name].kind)


@pytest.mark.parametrize(
    "text, says",
    [("alpaca(join=lines)", "option join = lines: Input should be 'paragraph' or 'line'"),
     ("alpaca(joint=line)", "Did you mean 'join'"), ("text(join=line)", "has no option 'join'"),
     ("alpaca(join", "cannot be read")],
)  # fmt: skip
def test_options_of_a_format_that_are_none_are_told(text, says):
    with pytest.raises(ZooError, match=re.escape(says)):
        named_format(text)


def test_columns_are_parsed_as_wanted_equals_found_and_replace_what_had_the_name():
    columns = parse_columns("prompt=question, completion = reply")
    assert columns == {"prompt": "question", "completion": "reply"}
    row = {"question": "Q", "reply": "A", "prompt": "old", "id": 1}
    assert rename(row, columns) == {"prompt": "Q", "completion": "A", "id": 1}


@pytest.mark.parametrize("text", ["prompt", "prompt=", "=question", "prompt=a,prompt=b"])
def test_a_malformed_column_mapping_is_refused_with_an_example_or_reason(text):
    with pytest.raises(ZooError) as caught:
        parse_columns(text)
    assert caught.value.hint


def test_a_mapping_to_a_column_that_is_not_there_names_the_nearest_and_a_swapped_one_is_told():
    with pytest.raises(ZooError, match="no column 'qestion'. Did you mean 'question'"):
        check_columns({"prompt": "qestion"}, ["question", "reply"], "data")
    with pytest.raises(ZooError, match="did you mean prompt=question"):
        check_columns({"question": "prompt"}, ["question", "reply"], "data")


def bad(format_name, row):
    """(code, field) of the error that a row gives."""
    with pytest.raises(RowError) as caught:
        check(to_record(row, 1, FORMATS[format_name]), FORMATS[format_name].kind)
    return caught.value.code, caught.value.field


PAIR = {"prompt": "Q", "chosen": "A", "rejected": "B"}


@pytest.mark.parametrize(("format_name", "row", "expected"), [
    ("prompt-completion", {"prompt": "Q"}, ("E_TYPE", "completion")),
    ("prompt-completion", {"prompt": "Q", "completion": 3}, ("E_TYPE", "completion")),
    ("prompt-completion", {"prompt": "Q", "completion": " \n"}, ("E_EMPTY_RESPONSE", "completion")),
    ("prompt-completion", {"prompt": " ", "completion": "A"}, ("E_MISSING_TURN", "prompt")),
    ("prompt-completion", {"prompt": [user("Q")], "completion": [assistant("")]},
     ("E_EMPTY_RESPONSE", "completion")),
    ("prompt-completion", {"prompt": [user("Q")], "completion": []}, ("E_MISSING_TURN", "completion")),
    ("prompt-completion", {"prompt": [SYSTEM], "completion": "A"}, ("E_MISSING_TURN", "prompt")),
    ("prompt-completion", {"prompt": [user("Q"), SYSTEM], "completion": "A"}, ("E_MISSING_TURN", "prompt")),
    ("prompt-completion", {"prompt": [user("Q"), assistant("A")], "completion": "A"},
     ("E_MISSING_TURN", "prompt")),
    ("prompt-completion", {"prompt": [user("")], "completion": "A"}, ("E_MISSING_TURN", "prompt")),
    ("prompt-completion", {"prompt": [user("Q")], "completion": [{"role": "tool", "content": "r"}]},
     ("E_ROLE", "completion")),
    ("prompt-completion", {"prompt": [{"role": "narrator", "content": "Q"}], "completion": "A"},
     ("E_ROLE", "prompt[0]")),
    ("prompt-completion", {"prompt": [{"content": "Q"}], "completion": "A"}, ("E_ROLE", "prompt[0]")),
    ("prompt-completion", {"prompt": [user(3)], "completion": "A"}, ("E_TYPE", "prompt[0]")),
    ("prompt-completion", {"prompt": ["Q"], "completion": "A"}, ("E_TYPE", "prompt[0]")),
    ("prompt-completion", {"prompt": [user([{"type": "image", "url": "x"}])], "completion": "A"},
     ("E_TYPE", "prompt[0]")),
    ("prompt-completion", {"prompt": "Q", "completion": "A", "tools": "{not json"}, ("E_TYPE", "tools")),
    ("prompt-completion", {"prompt": "Q", "completion": "A", "system": 3}, ("E_TYPE", "system")),
    ("prompt-completion-label", {"prompt": "Q", "completion": "A", "label": "maybe"}, ("E_LABEL", "label")),
    ("prompt-completion-label", {"prompt": "Q", "completion": "A", "label": 2}, ("E_LABEL", "label")),
    ("prompt-completion-label", {"prompt": "Q", "completion": "A", "label": float("nan")},
     ("E_LABEL", "label")),
    ("preference", {**PAIR, "rejected": " A "}, ("E_IDENTICAL_PAIR", "chosen")),
    ("preference", {**PAIR, "rejected": ""}, ("E_EMPTY_RESPONSE", "rejected")),
    ("preference", {**PAIR, "margin": "much"}, ("E_TYPE", "margin")),
    ("preference", {**PAIR, "margin": float("nan")}, ("E_TYPE", "margin")),
    ("preference", {**PAIR, "p_chosen": 1.5}, ("E_TYPE", "p_chosen")),
    ("preference", {"prompt": [user("Q")], "chosen": [user("Z"), assistant("A")],
                    "rejected": [user("Z"), assistant("B")]}, ("E_PROMPT_MISMATCH", "chosen")),
    ("preference-implicit", {"chosen": [user("Q"), assistant("A")], "rejected": [user("R"), assistant("B")]},
     ("E_PROMPT_MISMATCH", "chosen")),
    ("preference-implicit", {"chosen": [SYSTEM, user("Q"), assistant("A")],
                             "rejected": [user("Q"), assistant("B")]}, ("E_PROMPT_MISMATCH", "chosen")),
    ("preference-implicit", {"chosen": "Apples", "rejected": "Ants"}, ("E_PROMPT_MISMATCH", "chosen")),
    ("preference-implicit", {"chosen": [user("Q")], "rejected": [user("Q")]}, ("E_MISSING_TURN", "chosen")),
    ("hh-rlhf", {"chosen": HH + " A", "rejected": HH.replace("Hi", "Ho") + " B"},
     ("E_PROMPT_MISMATCH", "chosen")),
    ("hh-rlhf", {"chosen": "\n\nHuman: Hi", "rejected": HH + " B"}, ("E_MISSING_TURN", "chosen")),
    ("hh-rlhf", {"chosen": HH + " A\n\nHuman: Bye", "rejected": HH + " B"}, ("E_MISSING_TURN", "chosen")),
    ("hh-rlhf", {"chosen": HH, "rejected": HH + " B"}, ("E_EMPTY_RESPONSE", "chosen")),
    ("summarize-comparisons", {"info": {"post": "P"}, "summaries": [{"text": "a"}, {"text": "b"}],
                               "choice": 2},
     ("E_TYPE", "summaries")),
    ("summarize-comparisons", {"info": {}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0},
     ("E_MISSING_TURN", "info")),
    ("shp", {"history": "Q", "human_ref_A": "A", "human_ref_B": "B", "labels": 3}, ("E_LABEL", "labels")),
    ("messages", {"messages": [user("Q")]}, ("E_MISSING_TURN", "messages")),
    ("messages", {"messages": [assistant("A")]}, ("E_MISSING_TURN", "prompt")),
    ("messages", {"messages": "Q"}, ("E_TYPE", "messages")),
    ("messages", {"messages": [user("Q"), assistant("A"), assistant("B")]}, ("E_MISSING_TURN", "prompt")),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Q"},
                                    {"from": "function_call", "value": "x"}]},
     ("E_TYPE", "messages[1]")),
    ("alpaca", {"instruction": "Q", "output": "A", "history": [["only one"]]}, ("E_TYPE", "history[0]")),
    ("ranking", {"prompt": "Q", "completions": ["A", "B"], "ranks": [1]}, ("E_LABEL", "ranks")),
    ("ranking", {"prompt": "Q", "completions": ["A", "B"], "ranks": [1, 1]}, ("E_LABEL", "ranks")),
    ("ranking", {"prompt": "Q", "completions": ["A", "B"], "scores": [1, float("nan")]},
     ("E_LABEL", "ranks")),
    ("ranking", {"prompt": "Q", "completions": ["A"], "ranks": [1]}, ("E_TYPE", "completions")),
    ("ranking", {"prompt": "Q", "completions": ["A", "A"], "ranks": [1, 2]},
     ("E_IDENTICAL_PAIR", "completions")),
    ("ranking", {"prompt": "Q", "completions": ["A", ""], "ranks": [1, 2]},
     ("E_EMPTY_RESPONSE", "completions[1]")),
    ("ranked-answers", {"prompt": "Q", "answers": "A"}, ("E_TYPE", "answers")),
    ("ultrafeedback", {"instruction": "Q", "completions": [{"response": "a", "annotations": {}}, RATED]},
     ("E_LABEL", "completions[0]")),
    ("stepwise", {"prompt": "Q", "steps": ["one"], "labels": [1, 0]}, ("E_LABEL", "labels")),
    ("stepwise", {"prompt": "Q", "steps": ["one"], "labels": [0.5]}, ("E_LABEL", "labels")),
    ("stepwise", {"prompt": "Q", "steps": ["one", " "], "labels": [1, 0]}, ("E_EMPTY_RESPONSE", "steps")),
    ("text", {"text": "\t"}, ("E_EMPTY_RESPONSE", "text")),
])
def test_a_bad_row_is_refused_with_its_code_and_field(format_name, row, expected):
    assert bad(format_name, row) == expected


def test_tool_calls_keep_their_arguments_and_tools_are_read_from_json_text():
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": null}'}}
    schema = {"type": "function", "function": {"name": "add"}}
    row = {"messages": [user("Q"), assistant("", tool_calls=[call]), {"role": "tool", "content": "4"},
                        assistant("Four.")], "tools": json.dumps([schema])}
    record = to_record(row, 1, FORMATS["messages"])
    assert record["prompt"][1]["tool_calls"] == [call]
    assert record["tools"] == [schema]


def test_an_answer_that_only_calls_a_tool_is_not_empty():
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    record = to_record({"messages": [user("Q"), assistant(None, tool_calls=[call])]}, 1, FORMATS["messages"])
    check(record, "demonstration")
    assert record["completion"] == [assistant("", tool_calls=[call])]


def test_sharegpt_function_calls_become_tool_calls_and_observations_tool_turns():
    row = {"conversations": [{"from": "human", "value": "Q"},
                             {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                             {"from": "observation", "value": "4"}, {"from": "gpt", "value": "Four."}]}
    record = to_record(row, 1, FORMATS["sharegpt"])
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert record["prompt"] == [user("Q"), assistant("", tool_calls=[call]), {"role": "tool", "content": "4"}]


def test_the_raw_row_is_not_changed():
    row = {"messages": [{**user("Q"), "name": None}, assistant("A")], "id": 1}
    before = json.dumps(row)
    to_record(row, 1, FORMATS["messages"])
    assert json.dumps(row) == before
