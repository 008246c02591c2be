"""What plugins build on is written down in contract.txt: a change of it is never an accident.

After a change that is meant: a line under "Plugin API" in CHANGELOG.md, then `python tests/test_contract_snapshot.py`.
"""

import dataclasses
import difflib
import inspect
import re
import typing
from pathlib import Path

import pytest

STORED = Path(__file__).parent / "contract.txt"
WHAT_TO_DO = (
    "The plugin API is not what tests/contract.txt says. If a working plugin would have to change, raise "
    "API_VERSION. In any case say it under 'Plugin API' in CHANGELOG.md and in docs/contract.md, then type: "
    "python tests/test_contract_snapshot.py"
)


def signature(function):
    """Names, kinds, types and defaults of the parameters, and what is returned; other packages' are their own."""
    if not str(getattr(function, "__module__", "")).startswith("zoo."):
        return f" of {type(function).__module__.split('.')[0].replace('builtins', 'torch')}"
    text = str(inspect.signature(function)).replace("self, ", "").replace("(self)", "()")
    return re.sub(r"(: |-> )'([^']+)'", r"\1\2", text)


def members(cls):
    """A line for each public attribute that a class and its bases in zoo define, by name."""
    if dataclasses.is_dataclass(cls):
        for field in dataclasses.fields(cls):
            default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
            default = default if field.default_factory is dataclasses.MISSING else " = …"
            yield f"{field.name}: {field.type}{default}"
    else:
        if getattr(cls.__init__, "__module__", "").startswith("zoo."):
            yield f"__init__{signature(cls.__init__)}"
        # What a class declares and gives no value, as batches do.
        for base in cls.__mro__ if cls.__module__.startswith("zoo.") else ():
            declared = inspect.get_annotations(base) if base.__module__.startswith("zoo.") else {}
            yield from (f"{name}: {type}" for name, type in declared.items() if not hasattr(cls, name))
    fields = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    names = {name for base in cls.__mro__ if base.__module__.startswith("zoo.") for name in vars(base)}
    for name in sorted(names - fields):
        value = inspect.getattr_static(cls, name)
        if name.startswith("_") and name not in ("__len__", "__getitem__", "__iter__", "__getattr__"):
            continue
        if isinstance(value, property):
            yield f"{name} -> {inspect.signature(value.fget).return_annotation}"
        elif inspect.isclass(value):
            yield f"class {name}"
        elif callable(value) or isinstance(value, staticmethod | classmethod):
            function = value.__func__ if isinstance(value, staticmethod) else getattr(cls, name)
            yield from (f"{name}{signature(one)}" for one in typing.get_overloads(function) or [function])
        else:
            yield f"{name} = {value!r}"


def contract():
    """All that a plugin may rely on, as lines."""
    import zoo.testing
    from zoo import api
    from zoo.contract import hookspecs
    from zoo.contract.algorithm import API_VERSION, DATA_KINDS, ROLES
    from zoo.testing import tiny
    from zoo.testing.declared import Declared

    lines = [f"api_version {API_VERSION}", f"kinds {', '.join(DATA_KINDS)}", f"roles {', '.join(ROLES)}"]
    lines += ["", "hooks, in the order of a run"]
    for name, hook in vars(hookspecs).items():
        if hasattr(hook, "zoo_spec"):
            owner = "of the algorithm" if name in hookspecs.ALGORITHM_HOOKS else "of every plugin"
            lines.append(f"  {name}({', '.join(inspect.signature(hook).parameters)}) {owner}")
    named = {name: getattr(api, name) for name in api.__all__}
    named |= {f"zoo.testing.{name}": getattr(zoo.testing, name) for name in zoo.testing.__all__}
    named |= {"Declared": Declared}
    named |= {
        f"zoo.testing.tiny.{n}": f for n, f in vars(tiny).items() if inspect.isfunction(f) and not n.startswith("_")
    }
    for name, value in named.items():
        lines.append("")
        if inspect.isclass(value):
            lines += [f"class {name}", *(f"  {member}" for member in members(value))]
        elif typing.get_origin(value):
            lines.append(f"{name} = {value}")
        else:
            lines.append(f"{name}{signature(value)}")
    return lines


def test_the_plugin_api_is_the_one_that_is_written_down():
    found, stored = contract(), STORED.read_text(encoding="utf-8").splitlines()
    changes = list(difflib.unified_diff(stored, found, "contract.txt", "now", lineterm="", n=1))
    if changes:
        pytest.fail("\n".join([WHAT_TO_DO, "", *changes]), pytrace=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.delattr("zoo.api.Loss.per_token"),
        lambda patch: patch.setattr("zoo.api.__all__", ["Algorithm"]),
        lambda patch: patch.setattr("zoo.api.Algorithm.head", "scalar"),
        lambda patch: patch.setattr("zoo.values.types.TokenLogps.mean", lambda self, over=None: None),
        lambda patch: patch.setattr("zoo.contract.hookspecs.loss", lambda batch: None),
    ],
)
def test_a_change_is_noticed_with_what_to_do(change, monkeypatch):
    change(monkeypatch)
    with pytest.raises(pytest.fail.Exception, match="under 'Plugin API' in CHANGELOG.md"):
        test_the_plugin_api_is_the_one_that_is_written_down()


if __name__ == "__main__":
    STORED.write_text("\n".join(contract()) + "\n", encoding="utf-8")
