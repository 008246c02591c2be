"""Every parser gets 200 made-up inputs: what it cannot read is a ZooError or RowError with a message; nothing hangs.

The inputs are the same in every run. More of them: `FUZZ=20000 python -m pytest tests/test_fuzz.py`.
"""

import gzip
import io
import json
import math
import os
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pyarrow
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo.data import checks, load
from zoo.data.encoding.template import ChatTemplate
from zoo.data.formats import FORMATS, columns_of, named_format, to_record
from zoo.data.row_errors import RowError
from zoo.data.sources import READERS, open_source
from zoo.errors import ZooError
from zoo.judges import constitution, wording
from zoo.judges.endpoint import Endpoint
from zoo.judges.wording import Question
from zoo.limits import within
from zoo.options import spelling, strict_yaml
from zoo.options.expression import Expression
from zoo.recipes import claims
from zoo.recipes.load import load_recipe
from zoo.rewards import checkers, code, instructions, programs, readings, references

ROOT = Path(__file__).parent.parent
EXAMPLES = int(os.environ.get("FUZZ", "200"))
SECONDS = 10
"""CPU time for one input; most take under a millisecond."""


def fuzz(parse, inputs, examples=EXAMPLES):
    """Give each input to the parser. Raises whatever it raises but an error for the user with a message."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def try_one(content):
        with within(SECONDS):
            try:
                parse(content)
            except (ZooError, RowError) as error:
                assert error.message.strip()

    try_one()


def soup(*pieces, most=16):
    """Texts of these pieces and of any characters between them."""
    part = st.sampled_from(pieces) | st.sampled_from(pieces) | st.text(max_size=4)
    return st.lists(part, max_size=most).map("".join)


def changed(content):
    """Bytes with a few of them changed, and perhaps cut."""
    edits = st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=6)

    def apply(given):
        edits, end = given
        data = bytearray(content)
        for place, value in edits:
            data[place] = value
        return bytes(data[:end])

    return st.tuples(edits, st.just(len(content)) | st.integers(0, len(content))).map(apply)


KEYS = (
    "role", "content", "from", "value", "prompt", "chosen", "rejected", "completion", "completions", "messages", "text",
    "label", "labels", "ranks", "steps", "tool_calls", "function", "name", "arguments", "tools", "system", "score",
)  # fmt: skip
WORDS = (
    "", "a", "user", "assistant", "system", "tool", "human", "gpt", "\n\nHuman: a\n\nAssistant: b", "[", "{}", "é\x00",
    "\ud800", "1e999", "9" * 5000, "</s>", "\u202e",
)  # fmt: skip
NUMBERS = (0, 1, -1, 10**20, 0.5, math.nan, math.inf, True, False, None)


def made_up(source, depth=3):
    """Any value of JSON, often a conversation. Made by hand: hypothesis takes a hundred times as long for it."""
    kind = source.randrange(10 if depth else 4)
    if kind < 2:
        return source.choice(WORDS)
    if kind < 4:
        return source.choice(NUMBERS)
    if kind < 6:
        return [turn(source, depth) for _ in range(source.randrange(4))]
    if kind < 7:
        return turn(source, depth)
    if kind < 8:
        return [made_up(source, depth - 1) for _ in range(source.randrange(4))]
    return {source.choice(KEYS): made_up(source, depth - 1) for _ in range(source.randrange(4))}


def turn(source, depth):
    content = made_up(source, depth - 1) if depth and source.random() < 0.2 else source.choice(WORDS)
    return {"role": source.choice(("user", "assistant", "system", "tool")), "content": content}


def from_seed(make):
    return st.integers(0, 2**32).map(lambda seed: make(Random(seed)))


ATOMS = st.sampled_from((*WORDS, *NUMBERS))
JSON = from_seed(made_up)
ROWS = from_seed(
    lambda source: [
        {source.choice(KEYS): made_up(source) for _ in range(source.randrange(5))} for _ in range(source.randrange(4))
    ]
)


# -- data ------------------------------------------------------------------------------------------------------------


@cache
def table_bytes(suffix):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"prompt": ["a", "b é", None], "messages": [[{"role": "user", "content": "x"}], [], None]})
    out = io.BytesIO()
    if suffix == ".parquet":
        pyarrow.parquet.write_table(table, out)
    else:
        with pyarrow.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    return out.getvalue()


def in_child(work):
    """Do the work in a fork of this process. Raises AssertionError where that fails or dies."""
    import traceback

    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def in_utf8(text):
    return text.encode("utf-8", "replace")


def as_lines(rows):
    return "\n".join(map(json.dumps, rows))


LINE = soup(
    '{"prompt": "a", "completion": "b"}',
    "\n",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    '"a"',
    "1e999",
    "NaN",
    "\\ud800",
    "\\u0000",
)
CELLS = soup("prompt,completion\n", "a,b\n", '"', ",", "\n", ";", "\t", '"a""b"', '[{""role"": ""user""}]', "\r")
FILES = {
    ".jsonl": LINE.map(in_utf8) | st.binary(max_size=40) | ROWS.map(as_lines).map(in_utf8),
    ".json": LINE.map(in_utf8) | JSON.map(lambda value: json.dumps(value).encode()),
    ".csv": CELLS.map(in_utf8) | st.binary(max_size=40),
    ".tsv": CELLS.map(in_utf8),
    ".parquet": changed(table_bytes(".parquet")),
    ".arrow": changed(table_bytes(".arrow")),
    ".jsonl.gz": changed(gzip.compress(b'{"prompt": "a"}\n' * 9, mtime=0)),
    ".jsonl.zst": changed(pyarrow.compress(b'{"prompt": "a"}\n' * 9, "zstd", asbytes=True)),
}  # fmt: skip


@pytest.mark.parametrize("suffix", FILES)
def test_files(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"

    def read(content):
        path.write_bytes(content)
        list(open_source(str(path), "demonstration").rows)

    # pyarrow is written in C++: what ends it must not end the tests.
    in_child(lambda: fuzz(read, FILES[suffix])) if suffix in (".parquet", ".arrow", ".jsonl.zst") else fuzz(
        read, FILES[suffix]
    )


def test_every_type_of_file_is_tried():
    assert set(READERS) <= set(FILES)


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name):
    format = FORMATS[name]
    columns = st.fixed_dictionaries({}, optional=dict.fromkeys(format.uses, JSON))

    def convert(row):
        checks.check(to_record(row, 1, format), format.kind)

    fuzz(convert, columns)


def test_detection_and_loading(tmp_path):
    path = tmp_path / "a.jsonl"

    def read(rows):
        path.write_text(as_lines(rows))
        load.load(str(path), ["demonstration", "preference", "feedback"])

    fuzz(read, ROWS)


# -- templates -------------------------------------------------------------------------------------------------------

JINJA = soup(
    "{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{ m['role'] }}", "{% if add_generation_prompt %}",
    "{% endif %}", "{{ eos_token }}", "{{ 1 // 0 }}", "{{ raise_exception('no') }}", "{{ messages[9].x.y }}", "{{",
    "}}",
    "{% set x = messages %}", "{#", "{% break %}", "{{ m | tojson }}", "{{ x() }}", "{% generation %}", "Assistant:",
)  # fmt: skip


def test_templates(tiny_tokenizer):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    def render(text):
        template = ChatTemplate(tiny_tokenizer, text)
        template.answer(turns[:1], turns[1:])

    loop = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    fuzz(render, JINJA | JINJA.map(lambda text: loop + text) | JINJA.map(lambda text: text + loop))


# -- what is typed ---------------------------------------------------------------------------------------------------

SPELLED = soup("name", "(", ")", ",", "=", "option", "1", "x=1", "data=a(b=1)", " ", "~", "\n", "none")


def taking(data: str, k: int = 1, rate: float | None = None, *, on: bool = False):
    """What a spelled name may stand for."""


def bound(text):
    spelling.bind(taking, spelling.parse(text)[1], "name", fixed=0)


TYPED = {
    "a reward": (
        Expression,
        soup("length", "a.b:c", "0.5", "1e999", "*", "/", "+", " - ", "-", "(", ")", "min", "var(a, b)", ",", "=",
        "'", "**", "\n"),
    ),
    "a spelled name": (bound, SPELLED),
    "a data format": (named_format, SPELLED | st.tuples(st.sampled_from(list(FORMATS)), SPELLED).map("".join)),
    "columns": (columns_of, soup("prompt", "=", ",", " ", "completion")),
    "seeds": (spelling.seeds, soup("3", ",", "-", "0", " ", "9" * 5)),
    "a source": (lambda name: open_source(name, "demonstration"), soup("a", "@", "/", "~", ".", "..", ":", ".json",
    "x" * 300)),
    "a template's name": (None, soup("a", "/", "~", ".", "..", "x" * 300)),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPED)
def test_what_is_typed(tmp_path, monkeypatch, tiny_tokenizer, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zoo.data.sources._open_hub", lambda name, split: SimpleNamespace(rows=iter(())))
    monkeypatch.setattr("zoo.data.sources.folders.FILES", 100)
    parse, inputs = TYPED[name]
    fuzz(parse or (lambda text: ChatTemplate(tiny_tokenizer, text)), inputs)


def test_values_of_a_reward():
    expression = Expression("0.5*a + min(b, c)/var(a, b) - 2*(a - c)")
    value = st.none() | st.floats() | st.integers(-(10**400), 10**400)

    def evaluate(values):
        found = expression.value(dict(zip(expression.mentions, values, strict=True)))
        assert found is None or isinstance(found, float)

    fuzz(evaluate, st.tuples(value, value, value))


# -- yaml ------------------------------------------------------------------------------------------------------------

YAML = soup(
    "lr: 1e-5", "\n", "  ", "- ", "&a ", "*a", "<<: *a", "!!python/name:os.system", "!!timestamp x", "!!binary x",
    "!!int ",
    "!!set {a}", "!!omap [a]", "[", "]", "{", "}", "? ", ": ", "a", "a: 1\n", "|", ">", "'", '"', "#", "---\n",
    "%YAML 9", "\t",
)  # fmt: skip
PRINCIPLES = JSON.map(lambda value: {"principles": value}) | st.lists(
    st.fixed_dictionaries({name: JSON | st.just("x") for name in constitution.NAMES}), max_size=3
).map(lambda value: {"principles": value})
WORDINGS = st.dictionaries(
    st.sampled_from((*wording.PLACES, "name")),
    st.dictionaries(st.sampled_from((*wording.TEXTS, "choices")), JSON) | JSON,
)


@cache
def recipe():
    """A recipe as plain values."""
    return yaml.safe_load((ROOT / "recipes" / "diversity.yaml").read_text(encoding="utf-8"))


def places_in(value, before=()):
    yield before
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in children:
        yield from places_in(inner, (*before, key))


def with_other(given):
    """A copy of the recipe in which a place holds another value."""
    place, value = given
    content = json.loads(json.dumps(recipe()))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return content


RECIPES = st.tuples(st.sampled_from([place for place in places_in(recipe()) if place]), JSON).map(with_other)
FROM_YAML = {
    "options": (strict_yaml.read_with_lines, YAML),
    "a constitution": (constitution.load_constitution, PRINCIPLES),
    "the wording of judges": (wording.load_wording, WORDINGS),
    "a recipe and its claims": (load_recipe, RECIPES),
}


@pytest.mark.parametrize("name", FROM_YAML)
def test_yaml(tmp_path, name):
    parse, inputs = FROM_YAML[name]
    file = tmp_path / "a.yaml"

    def read(content):
        text = content if isinstance(content, str) else json.dumps(content)
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        parse(str(file))

    fuzz(read, inputs)


RULES = (
    {"metric": "a.x", "above": 0}, {"metric": "a.x", "baseline": "b.x", "by": 0.1}, {"metric": "a.x",
    "between": [0, 1]},
    {"orders": ["a.x", "b.x"]}, {"metric": "a.x", "paper": 0.5, "within": 0.1}, {"orders": ["s(*).x"]},
    {"metric": "s(*).x", "above": 0, "at": {"metric": "s(*).y", "value": 1}},
)  # fmt: skip


def test_measured_values_of_claims():
    from zoo.recipes.form import Claim

    stated = [Claim(says="it does", where="Table 1", **rule) for rule in RULES]
    value = st.none() | st.floats()
    stage = st.dictionaries(st.sampled_from(("x", "y")), value)
    seed = st.dictionaries(st.sampled_from(("a", "b", "s(1)", "s(2)")), stage)

    def judge(values):
        names = {"s(*)": ["s(1)", "s(2)"]}
        measured = claims.Measured(values, lambda name: names.get(name, [name]))
        for claim in stated:
            judged = claims.judge(claim, measured, [0, 1])
            assert judged["verdict"]

    fuzz(judge, st.dictionaries(st.integers(0, 1), seed))


# -- answers ---------------------------------------------------------------------------------------------------------

ANSWER = soup(
    "\\boxed{", "}", "####", "42", "-", "1,000", "1e999", "<answer>", "</answer>", "```python\n", "```", "\n", "$",
    "\\frac{1}{2}",
    "９", "٣", ".", "(A)", "7/10", "\u2212",
)  # fmt: skip
CHECK = st.fixed_dictionaries(
    {"check": st.sampled_from([*instructions.CHECKERS, "x"]) | JSON},
    optional={
        name: JSON | st.integers(0, 9) | st.lists(st.text(max_size=3), max_size=2) for name in instructions.TYPES
    },
)


def extracted(text):
    for tag in ("", "answer", "("):
        references.tagged(text, tag)
    number = readings.number_of(text)
    assert number is None or math.isfinite(number)
    assert references.boxed(text) is None or isinstance(references.boxed(text), str)
    assert isinstance(programs.program_of(text), str)
    checkers.form([text], [{}])
    checkers.numeric([text], [{"answer": text}])
    checkers.exact([text], [{"answer": text}], ignore_case=True)


ANSWERS = {
    "answers": (extracted, ANSWER),
    "instructions": (lambda check: instructions.reward(["One. Two, three!"], [{"instructions": [check]}]), CHECK),
    "instructions of any form": (lambda v: instructions.reward(["One."], [{"instructions": v, "row": 1}]), JSON),
    "texts under instructions": (
        lambda text: [check.function(text, **{n: {"words": ["a"], "keys": ["a"],
        "phrase": "a"}.get(n, 2) for n in check.parameters})
                      for check in instructions.CHECKERS.values()],
        ANSWER | JSON.map(json.dumps),
    ),
    "references": (lambda v: (references.references_of(v if isinstance(v, dict) else {"answer": v}),
    code.tests_of({"tests": v})), JSON),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name):
    fuzz(*ANSWERS[name])


def test_mathematics():
    pytest.importorskip("math_verify")
    from zoo.rewards.maths import maths

    formula = soup(
        "\\boxed{", "}", "$", "\\frac{1}{2}", "x", "=", "^", "\\sqrt{", "(", ")", ",", "1", "\\{", "####", "%"
    )
    fuzz(lambda text: maths([text], [{"answer": "$\\frac{1}{2}$"}]), formula)


def test_results_of_lm_eval():
    from zoo.evals.harness import _score

    names = st.sampled_from(("acc,none", "acc_stderr,none", "exact_match,strict-match", "alias", ",", "acc"))
    row = st.dictionaries(names, ATOMS)
    fuzz(lambda row: _score("task", {"results": {"task": row}, "n-samples": {"task": {"effective": 3}}}, ""), row)


CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "message": st.fixed_dictionaries({"content": st.text(max_size=5) | JSON}) | JSON,
        "logprobs": st.fixed_dictionaries({"content": st.lists(st.fixed_dictionaries(
            {"token": st.sampled_from(("1", " 2", "10", "")) | JSON, "logprob": st.floats() | JSON},
            optional={"top_logprobs": st.lists(st.fixed_dictionaries({"token": ATOMS, "logprob": st.floats()}),
            max_size=2)},
        ), max_size=2)}) | JSON,
    },
)  # fmt: skip
REPLY = st.fixed_dictionaries({"choices": st.lists(CHOICE, max_size=2) | JSON}) | JSON


@pytest.mark.parametrize("thinking", [False, True])
def test_replies_of_a_judge(thinking):
    question = Question(wording.load_wording().tasks["preference"], {"prompt": "a", "first": "b", "second": "c"})

    def respond(reply):
        judge = Endpoint("http://127.0.0.1:1/v1#m", votes=1)
        judge.server = SimpleNamespace(post=lambda path, body: reply)
        response = judge._answered(question, thinking)
        assert response.problem or len(response.logps) == 2

    fuzz(respond, REPLY)


def test_replies_of_an_engine():
    from zoo.rollout.engine import Sampling
    from zoo.rollout.vllm import VLLMEngine

    engine = object.__new__(VLLMEngine)
    engine.server, engine.vocabulary, engine.model = SimpleNamespace(url="http://127.0.0.1:1"), 9, "m"
    choice = st.fixed_dictionaries({}, optional={
        "index": ATOMS | st.integers(0, 1), "token_ids": st.lists(st.integers(-1, 9), max_size=2) | JSON,
        "logprobs": st.fixed_dictionaries({"token_logprobs": st.lists(st.floats(), max_size=2) | JSON}) | JSON,
        "finish_reason": st.sampled_from(("stop", "length")) | JSON,
    })  # fmt: skip
    fuzz(lambda given: engine._answer(torch.tensor([1]), given, Sampling()), choice | JSON)


# -- the fuzz itself -------------------------------------------------------------------------------------------------


def test_a_planted_bug_is_found(tmp_path, monkeypatch):
    """A reader that forgets that a line may end within a character."""
    from zoo.data.sources import lines

    monkeypatch.setattr(lines, "_parse_line", lambda line, number: lines.Line(number, json.loads(line.decode())))
    with pytest.raises((UnicodeDecodeError, json.JSONDecodeError)):
        test_files(tmp_path, ".jsonl")


def test_a_parser_that_hangs_is_found():
    def hang(text):
        while "((" in text:
            pass

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TimeoutError):
        patch.setitem(globals(), "SECONDS", 0.1)
        fuzz(hang, TYPED["a reward"][1])
