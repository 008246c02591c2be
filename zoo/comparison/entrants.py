"""The entrants of a comparison, and their options.

Values come from the defaults, the file's common options, the file's options for one entrant, the command line, and
`--set`; later sources have priority. Options that the comparison decides itself cannot be set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.contract import registry
from zoo.data.sources import file_type
from zoo.data.sources.mixture import data_defaults
from zoo.environments.named import data_of
from zoo.errors import ZooError, nearest
from zoo.models.facts import weights_of
from zoo.options.checks import check_values, names_in
from zoo.options.config import Resolved, TrainConfig, resolve
from zoo.options.fields import options_of
from zoo.options.spelling import seeds as seeds_in
from zoo.options.strict_yaml import read_yaml

PROCESSES = ("devices", "num_nodes", "strategy", "tensor_parallel")
"""Options of the core that ask for several processes."""
DECIDED = ("seed", "name", "out", "patience", *PROCESSES)
"""Options of the core that the comparison sets itself."""
TUNING = "tuning"
"""The folder of the runs among which settings are chosen, in that of the comparison."""
TUNING_SEEDS = (1000,)
START = "start"
"""The name of the common start, in tables and as a folder."""
LONGEST_NAME = 60
"""Most characters of a data set's or a model's name in the name of a folder."""
COMMON = (
    "model",
    "template",
    "template_args",
    "new_tokens",
    "eval_data",
    "eval_fraction",
    "score",
    "trust_remote_code",
)
"""Options that must be equal for all entrants, so that the measures are comparable."""


@dataclass(frozen=True)
class Entrant:
    """One row of the table: an algorithm under a label."""

    label: str
    algo: str
    cls: Any


@dataclass
class Settings:
    """The settings of the user, without defaults."""

    entrants: list[Entrant]
    seeds: list[int]
    file: str = "file"
    common: dict[str, Any] = field(default_factory=dict)
    """Common options of the file."""
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The file's options for each entrant."""
    given: dict[str, Any] = field(default_factory=dict)
    """Common options of the command line."""
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """`--set` by entrant."""

    def resolve(self, entrant: Entrant, **decided: Any) -> Resolved:
        """The complete configuration of one entrant. Raises ZooError for unknown options and bad values."""
        layers = [
            (self.file, self.common), (self.file, self.own.get(entrant.label, {})),
            ("command line", self.given), ("--set", self.sets.get(entrant.label, {})), ("zoo compare", decided),
        ]  # fmt: skip
        resolved = resolve(entrant.algo, entrant.cls, layers, data_defaults, weights_of, data_of)
        resolved.origin["algo"] = "command line"
        check_values(resolved.core, resolved.origin)
        if resolved.core.stream:
            raise ZooError("A comparison counts the tokens of all records before it trains.", "Leave out --stream.")
        return resolved


def read_settings(
    algos: str | None, seeds: str | None, config: str | None, sets: Sequence[str], given: Mapping[str, Any]
) -> Settings:
    """The settings from the command line and the file. Raises ZooError.

    algos: `first,label=second`; seeds: as `zoo.options.spelling.seeds` reads them; config: a YAML file of common
    options, `algos`, `seeds`, and a mapping of options under an entrant's label; sets: `label.option=value`; given:
    common options.
    """
    file = read_yaml(config) if config else {}
    named = algos if algos is not None else file.pop("algos", None)
    file.pop("algos", None)
    written = file.pop("seeds", 1)
    asked = seeds if seeds is not None else written
    # A list in YAML is a list of seeds, even if it has only one.
    chosen = seeds_in("".join(f"{seed}," for seed in asked) if isinstance(asked, list) else asked)
    entrants = _entrants(names_in(named or []))
    settings = Settings(entrants, chosen, str(config), given={k: v for k, v in given.items() if v is not None})
    _read_file(file, settings)
    for text in sets:
        label, option, value = split_option(text, "--set", settings)
        own = settings.sets.setdefault(label, {})
        if option in own:
            raise ZooError(f"--set gives {label}.{option} twice: {own[option]} and {value}.", "Leave one of them out.")
        own[option] = value
    return settings


