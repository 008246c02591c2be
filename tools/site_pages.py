"""What mkdocs does beside the pages of docs/: the start page, files outside of docs/, and the reference.

    make docs

* README.md is the start page.
* A page may link to any file of the repository, as it does on GitHub. Such a file is added to the site below
  `repository/`, and so is what it links to; a link to a folder stays text.
* `reference/` is made from the docstrings of `zoo`, of `zoo.api` and of `zoo.testing`.

`mkdocs.yml` names this file under `hooks`; the functions that begin with `on_` are called by mkdocs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
HOME, OUTSIDE = "index.md", "repository/"
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?\[(?:[^][]|\[[^][]*\])*\]\()([^)\s]+)(\))")
REFERENCE = {
    "zoo": ("zoo", "What a program imports: `import zoo`."),
    "api": (
        "zoo.api",
        "What a plugin imports: `from zoo.api import Algorithm`. [The contract](../contract.md) explains it.",
    ),
    "testing": ("zoo.testing", "What the tests of a plugin import."),
}
"""The page of the reference: its module, and what it is for."""


# -- links ---------------------------------------------------------------------------------------------------------


def repository_path(page: str) -> str:
    """Where a page of the site lies in the repository."""
    if page == HOME:
        return "README.md"
    return page.removeprefix(OUTSIDE) if page.startswith(OUTSIDE) else f"docs/{page}"


def site_path(path: str) -> str:
    """Where a file of the repository lies in the site; the inverse."""
    if path == "README.md":
        return HOME
    return path.removeprefix("docs/") if path.startswith("docs/") else OUTSIDE + path


def target_of(path: str, link: str) -> str | None:
    """The file or folder of the repository that a link in the file `path` leads to; None for addresses and anchors."""
    name = link.partition("#")[0]
    if not name or re.match(r"[a-z]+:", link):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), name))


def prose(text: str) -> Iterator[tuple[str, bool]]:
    """The parts of a page in their order, and whether each is prose; the others are code."""
    end = 0
    for code in FENCED.finditer(text):
        yield text[end : code.start()], True
        yield code[0], False
        end = code.end()
    yield text[end:], True


def links_in(text: str) -> list[str]:
    """The targets of the links in the prose of a page."""
    return [link for part, is_prose in prose(text) if is_prose for _, link, _ in LINK.findall(part)]


def outside(first: list[str]) -> list[str]:
    """The files outside of docs/ that these files, and then those themselves, link to."""
    seen, open_ones = dict.fromkeys(first), list(first)
    while open_ones:
        path = open_ones.pop()
        if not path.endswith(".md"):
            continue
        for link in links_in((ROOT / path).read_text(encoding="utf-8")):
            target = target_of(path, link)
            if target and target not in seen and (ROOT / target).is_file():
                seen[target] = None
                open_ones.append(target)
    return [path for path in seen if path not in first]


def rewritten(page: str, text: str) -> str:
    """The text of a page of the site, with links that lead to where the files lie in the site."""
    path = repository_path(page)

    def moved(match: re.Match[str]) -> str:
        target = target_of(path, match[2])
        if target is None:
            return match[0]
        if (ROOT / target).is_dir():
            return match[0].removeprefix("!").partition("](")[0][1:]
        anchor = match[2].partition("#")[1:]
        place = posixpath.relpath(site_path(target), posixpath.dirname(page) or ".")
        return f"{match[1]}{place}{''.join(anchor)}{match[3]}"

    return "".join(LINK.sub(moved, part) if is_prose else part for part, is_prose in prose(text))


def anchor(title: str, separator: str = "-") -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", separator)


# -- the reference -------------------------------------------------------------------------------------------------


def reference(module: str, about: str) -> str:
    """The page of a module: each name that it exports, with what mkdocstrings finds at its home."""
    from importlib import import_module

    face = import_module(module)
    lines = [f"# {module}\n", f"{about}\n"]
    for name in face.__all__:
        home = homes(face).get(name)
        if home is not None and home.startswith("zoo"):
            lines.append(f"::: {home}.{name}\n")
        elif home is not None:
            lines.append(f"## {name}\n\n`{home}.{name}`\n")
    return "\n".join(lines)


def homes(face: Any) -> dict[str, str]:
    """The module of each name that a module exports; names without one are left out."""
    late = getattr(face, "_HOME", None) or getattr(face, "_HOMES", {})
    found = {name: home for name, home in late.items() if isinstance(home, str)}
    for name in face.__all__:
        if name not in found and (home := getattr(vars(face).get(name), "__module__", None)):
            found[name] = home
    return found


# -- what mkdocs calls ---------------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    config.mdx_configs.setdefault("toc", {})["slugify"] = anchor
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    pages = ["README.md", *(f"docs/{file.src_uri}" for file in files if file.src_uri.endswith(".md"))]
    for path in ["README.md", *outside(pages)]:
        if site_path(path).startswith((OUTSIDE, HOME)):
            files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
    for page, (module, about) in REFERENCE.items():
        files.append(File.generated(config, f"reference/{page}.md", content=reference(module, about)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    return markdown if page.file.src_uri.startswith("reference/") else rewritten(page.file.src_uri, markdown)
