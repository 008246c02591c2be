"""The card of a model: README.md beside its weights, with the front matter that the Hugging Face hub reads.

It says what the model was made from (base, data, algorithm, options), how it scored before and after, and how to load
it. It names files, but no folder of this machine. That of a run that was resumed is the same as without the stop.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo.cards import described
from zoo.contract.plugin_files import is_file_name
from zoo.data.encoding.named import NONE
from zoo.errors import ZooError
from zoo.libraries import hub
from zoo.models.card_code import Folder, how_to_load
from zoo.models.default import HUB_NAME, LICENCE, NAME
from zoo.models.names import Source, look_for, read_config, run_of
from zoo.numbers import amount, decimal
from zoo.options.config import is_default
from zoo.options.strict_yaml import as_yaml, read_front
from zoo.paths import write_text
from zoo.runs import Run
from zoo.secrets import scrubbed

FILE = "README.md"
UNKNOWN = "unknown"
"""The licence of a model whose base has no card that names one. The hub knows this word."""
TERMS = ("license", "license_name", "license_link")
"""What the front matter of a card says of the licence."""
PLACED = ("algo", "model", "data")
"""Options that have a place of their own in the card."""
ALWAYS = ("lr", "batch_size", "seed")
"""Options that the card tells even where they are the defaults."""
PAPER = "arxiv:"
"""The beginning of a tag that names a paper."""
MOST_BASES = 5
"""Runs on runs on …: from here on they are taken for a circle."""
PATH = re.compile(r"(?<![\w.:/~-])(?:~|\.{1,2})?(?:/[^/\s,;:()\[\]'\"|@+*]+)*/(?=[^/\s])")
"""The folders of a path that begins at the root, at home, or above the working folder; not its last name."""


@dataclass(frozen=True)
class Base:
    """What a model was made from.

    name: what it is called; hub: the name on the hub of it, or of what it was made from itself, "" for none; terms: its
    licence as a card says it, {} where no card does; note: how its weights differ from those on the hub.
    """

    name: str
    hub: str = ""
    terms: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def without_folders(text: str) -> str:
    """A text without keys, and with the last name only of every path that leads out of the working folder."""
    return PATH.sub("", scrubbed(text))


# -- where it comes from -----------------------------------------------------------------------------------------------


def base_named(name: str, out: str, depth: int = 0) -> Base:
    """What is known of a model by its name. Nothing is loaded; a model that is gone is known by its name alone."""
    try:
        found = look_for(name, out)
    except ZooError:
        return Base(without_folders(name))
    return base_of(found.source, depth)


def base_of(source: Source, depth: int = 0) -> Base:
    """The same of a model that was found."""
    if source.name == NAME:
        here = source.folder is not None and _hub_name(source) != HUB_NAME
        note = f"Its base was unpacked from a copy of {HUB_NAME} in 4 bits."
        return Base(NAME, HUB_NAME, {"license": LICENCE}, note if here else "")
    run = run_of(source)
    if run is None:
        name = without_folders(source.name)
    else:
        name = run.name if source.folder == run.model_path else f"{run.name}@{source.name.rpartition('@')[2]}"
    front = _front_of(source)
    if not front and run is not None and depth < MOST_BASES:
        return replace(base_named(str(run.config["model"]), str(run.config["out"]), depth + 1), name=name)
    first = front.get("base_model") or adapted_base(source)
    terms = {word: str(front[word]) for word in TERMS if front.get(word) not in (None, UNKNOWN)}
    return Base(name, _hub_name(source) or (first if isinstance(first, str) else ""), terms)


def _hub_name(source: Source) -> str:
    """The name on the hub of a model that came from there."""
    named, revision = source.as_base
    return named if (revision or source.folder is None) and named.count("/") == 1 else ""


def adapted_base(source: Source) -> str:
    """The name on the hub of what the adapters in a folder belong to."""
    if source.folder is None or not source.is_adapter:
        return ""
    named = str(read_config(source.folder / "adapter_config.json").get("base_model_name_or_path") or "")
    return named if named.count("/") == 1 and not Path(named).is_absolute() else ""


def _front_of(source: Source) -> dict[str, Any]:
    """The front matter of a model's own card; {} where there is none that can be read."""
    file = None if source.folder is None else source.folder / FILE
    if file is not None and file.is_file():
        return read_front(file.read_text(encoding="utf-8", errors="replace"))
    return read_front(hub.card(named) if (named := _hub_name(source)) else "")


