"""What is fixed before a recipe is judged: the experiment, its commit, and seeds that nobody has looked at.

An experiment is designed on the seeds 100 to 999 and judged on 20 to 99; one result never mixes them. Each judging run
has a block of 20 seeds of its own and a line in `results/judged.jsonl`, which is committed before it starts. So a
result that nobody liked cannot be thrown away without a trace, and an experiment that was changed is judged on seeds
that it has not seen.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.paths import write_text
from zoo.recipes.claims import stated
from zoo.recipes.schema import Recipe, Variant
from zoo.recipes.table import keeps_results

JUDGING, DESIGNING = range(20, 100), range(100, 1000)
BLOCK = 20
"""Seeds of one judging run, so that a recipe can be judged four times."""
LOG = "judged.jsonl"


def first_seed(recipe: Recipe, variant: Variant) -> int:
    """The seed with which a run begins: that of the judging run of this experiment, or the first for designing."""
    entry = entry_of(recipe, variant)
    return DESIGNING[0] if entry is None else int(entry["seeds"][0])


def entry_of(recipe: Recipe, variant: Variant) -> dict[str, Any] | None:
    """The line of the log with the judging run of this experiment; None if there was none."""
    return next((entry for entry in entries(recipe, variant) if entry["digest"] == variant.digest), None)


def entries(recipe: Recipe, variant: Variant, text: str | None = None) -> list[dict[str, Any]]:
    """The judging runs of a recipe at one scale, in their order. text: of the log, by default the file's."""
    file = log_of(recipe)
    if text is None:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
    try:
        found = [json.loads(line) for line in text.splitlines() if line.strip()]
        return [entry for entry in found if (entry["recipe"], entry["variant"]) == (recipe.name, variant.name)]
    except (ValueError, KeyError, TypeError) as error:
        raise ZooError(f"{file} is damaged: {error}.", "Put it back from version control.") from None


def log_of(recipe: Recipe) -> Path:
    return recipe.results_path("full").with_name(LOG)


def register(recipes: Sequence[Recipe], size: str) -> None:
    """Log the judging runs of recipes. Raises ZooError unless recipes and log are committed."""
    for recipe in recipes:
        if not keeps_results(recipe.path.parent):
            raise ZooError(
                f"Nothing was run: results are recorded for the recipes of a package, and {recipe.path} is in none.",
                "Leave out --record.",
            )
        _register(recipe, recipe.variant(size))
    if new := [recipe for recipe in recipes if not _is_committed(recipe, recipe.variant(size))]:
        logs, names = sorted({str(log_of(recipe)) for recipe in new}), ", ".join(recipe.name for recipe in new)
        raise ZooError(
            f"Nothing was run yet: {' and '.join(logs)} now has a line for each judging run ({names}). It is committed "
            "before they start.",
            f"git add {' '.join(logs)} && git commit, then the same command again.",
        )


def _register(recipe: Recipe, variant: Variant) -> None:
    """Add a line for the judging run of this experiment, unless there is one.

    Raises ZooError if the recipe was judged as often as there are seeds, or its file has changes that are not
    committed.
    """
    if entry_of(recipe, variant) is not None:
        return
    begin = JUDGING[0] + BLOCK * len(entries(recipe, variant))
    if begin not in JUDGING:
        raise ZooError(
            f"{recipe.name} was judged {len(entries(recipe, variant))} times and has no fresh seeds left.",
            "What was judged stands: a recipe is designed on the seeds 100 to 999 first.",
        )
    commit = commit_of(recipe.path)
    entry = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "recipe": recipe.name, "variant": variant.name,
        "digest": variant.digest, "commit": commit, "seeds": [begin, begin + BLOCK - 1],
        "claims": {claim.id: stated(claim) for claim in variant.claims if claim.untested is None},
    }  # fmt: skip
    file = log_of(recipe)
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    file.parent.mkdir(exist_ok=True)
    write_text(file, before + json.dumps(entry, ensure_ascii=False) + "\n")


def _is_committed(recipe: Recipe, variant: Variant) -> bool:
    """Whether the line of this experiment is committed; always where there is no version control."""
    file = log_of(recipe)
    if not _git(file.parent, "rev-parse", "--show-toplevel"):
        return True
    there = _git(file.parent, "show", f"HEAD:./{file.name}")
    return any(entry["digest"] == variant.digest for entry in entries(recipe, variant, there))


def check_seeds(seeds: Sequence[int], recipe: Recipe, variant: Variant) -> None:
    """Raises ZooError unless all seeds belong to the judging run of this experiment."""
    entry = entry_of(recipe, variant)
    low, high = (JUDGING[0], JUDGING[-1]) if entry is None else entry["seeds"]
    if others := [seed for seed in seeds if not low <= seed <= high]:
        why = "are for designing" if others[0] in DESIGNING else "do not belong to this judging run"
        raise ZooError(
            f"Nothing was run: results are recorded for the seeds {low} to {high} only; {_listed(others)} {why}.",
            "Leave out --seeds, or leave out --record.",
        )


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def commit_of(file: Path) -> str:
    """The commit of a file; empty where there is no version control. Raises ZooError if it has other changes."""
    if _git(file.parent, "status", "--porcelain", "--", file.name):
        raise ZooError(
            f"Nothing was run: {file} has changes that are not committed. A recipe is fixed before it is judged.",
            f"Commit it: git add {file} && git commit",
        )
    return _git(file.parent, "log", "-1", "--format=%H", "--", file.name)


def _git(folder: Path, *words: str) -> str:
    """What git prints; empty if it fails, is not there, or the folder is in no repository."""
    try:
        ended = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""
