"""A hundred one-line mutations of formulas, masks and counts, and whether the tests see them.

    python tools/mutations.py                       a hundred, of seed 0
    python tools/mutations.py --count 8 --seed 1    eight others
    python tools/mutations.py --list                only shows them
    python tools/mutations.py --out FILE            where results are kept: the same command goes on after a kill

A mutation changes one operator, bound, sign, constant or slice in one line. It is made in a copy of the checkout, in a
temporary folder. There the test files of the mutated module run: those named after it, those of its folder in `TESTS`,
and those that import it. Their quick tests come first, then all quick tests (`make quick`), then the rest of these
files. The first test that fails sees the mutation. The seed decides which mutations are made. Kinds take turns, so that
rare ones are among them.

Some mutations change nothing that a test could see, for example a bound that is never reached.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).parent.parent
SOURCES = (
    "zoo/values/*.py", "plugins/*.py", "zoo/models/logps.py", "zoo/models/layout.py", "zoo/models/scoring.py",
    "zoo/models/parts.py", "zoo/training/step/sums.py", "zoo/training/step/gradients.py",
    "zoo/training/step/schedule.py", "zoo/data/loader.py",
)  # fmt: skip
"""What is mutated."""
TESTS = {
    "zoo/values": ("test_types", "test_grpo", "test_ppo", "test_rm", "test_rlaif", "test_bco", "test_kto"),
    "zoo/models": (
        "test_layout",
        "test_scoring",
        "test_logps",
        "test_attention",
        "test_scalar_head",
        "test_roles",
        "test_online",
    ),
    "zoo/training/step": ("test_sums", "test_gradients", "test_schedule", "test_training", "test_processes"),
    "zoo/data": ("test_loader", "test_data_load", "test_training"),
    "plugins": (),
}
"""Test files of a folder, beside those named after the module and those that import it."""
SWAPPED = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*"}
COMPARED = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
SIGNS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "amin": "amax", "amax": "amin",
    "sum": "mean", "mean": "sum",
}  # fmt: skip
NOT_FORMULAS = ("require", "ZooError", "PluginError", "TrainingStopped", "ValueError")
"""Calls that check options and explain mistakes."""


FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", flags=re.MULTILINE)
"""A line of pytest's summary."""


class Mutation(NamedTuple):
    """file: below the root; line: counted from 1; before, after: the line without and with the mutation."""

    kind: str
    file: str
    line: int
    before: str
    after: str


class Edit(NamedTuple):
    """Bytes [start, end) of a source become `text`."""

    kind: str
    start: int
    end: int
    text: str


# -- finding ---------------------------------------------------------------------------------------------------------


