"""Encoding: what each kind becomes, which rows are dropped as tokens, cutting, statistics and collation."""

import json
import math
import pickle
from collections import Counter

import pytest
import torch
from tiny_runs import write_rows

from zoo.data.encoding.encode import default_collate, encode, encode_block
from zoo.data.encoding.statistics import Statistics, quantiles
from zoo.data.encoding.template import ChatTemplate
from zoo.data.load import load
from zoo.errors import ZooError
from zoo.values.answers import answers_in
from zoo.values.types import Answer, Answers

HEAD = len("user\n" + "\n" + "assistant\n") + 3
"""Tokens of a prompt besides its content: every letter is one, and so are the three special tokens."""


@pytest.fixture
def template(tiny_tokenizer):
    return ChatTemplate(tiny_tokenizer)


@pytest.fixture
def text_of(tiny_tokenizer):
    return lambda ids: tiny_tokenizer.decode(ids.tolist())


def numbered(*records):
    return [{"row": row, **record} for row, record in enumerate(records, 1)]


def asked(content, answer, **more):
    return {"prompt": content, "completion": answer, **more}


def reasons(encoded):
    """{code: rows} of an encoding's report."""
    found = {}
    for problem in encoded.report.problems:
        found.setdefault(problem.code, []).append(problem.row)
    return found


def test_the_length_of_a_prompt_is_what_these_tests_take_it_for(template):
    assert len(template.prompt_ids("Hi")) == HEAD + 2


WITHOUT_ROWS = {
    "demonstration": asked("Hi", "Ho"),
    "preference": {"prompt": "Hi", "chosen": "Ho", "rejected": "No"},
    "feedback": {**asked("Hi", "Ho"), "label": True},
    "prompt": {"prompt": "Hi"},
    "ranking": {"prompt": "Hi", "completions": ["a", "b"], "ranks": [1, 2]},
    "stepwise": {"prompt": "Hi", "steps": ["a", "b"], "labels": [1, 0]},
    "text": {"text": "Hi"},
}


@pytest.mark.parametrize("kind", WITHOUT_ROWS)
def test_records_without_numbers_get_their_places(template, kind):
    record = WITHOUT_ROWS[kind]
    encoded = encode([record, record], kind, template)
    assert [one["row"] for one in encoded] == [one["record"]["row"] for one in encoded] == [1, 2]
    assert "row" not in record
    assert reasons(encode([record], kind, template, max_length=2)) == {"E_TOO_LONG": [1]}
    if kind == "text":
        assert {one["row"] for one in encode([record], kind, template, max_length=2, long_rows="split")} == {1}


# -- kinds -------------------------------------------------------------------------------------------------------


def test_a_demonstration_keeps_its_row_and_its_source(template, text_of):
    (source,) = numbered(asked("Hi", "Ho", topic="songs"))
    (record,) = encode([source], "demonstration", template)
    assert record["row"] == 1
    assert record["record"] is source
    assert text_of(record["completion"].completion) == "Ho<|im_end|>"
    assert record["conversation"] is record["completion"]


@pytest.mark.parametrize("kind", ["preference", "demonstration"])
def test_the_space_between_two_texts_is_not_trained_in_a_chat_turn(template, tiny_tokenizer, text_of, tmp_path, kind):
    """A pair of bare texts is cut in front of the space, which raw text needs and a chat turn does not."""
    file = write_rows(tmp_path / "pairs.jsonl", [{"chosen": "The sky is blue", "rejected": "The sky is green"}])
    records = load(file, kind).records
    answer = "chosen" if kind == "preference" else "completion"
    (chat,) = encode(records, kind, template)
    assert text_of(chat[answer].completion) == "blue<|im_end|>"
    assert text_of(chat[answer].prompt).endswith("The sky is<|im_end|>\n<|im_start|>assistant\n")
    (raw,) = encode(records, kind, ChatTemplate(tiny_tokenizer, "none"))
    assert text_of(raw[answer].prompt) + text_of(raw[answer].completion) == "The sky is blue<|im_end|>"


