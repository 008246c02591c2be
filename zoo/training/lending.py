"""What a Python program gives `train` and `resume` in the place of names: a class, a function, a model.

A class and a function are named for the time of the call. A model is written into zoo's cache, and its folder is named:
a run that began with it goes on without the program.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.contract import registry
from zoo.contract.algorithm import Algorithm
from zoo.contract.lent import PREFIX, is_here, is_lent, lending, missing
from zoo.errors import ZooError
from zoo.options.roles import model_options
from zoo.paths import cache_folder, content_hash
from zoo.training.resuming import REWARDS, mentions

TEXT = (str, os.PathLike, type(None))
DIGITS = 8
"""Of a model's hash, in the name of its folder."""


@contextlib.contextmanager
def named(options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The options with names in the place of objects, which have these names within the block. Raises ZooError."""
    names, objects = dict(options), dict[str, Any]()
    if not isinstance(algo := options.get("algo"), TEXT):
        names["algo"] = name_of(algo)
        objects[names["algo"]] = algo
    for option in REWARDS:
        if not isinstance(reward := options.get(option), TEXT):
            names[option] = f"{PREFIX}{option}"
            objects[names[option]] = _checked(option, reward)
    for option in model_options():
        if not isinstance(model := options.get(option), TEXT):
            names[option] = str(keep_model(option, model))
    with lending(objects):
        yield names


def name_of(algo: Any) -> str:
    """The name of an algorithm's class: the registered one, or `python:Mine`."""
    if isinstance(algo, Algorithm):
        algo = type(algo)
        raise ZooError(f"algo is an object of the class {algo.__name__}.", f"Give the class: algo={algo.__name__}")
    if not isinstance(algo, type) or not issubclass(algo, Algorithm):
        what = f"the class {algo.__name__}" if isinstance(algo, type) else f"a {type(algo).__name__}"
        raise ZooError(
            f"algo is {what}, and not an algorithm.",
            'Give a name, which `zoo algos` lists, "./file.py:Class", or a subclass of zoo.api.Algorithm.',
        )
    target = f"{algo.__module__}:{algo.__qualname__}"
    registered = (entry.full_name for entry in registry.algorithms() if entry.target == target)
    return next(registered, PREFIX + algo.__name__)


def _checked(option: str, reward: Any) -> Any:
    if not callable(reward):
        raise ZooError(
            f"{option} is a {type(reward).__name__}, and neither a text nor a function.",
            f'Write {option}="0.8*instructions + 0.2*length", or give a function of answers and their records: '
            f"{option}=lambda completions, records: [float(len(text)) for text in completions]",
        )
    return reward


def keep_model(option: str, given: Any) -> Path:
    """The folder of a model that a program gives: it is written into zoo's cache, once for each content.

    given: a model, or a pair of model and tokenizer. Raises ZooError.
    """
    pair = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    model, tokenizer = pair
    if not (hasattr(model, "save_pretrained") and hasattr(model, "config")):
        raise ZooError(
            f"{option} is a {type(model).__name__}, and not a model of transformers.",
            f'Give a name or folder ({option}="smollm2-135m"), or a model with its tokenizer: '
            f"{option}=(model, tokenizer).",
        )
    if tokenizer is None:
        tokenizer = _own_tokenizer(option, model)
    if not hasattr(tokenizer, "save_pretrained"):
        raise ZooError(
            f"The second of {option} is a {type(tokenizer).__name__}, and not a tokenizer of transformers.",
            f"Give {option}=(model, tokenizer).",
        )
    kept = cache_folder() / "models"
    kept.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".tmp-", dir=kept))
    try:
        beside.chmod(0o755)
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        digest = content_hash(sorted(file for file in beside.rglob("*") if file.is_file()))
        called = Path(str(getattr(model.config, "_name_or_path", "") or type(model).__name__)).name.lower()
        folder = kept / f"{called}-{digest[:DIGITS]}"
        if not folder.is_dir():
            os.rename(beside, folder)
    except OSError as error:
        raise ZooError(f"{option} cannot be written to {kept}: {error}.", "Free some space and try again.") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _own_tokenizer(option: str, model: Any) -> Any:
    """The tokenizer of the place that a model was loaded from."""
    from zoo.models.loading import load_tokenizer
    from zoo.models.start import resolve_start

    place = str(getattr(model.config, "_name_or_path", ""))
    hint = f"Give both: {option}=(model, tokenizer)."
    if not place:
        raise ZooError(f"{option} is a {type(model).__name__} without its tokenizer.", hint)
    try:
        return load_tokenizer(resolve_start(place, "runs", lambda text: None))
    except ZooError as error:
        raise ZooError(f"The tokenizer of {option} is not found: {error.message}", hint) from None


# -- a run that goes on ----------------------------------------------------------------------------------------------


def names_in(config: Mapping[str, Any]) -> dict[str, str]:
    """The names of objects in the options of a run, by option."""
    found = {"algo": str(config.get("algo") or "")}
    found |= {option: mention.name for option in REWARDS for mention in mentions(config.get(option))}
    return {option: name for option, name in found.items() if is_lent(name)}


@contextlib.contextmanager
def again(config: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[None]:
    """The objects of a run that goes on. Raises ZooError for one that it did not have."""
    needed = names_in(config)
    given = {option: value for option, value in given.items() if value is not None}
    with named(given) as names:
        for option, name in names.items():
            if needed.get(option) != name:
                had = config.get(option)
                raise ZooError(f"{option} of the run is {had}, and not {name}.", f"Leave out {option}.")
        yield


def refuse_missing(config: Mapping[str, Any], run: str) -> None:
    """Raises ZooError where the options of a run name an object that the program does not give."""
    for name in names_in(config).values():
        if not is_here(name):
            raise missing(name, run)