# -- the card ----------------------------------------------------------------------------------------------------------


def write_card(
    folder: Path, bases: Sequence[Base], run: Run | None = None, *, algorithm: Any = None, step: int | None = None,
    how: str = "",
) -> None:  # fmt: skip
    """Write the card of the model that lies in a folder.

    run: the one that trained it; algorithm: its class, where that is loaded already; step: of the checkpoint that it
    is, None for the end of the run; how: what else was done, in sentences.
    """
    found = Folder.of(folder, chats=run is None or run.config.get("template") != NONE)
    help_, paper = _declared(run, algorithm) if run else ("", "")
    title = run.name if run is not None and folder == run.model_path else folder.name
    front = _front(found, bases, run, paper)
    parts = [f"---\n{as_yaml(front)}---", f"# {title}", _lead(found, bases, run, help_, paper, step), how]
    parts += [base.note for base in bases]
    parts += [_licence(bases), *(_of_run(run, step) if run else ()), *how_to_load(found, [base.hub for base in bases])]
    write_text(folder / FILE, "\n\n".join(filter(None, parts)) + "\n")


def _front(found: Folder, bases: Sequence[Base], run: Run | None, paper: str) -> dict[str, Any]:
    """What the hub reads."""
    names = sorted({base.hub for base in bases if base.hub})
    relation = {"adapter": "adapter", "gguf": "quantized"}.get(found.kind, "merge" if len(bases) > 1 else "finetune")
    algo = str(run.config["algo"]) if run else ""
    number = re.search(r"\d{4}\.\d{4,5}", paper)
    tags = ["post-training-zoo", *([] if not algo or is_file_name(algo) else [algo.partition("@")[0]])]
    tags += [*(["lora"] if found.kind == "adapter" else []), *([PAPER + number[0]] if number else [])]
    return {
        **({"base_model": names if len(names) > 1 else names[0], "base_model_relation": relation} if names else {}),
        "library_name": {"adapter": "peft", "gguf": "gguf"}.get(found.kind, "transformers"),
        **(_terms(bases) or {"license": UNKNOWN}),
        "pipeline_tag": "text-classification" if found.head == "scalar" else "text-generation",
        "tags": tags,
    }


def _declared(run: Run, algorithm: Any) -> tuple[str, str]:
    """What an algorithm says of itself in a sentence, and its paper. A file of a stranger's run is not asked."""
    algo = str(run.config["algo"])
    if algorithm is None and is_file_name(algo):
        tags = _front_of(Source(str(run.path), run.model_path)).get("tags")
        papers = [str(tag) for tag in tags if str(tag).startswith(PAPER)] if isinstance(tags, list) else []
        return "", f"arXiv:{papers[0].removeprefix(PAPER)}" if papers else ""
    try:
        cls = described(algo)[1] if algorithm is None else algorithm
    except ZooError:
        return "", ""
    return (cls.__doc__ or "").strip().partition("\n")[0], str(cls.paper or "")


def _lead(
    found: Folder, bases: Sequence[Base], run: Run | None, help_: str, paper: str, step: int | None
) -> str:  # fmt: skip
    what = {"adapter": "Adapters for", "gguf": "GGUF file of"}.get(found.kind, "Weights of")
    kind = "a reward model" if found.head == "scalar" else "a language model"
    names = " and ".join(_linked(base) for base in bases)
    if run is None:
        return f"{what} {kind}, made from {names}."
    algo = without_folders(str(run.config["algo"]))
    source = f" ([{paper}]({_address(paper)}))" if _address(paper) else f" ({paper})" if paper else ""
    steps = run.summary.get("steps") if step is None else step
    counted = f" for {amount(steps, 'step')}" if isinstance(steps, int) else ""
    version = run.part("fingerprints.json", "began", "versions").get("zoo", "")
    trained = f"{what} {kind}, trained from {names} with `{algo}`{source}{counted}, by post-training-zoo {version}"
    return f"{trained.strip()}." + (f" `{algo}`: {help_}" if help_ else "")


