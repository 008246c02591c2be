"""What the result of a run depends on, in short texts: each option, and the content of what it names.

A fingerprint is `{name: {part: text}}`. The name is that of an option, or `tokenizer`, `versions` or `device`; the part
`value` is the option's own value, another part stands for a file, a model or a data set. A model has a text for each of
its files: `{file: text}`. Contents are hashed in whole,
never guessed from sizes and times: weights that were exchanged under their path are seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import platform
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo
from zoo.cards.kept import sources_behind
from zoo.contract import registry
from zoo.contract.lent import digest_of, is_lent, lent
from zoo.contract.plugin_files import is_file_name
from zoo.contract.source_text import place_of
from zoo.data.report import each_part
from zoo.errors import ZooError
from zoo.judges.spelled import SELF, is_endpoint
from zoo.libraries import hub
from zoo.models.names import Source, look_for, read_config
from zoo.options.config import FREE, Resolved, TrainConfig
from zoo.options.roles import POLICY, of_domain
from zoo.options.spelling import name_in
from zoo.paths import content_hash, typed_path
from zoo.rewards.judge_options import JUDGED
from zoo.rewards.plugin import bundled
from zoo.runs import Run, environment
from zoo.training.resuming import FILE, REWARDS, UNKNOWN, WEIGHTS, mentions

if TYPE_CHECKING:
    import torch

Prints = dict[str, dict[str, Any]]
VALUE = "value"
DIGITS = 16
MODEL_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
)  # fmt: skip
"""The files of a model folder that count."""


# -- options and code ----------------------------------------------------------------------------------------------


def of_choices(resolved: Resolved) -> Prints:
    """Options, code and versions: what is known before anything is loaded."""
    return merged(of_options(resolved), of_code(resolved.as_dict()), of_versions())


def merged(*several: Prints) -> Prints:
    """The parts of each name, from all of them."""
    prints: Prints = {}
    for these in several:
        for name, parts in these.items():
            prints[name] = {**prints.get(name, {}), **parts}
    return prints


def of_options(resolved: Resolved) -> Prints:
    """Every option that may matter, and the files that options name."""
    options = {name: value for name, value in resolved.as_dict().items() if name not in FREE}
    prints: Prints = {name: {VALUE: value} for name, value in options.items()}
    ours = vars(TrainConfig())
    for name, value in options.items():
        if name == "template" or name not in ours:
            prints[name] |= _file_named(value)
        for mention in mentions(value) if name in REWARDS else ():
            for _, of_reward in mention.options:
                prints[name] |= _file_named(of_reward)
    return json.loads(json.dumps(prints, default=str))


def _file_named(value: Any) -> dict[str, str]:
    """The content of the file or folder that an option names: a chat template, principles, more data."""
    if not isinstance(value, str) or len(value) > 1000 or "\n" in value or is_file_name(value):
        return {}
    try:
        place = typed_path(value)
    except ZooError:
        # A text, such as a template that was typed in whole.
        return {}
    return {place.name: _hashed([place])} if place.is_file() else {}


def of_code(options: Mapping[str, Any], installed: bool = True) -> Prints:
    """The source of the algorithm, the rewards and the environment, and of what they import. Imports none of it.

    installed: the code of installed packages too, or only that in files and modules which the options name.
    """
    prints: Prints = {}
    algo = str(options.get("algo"))
    if is_lent(algo):
        prints["algo"] = {"code": digest_of(lent(algo))}
    elif is_file_name(algo):
        prints["algo"] = _sources(algo.partition(":")[0])
    elif installed:
        # The conformance suite trains classes that no package registers.
        with contextlib.suppress(ZooError):
            prints["algo"] = _sources(registry.find(algo).target.partition(":")[0])
    named = {**bundled(), **registry.contributions(registry.manager(), "rewards")} if installed else {}
    for option in REWARDS:
        for mention in mentions(options.get(option)):
            if is_lent(mention.name):
                prints.setdefault(option, {})["code"] = digest_of(lent(mention.name))
            elif ":" in mention.name:
                prints.setdefault(option, {}).update(_sources(place_of(mention.name.rpartition(":")[0])))
            elif mention.name in named:
                module = str(getattr(inspect.unwrap(named[mention.name]), "__module__", ""))
                # What comes with zoo changes with its version.
                prints.setdefault(option, {}).update({} if module.startswith("zoo.") else _sources(module))
    if name := name_in(str(options.get("environment") or "")):
        prints["environment"] = _of_environment(name, installed)
    return prints


def _of_environment(name: str, installed: bool) -> dict[str, str]:
    if ":" in name:
        return _sources(place_of(name.rpartition(":")[0]))
    found = registry.contributions(registry.manager(), "environments").get(name) if installed else None
    module = str(getattr(found, "__module__", ""))
    return {} if module.startswith("zoo.") or not module else _sources(module)


def _sources(place: str) -> dict[str, str]:
    """The hash of each file of a module, or of a file."""
    try:
        return {f"{file.parent.name}/{file.name}": _hashed([file]) for file in sources_behind(place)}
    except (ImportError, ValueError, OSError, SyntaxError):
        return {}


# -- models and data -----------------------------------------------------------------------------------------------


class Contents:
    """The content of models; each folder is hashed once."""

    def __init__(self, out: str):
        self.out, self._known = out, dict[Path, dict[str, str]]()

    def of_models(self, resolved: Resolved, roles: Iterable[str]) -> Prints:
        """The files of every role that is named, and of reward models."""
        prints: Prints = {}
        for role, facts in resolved.roles.items():
            for domain, name in resolved.models(role).items() if role in (POLICY, *roles) else ():
                if name is not None and name != SELF and not is_endpoint(name):
                    prints.setdefault(facts.option, {})[of_domain(WEIGHTS, domain)] = self.of_model(name)
        for option in REWARDS:
            for mention in mentions(getattr(resolved.core, option)):
                name = str(dict(mention.options).get("model", "")) if mention.name in JUDGED else mention.name
                if name and ":" not in name and name not in bundled() and not is_endpoint(name):
                    prints.setdefault(option, {})[name] = self.of_model(name)
        return prints

    def of_model(self, name: str) -> dict[str, str] | str:
        """The content of each file of a model and of its base; UNKNOWN while it is not on this machine."""
        try:
            # What a plugin makes, such as a world's base, has no folder yet, and is none of the hub's.
            found = self._of_source(look_for(name, self.out).source)
        except ZooError:
            return UNKNOWN
        file = typed_path(name)
        is_packed = file.suffix == ".gguf" and file.is_file()
        return found | {file.name: _hashed([file])} if is_packed and isinstance(found, dict) else found

    def _of_source(self, source: Source) -> dict[str, str] | str:
        folder = source.folder or hub.cached_folder(source.name, "config.json", "adapter_config.json")
        if folder is None:
            return UNKNOWN
        if folder not in self._known:
            files = sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)})
            parts = {file.name: _hashed([file]) for file in files}
            if revision := Source(source.name, folder).as_base[1]:
                parts["revision"] = revision
            self._known[folder] = parts | self._of_base(folder)
        return self._known[folder]

    def _of_base(self, folder: Path) -> dict[str, str]:
        adapter = folder / "adapter_config.json"
        if not adapter.is_file():
            return {}
        base = str(read_config(adapter).get("base_model_name_or_path") or "")
        found = self._of_source(Source(base, Path(base) if Path(base).is_dir() else None))
        parts = found if isinstance(found, dict) else {"model": found}
        return {f"base {part}": text for part, text in parts.items()}


def of_data(facts: Mapping[str, Any]) -> Prints:
    """facts: as in data.json. Of a stream each file is compared for itself."""
    prints: dict[str, Any] = {}
    for part, of_it in each_part(facts).items():
        files = {f"{part} {name}": print for name, print in of_it.get("files", {}).items()}
        prints |= files or {part: of_it["fingerprint"]}
    return {"data": prints}


def of_template(template: Any) -> Prints:
    """The chat template's text, and the day that it writes into every text, if it writes one."""
    renderer = template.renderer
    text = "" if renderer is None else str(template.source)
    day = {"day": renderer.day.isoformat()} if renderer is not None and renderer.writes_day else {}
    return {"template": {"text": _short(text), **day}}


def day_of(run: Run) -> date | None:
    """The day that the chat template of a run writes."""
    day = run.read_json(FILE).get("began", {}).get("template", {}).get("day")
    return date.fromisoformat(day) if day else None


def of_tokenizer(tokenizer: Any) -> Prints:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    return {"tokenizer": {"vocabulary": _short(words), "special tokens": _short(json.dumps(special, sort_keys=True))}}


# -- the machine ---------------------------------------------------------------------------------------------------


def of_versions() -> Prints:
    """Of zoo, Python, the libraries, and the packages of plugins."""
    own = {"zoo": zoo.__version__, "python": platform.python_version()}
    return {"versions": {**own, **environment()["packages"], **registry.packages()}}


def of_device(device: torch.device) -> Prints:
    """What computes, and on a CPU how many threads, whose sums are rounded otherwise."""
    import torch

    if device.type == "cuda":
        return {"device": {"name": torch.cuda.get_device_name(device)}}
    return {"device": {"name": f"{device.type}, {_processor()}", "threads": torch.get_num_threads()}}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _hashed(files: Iterable[Path]) -> str:
    return content_hash(files)[:DIGITS]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:DIGITS]
