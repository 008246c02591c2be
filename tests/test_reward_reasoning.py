"""Verifiers that evaluate answers as Python evaluate arithmetic, and nothing that a model could do harm with."""

import importlib.util
import inspect
import re
import sys

import pytest

from zoo.rewards import reasoning
from zoo.rewards.arithmetic import is_arithmetic, verified
from zoo.rewards.reward import Reward

needs_gym = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is an extra")
EVALUATE = re.compile(r"(?<![\w.])(eval|exec|compile|sympify|S|(?:sp\.|sympy\.)?(?:parse_expr|sympify))\(")
RUN_ANSWERS = {
    "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
    "simple_integration", "spiral_matrix", "string_insertion",
}  # fmt: skip
"""Tasks whose verifiers in reasoning-gym 0.1.25 run an answer, as read in their sources."""


def tasks_that_evaluate():
    """The tasks of the installed package whose verifier's text speaks of evaluation, of whatever it be."""
    from reasoning_gym.factory import DATASETS

    sources = {name: inspect.getsource(made.score_answer) for name, (made, _) in DATASETS.items()}
    return sorted(name for name, source in sources.items() if EVALUATE.search(source))


def payloads(mark):
    """Answers that make the file `mark`, where they are run as Python or as sympy's expressions."""
    touch = f"open({str(mark)!r}, 'w')"
    return [
        touch,
        f"__import__('pathlib').Path({str(mark)!r}).touch()",
        f"__import__('os').system('touch {mark}')",
        f"[{touch} for i in [1]]",
        f"(lambda: {touch})()",
        f"[[{touch}]]",
        f"sin({touch!r})",
        f"S({touch!r})",
        f'f"{{{touch}}}"',
        touch.replace("open", "ｏｐｅｎ"),
        f"().__class__.__base__.__subclasses__() and {touch}",
        f"(i := {touch})",
        f"exec({touch!r})",
    ]


def entry_of(task):
    from reasoning_gym.factory import create_dataset

    return dict(create_dataset(task, size=1, seed=1)[0])


@needs_gym
def test_the_tasks_that_evaluate_are_those_that_are_known():
    assert set(tasks_that_evaluate()) >= RUN_ANSWERS


@needs_gym
@pytest.mark.parametrize("task", sorted(RUN_ANSWERS))
def test_unguarded_an_answer_would_be_run(task, tmp_path):
    """What the tests below would not see: that these payloads are none."""
    mark, entry, verifier = tmp_path / "mark", entry_of(task), reasoning._verifier(task)
    for payload in payloads(mark):
        try:
            verifier(payload, entry)
        except Exception:
            continue
    assert mark.exists()


@needs_gym
def test_no_verifier_runs_an_answer_as_python(tmp_path):
    mark = tmp_path / "mark"
    for task in {*tasks_that_evaluate(), *RUN_ANSWERS, "chain_sum", "number_sorting"}:
        record = {"task": task, "entry": entry_of(task)}
        for payload in payloads(mark):
            assert reasoning.reasoning_gym([f"<answer>{payload}</answer>"], [record])[0] <= 0.05
            assert not mark.exists(), f"{task} ran {payload}"


@needs_gym
def test_a_payload_is_a_wrong_answer_of_the_reward_and_not_a_missing_one(tmp_path):
    mark = tmp_path / "mark"
    records = [{"task": task, "entry": entry_of(task)} for task in ("binary_matrix", "countdown")]
    reward = Reward("reasoning_gym", {})
    for record in records:
        given = [f"<answer>{payload}</answer>" for payload in payloads(mark)[:3]]
        found = reward.detailed([*given, str(record["entry"]["answer"])], [record] * 4)
        assert found.values == [0.0, 0.0, 0.0, 1.0]
        assert found.failures == {}
    reward.close()
    assert not mark.exists()


@needs_gym
@pytest.mark.parametrize("task", sorted(RUN_ANSWERS))
def test_right_answers_are_still_right(task):
    entry = entry_of(task)
    assert reasoning.reasoning_gym([entry["answer"]], [{"task": task, "entry": entry}]) == [1.0]