class Finder(ast.NodeVisitor):
    """Every edit that is possible in the functions of a source."""

    def __init__(self, source: bytes):
        self.source = source
        self.lines = [0]
        for line in source.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.edits: list[Edit] = []
        self.inside = False
        self.visit(ast.parse(source))

    def start(self, node: ast.expr) -> int:
        return self.lines[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.lines[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr) -> str:
        return self.source[self.start(node) : self.end(node)].decode()

    def add(self, kind: str, start: int, end: int, text: str) -> None:
        if self.inside:
            self.edits.append(Edit(kind, start, end, text))

    def between(self, kind: str, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """An operator between two expressions, beside whatever brackets stand there."""
        start, end = self.end(left), self.start(right)
        at = self.source.find(old.encode(), start, end)
        if at >= 0:
            self.add(kind, at, at + len(old), new)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Only the body: no decorators, annotations, defaults or docstring."""
        outside, self.inside = self.inside, True
        for statement in node.body:
            self.visit(statement)
        self.inside = outside

    def visit_Raise(self, node: ast.Raise) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = any(isinstance(side, ast.JoinedStr) or is_text(side) for side in (node.left, node.right))
        if type(node.op) in SWAPPED and not texts:
            self.between("operator", node.left, node.right, SIGNS[type(node.op)], SWAPPED[type(node.op)])
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if type(node.op) in SWAPPED:
            self.between("operator", node.target, node.value, SIGNS[type(node.op)], SWAPPED[type(node.op)])
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for left, operator, right in zip(sides, node.ops, node.comparators, strict=False):
            if type(operator) in COMPARED:
                self.between("comparison", left, right, SIGNS[type(operator)], COMPARED[type(operator)])
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        dropped = {ast.Invert: "negation", ast.Not: "negation", ast.USub: "sign"}.get(type(node.op))
        # The sign of a number is in an index or a dimension more often than in a formula.
        if dropped and not (dropped == "sign" and isinstance(node.operand, ast.Constant)):
            self.add(dropped, self.start(node), self.start(node.operand), "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, int | float) and not isinstance(value, bool) and value in (0, 1):
            self.add("constant", self.start(node), self.end(node), str(type(value)(1 - value)))

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound, change in ((node.lower, "+ 1"), (node.upper, "- 1")):
            if bound is not None:
                self.add("slice", self.end(bound), self.end(bound), f" {change}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in NOT_FORMULAS:
            return
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        # Python has a sum and no mean.
        if name in NAMES and not (name == "sum" and isinstance(node.func, ast.Name)):
            end = self.end(node.func)
            self.add("min, max, sum, mean", end - len(name), end, NAMES[name])
        if name.startswith("clamp"):
            self.clamped(node)
        if name == "detach" and isinstance(node.func, ast.Attribute):
            self.add("detach", self.end(node.func.value), self.end(node), "")
        self.generic_visit(node)

    def clamped(self, node: ast.Call) -> None:
        """A bound is dropped: of two one, of one the call."""
        bounds: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
        values = [one.value if isinstance(one, ast.keyword) else one for one in bounds]
        named = [one.arg if isinstance(one, ast.keyword) else ("min", "max")[i] for i, one in enumerate(bounds)]
        if len(bounds) == 2:
            for name, value in zip(named, values, strict=True):
                self.add("clamp", self.end(node.func), self.end(node), f"({name}={self.text(value)})")
        elif isinstance(node.func, ast.Attribute):
            self.add("clamp", self.end(node.func.value), self.end(node), "")


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@functools.cache
def mutations_of(file: str, source: bytes) -> list[Mutation]:
    """Those of one line that leave a program which can be read."""
    found = []
    lines = source.splitlines(keepends=True)
    for edit in Finder(source).edits:
        number = source.count(b"\n", 0, edit.start)
        if b"\n" in source[edit.start : edit.end]:
            continue
        begin = sum(map(len, lines[:number]))
        line = lines[number]
        changed = line[: edit.start - begin] + edit.text.encode() + line[edit.end - begin :]
        with contextlib.suppress(SyntaxError):
            ast.parse(b"".join([*lines[:number], changed, *lines[number + 1 :]]))
            before, after = line.decode().rstrip("\n"), changed.decode().rstrip("\n")
            found.append(Mutation(edit.kind, file, number + 1, before, after))
    return found


def chosen(root: Path, count: int, seed: int) -> list[Mutation]:
    """So many mutations, at most one of a line; kinds take turns."""
    kinds: dict[str, list[Mutation]] = defaultdict(list)
    for file in sorted(path for pattern in SOURCES for path in root.glob(pattern)):
        for mutation in mutations_of(str(file.relative_to(root)), file.read_bytes()):
            kinds[mutation.kind].append(mutation)
    source = random.Random(seed)
    taken: dict[tuple[str, int], Mutation] = {}
    waiting = [source.sample(of_kind, len(of_kind)) for _, of_kind in sorted(kinds.items())]
    while len(taken) < count and any(waiting):
        for of_kind in waiting:
            while of_kind and (of_kind[-1].file, of_kind[-1].line) in taken:
                of_kind.pop()
            if of_kind and len(taken) < count:
                mutation = of_kind.pop()
                taken[mutation.file, mutation.line] = mutation
    return list(taken.values())


# -- testing ---------------------------------------------------------------------------------------------------------


def copied(target: Path) -> None:
    """All files of the checkout that git does not ignore, and links by which the copy is imported and no other."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    links = target / ".imported"
    links.mkdir()
    for package, folder in (("zoo", "zoo"), ("zoo_plugins", "plugins"), ("zoo_recipes", "recipes")):
        (links / package).symlink_to(target / folder)


def tests_of(root: Path, file: str) -> list[list[str]]:
    """Arguments of pytest, one list after the other: the quick tests, then those of the module."""
    path = Path(file)
    module = ".".join(path.with_suffix("").parts)
    package = re.escape(module.rpartition(".")[0])
    imported = re.compile(rf"\b{re.escape(module)}\b|from {package} import .*\b{path.stem}\b")
    files = set(next((tests for folder, tests in TESTS.items() if file.startswith(folder)), ()))
    for test in (root / "tests").glob("test_*.py"):
        if re.match(rf"test_{path.stem}(_|$)", test.stem) or imported.search(test.read_text(encoding="utf-8")):
            files.add(test.stem)
    # Those named after it first: they are the likeliest.
    ordered = sorted(files, key=lambda name: (not name.startswith(f"test_{path.stem}"), name))
    paths = [f"tests/{name}.py" for name in ordered if (root / "tests" / f"{name}.py").is_file()]
    # The quick tests of the module are the likeliest to fail, and the cheapest.
    rounds = [["tests", "-m", "quick"]]
    if paths:
        rounds = [[*paths, "-m", "quick"], *rounds, [*paths, "-m", "not quick and not slow"]]
    if file.startswith("plugins/"):
        algorithm = path.stem.replace("_", "-")
        rounds.append(["tests/test_conformance.py", "-k", f"conforms and [{algorithm}-"])
    return rounds


def tested(root: Path, arguments: Iterable[str], seconds: float) -> tuple[str, str]:
    """(passed, failed or time; the first test that failed) of one call of pytest."""
    result, output = called(root, ["-x", *arguments], seconds)
    found = FAILED.search(output)
    return result, (found[1] if found else output.strip().rpartition("\n")[2]) if result == "failed" else ""


def called(root: Path, arguments: Iterable[str], seconds: float) -> tuple[str, str]:
    """(passed, failed or time; what it printed) of one call of pytest, in a fork that need not import the libraries."""
    with tempfile.TemporaryFile("w+") as printed:
        child = os.fork()
        if not child:
            _call(root, ["-q", "-p", "no:cacheprovider", *arguments], printed.fileno())
        status = _wait(child, time.monotonic() + max(seconds, 1.0))
        printed.seek(0)
        # 5: no test was chosen.
        result = "time" if status is None else "passed" if status in (0, 5) else "failed"
        return result, printed.read()


def _call(root: Path, arguments: list[str], printed: int) -> NoReturn:
    """pytest in this process, which ends with it."""
    try:
        os.setsid()
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        os.chdir(root)
        sys.path.insert(0, str(root / ".imported"))
        os.environ["PYTHONPATH"] = str(root / ".imported")
        import pytest

        status = int(pytest.main(arguments))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        status = 1
    os._exit(status)


def _wait(child: int, end: float) -> int | None:
    """The exit status of a process, None where it had to be ended at the limit; what it started ends with it."""
    status = None
    while status is None and time.monotonic() < end:
        ended, found = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(found) if ended else None
        time.sleep(0.05)
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return status


def preload() -> None:
    """Import what all tests import and no mutation changes."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for module in ("torch", "lightning", "transformers", "peft", "datasets", "pytest", "typer", "rich"):
        importlib.import_module(module)


def write(file: Path, content: bytes) -> None:
    """The source, without what was compiled from the one before: that goes by seconds and sizes."""
    file.write_bytes(content)
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()


def tried(root: Path, mutation: Mutation, limit: float, left_out: set[str]) -> dict[str, Any]:
    """What became of a mutation. left_out: tests that fail without one too; those that are found so are added."""
    file = root / mutation.file
    original = file.read_bytes()
    lines = original.decode().split("\n")
    assert lines[mutation.line - 1] == mutation.before
    lines[mutation.line - 1] = mutation.after
    rounds, started, result, by = tests_of(root, mutation.file), time.monotonic(), "passed", ""
    while rounds and result == "passed":
        deselected = [part for test in sorted(left_out) for part in ("--deselect", test)]
        write(file, "\n".join(lines).encode())
        try:
            result, by = tested(root, [*rounds[0], *deselected], limit - (time.monotonic() - started))
        finally:
            write(file, original)
        if result == "passed":
            rounds.pop(0)
        elif result == "failed" and by not in left_out and not passes(root, by, limit):
            left_out.add(by)
            # The same round again; what came before was no time of this mutation's.
            result, by, started = "passed", "", time.monotonic()
    verdict = {"passed": "not seen", "failed": "seen", "time": "time limit"}[result]
    return {**mutation._asdict(), "verdict": verdict, "by": by, "seconds": round(time.monotonic() - started)}


@functools.cache
def passes(root: Path, test: str, limit: float) -> bool:
    """Whether a test passes without a mutation."""
    return tested(root, [test], limit)[0] == "passed"


def told(result: dict[str, Any]) -> str:
    """A result as lines of the table."""
    by = f" by {result['by']}" if result["by"] else ""
    return (
        f"{result['file']}:{result['line']}  {result['kind']}  {result['verdict']}{by}  ({result['seconds']} s)\n"
        f"    - {result['before'].strip()}\n    + {result['after'].strip()}"
    )


def known_results(file: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Results of a command before this one, by mutation; the last line may be half a line after a kill."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):
            result = json.loads(line)
            found[tuple(result[name] for name in Mutation._fields)] = result
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="mutations (100)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (0)")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for the tests of one mutation (600)")
    parser.add_argument("--out", type=Path, default=Path("mutations.jsonl"), help="results (mutations.jsonl)")
    parser.add_argument("--list", action="store_true", help="only show the mutations")
    given = parser.parse_args()
    mutations = chosen(ROOT, given.count, given.seed)
    if given.list:
        for mutation in mutations:
            print(f"{mutation.file}:{mutation.line}  {mutation.kind}")
            print(f"    - {mutation.before.strip()}\n    + {mutation.after.strip()}")
        return
    results, left_out = known_results(given.out), set[str]()
    with tempfile.TemporaryDirectory(prefix="zoo-mutations-") as folder:
        root = Path(folder).resolve()
        copied(root)
        if any(tuple(mutation) not in results for mutation in mutations):
            preload()
        for mutation in mutations:
            if tuple(mutation) not in results:
                results[tuple(mutation)] = result = tried(root, mutation, given.limit, left_out)
                with given.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(result) + "\n")
            print(told(results[tuple(mutation)]), flush=True)
    for test in sorted(left_out):
        print(f"Left out, because it fails without a mutation too: {test}")
    verdicts = [results[tuple(mutation)]["verdict"] for mutation in mutations]
    seen = verdicts.count("seen")
    print(f"{seen} of {len(verdicts)} seen ({seen / len(verdicts):.0%}), {verdicts.count('time limit')} at the limit.")


if __name__ == "__main__":
    main()
