"""What strangers wrote is printed and never obeyed: escape sequences, marks of direction, markup."""

import ast
import io
import json
import math
import re
import warnings
from pathlib import Path

import pytest
from judge_server import serving
from made_runs import made
from recipe_mistakes import GOOD
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from tiny_runs import cli, on_terminal, write_rows

from zoo.terminal import ACTIVE, Console, guard, plain, print_json
from zoo.training.record.progress import Watch, counter

ROOT = Path(__file__).parent.parent
EVIL = "evil\x1b]0;[bold]\x07\x9b5n\u202e:smile:"
"""A title for the window, a question to the terminal, a mark that turns a line around; markup, the name of an emoji."""
AS_TEXT = re.compile(r"evil(?:\\x1b(?:\]0;)?(?:\[bold\]|\[?[a-z]*…)|\\?x?1?b?…|-0-bold)")
"""How it begins where it is written out, or cut; and a name that is made of it."""
OWN = re.compile(r"\x1b\[[\d;]*m|\x1b\[\?25[lh]|\x1b\[\d*[AK]|\r")
"""The codes that zoo writes: colours, a hidden cursor, a line that is rewritten."""


def is_harmless(written):
    """Nothing active is left beside zoo's own codes, and what was foreign stands there as it is."""
    left = ACTIVE.findall(OWN.sub("", written))
    assert not left, f"{left} of {written!r}"
    joined = "".join(OWN.sub("", written).split())
    assert joined.count("evil") == len(AS_TEXT.findall(joined)), written


def shown(*things, **options):
    file = io.StringIO()
    Console(file=file, width=200, **options).print(*things)
    return file.getvalue()


def test_active_characters_are_written_out_and_words_stay():
    assert plain("a\x1b[31m\r\x7f\x9b\u202e\u200b\ud800b") == r"a\x1b[31m\r\x7f\x9b\u202e\u200b\ud800b"
    for words in ("line\nbreak\ttab", "naïve café\u00a0!", "می\u200cخواهم", "👩\u200d🔬 中文 [bold] :smile:"):
        assert plain(words) == words


@pytest.mark.parametrize("terminal", [False, True])
def test_a_console_obeys_no_text_in_any_shape(terminal):
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    table.add_row(Text.assemble((EVIL, "bold"), EVIL))
    panel = Panel(Group(EVIL, Text(EVIL)), title=Text(EVIL))
    for thing in (EVIL, Text(EVIL), table, panel, Text.assemble((EVIL, "red"), " and ", (EVIL, "blue"))):
        written = shown(thing, force_terminal=terminal)
        assert "evil" in written
        is_harmless(written)


def test_styles_beside_a_text_stay_where_they_were():
    written = shown(Text.assemble("a\x07\x1b ", ("b\x1bc", "red"), " d"), force_terminal=True, color_system="standard")
    assert written == "a\\x1b \x1b[31mb\\x1bc\x1b[0m d\n"


def test_progress_obeys_no_label():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=150)
    with Watch(console, 3) as watch:
        watch.count(EVIL, 1, 3)
        watch.say(EVIL)
    counter(console, EVIL)(1, 2)
    assert "evil" in file.getvalue()
    is_harmless(file.getvalue())


def test_json_has_the_same_content_and_nothing_active(capsys):
    print_json({EVIL: ["\x9b \u202e \x7f é"]})
    written = capsys.readouterr().out
    assert json.loads(written) == {EVIL: ["\x9b \u202e \x7f é"]} and "é" in written
    assert not ACTIVE.search(written)
    print_json({"loss": [math.inf, math.nan, 1.5]})
    assert json.loads(capsys.readouterr().out) == {"loss": [None, None, 1.5]}


def test_warnings_and_tracebacks_obey_nothing(capsys):
    import sys

    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as undo:
        undo.setattr(sys, "excepthook", None)
        undo.setattr(warnings, "formatwarning", None)
        guard()
        is_harmless(warnings.formatwarning(EVIL, UserWarning, "a.py", 1))
        sys.excepthook(ValueError, ValueError(EVIL), None)
    written = capsys.readouterr().err
    assert "ValueError: evil" in written
    is_harmless(written)


# -- nothing goes past it --------------------------------------------------------------------------------------------