def test_turns_in_the_prompt_are_trained_in_the_conversation_only(template, text_of):
    prompt = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ]
    for answer in ("Four.", [{"role": "assistant", "content": "Four."}]):
        (record,) = encode(numbered(asked(prompt, answer)), "demonstration", template)
        completion, conversation = record["completion"], record["conversation"]
        assert text_of(completion.completion[completion.mask]) == "Four.<|im_end|>"
        assert text_of(conversation.completion[conversation.mask]) == "Two.<|im_end|>Four.<|im_end|>"
        assert torch.cat([completion.prompt, completion.completion]).equal(
            torch.cat([conversation.prompt, conversation.completion])
        )


def test_a_pair_shares_its_prompt(template, text_of):
    records = numbered(
        {"prompt": "Hi", "chosen": "Ho", "rejected": "No", "margin": 2, "p_chosen": 0.9},
        {"prompt": "Hi", "chosen": "Ho", "rejected": "No", "margin": None},
    )
    first, second = encode(records, "preference", template)
    assert first["chosen"].prompt.equal(first["rejected"].prompt)
    assert text_of(first["chosen"].completion) == "Ho<|im_end|>"
    assert text_of(first["rejected"].completion) == "No<|im_end|>"
    assert (first["margin"], first["p_chosen"]) == (2.0, 0.9)
    assert "margin" not in second and "p_chosen" not in second


def test_feedback_has_its_label(template):
    good, bad = encode(numbered(asked("Hi", "Ho", label=True), asked("Hi", "No", label=False)), "feedback", template)
    assert good["label"] is True and bad["label"] is False


