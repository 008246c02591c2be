"""Programs that a model wrote: what passes, and what they cannot do."""

import functools
import html
import json
import os
import re
import socket
import sys
import time

import pytest
from tiny_runs import cli

from zoo.errors import ZooError
from zoo.rewards import calls, code, fences
from zoo.rewards.asserts import decoded, sealed
from zoo.rewards.missing import Missing
from zoo.rewards.programs import program_of
from zoo.rewards.reward import Reward
from zoo.rewards.sandbox import Limits, Printed, lacking, remedy, verdicts

ADD = "def add(a, b):\n    return a + b\n"
SHORT = Limits(seconds=1.0)
CODE = "code(unsafe=yes)"
"""Uses the boundary where the machine has one."""


@pytest.fixture(params=["namespaces", "unsafe"])
def judge(request):
    """`verdicts` behind all fences, and as on a machine without namespaces."""
    if request.param == "unsafe":
        return functools.partial(verdicts, namespaces=False, unsafe=True)
    if lacking():
        pytest.skip(f"no boundary here: {lacking()}")
    return verdicts


@pytest.fixture
def passes(judge):
    return lambda program, test="pass", limits=SHORT: judge(program, [test], limits)[0]


def is_right(program, test, limits=SHORT):
    """Whether a test passes, behind the boundary where the machine has one."""
    return verdicts(program, [test], limits, namespaces=not lacking(), unsafe=True)[0]


def test_the_reward_is_the_share_of_tests_that_pass():
    record = {"tests": ["assert add(1, 2) == 3", "assert add(1, 1) == 3", "assert add('a', 'b') == 'ab'"]}
    answers = [f"Here:\n```python\n{ADD}```\nas asked.", "def add(a, b): return 3", "I cannot.", "def add(a, b"]
    found = Reward(CODE, {}).score(answers, [record] * 4)
    assert found == pytest.approx([2 / 3, 2 / 3, 0, 0])


def test_a_program_that_reads_and_prints_is_compared_without_the_white_space_at_ends():
    record = {
        "tests": [{"input": "2 3\n", "output": "5\n"}, {"input": "1 1", "output": "2"}, {"input": "", "output": "0"}]
    }
    program = "a, b = map(int, input().split())\nprint(a + b, end='  \\n\\n')\n"
    assert Reward(CODE, {}).score([program], [record]) == [pytest.approx(2 / 3)]
    guarded = f"import sys\ndef main():\n    {program.splitlines()[0]}\n    print(a+b)\n    sys.exit()\n"
    assert Reward(CODE, {}).score([guarded + "if __name__ == '__main__': main()"], [record]) == [pytest.approx(2 / 3)]


@pytest.mark.parametrize(
    ("record", "tests"),
    [
        ({"tests": "assert f() == 1"}, ["assert f() == 1"]),
        ({"test_list": ["assert f()", "assert g()"]}, ["assert f()", "assert g()"]),
        ({"test": "def check(c): assert c()", "entry_point": "f"}, ["def check(c): assert c()\n\ncheck(f)"]),
        ({"input_output": json.dumps({"inputs": ["1"], "outputs": ["2"]})}, [Printed("1", "2")]),
        ({"tests": '["assert f()"]'}, ["assert f()"]),
        (
            {"tests": {"inputs": [["2", "3"], 4], "outputs": [["5", "6"], 8]}},
            [Printed("2\n3", "5\n6"), Printed("4", "8")],
        ),
        ({"tests": [3]}, Missing("the column tests holds no tests: [3]")),
        ({"tests": 3, "row": 7}, Missing("row 7: the column tests holds no tests: 3")),
        (
            {"tests": {"inputs": 3, "outputs": [1]}, "row": 7},
            Missing(
                "row 7: the column tests holds no tests: inputs and outputs must be two lists of equal length: "
                "{'inputs': 3, 'outputs': [1]}"
            ),
        ),
        (
            {"tests": {"inputs": [[2]], "outputs": [[4]]}},
            Missing(
                "the column tests holds no tests: these are arguments, so fn_name must name the function: "
                "[{'input': [2], 'output': [4]}]"
            ),
        ),
        (
            {"tests": {"fn_name": "f g", "inputs": [[2]], "outputs": [4]}},
            Missing(
                "the column tests holds no tests: f g cannot be called so: "
                "{'fn_name': 'f g', 'inputs': [[2]], 'outputs': [4]}"
            ),
        ),
        (
            {"tests": ["assert f(2) == 4", "assert f(2 == 4"], "row": 7},
            Missing(
                "row 7: the column tests holds no tests: test 2 is not Python: '(' was never closed: "
                "['assert f(2) == 4', 'assert f(2 == 4']"
            ),
        ),
        (
            {"tests": "return f(2) == 4"},
            Missing(
                "the column tests holds no tests: test 1 is not Python: 'return' outside function: ['return f(2) == 4']"
            ),
        ),
        (
            {"tests": ["print 3"]},
            Missing(
                "the column tests holds no tests: test 1 is not Python: Missing parentheses "
                "in call to 'print'. Did you mean print(...)?: ['print 3']"
            ),
        ),
        (
            {"input_output": '{"inputs": ["1"], "outp'},
            Missing(
                "the column input_output holds no tests: test 1 is not Python: unterminated string literal (detected "
                'at line 1): [\'{"inputs": ["1"], "outp\']'
            ),
        ),
        ({"prompt": "x"}, Missing("the row has none of the columns tests, test_list, test, input_output")),
    ],
)
def test_tests_are_read_as_data_sets_spell_them(record, tests):
    assert code.tests_of(record) == tests


