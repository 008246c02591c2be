"""Finds the plugin that caused an exception, and the line in it.

A bug in a plugin's `loss` first appears as a traceback through Lightning, pluggy and the core. Its author needs the
last line of their own file in it.
"""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FrameType

from zoo.contract.hook_arguments import shown
from zoo.errors import PluginError, ZooError
from zoo.secrets import scrubbed

GROUPS = ("zoo.algorithms", "zoo.plugins")
FILE_PREFIX = "zoo_file_"
"""The beginning of the module name for a plugin's file that belongs to no package."""


@dataclass(frozen=True)
class Fault:
    """An exception, the last line of a plugin in its traceback, and the plugin's package."""

    error: BaseException
    file: str
    line: int
    function: str
    module: str

    def text(self) -> str:
        """A few lines: the place, the error, the source line, and where it was raised if that is elsewhere."""
        owner = package_of(self.module)
        where = f"{shown(self.file)}, line {self.line}, in {self.function}"
        lines = [f"{where}{f' ({owner})' if owner else ''}: {describe(self.error)}"]
        if code := linecache.getline(self.file, self.line).strip():
            lines.append(f"    {code}")
        last = traceback.extract_tb(self.error.__traceback__)[-1]
        if last.filename != self.file:
            lines.append(f"It was raised in {last.filename}, line {last.lineno}.")
        return "\n".join(lines)


def fault_of_plugin(error: BaseException) -> Fault | None:
    """The fault of the plugin in an exception's traceback, None if there is none."""
    tops = _plugin_packages()

    def owned(frame: FrameType) -> bool:
        name = str(frame.f_globals.get("__name__", ""))
        return name.startswith(FILE_PREFIX) or _top(name) in tops or _lies_here(frame, name)

    return _last(error, owned)


def placed(error: ZooError) -> ZooError:
    """An error with the line of the plugin that it was raised under, if it is the plugin's fault and names no place."""
    fault = fault_of_plugin(error) if isinstance(error, PluginError) and error.__cause__ is None else None
    if fault is None:
        return error
    owner = package_of(fault.module)
    where = f"{shown(fault.file)}, line {fault.line}, in {fault.function}{f' ({owner})' if owner else ''}"
    return error if shown(fault.file) in error.message else PluginError(f"{where}: {error.message}", error.hint)


def _lies_here(frame: FrameType, name: str) -> bool:
    """Whether a module is in the working folder itself, such as the module of a reward given by its dotted name."""
    return Path(frame.f_code.co_filename).parent == Path.cwd() and _top(name) not in ("zoo", "__main__")


def describe_error(error: BaseException) -> str:
    """What went wrong while a plugin was imported or created, and in which line; a ZooError as its own message."""
    if isinstance(error, ZooError):
        return str(error)
    fault = fault_of_plugin(error) or _last(error, lambda frame: not _is_machinery(frame))
    place = f" ({shown(fault.file)}, line {fault.line})" if fault else ""
    return describe(error) + place


def describe(error: BaseException) -> str:
    """`ValueError: message`, without secrets."""
    return scrubbed(f"{type(error).__name__}: {error}")


def package_of(module: str) -> str:
    """`package 1.0`, the installed package that a plugin's module belongs to; empty for a single file."""
    for point in _entry_points():
        if _top(point.value) == _top(module) and point.dist:
            return f"{point.dist.name} {point.dist.version}"
    return ""


def _last(error: BaseException, owned: Callable[[FrameType], bool]) -> Fault | None:
    fault = None
    step = error.__traceback__
    while step is not None:
        frame = step.tb_frame
        if owned(frame):
            name = str(frame.f_globals.get("__name__", ""))
            file, function = frame.f_code.co_filename, frame.f_code.co_name
            if function in _NAMELESS and fault is not None and fault.file == file:
                function = fault.function
            fault = Fault(error, file, step.tb_lineno, function, name)
        step = step.tb_next
    return fault


_NAMELESS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>", "<lambda>")


def _is_machinery(frame: FrameType) -> bool:
    """Whether a frame belongs to Python's import system or the core, which occur in every traceback."""
    name = str(frame.f_globals.get("__name__", ""))
    return _top(name) in ("importlib", "zoo") or frame.f_code.co_filename.startswith("<frozen ")


def _plugin_packages() -> set[str]:
    """The top-level modules in which plugins are registered, without the core's own."""
    return {_top(point.value) for point in _entry_points()} - {"zoo"}


def _entry_points() -> list[EntryPoint]:
    return [point for group in GROUPS for point in entry_points(group=group)]


def _top(target: str) -> str:
    """`a` of `a.b:C`."""
    return target.split(":")[0].split(".")[0]