def test_a_prompt_is_its_ids_with_what_asks_for_an_answer(template, text_of):
    (record,) = encode(numbered({"prompt": "Hi", "solution": "Ho"}), "prompt", template)
    assert record["prompt"].dtype == torch.long
    assert text_of(record["prompt"]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert record["record"]["solution"] == "Ho"


def test_a_ranking_has_its_answers_in_their_order(template, text_of):
    (record,) = encode(numbered({"prompt": "Hi", "completions": ["b", "a"], "ranks": [2, 1]}), "ranking", template)
    assert [text_of(answer.completion) for answer in record["completions"]] == ["b<|im_end|>", "a<|im_end|>"]
    assert record["ranks"] == [2, 1]


def test_steps_are_joined_and_each_ends_at_its_last_token(template, text_of):
    row = {"prompt": "2 + 3 + 4?", "steps": ["2 + 3 = 5", "5 + 4 = 9"], "labels": [1, -1]}
    (record,) = encode(numbered(row), "stepwise", template)
    completion, ends = record["completion"].completion, record["step_ends"]
    assert text_of(completion[: ends[0] + 1]) == "2 + 3 = 5\n"
    assert text_of(completion[ends[0] + 1 : ends[1] + 1]) == "5 + 4 = 9"
    assert text_of(completion[ends[1] + 1 :]) == "<|im_end|>"
    assert record["labels"] == [1, -1]


def test_equal_steps_are_told_apart(template):
    (record,) = encode(numbered({"prompt": "?", "steps": ["a", "a", "aa"], "labels": [1, 1, 1]}), "stepwise", template)
    assert record["step_ends"] == [1, 3, 5]


def test_text_is_trained_whole_and_ended(template, text_of):
    (record,) = encode(numbered({"text": "Once upon"}), "text", template)
    assert text_of(record["completion"].completion) == "Once upon<|im_end|>"
    assert record["completion"].mask.tolist() == [False] + [True] * 9


def test_records_stay_in_their_order_over_many_calls_of_the_tokenizer(template, text_of, monkeypatch):
    monkeypatch.setattr("zoo.data.encoding.encode.ROWS_AT_ONCE", 3)
    seen = []
    records = numbered(*(asked(f"Number {k}?", f"It is {k}.") for k in range(10)))
    encoded = encode(records, "demonstration", template, progress=lambda done, of: seen.append((done, of)))
    assert [record["row"] for record in encoded] == list(range(1, 11))
    assert [text_of(record["completion"].completion) for record in encoded] == [
        f"It is {k}.<|im_end|>" for k in range(10)
    ]
    assert seen == [(3, 10), (6, 10), (9, 10), (10, 10)]


# -- rows that are dropped -----------------------------------------------------------------------------------------


def test_dropped_rows_are_counted_by_reason_with_their_numbers(template):
    records = numbered(
        asked("Hi", "Ho"),
        asked("Hi", " \n "),
        asked("Hi", "Ho" * 100),
        asked("Hi<|im_end|>", "Ho"),
        asked("Hi", "Ho" * 100),
    )
    encoded = encode(records, "demonstration", template, max_length=100)
    assert [record["row"] for record in encoded] == [1]
    assert reasons(encoded) == {"E_NO_SUPERVISED_TOKENS": [2], "E_TOO_LONG": [3, 5], "E_SPECIAL_TOKEN": [4]}
    assert (encoded.report.rows, encoded.report.kept, encoded.report.dropped) == (5, 1, 4)
    assert encoded.report.records == 1
    assert any("E_TOO_LONG" in line and "(row 3, 5)" in line for line in encoded.lines())


def test_a_dropped_row_has_one_reason_and_no_warnings(tiny_tokenizer):
    raw = ChatTemplate(tiny_tokenizer, "none")
    records = numbered(asked("<|im_start|>Hi", "Ho"), asked("<|im_start|>Hi", "Ho" * 100))
    assert reasons(encode(records, "demonstration", raw, max_length=50)) == {"W_CONTROL_TOKENS": [1], "E_TOO_LONG": [2]}


def test_what_the_template_refuses_is_dropped_with_its_reason(tiny_tokenizer):
    strict = ChatTemplate(
        tiny_tokenizer,
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system turn') }}{% endif %}"
        + tiny_tokenizer.chat_template,
    )
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    encoded = encode(numbered(asked(system, "Ho"), asked("Hi", "Ho")), "demonstration", strict)
    assert reasons(encoded) == {"E_TEMPLATE": [1]}
    assert "No system turn" in encoded.report.problems[0].message


def test_the_end_of_a_turn_alone_is_nothing_to_train_on(template):
    silent = [{"role": "assistant", "content": ""}]
    encoded = encode(numbered(asked("Hi", silent)), "demonstration", template)
    assert reasons(encoded) == {"E_NO_SUPERVISED_TOKENS": [1]}
    pair = encode(numbered({"prompt": "Hi", "chosen": "Ho", "rejected": "\n"}), "preference", template)
    assert reasons(pair) == {"E_NO_SUPERVISED_TOKENS": [1]}


def test_answers_that_become_equal_as_tokens_are_no_pair(tiny_tokenizer):
    trimming = ChatTemplate(tiny_tokenizer, tiny_tokenizer.chat_template.replace("['content']", "['content'] | trim"))
    rows = numbered({"prompt": "Hi", "chosen": "Ho", "rejected": "Ho\n"})
    assert reasons(encode(rows, "preference", trimming)) == {"E_IDENTICAL_PAIR": [1]}
    ranking = numbered({"prompt": "Hi", "completions": ["Ho", " Ho", "Ho "], "ranks": [1, 2, 3]})
    assert reasons(encode(ranking, "ranking", trimming)) == {"E_IDENTICAL_PAIR": [1]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"long_rows": "shorten"}, "long_rows is 'shorten'"),
        ({"max_length": 1}, "max_length of 1"),
        ({"kind": "prefrence"}, "Did you mean 'preference'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(template, options, words):
    with pytest.raises(ZooError, match=words) as caught:
        encode([], **{"kind": "demonstration", "template": template, **options})
    assert caught.value.hint


def test_no_records_are_no_error(template):
    encoded = encode([], "demonstration", template)
    assert list(encoded) == []
    assert encoded.lines() == []
    assert encoded.as_json()["tokens"] == 0


# -- length ------------------------------------------------------------------------------------------------------


def test_the_longest_allowed_row_is_kept_whole(template):
    records = numbered(asked("Hi", "Ho!"))
    length = HEAD + 2 + 4
    assert len(encode(records, "demonstration", template, max_length=length)) == 1
    assert reasons(encode(records, "demonstration", template, max_length=length - 1)) == {"E_TOO_LONG": [1]}


def test_a_cut_answer_has_no_end_and_is_marked(template, text_of):
    records = numbered(asked("Hi", "Hello"), asked("Hi", "Ho"))
    encoded = encode(records, "demonstration", template, max_length=HEAD + 2 + 4, long_rows="cut")
    cut, whole = (record["completion"] for record in encoded)
    assert text_of(cut.completion) == "Hell"
    assert len(cut) == HEAD + 2 + 4 and len(cut.mask) == 4
    assert cut.cut and not cut.ended
    assert whole.ended and not whole.cut
    assert reasons(encoded) == {"W_TRUNCATED": [1]}
    assert encoded.report.dropped == 0
    first = encoded[0]
    assert first["conversation"] is first["completion"]


def test_a_prompt_that_fills_the_length_is_dropped_even_when_cutting(template):
    records = numbered(asked("Hello", "Ho"))
    encoded = encode(records, "demonstration", template, max_length=HEAD + 5, long_rows="cut")
    assert reasons(encoded) == {"E_TOO_LONG": [1]}


def test_prompts_alone_must_leave_room_for_an_answer(template):
    records = numbered({"prompt": "Hi"}, {"prompt": "Hello"})
    for long_rows in ("drop", "cut"):
        encoded = encode(records, "prompt", template, max_length=HEAD + 5, long_rows=long_rows)
        assert [record["row"] for record in encoded] == [1]
        assert reasons(encoded) == {"E_TOO_LONG": [2]}


def test_a_pair_that_a_cut_makes_equal_is_dropped(template):
    records = numbered(
        {"prompt": "Hi", "chosen": "Hello you", "rejected": "Hello there"},
        {"prompt": "Hi", "chosen": "Hello you", "rejected": "Halt"},
    )
    encoded = encode(records, "preference", template, max_length=HEAD + 2 + 5, long_rows="cut")
    assert reasons(encoded) == {"E_IDENTICAL_PAIR": [1], "W_TRUNCATED": [2]}
    assert encoded[0]["chosen"].cut and not encoded[0]["rejected"].cut


def test_an_answer_that_a_cut_leaves_without_content_is_dropped(template):
    answer = [{"role": "assistant", "content": "\n\n\nHo"}]
    encoded = encode(numbered(asked("Hi", answer)), "demonstration", template, max_length=HEAD + 5, long_rows="cut")
    assert reasons(encoded) == {"E_NO_SUPERVISED_TOKENS": [1]}
    assert "after the cut" in encoded.report.problems[0].message


def test_steps_behind_a_cut_go_with_their_labels(template):
    row = {"prompt": "?", "steps": ["one", "two", "three"], "labels": [1, 0, -1]}
    (record,) = encode(numbered(row), "stepwise", template, max_length=HEAD + 1 + 9, long_rows="cut")
    assert record["step_ends"] == [3, 7]
    assert record["labels"] == [1, 0]
    none = encode(numbered(row), "stepwise", template, max_length=HEAD + 1 + 2, long_rows="cut")
    assert reasons(none) == {"E_NO_SUPERVISED_TOKENS": [1]}


# -- statistics ----------------------------------------------------------------------------------------------------


def test_quantiles():
    assert quantiles({}) == {}
    assert quantiles({5: 1}) == {"min": 5, "median": 5, "p95": 5, "max": 5}
    assert quantiles(Counter(range(101))) == {"min": 0, "median": 50, "p95": 95, "max": 100}
    assert quantiles({3: 94, 7: 6}) == {"min": 3, "median": 3, "p95": 7, "max": 7}


def test_tokens_are_counted_once_however_many_turns_are_trained(template):
    prompt = [
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "22"},
        {"role": "user", "content": "3?"},
    ]
    encoded = encode(numbered(asked(prompt, "4444"), asked("Hi", "Hello")), "demonstration", template)
    facts = encoded.as_json()
    assert facts["answers"] == 2
    assert facts["tokens"] == sum(len(record["completion"]) for record in encoded)
    assert facts["trained_tokens"] == 5 + 6
    assert facts["trained_tokens_all_turns"] == 5 + 3 + 6
    assert facts["answer_lengths"] == {"min": 5, "median": 5, "p95": 5, "max": 6}
    assert (facts["ended"], facts["cut"], facts["end_trained"]) == (2, 0, 1.0)
    assert "14 with every assistant turn" in encoded.lines()[-1]


