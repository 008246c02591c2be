"""Every command that a reader of the documents could type, in the order of its page: not a test file itself.

A command stands in a fenced or indented block, in a code span of a sentence, among the examples of a help page, or in
the hint of an error.
"""

import ast
import functools
import re
import shlex
import tempfile
from pathlib import Path
from typing import NamedTuple

import typer

from zoo import scaffold
from zoo.cli import main
from zoo.cli.help import examples_in

ROOT = Path(__file__).parent.parent
FENCE = r"(?:^<!-- (?P<name>[\w.]+) -->\n)?^```(?P<language>\w*)\n(?P<content>.*?)^```$"
VARIABLES = re.compile(r"^([A-Z_]+=\S+ )+")
STARTS = re.compile(r"(time )?([A-Z_]+=\S+ )*(zoo -{0,2}[a-z]|python |make [a-z]|pip [a-z]|pytest\b|torchrun |vllm )")
PLACES = re.compile(rf"{FENCE}|^ {{4}}(?P<line>\S[^\n]*)$|(?<!`)`(?P<span>[^`]+)`(?!`)", re.MULTILINE | re.DOTALL)
KINDS = ("preference", "prompt")
"""The README of `zoo new-plugin` has one command for prompts and another one for all other kinds."""


class Command(NamedTuple):
    """page: where it stands; text: in one line, as typed; place: block, sentence, example or hint."""

    page: str
    text: str
    place: str

    @property
    def words(self):
        """What a shell makes of it, without comments, variables that it sets, and what it sends to a file."""
        # Not shlex's own comments: to it `v1#model` has one too.
        words = shlex.split(re.sub(r"\s#\s.*", "", VARIABLES.sub("", self.text)))
        return words[: words.index(">")] if ">" in words else words

    def __str__(self):
        return f"{self.page}: {self.text}"


def without_output(text):
    """A page without what programs printed; of that only the commands at its head are left."""
    output = re.compile(r"<!-- \w+ output -->\n```\w*\n(.*?)(?:\n\n.*?)?^```\n<!-- end -->", re.MULTILINE | re.DOTALL)
    return output.sub(r"```\n\1\n```", text)


def joined(text):
    """Each line of a block; what a backslash breaks is one."""
    return [line.strip() for line in re.sub(r"\\\n\s*", "", text).splitlines()]


def of_page(page, text):
    """The commands of a Markdown page, in their order."""
    found = []
    for match in PLACES.finditer(without_output(text)):
        if match["content"] is not None:
            lines = [] if match["language"] in ("python", "json", "yaml", "toml") else joined(match["content"])
            found += [Command(page, line, "block") for line in lines]
        elif match["line"]:
            found.append(Command(page, match["line"], "block"))
        else:
            found.append(Command(page, " ".join(match["span"].split()), "sentence"))
    return [command for command in found if STARTS.match(command.text)]


def written(*patterns):
    """The Markdown pages that lie in the repository, by path."""
    files = [file for pattern in patterns for file in sorted(ROOT.glob(pattern))]
    return {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files}


@functools.cache
def pages():
    """Every page by its path, and the README that `zoo new-plugin` writes for each of KINDS."""
    found = written(
        "*.md", "docs/**/*.md", "recipes/README.md", "benchmarks/README.md", "zoo/bundled/*/README.md",
        "tests/third_party/*/README.md",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            package = scaffold.new_plugin("mine", kind, Path(folder) / kind)
            found[f"new-plugin --data {kind}"] = (package / "README.md").read_text(encoding="utf-8")
    return found


def group():
    """The command line as click has it, with the flags of no algorithm."""
    main.app.registered_commands.clear()
    main.add_commands([])
    return typer.main.get_command(main.app)


def of_help():
    """The examples at the end of every help page."""
    commands = dict(group().commands)
    shown = {**commands, **{f"data {name}": verb for name, verb in commands["data"].verbs().items()}}
    return [
        Command(f"zoo {name} --help", example, "example")
        for name, command in shown.items()
        for example in examples_in(command.epilog or "")[1]
    ]


def constants(file):
    """The texts of a module that are whole: no docstrings, and no parts of one with something filled in. None at all
    where no text can hold a command."""
    source = file.read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(source))) if "zoo " in source else []
    left_out = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    left_out |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    texts = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in texts if id(node) not in left_out]


def of_messages():
    """The commands between `…`, or behind a colon or `Write`, in what errors and notes say."""
    behind = re.compile(r"`(zoo [a-z][^`]*)`|(?:: |Write )(zoo [a-z]+[- ](?:\"[^\"]*\"|[^,;\"])+?)(?=, |;|\. |\.?$)")
    return [
        Command(str(file.relative_to(ROOT)), one or other, "hint")
        for folder in ("zoo", "plugins")
        for file in sorted((ROOT / folder).rglob("*.py"))
        for text in constants(file)
        if not text.startswith("Example")  # of a help page, which of_help has
        for one, other in behind.findall(text)
    ]


@functools.cache
def every_command():
    """All of them, each once a page."""
    found = [command for page, text in pages().items() for command in of_page(page, text)]
    return list(dict.fromkeys([*found, *of_help(), *of_messages()]))


def parse(arguments, monkeypatch):
    """What the command line makes of the arguments, without running anything: (name of the command, its values)."""
    monkeypatch.setattr(main.app, "registered_commands", [])
    main.add_commands(arguments)
    whole = typer.main.get_command(main.app)
    context = whole.make_context("zoo", list(arguments))
    name, command, rest = whole.resolve_command(context, list(arguments))
    verb = rest[0] if rest and rest[0] in getattr(command, "verbs", dict)() else ""
    return f"{name} {verb}".strip(), command.make_context(name, rest, parent=context).params