PAST = {
    "rich.console.Console": "zoo.terminal.Console", "rich.markup.escape": "text, which is no markup there",
    "rich.print": "zoo.terminal.Console", "rich.markup.render": "rich.text.Text.assemble",
}  # fmt: skip
CALLS = {"print", "echo", "secho", "from_markup", "print_exc", "print_exception", "from_ansi"}
MARKED = re.compile(r"\[/?(?:bold|dim|red|green|yellow|cyan|blue|italic|underline)?(?: \w+)?/?\]")


def sources():
    return [path for path in sorted((ROOT / "zoo").rglob("*.py")) if path != ROOT / "zoo" / "terminal.py"]


def past(path):
    """What in a source prints beside `zoo.terminal`, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if f"{node.module}.{alias.name}" in PAST:
                    yield node.lineno, f"imports {node.module}.{alias.name}: use {PAST[f'{node.module}.{alias.name}']}"
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            own = name == "print" and ("onsole" in owner or owner.endswith("log"))
            if name in CALLS and not own:
                yield node.lineno, f"calls {ast.unparse(node.func)}: use zoo.terminal.Console"
            if any(keyword.arg == "markup" and getattr(keyword.value, "value", None) for keyword in node.keywords):
                yield node.lineno, "reads markup: give the style beside the text"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 2:
            if any(len(found[0]) > 2 for found in MARKED.finditer(node.value)):
                yield node.lineno, f"writes markup, which is printed as it is: {node.value!r}"


ALLOWED = ("__main__.py calls print", "cli/main.py calls typer.echo", "rewards/fences.py calls print", "testing/chaos/")
"""zoo's own word and version; a process that prints what its parent reads; a program for developers and its runs."""


def test_nothing_prints_beside_the_console():
    found = [f"{path.relative_to(ROOT / 'zoo')} {what}, line {line}" for path in sources() for line, what in past(path)]
    found = [text for text in found if not text.startswith(ALLOWED)]
    assert not found, "\n".join(found)