def test_what_is_cut_and_which_side_is_longer_is_counted(template):
    rows = numbered(
        {"prompt": "Hi", "chosen": "Hello", "rejected": "No"}, {"prompt": "Hi", "chosen": "Ho", "rejected": "No no"}
    )
    assert encode(rows, "preference", template).as_json()["chosen_longer"] == 0.5
    facts = encode(rows, "preference", template, max_length=HEAD + 2 + 4, long_rows="cut").as_json()
    assert (facts["cut"], facts["ended"], facts["end_trained"]) == (2, 2, 0.5)


def test_of_prompts_only_their_lengths_are_known(template):
    facts = encode(numbered({"prompt": "Hi"}, {"prompt": "Hello"}), "prompt", template).as_json()
    assert facts["tokens"] == 2 * HEAD + 7
    assert facts["prompt_lengths"]["max"] == HEAD + 5
    assert facts["answers"] == 0


# -- blocks --------------------------------------------------------------------------------------------------------

TURNS = [
    {"role": "user", "content": "1?"},
    {"role": "assistant", "content": "22"},
    {"role": "user", "content": "3?"},
]
OF_KINDS = {
    "demonstration": [asked("Hi", "Ho"), asked(TURNS, "4444"), asked("Hi", "x" * 99)],
    "preference": [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "No", "p_chosen": 0.9},
        {"prompt": "Hi", "chosen": "Ho", "rejected": "No no", "margin": 2},
        {"prompt": "Hi", "chosen": "x" * 99, "rejected": "x"},
    ],
    "feedback": [{**asked("Hi", "Ho"), "label": True}, {**asked("Hello", "No"), "label": False}],
    "prompt": [{"prompt": "Hi"}, {"prompt": "Hello"}],
    "ranking": [{"prompt": "Hi", "completions": ["a", "b", "a"], "ranks": [1, 2, 1.5]}],
    "stepwise": [{"prompt": "Hi", "steps": ["a", "b", "x" * 99], "labels": [1, 0, True]}],
    "text": [{"text": "Hi"}, {"text": "x" * 99}],
}


