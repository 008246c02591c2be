"""Whether a program that the model wrote passes the record's tests."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zoo.errors import ZooError
from zoo.processes import cores
from zoo.rewards.asserts import Sealed, called
from zoo.rewards.functions import in_process
from zoo.rewards.missing import Missing
from zoo.rewards.programs import Wanted, names_used, program_of
from zoo.rewards.sandbox import Limits, Printed, lacking, remedy, verdicts

FIELDS = ("tests", "test_list", "test", "input_output")
UNSAFE = (
    "code(unsafe=yes): programs that the model writes run with your rights. This machine has no boundary around them "
    "({why}); an audit hook of Python stops what a program does by accident, but none that is written to get around it."
)
Tests = list[str] | list[Printed] | list[Sealed]


@in_process
def code(
    completions: Sequence[str], records: Sequence[Mapping[str, Any]], timeout: float = 5.0, memory: int = 512,
    unsafe: bool = False,
) -> list[float | Missing]:  # fmt: skip
    """Share of the record's tests that the answer's Python program passes. timeout: seconds in all; memory: MiB.

    unsafe: run the programs also where the kernel gives no boundary around them.
    """
    if timeout <= 0 or memory < 64:
        raise ZooError("timeout must be above 0 seconds and memory at least 64 MiB")
    limits, bounded = Limits(seconds=timeout, memory=memory << 20), has_boundary(unsafe, first=not completions)
    tests = [tests_of(record) for record in records]
    programs = [
        "" if isinstance(those, Missing) else program_of(text, wanted_by(those))
        for text, those in zip(completions, tests, strict=True)
    ]

    def score(program: str, tests: Tests | Missing) -> float | Missing:
        if isinstance(tests, Missing):
            return tests
        try:
            passed = verdicts(program, tests, limits, namespaces=bounded, unsafe=unsafe)
        except OSError as error:
            return Missing(f"no program could be run: {error}")
        return sum(passed) / len(passed)

    # Processes do the work; the threads only wait for them.
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(score, programs, tests))


def has_boundary(unsafe: bool, first: bool) -> bool:
    """Whether the kernel holds programs. Raises ZooError if it does not, unless `unsafe` accepts that.

    first: warn of it.
    """
    why = lacking()
    if why and not unsafe:
        raise ZooError(
            f"code runs programs that the model wrote, and this machine has no boundary around them: {why}",
            f"{remedy()}. Or accept that such a program can do to your files what you can: code(unsafe=yes).",
        )
    if why and first:
        warnings.warn(UNSAFE.format(why=why), stacklevel=2)
    return not why


def tests_of(record: Mapping[str, Any]) -> Tests | Missing:
    """The tests of a record in one of the forms that docs/rewards.md lists, or why there are none."""
    field = next((name for name in FIELDS if record.get(name)), None)
    if field is None:
        return Missing(f"the row has none of the columns {', '.join(FIELDS)}")
    value = record[field]
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [value]
    if isinstance(value, str):
        entry = record.get("entry_point")
        value = [f"{value}\n\ncheck({entry})" if entry and "def check(" in value else value]
    if isinstance(value, Mapping) and {"inputs", "outputs"} <= set(value):
        name, inputs, outputs = value.get("fn_name") or record.get("fn_name"), value["inputs"], value["outputs"]
        if not isinstance(inputs, list | tuple) or not isinstance(outputs, list | tuple) or len(inputs) != len(outputs):
            return _no_tests(record, field, value, ": inputs and outputs must be two lists of equal length")
        if name:
            return _calls(str(name), inputs, outputs) or _no_tests(
                record, field, value, f": {name} cannot be called so"
            )
        value = [{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)]
    if isinstance(value, Sequence) and value and all(isinstance(test, str) for test in value):
        faults = (f": test {i} is not Python: {fault}" for i, test in enumerate(value, 1) if (fault := _fault(test)))
        why = next(faults, "")
        return _no_tests(record, field, value, why) if why else list(value)
    if isinstance(value, Sequence) and value and all(_is_printed(test) for test in value):
        texts = [(_text(test["input"]), _text(test["output"])) for test in value]
        printed = [Printed(given, shown) for given, shown in texts if given is not None and shown is not None]
        unnamed = ": these are arguments, so fn_name must name the function"
        return printed if len(printed) == len(texts) else _no_tests(record, field, value, unnamed)
    return _no_tests(record, field, value)


@functools.lru_cache(maxsize=4096)
def _fault(test: str) -> str:
    """Why no program can pass a test: what Python says about it; "" for a test that Python can run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(test, "test", "exec", dont_inherit=True)
        except SyntaxError as error:
            return error.msg
        except (ValueError, RecursionError, MemoryError) as error:
            return str(error) or type(error).__name__
    return ""


def _is_printed(test: Any) -> bool:
    return isinstance(test, Mapping) and {"input", "output"} <= set(test)


def _text(value: Any) -> str | None:
    """What is typed or printed: a text, a number, or a list of lines; None for anything else."""
    if isinstance(value, list | tuple) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return str(value) if isinstance(value, str | int | float) else None


def _calls(name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Sealed] | None:
    """A test for each list of arguments (or text with an argument in JSON a line) and result of a function."""
    try:
        pairs = [
            ([json.loads(line) for line in given.splitlines() if line.strip()], json.loads(result))
            if isinstance(given, str)
            else (given, result)
            for given, result in zip(inputs, outputs, strict=True)
        ]
        return [called(name, arguments, expected) for arguments, expected in pairs]
    except (TypeError, ValueError, RecursionError):
        return None


def wanted_by(tests: Tests) -> Wanted:
    """What a program must have to be the one that is tested."""
    names: frozenset[str] = frozenset()
    return Wanted(
        names.union(*(names_used(test) for test in tests if isinstance(test, str)))
        | {test.function for test in tests if isinstance(test, Sealed)},
        any(isinstance(test, Printed) and test.given.strip() for test in tests),
    )


def _no_tests(record: Mapping[str, Any], field: str, value: Any, why: str = "") -> Missing:
    row = f"row {record['row']}: " if "row" in record else ""
    return Missing(f"{row}the column {field} holds no tests{why}: {value!r:.60}")