def _entrants(names: list[str]) -> list[Entrant]:
    entrants: dict[str, Entrant] = {}
    for name in names:
        match = re.fullmatch(r"(\w[\w.+-]*)=(.+)", name)
        label, algo = (match[1], match[2]) if match else (None, name)
        short, cls = registry.load_algorithm(algo)
        label = label or short
        if label in entrants:
            raise ZooError(
                f"'{label}' is twice in --algos.",
                f"Give each a name of its own: --algos {label}={algo},other={algo}",
            )
        if label in {START, *(option.name for option in options_of(TrainConfig))}:
            raise ZooError(f"'{label}' has another meaning here.", f"Give it another name: --algos my-{label}={algo}")
        if cls.head == "scalar":
            raise ZooError(
                f"{label} trains a reward model, which writes no answers: it cannot be compared with language models.",
                "Leave it out of --algos; `zoo compare RUN RUN` compares runs of reward models with each other.",
            )
        entrants[label] = Entrant(label, algo if ".py" in algo else short, cls)
    if not entrants:
        raise ZooError("There is nothing to compare.", "Name algorithms with --algos, or give two runs.")
    return list(entrants.values())


def _read_file(file: dict[str, Any], settings: Settings) -> None:
    labels = [entrant.label for entrant in settings.entrants]
    for key, value in file.items():
        if isinstance(value, dict):
            if key not in labels:
                raise ZooError(
                    f"{settings.file} has options for '{key}', which is not compared.{nearest(key, labels)}",
                    f"Compared are: {', '.join(labels)}.",
                )
            for option in value:
                _check_option(option, f"{settings.file}, {key}", own=True)
            settings.own[key] = value
        else:
            _check_option(key, settings.file, own=False, labels=labels)
            settings.common[key] = value


def split_option(text: str, flag: str, settings: Settings) -> tuple[str, str, str]:
    """`label.option=value` as its parts. Raises ZooError for another label, and options that are common to all."""
    name, equals, value = text.partition("=")
    labels = [entrant.label for entrant in settings.entrants]
    # The longest label first: a label may have a dot.
    label = next(
        (candidate for candidate in sorted(labels, key=len, reverse=True) if name.startswith(f"{candidate}.")), None
    )
    if label is None or not equals:
        wrong = name.partition(".")[0]
        guess = nearest(wrong, labels) if "." in name else ""
        raise ZooError(
            f"{flag} {text} names none of the compared algorithms.{guess}",
            f"Write {flag} {labels[0]}.option=value; an option for all of them is given as an ordinary flag.",
        )
    option = name[len(label) + 1 :].replace("-", "_")
    _check_option(option, f"{flag} {text}", own=True)
    return label, option, value


def _check_option(name: str, where: str, own: bool, labels: Sequence[str] = ()) -> None:
    """Refuse options that the comparison decides, and options that must be equal for all entrants."""
    if name in PROCESSES:
        refuse_processes(name, where)
    if name in DECIDED:
        raise ZooError(f"'{name}' ({where}) is set by the comparison.", "Leave it out; --seeds and --out are its own.")
    if own and name in COMMON:
        raise ZooError(f"'{name}' ({where}) must be the same for all.", f"Give it once: --{name.replace('_', '-')}")
    if own:
        return
    options = [option.name for option in options_of(TrainConfig)]
    if name not in options:
        raise ZooError(
            f"Unknown option '{name}' in {where}.{nearest(name, [*options, *labels, 'algos', 'seeds'])}",
            "Write the options of one algorithm under its name, as in `name: {option: value}`.",
        )


def refuse_processes(name: str, where: str) -> None:
    """Raises ZooError for an option that asks for several processes."""
    raise ZooError(
        f"'{name}' ({where}): a comparison trains its runs and measures them in one process, in which the next run "
        "begins when the one before it is measured.",
        "--workers N makes N runs at the same time. For models that need several processes, make each run with "
        "`zoo train --devices 4`, and compare what they made: zoo compare RUN RUN",
    )


def default_folder(settings: Settings, core: TrainConfig) -> str:
    """The folder of a comparison without --out: the same folder for the same data and model."""
    file = Path(core.data)
    data, model = _short(file.stem if file_type(file) else file.name), _short(Path(core.model).name).lower()
    return str(Path("comparisons") / (data if data.startswith(model) else f"{data}-{model}"))


def _short(name: str) -> str:
    """`world:gold(rows=400, noise=0.25)` is `world-gold-rows-400-noise-0.25`."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.")[:LONGEST_NAME] or "data"
