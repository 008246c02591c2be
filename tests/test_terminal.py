"""What strangers wrote is printed and never obeyed: escape sequences, marks of direction, markup."""

import ast
import io
import json
import re
import warnings
from pathlib import Path

import pytest
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from tiny_runs import cli, on_terminal

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


ALLOWED = {
    ("cli/main.py", "calls typer.echo: use zoo.terminal.Console"): "zoo's own version",
    ("__main__.py", "calls print: use zoo.terminal.Console"): "words of its own, when ctrl-C ends the imports",
}


def test_nothing_prints_beside_the_console():
    found = [
        f"{path.relative_to(ROOT)}:{line} {what}" for path in sources() for line, what in past(path)
        if (str(path.relative_to(ROOT / "zoo")), what) not in ALLOWED
    ]  # fmt: skip
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
