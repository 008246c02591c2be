"""The tree: its rooms from the ground up, the maps of README and CONTRIBUTING, and numbers about the imports.

    python tools/tree.py             modules, imports that run up, circles, small files, hops of a preference row
    python tools/tree.py --root DIR  the same of another checkout
    python tools/tree.py --list      which imports, circles and files these are
    python tools/tree.py --check     exit status 1 if an import runs up, modules form a circle, or a map is out of date
    python tools/tree.py --write     writes the maps into README.md and CONTRIBUTING.md

tests/test_imports.py holds the imports to `ROOMS`, and the maps to this file. Imports of modules are read from the
source, those inside of functions too; imports for the type checker alone are not counted.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SMALL = 60
"""Lines below which a file that one other imports might as well be part of it."""

ROOMS = {
    "secrets": "keys and tokens, taken out of texts",
    "errors": "errors: what happened, and what to type next",
    "limits": "the most that is read of a stranger's file",
    "terminal": "the way to the terminal: text that is printed and never obeyed",
    "http": "HTTP requests, with retries",
    "numbers": "formatting numbers for people",
    "statistics": "means, their uncertainty, and tests",
    "paths": "zoo's own folders; atomic writes",
    "processes": "rank, number of processes, exchange between them",
    "randomness": "random number generators and their states",
    "libraries": "the seam: all use of other libraries' internals",
    "values": "values that plugins and core exchange, and arithmetic on them",
    "options": "a dataclass field is a flag, a YAML key, an argument and its help",
    "contract": "what a plugin is: class, hooks, registration, faults",
    "cards": "what an algorithm declares, cached so that it need not be imported",
    "conversion": "`zoo convert-config`: config files of other programs",
    "runs": "run folders",
    "data": "from rows to steps: read, detect, check, convert, encode, batch",
    "models": "loading, roles, row layouts, log-probabilities",
    "environments": "what answers the policy in an episode: tools, games, calls",
    "rollout": "engines and decoding: generating answers",
    "judges": "models that compare and grade answers",
    "rewards": "checkers, functions, reward models, expressions of them",
    "evals": "evaluations of a run or model",
    "guards": "what may object to an optimizer step: spikes, numbers that are not finite, flat rewards",
    "optimizers": "how gradients move the weights, and the learning rate of each step",
    "labelling": "`zoo label`",
    "training/record": "what a run records and prints",
    "training/step": "one optimizer step",
    "training/online": "rollouts, rewards, experience",
    "training": "a run from its options to its finished folder",
    "workers": "commands at the same time, and lines that start several processes",
    "report": "pages, sections and plots",
    "comparison": "`zoo compare`",
    "recipes": "`zoo reproduce`: a paper's claims and their verdicts",
    "board": "`zoo board`",
    "bundled": "data that comes with zoo: starter set, harmless set, laboratory",
    "testing": "`zoo check`: the conformance suite, stand-ins, tiny models; runs that are killed (chaos)",
    "scaffold": "`zoo new-plugin`",
    "cli": "the command line",
}
"""From the ground up. A module imports from its own room and from those above it in this list, which are below it."""

FACE = {"", "__main__", "api"}
"""The package itself and what plugins import: they name anything, when it is asked for."""

BESIDE = {
    "plugins/": "one file per algorithm; installed as `zoo_plugins`",
    "recipes/": "one YAML file per paper: what it trained and claims",
    "benchmarks/": "scripts that compare zoo with other programs",
    "docs/": "pages, listed below",
    "tests/": "every claim as a test",
    "tools/": "scripts that made the starter set, this map and the algorithms' pages",
}


class Import(NamedTuple):
    """`module` imports `target`, both dotted names below `zoo`."""

    module: str
    target: str


def room_of(module: str) -> str:
    """The room of a module below `zoo`: `training/step` for `training.step.module`."""
    words = module.split(".")
    longest_first = ("/".join(words[:count]) for count in range(len(words), 0, -1))
    return next((name for name in longest_first if name in ROOMS), words[0])


def modules_of(root: Path) -> dict[str, Path]:
    """Modules below `zoo` by dotted name, `` for the package; templates are not modules."""
    found = {}
    for path in sorted((root / "zoo").rglob("*.py")):
        parts = list(path.relative_to(root / "zoo").with_suffix("").parts)
        if "templates" not in parts:
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST, late: bool = False) -> Iterator[tuple[str, bool]]:
    """(dotted name, inside of a function) of every import that runs; those for the type checker do not."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test):
        return
    if isinstance(tree, ast.Import):
        yield from ((alias.name, late) for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom):
        yield from ((f"{tree.module}.{alias.name}", late) for alias in tree.names)
    inside = late or isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(tree):
        yield from imported(child, inside)


def imports_of(modules: Mapping[str, Path]) -> list[Import]:
    """What the modules import of each other."""
    found: dict[Import, None] = {}
    for module, path in modules.items():
        for name, _ in imported(ast.parse(path.read_text(encoding="utf-8"))):
            words = name.split(".")
            if words[0] != "zoo":
                continue
            target = next(t for n in range(len(words), 0, -1) if (t := ".".join(words[1:n])) in modules)
            if target not in (module, ""):
                found[Import(module, target)] = None
    return list(found)


