"""The site of the pages: every page stands in its navigation, links lead somewhere, and it builds without a warning."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import site_pages
import yaml

ROOT = Path(__file__).parent.parent


class _Settings(yaml.SafeLoader):
    """mkdocs has tags of its own."""


def navigation():
    """Every page of the navigation, in its order."""
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Settings)

    def pages(entries):
        for entry in entries:
            for value in entry.values() if isinstance(entry, dict) else [entry]:
                yield from pages(value) if isinstance(value, list) else [value]

    return list(pages(settings["nav"]))


def test_every_page_stands_in_the_navigation_once():
    listed = navigation()
    made = {site_pages.HOME, *(f"reference/{page}.md" for page in site_pages.REFERENCE)}
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    inside = [page for page in listed if not page.startswith(site_pages.OUTSIDE)]
    assert sorted(inside) == sorted(written | made), "mkdocs.yml lists the pages under nav"
    assert all((ROOT / site_pages.repository_path(page)).is_file() for page in set(listed) - made)


def test_a_link_leads_to_where_the_file_lies_in_the_site():
    text = (
        "[a](../../plugins/dpo.py), ![b](../laboratory/game.svg#x), [`c`](../../README.md#more), [d](../../recipes)\n"
    )
    shown = site_pages.rewritten("algorithms/dpo.md", text)
    assert "[a](../repository/plugins/dpo.py)" in shown and "![b](../laboratory/game.svg#x)" in shown
    assert "[`c`](../index.md#more)" in shown and shown.endswith(", d\n")
    assert "[e](docs/x.md)" in site_pages.rewritten("index.md", "```\n[e](docs/x.md)\n```\n"), "code stays as it is"
    assert site_pages.rewritten("index.md", "[f](https://host/docs) [g](#h)") == "[f](https://host/docs) [g](#h)"


def test_what_a_page_links_to_outside_of_its_folder_is_part_of_the_site():
    found = site_pages.outside(["README.md", "docs/laboratory.md"])
    assert {"zoo/bundled/starter/README.md", "LICENSE", "recipes/README.md", "recipes/ipo.yaml"} <= set(found)
    assert all(site_pages.repository_path(site_pages.site_path(path)) == path for path in found)


def test_the_reference_has_everything_that_a_plugin_may_import():
    from zoo import api

    page = site_pages.reference(*site_pages.REFERENCE["api"])
    assert [name for name in api.__all__ if f".{name}\n" not in page and f"## {name}\n" not in page] == []


# -- built ---------------------------------------------------------------------------------------------------------


class Addresses(HTMLParser):
    """What a page loads from elsewhere."""

    def __init__(self):
        super().__init__()
        self.loaded = []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        address = named.get("src") or (named.get("href") if tag == "link" else None) or ""
        if address.startswith(("http:", "https:", "//")):
            self.loaded.append(address)


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_another_server(tmp_path):
    pytest.importorskip("mkdocstrings", reason="pip install -e '.[docs]'")
    pytest.importorskip("material", reason="pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(navigation())
    for page in pages:
        parser = Addresses()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.loaded == [], page.name
    reference = (tmp_path / "site" / "reference" / "api.html").read_text(encoding="utf-8")
    assert "Subclass this, declare, implement" in reference