@needs_gym
def test_other_forms_of_a_right_answer_count_as_the_verifier_says():
    matrix = entry_of("binary_matrix")
    rows = [[int(one) for one in row.split()] for row in matrix["answer"].splitlines()]
    assert reasoning.reasoning_gym([str(rows)], [{"task": "binary_matrix", "entry": matrix}]) == [0.1]
    entry = {"answer": "", "metadata": {"variable": "x", "integrand": "2*x*cos(x**2) + exp(x)"}}
    answers = ["sin(x**2) + exp(x) + C", "exp(x) + sin(x*x)", "cos(x**2)", "sin(x**2"]
    found = reasoning.reasoning_gym(answers, [{"task": "simple_integration", "entry": entry}] * 4)
    assert found == [1.0, 1.0, 0.0, 0.0]


@needs_gym
def test_a_row_is_not_run_as_python_either(tmp_path):
    """A data set may come from anywhere: what its rows give a verifier to evaluate is looked at in the same way."""
    mark = tmp_path / "mark"
    bad = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    entries = [
        ("number_sorting", {"answer": bad, "metadata": {"direction": "ascending"}}, "[1]"),
        ("bitwise_arithmetic", {"answer": "1", "metadata": {"problem": bad}}, "0x1"),
        ("polynomial_multiplication", {"answer": bad, "metadata": {}}, "x"),
        ("simple_integration", {"answer": "", "metadata": {"variable": "x", "integrand": bad}}, "x"),
    ]
    for task, entry, answer in entries:
        assert reasoning.reasoning_gym([answer], [{"task": task, "entry": entry}]) == [0.0]
    assert not mark.exists()


@needs_gym
def test_a_verifier_that_raises_on_an_answer_takes_it_for_wrong_and_on_its_row_for_missing():
    entry = entry_of("prime_factorization")
    assert reasoning.reasoning_gym(["no idea"], [{"task": "prime_factorization", "entry": entry}]) == [0.0]
    for broken in ({}, {"answer": "1 0"}):
        with pytest.raises(KeyError):
            reasoning.reasoning_gym(["1 0"], [{"task": "n_queens", "entry": broken}])


# -- what is arithmetic ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "1 + 2*-3",
        "[[0, 1], [2.5, 3]]",
        "['a', 'b']",
        "Integer (2 )*Symbol ('x' )**2",
        "sqrt(x) + C",
        "0xff << 2",
        "10**100 + Float ('1e9' )**2",
        "OWN",
    ],
)
def test_numbers_lists_operators_and_functions_are_arithmetic(source):
    assert is_arithmetic(source) == (source != "OWN")


@pytest.mark.parametrize(
    "source",
    ["x.y", "x[0]", "open('f')", "lambda: 1", "[i for i in x]", "Symbol('x', y=1)", "x = 1", "import os", "f'{x}'",
     "Symbol(*x)", "(yield)", "await x", "x()", "Symbol('x')(1)", "del x", "__builtins__", "1 if x else 2",
     "9**9**9**9", "Pow(9, Pow(9, 9))", "(9**99)**9999", "1 << 99999999999", "factorial(factorial(99))", "1e999",
     "Float('1e999999999')"],
)  # fmt: skip
def test_nothing_else_is(source):
    assert not is_arithmetic(source)


@pytest.mark.parametrize("source", ["1 +", "no idea", "(" * 500, "a\0b"])
def test_what_is_no_python_is_a_syntax_error(source):
    with pytest.raises(SyntaxError):
        is_arithmetic(source)


def test_the_guard_watches_the_verifier_alone_and_lets_it_import(tmp_path, monkeypatch):
    (tmp_path / "imported_late.py").write_text("made = eval('(lambda: 7)()')\n")
    monkeypatch.syspath_prepend(tmp_path)

    def verifier(text):
        import imported_late

        try:
            return eval(text)
        except PermissionError:
            return imported_late.made

    try:
        assert verified(verifier, "3*4") == (12, [])
        assert verified(verifier, "len('abc')") == (7, ["len('abc')"])
        assert eval("len('abc')") == 3
    finally:
        sys.modules.pop("imported_late", None)
