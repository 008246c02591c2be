"""Whatever a model answers, no reward and no evaluation runs it, hangs on it, or ends the run for it."""

import importlib.util
import json
import math

import pytest
from json_server import JsonServer

from zoo.contract import registry
from zoo.evals.refusals import refusal_of
from zoo.evals.verified import CONCLUSIONS
from zoo.judges.endpoint import read_choice
from zoo.rewards.functions import runs_in_process
from zoo.rewards.instructions import CHECKERS, EXAMPLES
from zoo.rewards.plugin import bundled
from zoo.rewards.programs import program_of
from zoo.rewards.reward import Reward

NAMED = {**registry.contributions(registry.manager(), "rewards"), **bundled()}
OPTIONS = {"regex": "(pattern='4(2)+')", "overlong": "(max_new_tokens=50)", "code": "(unsafe=yes, timeout=2)"}
EXTRAS = {"maths": "math_verify", "reasoning_gym": "reasoning_gym", "ifeval": "lm_eval"}
INSTRUCTIONS = [
    {"check": name, **{key: json.loads(str(EXAMPLES[key])) for key in checker.parameters}}
    for name, checker in CHECKERS.items()
]
RECORD = {
    "prompt": "What is 6 times 7?", "answer": "42", "tests": ["assert f(6) == 7"], "instructions": INSTRUCTIONS,
    "instruction_id_list": ["punctuation:no_comma", "detectable_format:json_format", "detectable_format:title"],
    "kwargs": [{}, {}, {}],
    "task": "countdown", "entry": {"answer": "6*7", "question": "", "metadata": {"numbers": [6, 7], "target": 42}},
}  # fmt: skip


def payloads(mark):
    """Answers that make the file `mark` where a verifier evaluates them as Python, sympy, YAML, Jinja or a shell."""
    touch = f"open({str(mark)!r}, 'w')"
    expressions = [
        touch,
        f"__import__('os').system('touch {mark}')",
        f"sin({touch!r})",
        f"[[{touch}]]",
        f"(lambda: {touch})()",
        f"!!python/object/apply:os.system ['touch {mark}']",
        f"{{{{ ''.__class__.__mro__[1].__subclasses__() }}}} {{{{ {touch} }}}}",
        f"$(touch {mark})",
        f"`touch {mark}`; touch {mark}",
        f"\\boxed{{{touch}}}",
        f"\\write18{{touch {mark}}}",
        f"{{0.__class__.__init__.__globals__}} %s %n {touch}",
    ]
    return [text for one in expressions for text in (one, f"<answer>{one}</answer>", f"${one}$")]


LONG = 50_000
HARD = {
    "a tower of powers": "<answer>9**9**9**9**9</answer> $9^{9^{9^{9}}}$ \\boxed{9^{9^{9^{9}}}}",
    "a factorial": "<answer>factorial(factorial(99))</answer> \\boxed{99!!!}",
    "a number of many digits": "1" * 5000 + ". tea",
    "a large exponent": "1e999999999 #### -1e999999999",
    "nested brackets": "[" * LONG,
    "nested braces": "\\boxed{" * (LONG // 7),
    "nested objects": '{"a":' * (LONG // 5),
    "stops": "." * LONG + "x",
    "abbreviations": "dr. " * (LONG // 4) + "x",
    "blanks in a fence": "```json" + " " * LONG + "x",
    "a fence without an end": "```" + "a" * LONG,
    "fences": "```" * (LONG // 3),
    "a title without an end": "<<" + "a" * LONG,
    "tags": "<answer>" * (LONG // 8),
    "digits and commas": "1,111," * (LONG // 6) + "x",
    "empty lines": "\n " * (LONG // 2) + "x",
    "nothing that is text": "\x00\x1b[2J\ud800\u202e",
    "nothing": "",
}
"""Answers that take a pattern, a parser or a sum of a verifier minutes, or raise an error where nobody expects one."""


@pytest.mark.parametrize("name", NAMED)
def test_a_reward_runs_nothing_of_an_answer_and_goes_on(name, tmp_path):
    if importlib.util.find_spec(EXTRAS.get(name, "zoo")) is None:
        pytest.skip(f"{EXTRAS[name]} is an extra")
    answers = [*payloads(tmp_path / "mark"), *HARD.values()]
    if not runs_in_process(NAMED[name]) or name == "code":
        # These have a process of their own, with a time limit, and take a second or more for each answer.
        answers = [*answers[::3], HARD["nested brackets"]]
    options = (
        f"(url={JsonServer(lambda body, number: (200, [0.0] * len(body['query']))).url})"
        if name == "http"
        else OPTIONS.get(name, "")
    )
    reward = Reward(f"{name}{options}", NAMED, timeout=2.0, patience=99)
    # A row may be hostile as well.
    for records in ([RECORD] * len(answers), [{**RECORD, "answer": text} for text in answers]):
        found = reward.score(answers, records, [True] * len(answers), [9] * len(answers))
        assert all(value is None or math.isfinite(value) for value in found) and len(found) == len(answers)
    reward.close()
    assert not (tmp_path / "mark").exists()


READERS = {
    "refusals": refusal_of,
    "a judge's choice": lambda text: read_choice(text, ["A", "B"]),
    "a judge's grade": lambda text: read_choice(text, [str(grade) for grade in range(1, 11)]),
    "the program": program_of,
    **CONCLUSIONS,
}
"""What else reads a model's text: evaluations, judges, and the search for the program in an answer."""


@pytest.mark.parametrize("name", READERS)
def test_a_reader_of_answers_runs_nothing_of_them_and_ends(name, tmp_path):
    for text in [*payloads(tmp_path / "mark"), *HARD.values()]:
        READERS[name](text)
    assert not (tmp_path / "mark").exists()