def _linked(base: Base) -> str:
    page = f"[{base.hub}](https://huggingface.co/{base.hub})"
    return page if base.hub == base.name else f"`{base.name}`" + (f" (from {page})" if base.hub else "")


def _address(paper: str) -> str:
    number = re.search(r"\d{4}\.\d{4,5}", paper)
    return f"https://arxiv.org/abs/{number[0]}" if number else ""


def _terms(bases: Sequence[Base]) -> dict[str, str]:
    """The licence where it is known of all bases, and the same; else {}."""
    terms = [dict(base.terms) for base in bases]
    return terms[0] if terms and all(one == terms[0] for one in terms) else {}


def _licence(bases: Sequence[Base]) -> str:
    terms = _terms(bases)
    if terms:
        link = f" ({terms['license_link']})" if "license_link" in terms else ""
        return f"**Licence of the base**: {terms.get('license_name', terms['license'])}{link}, as its card says."
    said = "; ".join(f"{base.name}: {base.terms['license']}" for base in bases if base.terms)
    why = f"the bases differ or have none ({said})" if said else "no card of it names one"
    return f"**Licence of the base**: unknown, {why}. Look it up before you pass this model on."


# -- what a run left ---------------------------------------------------------------------------------------------------


def _of_run(run: Run, step: int | None) -> Iterator[str]:
    if rows := [*_data_rows(run)]:
        yield "## Data"
        yield _table(("part", "source", "records", "fingerprint"), rows)
    if rows := [*_option_rows(run)]:
        yield "## Options"
        yield "Those that were given, with the learning rate, batch size and seed. All others are the defaults."
        yield _table(("option", "value"), rows)
    if step is None and (rows := [*_score_rows(run)]):
        yield "## Scores"
        yield "In brackets 95 % confidence intervals. `val/…` are means over the held-out data."
        yield _table(("score", "before", "after", "cases"), rows)


def _data_rows(run: Run) -> Iterator[Sequence[str]]:
    for part, facts in run.read_json("data.json").items():
        for name, of_part in {
            part: facts,
            **{f"{part}: {one}": of for one, of in facts.get("parts", {}).items()},
        }.items():
            yield (
                without_folders(name), without_folders(str(of_part.get("source", ""))),
                f"{of_part.get('encoded', {}).get('records', of_part.get('records', 0)):,}",
                f"`{of_part.get('fingerprint', '')}`",
            )  # fmt: skip


def _option_rows(run: Run) -> Iterator[Sequence[str]]:
    """What changes the result and was given, by hand or in a file."""
    origins, config = run.read_json("origins.json"), run.config
    changing = run.part("fingerprints.json", "began")
    for name, value in config.items():
        given = not is_default(str(origins.get(name, "default")).partition(": ")[0])
        if name not in PLACED and (name in ALWAYS or (given and name in changing)):
            yield name, f"`{without_folders(str(value))}`"


def _score_rows(run: Run) -> Iterator[Sequence[str]]:
    summary = run.summary
    before, after = (run.part("summary.json", "scores", when) for when in ("before", "after"))
    for name, score in after.items():
        yield name, _score(before.get(name)), _score(score), f"{score.get('n', 0):,}"
    old, new = (summary.get(when, {}) for when in ("before", "after"))
    for name in new:
        if name not in after and name in old:
            yield name, decimal(old[name]), decimal(new[name]), ""


def _score(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    low, high = score.get("low"), score.get("high")
    interval = f" [{decimal(low)}, {decimal(high)}]" if low is not None and high is not None and low != high else ""
    return f"{decimal(score['value'])}{interval}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
