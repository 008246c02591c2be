"""From a source to encoded records in blocks: the same records and reports as over all rows at once."""

import hashlib
import json

import pytest
import torch

from zoo.data import prepared
from zoo.data.encoding.encode import encode
from zoo.data.encoding.records import PROMPT_HASH
from zoo.data.encoding.template import ChatTemplate
from zoo.data.kinds import prompt_key
from zoo.data.load import load
from zoo.data.prepared import prepare
from zoo.errors import ZooError
from zoo.values.types import Answer

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "So?"}]
CONTENT = {
    "demonstration": lambda n: {"prompt": TURNS if n % 5 else f"Q{n % 9}", "completion": "A" * (n % 40 + 1)},
    "preference": lambda n: {"prompt": f"Q{n % 9}", "chosen": f"A{n}", "rejected": "B" * (n % 40 + 1), "margin": 0.5},
    "feedback": lambda n: {"prompt": f"Q{n % 9}", "completion": "A" * (n % 40 + 1), "label": n % 3 == 0},
    "prompt": lambda n: {"prompt": f"Q{n}", "solution": {"of": n, "text": "é"}},
    "ranking": lambda n: {"prompt": f"Q{n % 9}", "completions": ["a" * (n + 1), f"{n}b", "c"], "ranks": [1, 2, 2]},
    "stepwise": lambda n: {"prompt": f"Q{n % 9}", "steps": [f"one {n}", "two"], "labels": [1, 0]},
    "text": lambda n: {"text": f"{n} " + "word " * (n % 30)},
}
"""A row of each kind."""


