"""The plugins of one run: the methods of the chosen algorithm as hooks, and the functions of all other plugins."""

from __future__ import annotations

from inspect import isroutine
from types import ModuleType
from typing import Any

import pluggy

from zoo.contract import hookspecs
from zoo.contract.algorithm import Algorithm
from zoo.contract.faults import describe_error
from zoo.contract.hook_arguments import HOOKS, check_arguments, place_of
from zoo.contract.hookspecs import ALGORITHM_HOOKS, LISTENER_HOOKS
from zoo.errors import PluginError, nearest


class PluginManager(pluggy.PluginManager):
    """pluggy's manager, with an `Algorithm`'s methods as hooks, some of which only the algorithm may implement."""

    def __init__(self) -> None:
        super().__init__("zoo")
        self.add_hookspecs(hookspecs)

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        if isinstance(plugin, Algorithm):
            return {} if name in (*ALGORITHM_HOOKS, *LISTENER_HOOKS) else None
        if isinstance(plugin, ModuleType) and not isroutine(vars(plugin).get(name)):
            # Most of a module are classes, numbers and other modules, which pluggy would look at more slowly.
            return None
        options = super().parse_hookimpl_opts(plugin, name)  # type: ignore[arg-type]
        if options and name in ALGORITHM_HOOKS and not options.get("wrapper"):
            raise PluginError(
                f"Plugin {_plugin_name(plugin)} implements the hook '{name}', which only the chosen algorithm may.",
                f"To change what '{name}' returns, wrap it: @hookimpl(wrapper=True).",
            )
        if options:
            _check(plugin, options.get("specname") or name, getattr(plugin, name))
        return options

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """Register a plugin. Raises PluginError for a hook or hook argument that does not exist."""
        try:
            registered = super().register(plugin, name)
            self.check_pending()
            return registered
        except pluggy.PluginValidationError as error:
            raise PluginError(f"Plugin {name or _plugin_name(plugin)} does not fit: {error}") from None


def _check(plugin: object, hook: str, function: Any) -> None:
    """Raise PluginError if a function marked as a hook is not one, or takes unknown arguments."""
    title = f"{function.__name__} of plugin {_plugin_name(plugin)}"
    if hook not in HOOKS:
        raise PluginError(
            f"{place_of(function)}: {title} is marked as a hook, but there is no hook '{hook}'.{nearest(hook, HOOKS)}",
            f"The hooks are: {', '.join(HOOKS)}.",
        )
    check_arguments(function, hook, title)


def _plugin_name(plugin: object) -> str:
    return str(getattr(plugin, "__name__", type(plugin).__name__))


def contributions(plugins: PluginManager, hook: str) -> dict[str, Any]:
    """The contributions of all plugins to one hook (`rewards`, …). Raises PluginError for a name used twice."""
    merged: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for implementation in getattr(plugins.hook, hook).get_hookimpls():
        for name, value in _given(implementation, hook).items():
            if name in merged:
                raise PluginError(
                    f"Both {owner[name]} and {implementation.plugin_name} register the {hook[:-1]} '{name}'.",
                    f"Uninstall one of them, or ask its authors to rename '{name}'.",
                )
            merged[name], owner[name] = value, implementation.plugin_name
    return merged


def _given(implementation: Any, hook: str) -> dict[str, Any]:
    try:
        returned = implementation.function()
    except Exception as error:
        raise PluginError(
            f"Plugin {implementation.plugin_name} fails in {hook}(): {describe_error(error)}.",
            "Repair or uninstall it.",
        ) from error
    if not isinstance(returned, dict):
        raise PluginError(
            f"Plugin {implementation.plugin_name} returns {type(returned).__name__} from {hook}(), not a dict by name."
        )
    return returned
