"""From the text of `--guards` to guards with their options: `loss_spike(action=rollback, k=6), entropy(action=off)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.contract.plugin_files import is_file_name
from zoo.errors import PluginError, ZooError, nearest
from zoo.guards import ACTIONS, Action, Guard, GuardSetup
from zoo.guards.bundled import BUNDLED
from zoo.options.spelling import bind, bound, name_in, parse

PATIENCE = 3
"""Steps in a row that a guard may skip before it stops the run, if --guards does not say it."""
EXAMPLE = "loss_spike(action=rollback, window=50, k=8)"
RUNS = {
    "offline": "runs that learn from data",
    "online": "runs that learn from their policy's own answers",
    "rewarded": "runs that learn from a reward",
}
Factory = Callable[..., Guard]


@dataclass(frozen=True)
class Chosen:
    """A guard of a run, with its action."""

    name: str
    guard: Guard
    action: Action
    patience: int


def available(contributed: Mapping[str, Factory]) -> dict[str, Factory]:
    """All guards by name, the bundled ones first. Raises PluginError for a plugin's guard with a bundled name."""
    if taken := sorted(set(contributed) & set(BUNDLED)):
        place = getattr(contributed[taken[0]], "__module__", "A plugin")
        raise PluginError(f"{place} registers the guard '{taken[0]}', which zoo has itself.", f"Rename it in {place}.")
    return {**BUNDLED, **contributed}


@dataclass(frozen=True)
class Asked:
    """A guard that a run gets, before it is made. options: its own, in their types."""

    name: str
    factory: Factory
    options: dict[str, Any]
    action: Action
    patience: int

    def made(self, setup: GuardSetup) -> Chosen:
        """Raises ZooError for options that the guard refuses, PluginError where it is no guard."""
        try:
            guard = self.factory(setup, **self.options)
        except ValueError as error:
            hint = f"`zoo guards {self.name}` shows its options."
            raise ZooError(f"The guard '{self.name}' cannot be used: {error}.", hint) from None
        if not isinstance(guard, Guard):
            raise PluginError(f"The guard '{self.name}' is {type(guard).__name__}, no zoo.api.Guard.", "Subclass it.")
        return Chosen(self.name, guard, self.action, self.patience)


def ask(texts: Iterable[str], factories: Mapping[str, Factory], setup: GuardSetup) -> list[Asked]:
    """The guards of a run: those that are on by default, changed and added to as the texts say.

    Raises ZooError for an unknown guard, option or action, a guard named twice, and one that cannot watch such a run.
    """
    named: dict[str, dict[str, str]] = {}
    for text in texts:
        if is_file_name(name_in(text)):
            raise ZooError(
                f"'{text}' is a file, and --guards takes the names of guards.",
                "Register its class with the hook `guards` of a plugin (docs/guards.md); `zoo check` takes files.",
            )
        name, options = parse(text, "guard", EXAMPLE)
        if name not in factories:
            raise ZooError(
                f"No guard is called '{name}'.{nearest(name, factories)}",
                f"There are: {', '.join(factories)}. `zoo guards` describes each.",
            )
        if name in named:
            raise ZooError(f"The guard '{name}' is named twice in --guards.", "Name it once, with all of its options.")
        named[name] = options
    found = [_asked(name, factory, named.get(name), setup) for name, factory in factories.items()]
    return [asked for asked in found if asked is not None]


def _asked(name: str, factory: Factory, given: Mapping[str, str] | None, setup: GuardSetup) -> Asked | None:
    """A guard with its options; None if it is off. given: its options in --guards, None if it is not named there."""
    common, own = _common(name, given or {}), {k: v for k, v in (given or {}).items() if k not in COMMON}
    action = common.get("action", _default_action(factory, named=given is not None))
    if action == "off":
        bind(factory, own, f"guard '{name}'")
        return None
    if not fits(factory, setup):
        if given is None:
            return None
        raise ZooError(f"The guard '{name}' is for {RUNS[runs_of(factory)]}, and this is none.", "Leave it out.")
    return Asked(name, factory, bound("guard", name, factory, own), action, common.get("patience", PATIENCE))


def fits(factory: Factory, setup: GuardSetup) -> bool:
    """Whether a guard can watch such a run."""
    runs = runs_of(factory)
    return {"all": True, "offline": not setup.online, "online": setup.online, "rewarded": setup.rewarded}[runs]


def runs_of(factory: Factory) -> str:
    return str(getattr(factory, "runs", "all"))


def _default_action(factory: Factory, named: bool) -> Any:
    """The action of a guard for which --guards gives none: its own; a guard that is off by default warns."""
    action = getattr(factory, "action", "off")
    return "warn" if named and action == "off" else action


def options_of(factory: Factory) -> list[inspect.Parameter]:
    """The options of a guard: the parameters of its factory after the setup."""
    return list(inspect.signature(factory).parameters.values())[1:]


# -- what every guard takes --------------------------------------------------------------------------------------


def _action(text: str) -> str:
    if text not in ("off", *ACTIONS):
        raise ValueError(f"it is off, {', '.join(ACTIONS[:-1])} or {ACTIONS[-1]}.{nearest(text, ACTIONS)}")
    return text


def _patience(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise ValueError("it is a number of steps, 1 or more.")
    return int(text)


COMMON: dict[str, Callable[[str], Any]] = {"action": _action, "patience": _patience}
"""The options of every guard, and what reads them."""


def _common(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for key, read in COMMON.items():
        if key in options:
            try:
                values[key] = read(options[key])
            except ValueError as error:
                raise ZooError(f"The guard '{name}', option {key} = {options[key]}: {error}") from None
    return values
