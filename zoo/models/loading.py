"""From a name to a model and its tokenizer: local folders, runs, hub names, GGUF files, adapters; and LoRA."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.libraries import adapters, hub, pretrained
from zoo.libraries.architecture import silence_dropout
from zoo.models.default import NAME, cache_folder, convert_gguf, default_model, is_unpacked
from zoo.registry import contributions, manager
from zoo.runs import Run

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
PICKLED_ENDINGS = (".bin", ".pt", ".pth", ".ckpt")
ACCEPTED = (
    "Give a folder with config.json and weights, a .gguf file, a run, a hub name owner/name, smollm2-135m, or what a "
    "plugin brings."
)


class NotFound(ZooError):
    """Nothing has the name that was given for a model."""


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
    path = Path(name).expanduser()
    if (brought := _from_plugin(name, path, say)) is not None:
        return brought
    if path.is_file() and path.suffix == ".gguf":
        folder = cache_folder() / "models" / f"{path.stem}-{path.stat().st_size}"
        if not is_unpacked(folder):
            say(f"Unpacking {path.name} (once; kept in {folder}).")
            convert_gguf(path.resolve(), folder)
        return Source(name, folder)
    if path.is_dir():
        if (path / "run.yaml").is_file():
            path = _finished_run(path)
        _check_folder(path)
        return Source(name, path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1 or _inside(path):
        raise NotFound(f"There is no model at {name}.", ACCEPTED)
    return _hub_source(name, say)


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
    """Whether the path leads into a folder that is there, so that it cannot be meant as owner/name."""
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
        found = hub.cached_folder(name, "config.json", "adapter_config.json")
        if found is None:
            raise NotFound(
                f"There is no local model called '{name}', and the hub is out of reach ({error}).", ACCEPTED
            ) from None
    _check_folder(found)
    say(f"The hub is out of reach: taking the copy of {name} in its cache.")
    return Source(name, found)


def _finished_run(run: Path) -> Path:
    if not (run / "model" / "config.json").is_file() and not (run / "model" / "adapter_config.json").is_file():
        if (found := Run(run)).status == "failed":
            raise ZooError(f"The run {run} has failed, so it has no model.", str(found.summary.get("reason", "")))
        raise ZooError(f"The run {run} has no model yet.", f"Finish it first: zoo resume {run}")
    return run / "model"


def _check_folder(path: Path) -> None:
    names = {file.name for file in path.iterdir()}
    if not names & {"config.json", "adapter_config.json"}:
        raise ZooError(
            f"{path} is not a model folder: it has no config.json.",
            "Give the folder that save_pretrained wrote, or a run.",
        )
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


def load_tokenizer(source: Source, trust_remote_code: bool = False) -> Any:
    """The tokenizer, with a padding token."""
    tokenizer = _pretrained("AutoTokenizer", source, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(source: Source, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """A model on the CPU with dropout off: a causal language model, or a reward model where the folder holds one.

    An adapter folder is loaded on its base, trainable.
    """
    from zoo.models.scorer import head_of, load_scorer

    if head_of(source) == "scalar":
        return load_scorer(source, dtype, trust_remote_code)
    if source.is_adapter:
        check_base(source)
        model = told(source, lambda: adapters.load_on_base(source.path, dtype=dtype, use_safetensors=True))
    else:
        model = _pretrained("AutoModelForCausalLM", source, dtype=dtype, trust_remote_code=trust_remote_code)
    silence_dropout(model)
    return model


def _pretrained(kind: str, source: Source, **options: Any) -> Any:
    return told(source, lambda: pretrained.load(kind, source.path, **options))


def told(source: Source, load: Callable[[], Any]) -> Any:
    """What `load` gives; what it raises becomes an error that a person can act on."""
    try:
        return load()
    except ZooError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if source.folder is None:
            raise ZooError(
                f"The model '{source.name}' is not a local folder and cannot be had from the hub: {first}",
                "Check the name, or give the path of a local model folder. Offline, only local folders, models in "
                "the hub's cache, and smollm2-135m work.",
            ) from error
        raise ZooError(f"The model in {source.folder} cannot be loaded: {first}") from error


def check_base(source: Source) -> None:
    """Raises ZooError when adapters name a folder as their base that is not there."""
    assert source.folder is not None
    settings = json.loads((source.folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = Path(str(settings.get("base_model_name_or_path") or ""))
    if base.is_absolute() and not base.is_dir():
        raise ZooError(
            f"The adapters in {source.folder} belong to the model in {base}, which is not there any more.",
            "Put it back, or write where it is now as base_model_name_or_path in adapter_config.json.",
        )


def add_lora(model: Any, rank: int, alpha: float, dropout: float, targets: list[str] | str) -> Any:
    """Wrap a model in trainable low-rank adapters; a model that has adapters keeps them."""
    if adapters.is_adapted(model):
        return model
    if isinstance(targets, list) and len(targets) == 1:
        targets = targets[0]
    if isinstance(targets, str) and targets != "all-linear" and re.fullmatch(r"\w+", targets):
        # peft takes a text for a pattern of whole paths; a lone word is the name of a layer, as in a list.
        targets = [targets]
    try:
        return adapters.wrap(model, rank=rank, alpha=alpha, dropout=dropout, targets=targets)
    except ValueError as error:
        linear = sorted({name.split(".")[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise ZooError(
            f"--lora-targets {targets} does not fit this model: {str(error).splitlines()[0]}",
            f"Its linear layers are called {', '.join(linear)}; all-linear takes all but the head.",
        ) from None