def plain(value):
    """A record with every answer as lists."""
    if isinstance(value, Answer):
        return plain(vars(value))
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", OF_KINDS)
def test_a_block_that_was_sent_gives_the_records_of_the_rows_alone(template, kind):
    records = numbered(*OF_KINDS[kind])
    options = {"max_length": HEAD + 48, "long_rows": "split" if kind == "text" else "cut"}
    block = pickle.loads(pickle.dumps(encode_block(records, kind, template, **options)))
    alone = [item for record in records for item in encode([record], kind, template, **options)]
    assert plain([block.record(i) for i in range(len(block))]) == plain(alone) != []
    assert block.count == len(records) and [problem.code for problem in block.problems] == (
        ["W_TRUNCATED"] if kind in ("demonstration", "preference", "stepwise") else []
    )


def test_a_block_of_no_rows_has_no_records(template):
    block = encode_block([], "preference", template)
    assert len(block) == 0 and block.numbers == {}
    statistics = Statistics()
    statistics.add(block, template.eos_ids)
    assert statistics == Statistics() and statistics.summary() == []


@pytest.mark.parametrize("kind", OF_KINDS)
def test_a_shared_prompt_and_a_shared_answer_stand_in_a_block_once(template, kind):
    block = encode_block(numbered(*OF_KINDS[kind]), kind, template)
    for i in range(len(block)):
        answers = {id(answer): answer for answer in answers_in(block.record(i))}
        prompts = {tuple(answer.prompt.tolist()) for answer in answers.values()}
        if answers:
            once = sum(map(len, prompts)) + sum(len(answer.completion) for answer in answers.values())
            assert len(block.tokens.row(i)) == once


