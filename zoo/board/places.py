"""Where the board finds runs: addresses of the page are paths below a few folders, and none leads out of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from zoo.runs import Run

DEPTH = 5
"""Folders between the first and a run: recipes/NAME-laptop/seed-0/STAGE is four below runs/."""
PAGE = "report.html"
WHOLE = ("compare.json", "recipe.yaml", PAGE)
"""What the folder of a comparison or of a reproduction holds besides runs."""


@dataclass
class Group:
    """A folder whose runs belong together: a comparison, or the reproduction of a recipe."""

    address: str
    path: Path
    runs: list[tuple[str, Run]] = field(default_factory=list)

    @property
    def has_page(self) -> bool:
        return (self.path / PAGE).is_file()

    @property
    def kind(self) -> str:
        return "reproduction" if (self.path / "recipe.yaml").is_file() else "comparison"


@dataclass(frozen=True)
class Places:
    """The folders that the board shows, by the first part of their addresses."""

    folders: Mapping[str, Path]

    def path(self, address: str) -> Path | None:
        """What lies at `/runs/mine/`; None for a place outside, a hidden one, or one that is not there."""
        first, *parts = [unquote(part) for part in address.strip("/").split("/")]
        folder = self.folders.get(first)
        if folder is None or any(not part or part.startswith(".") or set(part) & set("/\\\0") for part in parts):
            return None
        return self._inside(folder, folder.joinpath(*parts))

    def _inside(self, folder: Path, path: Path) -> Path | None:
        """The path, if what it leads to is below the folder; a link may lead elsewhere."""
        try:
            return path if path.resolve(strict=True).is_relative_to(folder.resolve()) else None
        except (OSError, RuntimeError):
            return None

    def survey(self) -> tuple[list[tuple[str, Run]], list[Group]]:
        """Addresses and runs that stand alone, and the groups of the others; the newest first."""
        alone: list[tuple[str, Run]] = []
        groups: list[Group] = []
        for name, folder in self.folders.items():
            for address, path in self._below(folder, folder, f"/{name}/", DEPTH):
                if (path / "run.yaml").is_file():
                    group = next((group for group in groups if address.startswith(group.address)), None)
                    (group.runs if group else alone).append((address, Run(path)))
                else:
                    groups.append(Group(address, path))
        for runs in (alone, *(group.runs for group in groups)):
            runs.sort(key=lambda row: _begun(row[1]), reverse=True)
        groups = [group for group in groups if group.runs or group.has_page]
        return alone, sorted(groups, key=lambda group: _changed(group.path), reverse=True)

    def group(self, address: str) -> Group | None:
        return next((group for group in self.survey()[1] if group.address == address), None)

    def _below(self, folder: Path, path: Path, address: str, depth: int) -> Iterator[tuple[str, Path]]:
        """Runs and groups below a folder, a group before its runs."""
        try:
            inside = sorted(entry for entry in path.iterdir() if entry.is_dir() and entry.name[0] != ".")
        except OSError:
            return
        for entry in inside:
            place = f"{address}{quote(entry.name)}/"
            if entry.is_symlink() and self._inside(folder, entry) is None:
                continue
            is_run = (entry / "run.yaml").is_file()
            if is_run or any((entry / name).is_file() for name in WHOLE) or _holds_runs(entry):
                yield place, entry
            if not is_run and depth > 1:
                yield from self._below(folder, entry, place, depth - 1)


def _holds_runs(path: Path) -> bool:
    return next(path.glob("*/run.yaml"), None) is not None


def _begun(run: Run) -> float:
    return _changed(run.path / "run.yaml")


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