@pytest.mark.parametrize("wrong", [3, None, "1", ["1", "2"], {"a": 1}, 0.5])
def test_malformed_inputs_and_outputs_are_missing_with_row_and_column(wrong):
    for column in ({"inputs": wrong, "outputs": ["2"]}, {"inputs": ["1"], "outputs": wrong}):
        records = [{"input_output": column, "row": 3}, {"tests": {"inputs": ["1"], "outputs": ["1"]}, "row": 4}]
        found = Reward(CODE, {}).detailed(["print(input())"] * 2, records)
        assert found.values == [None, 1.0]
        assert "row 3: the column input_output holds no tests" in next(iter(found.failures))


def test_the_program_is_the_last_python_block():
    assert program_of("```python\na\n```\nthen\n```py\nb\n```\n```sh\nrm\n```") == "b\n"
    assert program_of("```\na\n```") == "a\n"
    assert program_of("```python\ncut off") == "cut off\n"
    assert program_of("a = 1") == "a = 1"


PACKED = "def f(x):\n    if x < 0 and x > -1:\n        return 'no'\n    return x * x\n"
FENCED = f"```python\n{PACKED}```"
PACKINGS = {
    "a carriage return alone": FENCED.replace("\n", "\r"),
    "line separators": FENCED.replace("\n", "\u2028"),
    "HTML": f"<p>So:</p><pre><code class='x'>{html.escape(PACKED)}</code></pre>",
    "HTML in a fence": f"```python\n{html.escape(PACKED)}```",
    "HTML escaped twice": f"```python\n{html.escape(html.escape(PACKED))}```",
    "breaks and hard blanks": html.escape(PACKED).replace("\n", "<br/>\n").replace("    ", "&nbsp;" * 4),
    "single quotes": f"So:\n'''python\n{PACKED}'''\nIt squares.",
    "double quotes": f'"""python\n{PACKED}"""',
    "two backticks": f"``python\n{PACKED}``",
    "wide backticks": f"｀｀｀python\n{PACKED}｀｀｀",
    "BBCode": f"[code=python]\n{PACKED}[/code]",
    "LaTeX": f"\\begin{{lstlisting}}[language=Python]\n{PACKED}\\end{{lstlisting}}",
    "Org": f"#+BEGIN_SRC python\n{PACKED}#+END_SRC",
    "JSON": json.dumps({"code": PACKED}),
    "a tool call": f"<tool_call>{json.dumps({'arguments': {'code': PACKED}})}</tool_call>",
    "ends of lines in words": PACKED.replace("\n", "\\n"),
    "escapes of Markdown": FENCED.replace("*", "\\*"),
    "numbers of lines": "```python\n"
    + "".join(f"{i} {line}\n" for i, line in enumerate(PACKED.splitlines(), 1))
    + "```",
    "a difference": "```diff\n" + "".join(f"+{line}\n" for line in PACKED.splitlines()) + "```",
    "a notebook": f"```python\n%matplotlib inline\n!pip install numpy\n{PACKED}```",
    "the language on a line of its own": f"```\npython\n{PACKED}```",
    "tokens of a chat": f"<|python_tag|>{PACKED}<|im_end|>",
    "half a character": f"```python\n# \ud83d\n{PACKED}```",
    "hard blanks": FENCED.replace(" ", "\u00a0"),
    "invisible characters": FENCED.replace("return", "\u200breturn"),
    "typographic quotes": FENCED.replace("'no'", "‘no’"),
}