def test_printing_beside_the_console_is_seen(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(
        "from rich.console import Console\nimport typer\n"
        'Console().print(f"[bold]{name}[/bold]")\nprint(name)\ntyper.echo(name)\nc.print(name, markup=True)\n'
    )
    assert sorted({line for line, _ in past(file)}) == [1, 3, 4, 5, 6]


# -- what is typed ---------------------------------------------------------------------------------------------------

TYPED = {
    "command": [EVIL],
    "option": ["runs", "--" + EVIL],
    "value": ["data", "starter", "--long-rows", EVIL],
    "argument": ["runs", "last", EVIL],
    "data": ["data", EVIL],
    "algorithm": ["algos", EVIL],
    "run": ["resume", EVIL],
    "recipe": ["recipes", EVIL],
    "plugin": ["new-plugin", EVIL],
    "check": ["check", EVIL],
    "training": ["train", "--data", EVIL],
    "columns": ["data", "starter", "--for", "preference", "--columns", f"prompt={EVIL}"],
}


@pytest.mark.parametrize("typed", TYPED.values(), ids=TYPED)
def test_what_is_typed_comes_back_as_text(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    for status, written in (on_terminal(*typed, width=400), (lambda s, *w: (s, "".join(w)))(*cli(*typed))):
        assert status == 2 and "evil" in written, written
        is_harmless(written)


# -- what files, models, plugins and servers say ---------------------------------------------------------------------

QUOTED = json.dumps(EVIL)
REWARD = f"def scream(completions, records):\n    raise ValueError({EVIL!r})\n"
ALGORITHM = f"""
from zoo.api import Algorithm

class Loud(Algorithm):
    {'"' * 3}Says {EVIL.encode("unicode_escape").decode()}.{'"' * 3}
    api_version = 2
    data = "demonstration"
    metrics = {{"seen": {EVIL!r}}}
    def loss(self, batch, models):
        raise ValueError({EVIL!r})
"""


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_folder):
    """A folder with hostile files of every sort, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    Path("tiny").symlink_to(tiny_folder)
    score = {"value": 1.0, "low": 0.5, "high": 1.5, "n": 3}
    for name in (EVIL, f"other {EVIL}"):
        made(
            Path("runs", name), algo=QUOTED, metrics=[{"step": 1, EVIL: 1.0}], status="stopped", reason=EVIL, hint=EVIL,
            steps=1, before={EVIL: 0.5}, after={EVIL: 1.0}, scores={"before": {EVIL: score}, "after": {EVIL: score}},
        )  # fmt: skip
        Path("runs", name, "command.txt").write_text(EVIL)
        Path("runs", name, f"{EVIL}.txt").write_text("")
    write_rows(Path("columns.jsonl"), [{EVIL: "a", f"{EVIL}2": "b"}] * 3)
    write_rows(Path("rows.jsonl"), [{"prompt": EVIL, "completion": f"{EVIL} {i}", EVIL: 1} for i in range(3)])
    write_rows(Path("twice.jsonl"), [{"prompt": EVIL, "completion": EVIL}] * 3)
    write_rows(Path("bad.jsonl"), [{"prompt": [{"role": EVIL, "content": "a"}], "completion": "b"}] * 3)
    write_rows(Path("pairs.jsonl"), [{"prompt": EVIL, "chosen": f"a {i}", "rejected": f"b {i}"} for i in range(3)])
    Path("mine.py").write_text(REWARD)
    Path("loud.py").write_text(ALGORITHM)
    Path("hostile.yaml").write_text(GOOD.replace("title: ", f"title: {QUOTED} # ", 1))
    return tmp_path


def both(*typed):
    """(exit status, what was written) in a terminal, and in a pipe."""
    status, out, err = cli(*typed)
    return [on_terminal(*typed, width=500), (status, out + err)]


SEEN = {
    "runs": ["runs"],
    "a run": ["runs", EVIL],
    "runs as JSON": ["runs", EVIL, "--json"],
    "runs beside each other": ["compare", f"runs/{EVIL}", f"runs/other {EVIL}"],
    "a stopped run": ["resume", EVIL],
    "columns": ["data", "columns.jsonl"],
    "rows": ["data", "rows.jsonl", "--for", "demonstration", "--model", "tiny"],
    "rows as JSON": ["data", "rows.jsonl", "--for", "demonstration", "--model", "tiny", "--json"],
    "bad rows": ["data", "bad.jsonl", "--for", "demonstration"],
    "removed rows": ["data", "dedup", "twice.jsonl", "--dry-run"],
    "a reward": ["eval", "tiny", "--reward", "./mine.py:scream", "--data", "rows.jsonl", "--limit", "1"],
    "an algorithm": ["algos", "./loud.py:Loud"],
    "a bug": ["train", "--algo", "./loud.py:Loud", "--data", "rows.jsonl", "--model", "tiny", "--score", "none"],
    "a plan": ["train", "--data", "rows.jsonl", "--model", "tiny", "--name", "a", "--out", EVIL, "--dry-run"],
    "a recipe": ["recipes", "./hostile.yaml"],
    "a recipe as JSON": ["recipes", "./hostile.yaml", "--json"],
}


@pytest.mark.parametrize("typed", SEEN.values(), ids=SEEN)
def test_what_a_file_says_is_shown_as_text(place, typed):
    for _, written in both(*typed):
        if "--json" in typed:
            assert "evil\\u001b" in written
            assert not ACTIVE.search(OWN.sub("", written))
        else:
            assert "evil" in written, written
            is_harmless(written)


def test_what_a_model_says_is_shown_as_text(place, monkeypatch):
    monkeypatch.setattr("zoo.evals.answers.answer_texts", lambda *arguments, **options: [EVIL])
    for versus in ([], ["--vs", "tiny"]):
        for status, written in both("chat", "tiny", *versus, "--prompt", "hello"):
            assert status == 0 and "evil" in written, written
            is_harmless(written)


def test_what_a_server_says_is_shown_as_text(place):
    with serving(lambda body, number: (400, {"error": {"message": EVIL}})) as (address, _):
        for status, written in both("label", "pairs.jsonl", "--judge", address, "--out", "new.jsonl"):
            assert status == 2 and "evil" in written, written
            is_harmless(written)


def test_what_doctor_finds_is_shown_as_text(place, monkeypatch):
    from zoo.contract import registry

    broken = [registry.Broken(EVIL, EVIL, EVIL, EVIL)]
    good, _ = registry.plugin_modules()
    monkeypatch.setattr(registry, "plugin_modules", lambda: (good, broken))
    monkeypatch.setattr(registry, "recipe_packages", tuple)
    status, written = on_terminal("doctor", width=500)
    assert status == 1 and "evil" in written, written
    is_harmless(written)
