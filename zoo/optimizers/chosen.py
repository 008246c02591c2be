"""From the texts of `--optimizer` and `--schedule` to functions with their options: `muon(momentum=0.95)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.contract.plugin_files import is_file_name
from zoo.errors import PluginError, ZooError, nearest
from zoo.optimizers import bundled, schedules
from zoo.options.spelling import bound, name_in, parse

Function = Callable[..., Any]


@dataclass(frozen=True)
class Chosen:
    """What an option names. options: its own, in their types, as given."""

    name: str
    function: Function
    options: dict[str, Any]

    def __call__(self, *given: Any) -> Any:
        return self.function(*given, **self.options)


@dataclass(frozen=True)
class Kind:
    """Something that `--optimizer` or `--schedule` chooses from. fixed: parameters of a function before its options."""

    what: str
    example: str
    bundled: Mapping[str, Function]
    fixed: int

    def available(self, contributed: Mapping[str, Function]) -> dict[str, Function]:
        """All by name, the bundled ones first. Raises PluginError for a plugin's that has a bundled one's name."""
        if taken := sorted(set(contributed) & set(self.bundled)):
            place = getattr(contributed[taken[0]], "__module__", "A plugin")
            raise PluginError(
                f"{place} registers the {self.what} '{taken[0]}', which zoo has itself.", f"Rename it in {place}."
            )
        return {**self.bundled, **contributed}

    def choose(self, text: str, functions: Mapping[str, Function]) -> Chosen:
        """The one that a text names. Raises ZooError for an unknown name, and an unknown, wrong or missing option."""
        if is_file_name(name_in(text)):
            raise ZooError(
                f"'{text}' is a file, and --{self.what} takes the name of {self.article}.",
                f"Register its function with the hook `{self.what}s` of a plugin (docs/optimizers.md).",
            )
        name, given = parse(text, self.what, self.example)
        if name not in functions:
            raise ZooError(
                f"No {self.what} is called '{name}'.{nearest(name, functions)}",
                f"There are: {', '.join(functions)}. `zoo {self.what}s` describes each.",
            )
        return self.bound(name, functions[name], given)

    @property
    def article(self) -> str:
        return f"{'an' if self.what[0] in 'aeiou' else 'a'} {self.what}"

    def bound(self, name: str, function: Function, given: Mapping[str, str]) -> Chosen:
        """A function with its options. Raises ZooError for an unknown, wrong or missing one."""
        return Chosen(name, function, bound(self.what, name, function, given, self.fixed))

    def options_of(self, function: Function) -> list[inspect.Parameter]:
        """The options of a function: its parameters after the fixed ones."""
        return list(inspect.signature(function).parameters.values())[self.fixed :]


OPTIMIZERS = Kind("optimizer", "adamw(beta2=0.95)", bundled.BUNDLED, 1)
SCHEDULES = Kind("schedule", "wsd(decay_share=0.2)", schedules.BUNDLED, 3)


def decay_share(schedule: str) -> float:
    """The share of the steps that the decay phase of a wsd schedule has. schedule: its text."""
    chosen = SCHEDULES.choose(schedule, schedules.BUNDLED)
    (share,) = SCHEDULES.options_of(chosen.function)
    return chosen.options.get(share.name, share.default)