@pytest.fixture
def template(tiny_tokenizer):
    return ChatTemplate(tiny_tokenizer)


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    """Blocks of seven rows, and hashes sorted twenty at a time."""
    monkeypatch.setattr(prepared, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(prepared, "AT_ONCE", 20)
    monkeypatch.setattr("zoo.data.duplicates.AT_ONCE", 20)


@pytest.fixture
def written(tmp_path):
    """A file of 60 rows of a kind; some repeat earlier ones, some cannot be used."""

    def written(kind):
        lines = [json.dumps(CONTENT[kind](n if n % 8 else 0)) for n in range(60)]
        lines[20] = lines[41] = json.dumps({**CONTENT[kind](3), **EMPTY[kind]})
        (tmp_path / "rows.jsonl").write_text("\n".join([*lines, *lines[:50], "", *lines[10:]]))
        return str(tmp_path / "rows.jsonl")

    return written


EMPTY = {
    "demonstration": {"completion": " "}, "preference": {"rejected": "A3", "chosen": "A3"}, "text": {"text": ""},
    "feedback": {"label": "what"}, "prompt": {"prompt": ""}, "ranking": {"ranks": []}, "stepwise": {"steps": []},
}  # fmt: skip


def plain(value):
    """A record in which tensors and answers can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, Answer):
        return [plain(value.prompt), plain(value.completion), plain(value.mask), value.ended, value.cut]
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {name: plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def told(report):
    return report.lines(), report.as_json(), [report.where(row) for row in (1, 50)]


LONG = {"text": "split", "feedback": "cut"}


@pytest.mark.parametrize("source", CONTENT)
@pytest.mark.parametrize("wanted", CONTENT)
def test_blocks_give_the_records_and_the_reports_of_all_rows_at_once(written, template, source, wanted):
    file, options = written(source), {"max_length": 40, "long_rows": LONG.get(wanted, "drop")}
    try:
        whole = load(file, wanted)
    except ZooError as refused:
        with pytest.raises(ZooError) as again:
            prepare(file, wanted, template, **options)
        assert str(again.value) == str(refused)
        return
    expected = encode(whole.records, wanted, template, **options)
    made = prepare(file, wanted, template, **options)
    assert [plain(record) for record in made.encoded.records] == [plain(record) for record in expected.records]
    assert told(made.report) == told(whole.report) and made.report.problems
    assert made.encoded.lines() == expected.lines() and made.encoded.as_json() == expected.as_json()
    assert (made.fingerprint, made.format, made.source_kind) == (whole.fingerprint, whole.format, whole.source_kind)


def held_out_before(records, fraction):
    """(train, held out) of a list of records, as earlier versions split it."""
    keys = [hashlib.blake2b(f"0:{prompt_key(record)}".encode(), digest_size=16).digest() for record in records]
    prompts = sorted(set(keys))
    count = min(max(1, round(fraction * len(prompts))), len(prompts) - 1) if fraction and prompts else 0
    held = set(prompts[:count])
    split = [[record for record, key in zip(records, keys, strict=True) if (key in held) == side] for side in (0, 1)]
    return split


@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.99])
def test_the_same_prompts_are_held_out_with_reports_of_their_own(written, template, kind, fraction):
    file, options = written(kind), {"max_length": 40, "long_rows": LONG.get(kind, "drop")}
    sides = held_out_before(load(file, kind).records, fraction)
    made = prepare(file, kind, template, **options).without_held_out(fraction)
    for records, side in zip(sides, made, strict=True):
        expected = encode(records, kind, template, **options)
        assert [plain(record) for record in side.encoded.records] == [plain(record) for record in expected.records]
        assert side.encoded.as_json() == expected.as_json() and side.encoded.lines() == expected.lines()


def test_a_share_holds_out_no_more_than_so_many_prompts(written, template, monkeypatch):
    monkeypatch.setattr(prepared, "MOST_HELD_OUT", 4)
    train, held = prepare(written("prompt"), "prompt", template).without_held_out(0.3)
    prompts = {record["record"]["prompt"] for record in held.encoded.records}
    assert held.capped and not prepare(written("prompt"), "prompt", template).without_held_out(0.01)[1].capped
    assert len(prompts) == 4 and not prompts & {record["record"]["prompt"] for record in train.encoded.records}


def prompts_file(tmp_path, prompts):
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return str(tmp_path / "prompts.jsonl")


def test_a_text_prompt_and_the_same_user_turn_are_one_prompt(tmp_path, template):
    file = prompts_file(tmp_path, ["Q", [{"role": "user", "content": "Q"}], "R"])
    train, held = prepare(file, "prompt", template).without_held_out(0.5)
    assert sorted((len(train.encoded), len(held.encoded))) == [1, 2]


@pytest.mark.parametrize(
    ("prompts", "fraction", "held_out"), [(2, 0.01, 1), (2, 0.99, 1), (1, 0.5, 0), (9, 0.0, 0)]
)  # fmt: skip
def test_small_sets_keep_at_least_one_prompt_on_each_side(tmp_path, template, prompts, fraction, held_out):
    file = prompts_file(tmp_path, [f"Q{n % prompts}" for n in range(3 * prompts)])
    train, held = prepare(file, "prompt", template).without_held_out(fraction)
    assert len({record["record"]["prompt"] for record in held.encoded.records}) == held_out and train.encoded.records


def test_records_of_one_prompt_have_one_hash(written, template):
    records = prepare(written("preference"), "feedback", template).encoded.records
    prompts = [record["record"]["prompt"] for record in records]
    for chosen in (records, records[5:40]):
        hashes = chosen.column(PROMPT_HASH).tolist()
        assert len(set(hashes)) == len(set(prompts)) == len(set(zip(hashes, prompts, strict=False)))
        prompts = prompts[5:40]


def test_numbers_are_read_as_columns_and_no_record_is_made(written, template, monkeypatch):
    pairs = prepare(written("preference"), "preference", template).encoded.records
    labels = prepare(written("feedback"), "feedback", template).encoded.records
    expected = [record["label"] for record in labels], [record["row"] for record in labels[3:9]]
    monkeypatch.setattr("zoo.data.encoding.block.Block.record", None)
    assert labels.column("label").dtype == bool and labels.column("label").tolist() == expected[0]
    assert labels[3:9].column("row").tolist() == expected[1]
    assert set(pairs.column("margin")) == {0.5} and pairs.column("p_chosen").tolist() != pairs.column("margin").tolist()


def test_a_share_outside_of_its_range_is_refused(written, template):
    with pytest.raises(ZooError, match="at least 0 and below 1"):
        prepare(written("prompt"), "prompt", template).without_held_out(1.0)
