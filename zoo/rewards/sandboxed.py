"""Runs one model-written program with its tests. A script of its own: `python -I -S sandboxed.py < job.json`.

It imports only the standard library, and nothing of zoo. The first process watches the time; its child confines itself
by fences in the kernel (`fences.py`, `calls.py`), and puts an audit hook of the interpreter before them, which refuses
the same with better messages. Then the child runs the program. Only the fences are a boundary: a program can get around
the hook, which lives in the interpreter that it shares.

The results are written to standard output, a line for each test. Standard error tells the parent that the program is
about to start, or why it cannot.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import time
import types
from importlib.machinery import SourceFileLoader
from typing import Any

READY = b"ready"
FORBIDDEN = ("subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.kill", "pty.", "ctypes.", "gc.get_")
REFUSED = ("os.system", "os.startfile", "resource.setrlimit", "resource.prlimit")
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime",
           "os.chmod", "os.chown")  # fmt: skip
READS = ("os.listdir", "os.scandir", "os.chdir")
HARMLESS = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/usr/share/zoneinfo")
LONGEST_OUTPUT = 1 << 20
COLLECTIONS: dict[Any, str] = {
    list: "list", tuple: "tuple", set: "set", frozenset: "frozenset", bytes: "bytes",
    bytearray: "bytes", type({}.keys()): "set", type({}.items()): "set",
}  # fmt: skip
"""The name under which each type is reported: its own, or that of a type equal to it."""


def main() -> None:
    """Fork, watch, and kill the child when the time is up."""
    job = json.load(sys.stdin)
    end = time.monotonic() + job["seconds"]
    fences, calls = neighbour("fences"), neighbour("calls")
    try:
        if job["namespaces"]:
            fences.set_apart(job["without"])
        fences.end_with_parent()
        child = os.fork()
        if not child:
            place = fences.confine(job, calls.filter_for)
    except OSError as error:
        os.write(2, str(error.strerror or error).encode())
        os._exit(1)
    if not child:
        try:
            start(job, place, fences.close_all_but)
        finally:
            os._exit(0)
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > end:
            # When the first process of a namespace ends, so do all its other processes.
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.005)
    # Without namespaces, end the processes that the program left behind, and this process, which is done.
    os.killpg(0, signal.SIGKILL)


def neighbour(name: str) -> Any:
    """The module in the file of that name beside this one, of which Python does not know: it runs isolated."""
    module = types.ModuleType(name)
    SourceFileLoader(name, os.path.join(os.path.dirname(__file__), f"{name}.py")).exec_module(module)
    return module


def start(job: dict[str, Any], place: str, close_all_but: Any) -> None:
    """Say that the program starts, and run it with nothing open but the way to the parent."""
    os.write(2, READY)
    results = close_all_but(1) if "descriptors" not in job["without"] else os.dup(1)
    for name in [name for name in sys.modules if name.split(".")[0] in ("ctypes", "_ctypes")]:
        del sys.modules[name]
    if "hook" not in job["without"]:
        sys.addaudithook(hook(os.path.realpath(place)))
    run(job, results, place)


def hook(folder: str) -> Any:
    """The audit hook, which the interpreter calls before it touches anything outside itself."""
    library = tuple(os.path.realpath(path) for path in sys.path if path) + HARMLESS
    realpath, fspath, separator = os.path.realpath, os.fspath, os.sep

    def inside(path: Any, places: tuple[str, ...]) -> bool:
        if isinstance(path, int) or path is None:
            return True
        real = realpath(os.fsdecode(fspath(path)))
        return any(real == place or real.startswith(place + separator) for place in places)

    def check(event: str, args: tuple[Any, ...]) -> None:
        allowed = True
        if event == "open":
            path, _, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            allowed = inside(path, (folder, "/dev/null") if writes else (folder, *library))
        elif event in CHANGES:
            allowed = all(inside(path, (folder,)) for path in args[:2] if isinstance(path, str | bytes))
        elif event in READS:
            allowed = inside(args[0], (folder, *library))
        elif event.startswith("socket."):
            # An event loop needs a pair of sockets within the process.
            allowed = event == "socket.__new__"
        elif event == "import":
            allowed = args[0].split(".")[0] not in ("ctypes", "_ctypes")
        elif event in REFUSED or event.startswith(FORBIDDEN):
            allowed = False
        if not allowed:
            raise PermissionError(f"{event} is not allowed here")

    return check


def run(job: dict[str, Any], results: int, place: str) -> None:
    """Write a line for every test that came to its end: what the program printed, or the values that the test reported.

    The program shares this interpreter and can write such lines itself. But it does not get the expected outputs and
    literals; the reader of the lines compares with these.
    """
    key, write, dumps, do = job.pop("key"), os.write, json.dumps, execute
    program, tests = job.pop("program"), job.pop("tests")
    if not job["prints"]:
        space = named("program")
        # A program that looks for the main module finds itself, not this script.
        sys.modules["__main__"] = sys.modules["program"]
        if do(program, space, "")[0]:
            return
    for i, test in enumerate(tests):
        reported: list[Any] = []
        if job["prints"]:
            failed, printed = do(program, named("__main__"), test, place)
            outcome = {"passed": not failed, "output": printed}
        else:
            space["__tell__"] = lambda check, value, reported=reported: reported.append((check, encoded(value)))
            outcome = {"passed": not do(test, space, "")[0], "told": reported}
        write(results, f"\n{dumps({'key': key, 'test': i, **outcome})}\n".encode())


def encoded(value: Any) -> Any:
    """A value of a built-in type (or of a subclass, as its built-in type) as JSON; `["other", []]` for other values.

    It uses the methods of the built-in type itself, not those that a class of the program puts in their place.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        plain = int.__int__(value)
        return plain if plain.bit_length() < 1000 else ["int", [hex(plain)]]
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return ["complex", [complex.real.__get__(value), complex.imag.__get__(value)]]
    if isinstance(value, dict):
        return ["dict", [["tuple", [encoded(key), encoded(item)]] for key, item in dict.items(value)]]
    for kind, name in COLLECTIONS.items():
        if isinstance(value, kind):
            return [name, [encoded(item) for item in kind.__iter__(value)]]
    match type(value).__module__, type(value).__name__:
        case "fractions", "Fraction":
            return ["Fraction", [encoded(value.numerator), encoded(value.denominator)]]
        case "decimal", "Decimal":
            return ["Decimal", [str(value)]]
    return ["other", []]