@pytest.mark.parametrize("kind", OF_KINDS)
def test_statistics_are_those_of_the_records_however_they_are_cut_into_blocks(template, kind):
    records = numbered(*OF_KINDS[kind])
    options = {"max_length": HEAD + 48, "long_rows": "split" if kind == "text" else "cut"}
    encoded = encode(records, kind, template, **options)
    parts = Statistics()
    for record in records:
        part = Statistics()
        part.add(encode_block([record], kind, template, **options), template.eos_ids)
        parts.merge(Statistics.from_json(json.loads(json.dumps(part.as_json()))))
    assert parts == encoded.statistics
    answers = {id(answer): answer for record in encoded for answer in answers_in(record)}.values()
    main = [answer for record in encoded for answer in answers_in({**record, "conversation": None})]
    assert sum(parts.lengths.values()) == (len(main) or len(records))
    assert parts.answer_lengths == Counter(len(answer.completion) for answer in main)
    assert parts.trained == sum(int(answer.mask.sum()) for answer in main)
    ends = [bool(answer.mask[-1]) and int(answer.completion[-1]) in template.eos_ids for answer in answers]
    assert parts.ends() == (len(answers), len(answers) - sum(ends))


# -- batches -----------------------------------------------------------------------------------------------------


def test_a_batch_has_a_field_for_each_field_of_the_records(template):
    rows = numbered(
        {"prompt": "Hi", "chosen": "Ho", "rejected": "No", "margin": 1.5},
        {"prompt": "Hi", "chosen": "Ho", "rejected": "Na"},
    )
    batch = default_collate(list(encode(rows, "preference", template)))
    assert set(batch) == {"row", "chosen", "rejected", "margin", "record"}
    assert isinstance(batch.chosen, Answers) and len(batch.chosen) == 2
    assert batch.row.dtype == torch.long and batch.row.tolist() == [1, 2]
    assert batch.margin.dtype == torch.float32
    assert batch.margin[0] == 1.5 and math.isnan(batch.margin[1])
    assert batch.record == rows


def test_truth_values_stay_truth_values_and_lists_lists(template):
    rows = numbered(asked("Hi", "Ho", label=True), asked("Hi", "No", label=False))
    batch = default_collate(list(encode(rows, "feedback", template)))
    assert batch.label.dtype == torch.bool and batch.label.tolist() == [True, False]
    ranking = {"prompt": "Hi", "completions": ["a", "b"], "ranks": [1, 2]}
    batch = default_collate(list(encode(numbered(ranking, ranking), "ranking", template)))
    assert batch.ranks == [[1, 2], [1, 2]]
    assert [len(answers) for answers in batch.completions] == [2, 2]
    prompts = default_collate(list(encode(numbered({"prompt": "Hi"}, {"prompt": "Hello"}), "prompt", template)))
    assert [len(ids) for ids in prompts.prompt] == [HEAD + 2, HEAD + 5]


def test_records_with_different_fields_are_no_batch():
    answer = Answer.of([1], [2])
    with pytest.raises(ZooError, match="row 2 has no 'completion'"):
        default_collate([{"row": 1, "completion": answer}, {"row": 2}])


def test_many_rows_are_tokenised_in_few_calls(template, monkeypatch):
    """One call a row would take minutes for data of a usual size."""
    calls = []
    inner = template.tokens.tokenizer

    class Counting:
        def __call__(self, *arguments, **options):
            calls.append(1)
            return inner(*arguments, **options)

        def __getattr__(self, name):
            return getattr(inner, name)

    monkeypatch.setattr(template.tokens.segments, "tokenizer", Counting())
    encode(numbered(*(asked(f"Number {k}?", f"It is {k}.") for k in range(300))), "demonstration", template)
    assert 0 < len(calls) < 10