@pytest.mark.parametrize("name", PACKINGS)
def test_a_right_program_is_read_however_it_is_packed(name):
    scope = {}
    exec(program_of(PACKINGS[name], code.wanted_by(["assert f(2) == 4"])), scope)
    assert scope["f"](3) == 9 and scope["f"](-0.5) == "no"


@pytest.mark.parametrize("body", ["x × x", "x * x if x &lt 3", "x *"])
def test_what_is_no_python_is_left_as_it_is(body):
    assert program_of(f"```python\ndef f(x):\n    return {body}\n```") == f"def f(x):\n    return {body}\n"


def test_a_program_may_hold_what_others_are_packed_in():
    text = "def f(x):\n    return '<br>&lt;\\\\n' + x\n"
    assert program_of(f"```python\n{text}```") == text


@pytest.mark.parametrize(
    "text", ["<pre>", "&lt;", "'''py\n", '"\\n', '\\"\\n', "```\r", "[code]\n", "1 +\n", "\ud800("]
)
def test_unpacking_takes_no_longer_than_a_text_is_long(text):
    """It took minutes, were each step tried from each place."""
    began = time.monotonic()
    program_of(text * (100_000 // len(text)))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("inputs", "outputs", "share"),
    [
        ([[1, 2], ["a", "b"]], [3, "ab"], 1.0),
        ([[1, 2]], [[3]], 1.0),
        (["1\n2", '"a"\n"b"'], ["3", '"ab"'], 1.0),
        ([[[1], [2]], [1, 2]], [[1, 2], 4], 0.5),
        ([[1, 2]], [[3, 3]], 0.0),
    ],
)
def test_a_function_is_called_with_the_inputs_and_its_results_compared(inputs, outputs, share):
    record = {"input_output": {"fn_name": "add", "inputs": inputs, "outputs": outputs}}
    found = Reward(CODE, {}).score([ADD, ADD.replace("a + b", "(a, b)"), "def add(*a): raise ValueError"], [record] * 3)
    assert found[0] == share and found[2] == 0.0
    assert found[1] == (1.0 if share == 0.0 and outputs == [[1, 2]] else 0.0)


def test_a_result_that_is_a_tuple_counts_as_a_list():
    record = {"input_output": {"fn_name": "f", "inputs": [[1]], "outputs": [[1, [2]]]}}
    assert Reward(CODE, {}).score(["def f(x): return (1, (2,))"], [record]) == [1.0]


@pytest.mark.parametrize("inputs", ["no JSON", 3, {"a": 1}])
def test_inputs_that_are_no_arguments_have_no_reward(inputs):
    found = Reward(CODE, {}).detailed([ADD], [{"tests": {"fn_name": "add", "inputs": [inputs], "outputs": ["1"]}}])
    assert found.values == [None] and "cannot be called so" in next(iter(found.failures))


def test_a_row_without_tests_has_no_reward():
    assert Reward(CODE, {}).score([ADD, ADD], [{}, {"tests": ["add(1, 2)"]}]) == [None, 1.0]


# -- what a program cannot do ------------------------------------------------------------------------------------


def test_a_program_that_hangs_fails_when_its_time_is_up(passes, judge):
    began = time.monotonic()
    assert judge("", ["pass", "while True: pass", "pass"], SHORT) == [True, False, False]
    assert not passes("import time\ntime.sleep(60)")
    assert not passes("import re\nre.fullmatch('(a+)+', 'a' * 50 + 'b')")
    assert time.monotonic() - began < 20


def test_a_program_cannot_say_that_it_passed_by_ending_itself(passes):
    for end in ("import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit"):
        assert not passes(end, "assert False")
        assert not passes("", f"{end}")
    line = b'\n{"passed": true}\n'
    forged = f"import os\nfor i in range(3, 20):\n  try: os.write(i, {line!r})\n  except OSError: pass\n"
    assert not passes(forged, "assert False")


# Each runs in the same interpreter as the tests, and knows how this is made.
ATTACKS = {
    "the runner replaced": "import __main__; __main__.execute = lambda *a: (False, '')",
    "names of the runner's replaced": (
        "import sys\nf = sys._getframe()\nwhile f.f_back: f = f.f_back\n"
        "f.f_globals['execute'] = lambda *a: (False, '')\n"
    ),
    "lines with the key": (
        "import sys, os, json\nf = sys._getframe()\nwhile 'key' not in f.f_locals: f = f.f_back\n"
        "key, results = f.f_locals['key'], f.f_locals['results']\n"
        "for told in ([], [[0, None]], [[0, True]], [[0, 1]]):\n"
        "    for test in range(2):\n"
        "        line = {'key': key, 'test': test, 'passed': True, 'output': '', 'told': told}\n"
        "        os.write(results, ('\\n' + json.dumps(line) + '\\n').encode())\n"
    ),
    "what a test tells with": (
        "import sys\nf = sys._getframe()\nwhile f.f_back: f = f.f_back\nf.f_globals['encoded'] = lambda value: True\n"
    ),
    "lines that no reader expects": (
        "import sys, os, json\nf = sys._getframe()\nwhile 'key' not in f.f_locals: f = f.f_back\n"
        "for told in (3, [3], [[[], 0]], [[99, 0]], [[0, ['dict', 3]]], [[0, ['other', []]]], {'a': 1}):\n"
        "    line = {'key': f.f_locals['key'], 'test': 0, 'passed': True, 'output': 3, 'told': told}\n"
        "    os.write(f.f_locals['results'], ('\\n' + json.dumps(line) + '\\n').encode())\n"
        "    os.write(f.f_locals['results'], b'\\n' + b'[' * 100000 + b'\\n')\n"
    ),
    "no errors": "import builtins; builtins.AssertionError = builtins.Exception = type('E', (), {})",
    "an answer that equals everything": "class Any(int):\n    __eq__ = lambda *a: True\ndef f(x): return Any()",
    "an object that equals everything": "class Any:\n    __eq__ = lambda *a: True\ndef f(x): return Any()",
    "a way out of the test": "import sys\ndef f(x): sys.exit(0)",
    "a way out at the end": "import atexit, os; atexit.register(os._exit, 0)",
    "an end in the middle": "import os\ndef f(x): os._exit(0)",
    "a jump over the test": (
        "import sys\ndef jump(frame, *_):\n    frame.f_trace = jump\n    frame.f_lineno = 2\n    return jump\n"
        "def f(x):\n    sys.settrace(jump); sys._getframe(1).f_trace = jump\n    return 0\n"
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_program_cannot_pass_a_test_by_a_value_that_it_does_not_know(attack, judge):
    program = "def f(x): return 0\n" + ATTACKS[attack]
    check = "def check(candidate):\n    assert candidate(2) == 5\n    assert candidate(3) == 6\n\ncheck(f)"
    for test in ("assert False", "assert f(2) == 5", "assert f(2) == 5\npass", check):
        assert judge(program, [test, test], SHORT) == [False, False], test


def test_what_a_program_should_print_is_not_told_to_it_either():
    """Whatever it writes, also with the key, counts as what it prints."""
    for attack in ATTACKS.values():
        tests = [Printed("1", "5"), Printed("2", "6")]
        assert verdicts(attack, tests, SHORT, not lacking(), unsafe=True) == [False, False]


def test_a_test_that_asks_for_no_value_is_judged_in_the_interpreter_of_the_program():
    """Which docs/rewards.md says: a program that is written to break such a test can."""
    assert is_right(ATTACKS["lines with the key"], "assert isinstance(f(2), str)")


HONEST = """
import collections, decimal, enum, fractions, typing
class Point(typing.NamedTuple):
    x: int
    y: int
class Color(enum.IntEnum):
    RED = 1
def same(x): return x
def inner(): return {"a": [1, (2.5, None)], 3: {1, 2}, b"c": frozenset("x"), "z": 1j}
class Wrong(Exception): pass
def fail(): raise Wrong
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert same(3) == 3 and 4 == same(4), 'never'",
        "assert inner() == {'a': [1, (2.5, None)], 3: {1, 2}, b'c': {'x'}, 'z': 1j}",
        "assert Point(1, 2) == (1, 2)\nassert Color.RED == 1\nassert collections.Counter('aab') == {'a': 2, 'b': 1}",
        "assert collections.OrderedDict(a=1) == {'a': 1}\nassert {'a': 1}.keys() == {'a'}",
        "assert {1: 2}.items() == {(1, 2)}\nassert bytearray(b'ab') == b'ab'",
        "assert fractions.Fraction(1, 2) == 0.5\nassert decimal.Decimal('1.5') == 1.5",
        "assert same(None) is None\nassert same(True) is True\nassert same(1) == True",
        "assert same('é\\ud800') == 'é\\ud800'",
        "assert abs(same(0.1) + 0.2 - 0.3) < 1e-9\nassert abs(1.5 - same(1)) <= 0.5",
        "import math\nassert math.isclose(same(0.1) + 0.2, 0.3)\nassert math.isclose(1, 1.1, rel_tol=0.2)",
        "assert same(1 << 2000) == 0x1" + "0" * 500,
        "for x, y in [(1, 1), (2, 2)]:\n    assert same(x) == y\n    assert same(0) == 0",
        "def check(f):\n    if f(1) == 2:\n        assert f(1) == 2\n        return\n    assert f(1) == 1\ncheck(same)",
        "try:\n    assert same(1) == 2\nexcept AssertionError:\n    pass\nelse:\n    raise ValueError",
        "try:\n    fail()\nexcept Wrong:\n    assert same(1) == 1",
        "def check(f):\n    assert f(1) == 2\ndef check(f):\n    assert f(1) == 1\ncheck(same)",
        "assert same(float('inf')) == 1e999\nassert set() == set()",
        "assert True",
    ],
)
def test_right_values_pass_whatever_their_type(test):
    assert is_right(HONEST, test, Limits())


@pytest.mark.parametrize(
    "test",
    [
        "assert same(3) == 4",
        "assert same(3) == 3 and same(4) == 5",
        "assert same([1]) == (1,)",
        "assert same(1) is True",
        "assert same('1') == 1",
        "assert abs(same(1) - 2) < 1",
        "import math; assert math.isclose(same(1), 1.1)",
        "for x in [1, 2]: assert same(x) == 1",
        "assert same(float('nan')) == 1.0",
        "def check(f):\n    assert f(1) == 1\n    assert f(1) == 2\ncheck(same)",
        "assert same(object()) == 1",
        "assert same(3) == 3\nsyntax error",
    ],
)
def test_wrong_values_fail(test):
    assert not is_right(HONEST, test, Limits())


def test_memory_is_limited(passes):
    assert not passes("x = bytearray(1 << 30)")
    assert not passes("x = []\nwhile True: x.append('y' * 1_000_000)")
    assert passes("x = bytearray(1 << 24)")


def test_files_are_written_in_an_empty_folder_only_and_stay_small(passes, tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    write = f"open({str(outside)!r}, 'w').write('x')"
    assert passes("open('a.txt', 'w').write('x'); assert open('a.txt').read() == 'x'")
    assert passes("import os", "assert os.listdir('.') == []")
    for program in (
        write,
        f"import os; os.remove({str(outside)!r})",
        f"import os; os.rename({str(outside)!r}, 'b')",
        f"import os; os.symlink({str(tmp_path)!r}, 'b'); open('b/new.txt', 'w')",
        f"open({str(outside)!r}).read()",
        f"import os; os.listdir({str(tmp_path)!r})",
        "open('/etc/passwd').read()",
        "with open('big', 'wb') as f:\n    for _ in range(100): f.write(bytes(1 << 20))",
    ):
        assert not passes(program), program
    assert outside.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["outside.txt"]


def test_the_network_is_out_of_reach(passes):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        assert not passes(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)")
        connect = f"import _socket; s = _socket.socket(2, 1); s.connect(('127.0.0.1', {port}))"
        assert not passes(connect)
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_other_process_can_be_started_or_signalled(passes):
    for program in (
        "import subprocess; subprocess.run(['true'], check=True)",
        "import os; assert os.system('true') == 0",
        "import os; os.fork()",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.kill(os.getpid(), 0)",
        "import ctypes",
        "import gc; gc.get_objects()",
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
    ):
        assert not passes(program), program


def test_what_programs_usually_need_is_there(passes):
    program = (
        "import asyncio, collections, dataclasses, functools, heapq, itertools, math, random, re, string, typing\n"
        "from datetime import datetime\nfrom zoneinfo import ZoneInfo\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int = 3\n"
        "async def f(): return Point().x\nprint('quiet')\n"
    )
    assert passes(program, "assert asyncio.run(f()) == 3 and random.random() < 1", Limits())


def test_a_program_sees_nothing_of_the_environment(monkeypatch, passes):
    monkeypatch.setenv("SECRET_OF_MINE", "1")
    assert passes("import os", "assert 'SECRET_OF_MINE' not in os.environ and len(os.listdir()) == 0")


def test_many_programs_that_hang_are_bounded_by_their_own_limit():
    found = Reward("code(timeout=0.5, unsafe=yes)", {}).detailed(["while True: pass"] * 4, [{"tests": ["pass"]}] * 4)
    assert found.values == [0.0] * 4
    assert found.failures == {}


# -- machines without a boundary --------------------------------------------------------------------------------


@pytest.fixture
def closed_kernel(monkeypatch):
    """As on a machine whose kernel keeps namespaces from plain users."""
    monkeypatch.setattr("zoo.rewards.code.lacking", lambda: "unshare: Operation not permitted")


def test_where_the_kernel_holds_no_program_the_reward_is_refused_before_any_runs(closed_kernel):
    with pytest.raises(ZooError) as refused:
        Reward("0.5*code + 1", {})
    assert "character 5: code runs programs" in refused.value.message
    assert "no boundary around them: unshare: Operation not permitted" in refused.value.message
    assert "code(unsafe=yes)" in refused.value.hint


def test_asked_for_by_name_it_runs_there_and_one_line_says_what_that_means(closed_kernel):
    said = []
    reward = Reward(CODE, {}, say=said.append)
    assert reward.score([ADD], [{"tests": ["assert add(1, 2) == 3"]}]) == [1.0]
    (line,) = said
    assert line.startswith("Note: code(unsafe=yes): programs that the model writes run with your rights")


@pytest.mark.parametrize(("more", "status"), [("", 2), ("(unsafe=yes)", 0)])
def test_a_dry_run_says_both(more, status, closed_kernel, tiny_folder, tmp_path):
    data = tmp_path / "asked.jsonl"
    data.write_text(json.dumps({"prompt": "add", "tests": ["assert add(1, 2) == 3"]}) + "\n")
    named = ("--model", str(tiny_folder), "--data", str(data), "--reward", f"code{more}")
    found, out, err = cli("train", "--algo", "grpo", *named, "--dry-run")
    said = " ".join((out + err).split())
    assert found == status, said
    assert ("run with your rights" if more else "no boundary around them") in said


def test_a_kernel_that_refuses_namespaces_is_noticed_by_trying(capfd):
    if sys.platform != "linux":
        pytest.skip("the filter that plays this kernel is Linux's")
    child = os.fork()
    if not child:
        try:
            fences.call("prctl", fences.SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
            fences.apply(calls.filter_for(["calls"]))
            lacking.cache_clear()
            os.write(1, lacking().encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert capfd.readouterr().out == "unshare: Operation not permitted"


@pytest.mark.parametrize(
    ("setting", "value", "advice"),
    [
        ("kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
        ("user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=10000"),
        ("user/max_user_namespaces", "9", "docker run --security-opt" if sys.platform == "linux" else "Linux"),
    ],
)
def test_the_way_to_a_boundary_is_that_of_the_machine(setting, value, advice, tmp_path):
    (tmp_path / setting).parent.mkdir()
    (tmp_path / setting).write_text(f"{value}\n")
    assert advice in remedy(tmp_path)


def test_the_numbers_of_the_calls_are_those_of_the_kernels_headers():
    headers = {
        "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        "aarch64": "/usr/include/asm-generic/unistd.h",
    }
    for machine, header in headers.items():
        if not os.path.exists(header):
            pytest.skip(f"no {header}")
        with open(header) as file:
            found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", file.read()))
        for fence in calls.CALLS:
            for name, number in calls.refused(fence, machine).items():
                assert found[name] == str(number), (machine, name)


# -- what the trainer reads of it -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        ["set", [["tuple", [i * (2**61 - 1)]] for i in range(40_000)]],
        ["dict", [["tuple", [i * (2**61 - 1), 0]] for i in range(40_000)]],
        ["Fraction", [["int", ["0x" + "f" * 1_000_000]], ["int", ["0x" + "b" * 999_999]]]],
        ["Decimal", ["1e99999999999"]],
        ["int", ["0x" + "f" * 1_000_000]],
        ["frozenset", [["other", []]]],
        ["bytes", [3, 700]],
    ],
)
def test_a_value_made_to_keep_the_trainer_busy_is_a_wrong_one(value):
    """Equal hashes make a set slow, long numbers a fraction; each of these would take minutes."""
    assert not sealed("assert f() == {1, 2}").holds([[0, value]])
    assert not sealed("assert abs(f() - 2) < 1").holds([[0, value]])


def test_large_honest_values_are_right():
    assert sealed("assert f() == set()").holds([[0, ["set", []]]])
    many = decoded(["set", [i - 50_000 for i in range(100_000)]])
    assert len(many) == 100_000
    assert decoded(["dict", [["tuple", [str(i), i]] for i in range(10_000)]])["9"] == 9