def named(name: str) -> dict[str, Any]:
    """The namespace of a new module, registered under its name because data classes look it up there."""
    sys.modules[name] = types.ModuleType(name)
    return vars(sys.modules[name])


class Printed(io.BytesIO):
    """What a program prints; it remains when the program closes its standard output."""

    def close(self) -> None:
        """Nothing: the bytes are still needed."""


def execute(code: str, space: dict[str, Any], stdin: str, place: str = "") -> tuple[bool, str]:
    """Run code with a text as standard input: whether it failed, and what it printed.

    place: the folder in which to keep the input, for programs that read descriptor 0; "" for no such input.
    """
    printed = Printed()
    failed = False
    try:
        sys.stdin = opened(stdin, place) if place else io.StringIO(stdin)
        with contextlib.redirect_stdout(
            io.TextIOWrapper(printed, encoding="utf-8", errors="surrogatepass", newline="", write_through=True)
        ):
            exec(compile(code, "program.py", "exec"), space)
    except SystemExit as end:
        # A program may exit when it is done; a test that exits has not come to its end.
        failed = space.get("__name__") != "__main__" or end.code not in (None, 0)
    except BaseException:
        failed = True
    return failed, printed.getvalue()[:LONGEST_OUTPUT].decode("utf-8", "replace")


def opened(text: str, place: str) -> Any:
    """Standard input with a text in it, as Python opens it: descriptor 0 of a file, which has no name any more."""
    name = os.path.join(place, ".stdin")
    with open(name, "wb+") as file:
        os.unlink(name)
        file.write(text.encode("utf-8", "surrogatepass"))
        file.seek(0)
        os.dup2(file.fileno(), 0)
    return open(0, encoding="utf-8", errors="surrogatepass", closefd=False)


if __name__ == "__main__":
    main()