def upward(imports: Iterable[Import], order: list[str]) -> list[Import]:
    """Those whose target stands above. order: names of rooms from the ground up."""
    level = {name: number for number, name in enumerate(order)}
    return [i for i in imports if level.get(room_of(i.target), -1) > level.get(room_of(i.module), len(order))]


def circles(imports: Iterable[Import]) -> list[list[str]]:
    """Sets of modules of which each reaches each, by Tarjan's algorithm."""
    arrows: dict[str, list[str]] = defaultdict(list)
    for module, target in imports:
        arrows[module].append(target)
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for target in arrows[module]:
            if target not in number:
                visit(target)
            if target in stack:
                low[module] = min(low[module], low[target])
        if low[module] == number[module]:
            start = stack.index(module)
            if len(stack) - start > 1:
                found.append(sorted(stack[start:]))
            del stack[start:]

    sys.setrecursionlimit(10_000)
    for module in list(arrows):
        if module not in number:
            visit(module)
    return found


def small(modules: Mapping[str, Path], imports: Iterable[Import]) -> list[tuple[str, str]]:
    """(module, the one that imports it) of files of under SMALL lines with one importer; plugins are found by name."""
    importers: dict[str, list[str]] = defaultdict(list)
    for module, target in imports:
        importers[target].append(module)
    return [
        (module, importers[module][0]) for module, path in modules.items()
        if len(importers[module]) == 1 and not module.endswith("plugin") and path.name != "__init__.py"
        and len(path.read_text(encoding="utf-8").splitlines()) < SMALL
    ]  # fmt: skip


# -- maps ----------------------------------------------------------------------------------------------------------


def drawn() -> str:
    """The tree for the README."""
    lines = [f"{'zoo/':<20}the core: knows kinds of data and roles of models, but no algorithm"]
    lines += [f"  {'api':<18}what a plugin may import"]
    lines += [f"  {name + ('/' if (ROOT / 'zoo' / name).is_dir() else ''):<18}{what}" for name, what in ROOMS.items()]
    return "\n".join([*lines, *(f"{name:<20}{what}" for name, what in BESIDE.items())])


def ordered() -> str:
    """The rooms from the top down for CONTRIBUTING."""
    names = " → ".join(reversed(ROOMS))
    return re.sub(r"(.{1,112})(?: (?=→)|$)", r"\1\n    ", names).strip()


def written(page: str, block: str) -> str:
    """The page with the block between its marks, which are comments, put in."""
    start, end = "<!-- tree -->\n```\n", "\n```\n<!-- end -->"
    before, rest = page.split(start)
    return before + start + block + end + rest.split(end, 1)[1]


PAGES = {"README.md": drawn, "CONTRIBUTING.md": ordered}


def outdated() -> list[str]:
    """The pages whose map is not that of `ROOMS`."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
    return [name for name, block in PAGES.items() if written(texts[name], block()) != texts[name]]


# -- numbers -------------------------------------------------------------------------------------------------------


def walked(root: Path) -> tuple[int, int]:
    """Of one preference row from its file to its loss: files of zoo that work on it, and calls from one to another."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "walk.py"], cwd=root, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    files, hops = done.stdout.split()
    return int(files), int(hops)


def between_rooms(imports: Iterable[Import]) -> list[Import]:
    """The imports from one folder or single file below `zoo` to another one."""
    pairs = {Import(i.module.split(".")[0], i.target.split(".")[0]) for i in imports}
    return [pair for pair in pairs if pair.module != pair.target]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if given.write:
        for name, block in PAGES.items():
            page = ROOT / name
            page.write_text(written(page.read_text(encoding="utf-8"), block()), encoding="utf-8")
        return
    modules = modules_of(given.root)
    imports = imports_of(modules)
    inside = [i for i in imports if i.module not in FACE]
    rising, rings, tiny = upward(inside, list(ROOMS)), circles(inside), small(modules, inside)
    if given.check:
        faults = [f"{a} imports {b}, which stands above it." for a, b in rising]
        faults += [f"These modules import each other in a circle: {', '.join(ring)}." for ring in rings]
        faults += [f"The map of {name} is out of date: python tools/tree.py --write" for name in outdated()]
        sys.exit("\n".join(faults) or None)
    rooms = circles(between_rooms(inside))
    files, hops = walked(given.root)
    for name, number in {
        "modules": len(modules),
        "imports of each other": len(imports),
        # The order is that of this tree; another one has other rooms.
        "  that run up": len(rising) if given.root == ROOT else "-",
        "circles of modules": len(rings),
        "  modules in them": sum(map(len, rings)),
        "circles of rooms": len(rooms),
        "  rooms in them": sum(map(len, rooms)),
        f"files under {SMALL} lines with one importer": len(tiny),
        "files that a preference row passes": files,
        "  calls from one file to another": hops,
    }.items():
        print(f"{name:<40}{number:>6}")
    if given.list:
        for title, lines in {
            "up": [f"{a} → {b}" for a, b in rising],
            "circles": [", ".join(ring) for ring in rings],
            "small": [f"{a}, imported by {b}" for a, b in tiny],
        }.items():
            print(f"\n{title}:", *lines, sep="\n  ")


if __name__ == "__main__":
    main()
