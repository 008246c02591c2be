"""`tools/mutations.py`: which lines it changes and how, and what a seed decides."""

from pathlib import Path

import mutations
import pytest

ROOT = Path(__file__).parent.parent


def changed(line, kind=None):
    """What the lines become that a function of this line gives, one for each mutation."""
    source = f"def f(self, x, y, config):\n    {line}\n".encode()
    return [one.after.strip() for one in mutations.mutations_of("f.py", source) if kind in (None, one.kind)]


@pytest.mark.parametrize(
    ("line", "after"),
    [
        ("return x * y - y", ["return x * y + y", "return x / y - y"]),
        ("return (x) < y", ["return (x) <= y"]),
        ("x += y", ["x -= y"]),
        ("return x.max()", ["return x.min()"]),
        ("return x.sum(-y)", ["return x.mean(-y)", "return x.sum(y)"]),
        ("return x.clamp(min=y)", ["return x"]),
        ("return x.clamp(-y, y)", ["return x.clamp(min=-y)", "return x.clamp(max=y)", "return x.clamp(y, y)"]),
        ("return x[~y]", ["return x[y]"]),
        ("return not x", ["return x"]),
        ("return x, 1, 0.0", ["return x, 0, 0.0", "return x, 1, 1.0"]),
        ("return x[y:], x[:y]", ["return x[y + 1:], x[:y]", "return x[y:], x[:y - 1]"]),
        ("return x.detach()", ["return x"]),
    ],
)
def test_each_kind_of_mutation_changes_what_it_is_named_after(line, after):
    assert changed(line) == after


@pytest.mark.parametrize(
    "line", ['"""x - 1"""', "raise ValueError(x - 1)", 'require(x > 0, "x")', 'return f"{x - 1}"', "z: x[0:1]"]
)
def test_words_checks_and_annotations_stay_as_they_are(line):
    assert changed(line) == []


def test_what_stands_outside_of_functions_stays_as_it_is():
    assert list(mutations.mutations_of("f.py", b"class A:\n    beta: float = 1 - 0.5\n")) == []


def test_signs_beside_letters_of_several_bytes_are_found():
    assert changed("return x - y  # −β KL") == ["return x + y  # −β KL"]
    assert changed('z = "π"; return x - y') == ['z = "π"; return x + y']


def test_the_seed_decides_which_are_made():
    first = mutations.chosen(ROOT, 24, 0)
    assert first == mutations.chosen(ROOT, 24, 0) and first != mutations.chosen(ROOT, 24, 1)
    assert len({one.kind for one in first}) >= 9 and len({(one.file, one.line) for one in first}) == 24
    for one in first:
        assert (ROOT / one.file).read_text(encoding="utf-8").split("\n")[one.line - 1] == one.before != one.after


def test_the_tests_of_a_module_are_those_named_after_it_and_those_that_import_it():
    own, quick, others, suite = mutations.tests_of(ROOT, "plugins/kto.py")
    assert own[0] == others[0] == "tests/test_kto.py" and own[-1] == quick[-1] == "quick" and quick[0] == "tests"
    assert suite[-1] == "conforms and [kto-"
    assert "tests/test_loader.py" in mutations.tests_of(ROOT, "zoo/data/loader.py")[0]


def test_results_of_a_killed_command_are_known_and_half_a_line_is_none(tmp_path):
    (mutation,) = mutations.chosen(ROOT, 1, 0)
    line = mutations.json.dumps({**mutation._asdict(), "verdict": "seen", "by": "t", "seconds": 1})
    (tmp_path / "out.jsonl").write_text(f"{line}\n{line[:20]}", encoding="utf-8")
    assert list(mutations.known_results(tmp_path / "out.jsonl")) == [tuple(mutation)]
