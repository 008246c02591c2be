"""Programs that try to leave the sandbox of the reward `code`, each by another way, and the one fence that stops each.

The names in braces come from a `World`: what a trainer's machine holds that a program must neither see nor change. Each
program either prints what it should not know, or changes the world, and `found` looks whether it did.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import secrets
import socket
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.rewards.fences import drop_capabilities
from zoo.rewards.sandbox import Limits, NoBoundary, Printed, verdicts

LIMITS = Limits(seconds=20.0, disk=1 << 20)
LIBC = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def checked(value):
    if value == -1: raise OSError(ctypes.get_errno(), 'refused')
    return value
"""
NUMBERS = {"x86_64": {"keyctl": 250, "userfaultfd": 323}, "aarch64": {"keyctl": 219, "userfaultfd": 282}}


@dataclass
class World:
    """What a program must not reach. said: what it printed; missing: it left its reward without a value."""

    run: Path
    secret: str = field(default_factory=lambda: f"secret-{secrets.token_hex(8)}")
    said: str = ""
    missing: bool = False
    names: dict[str, Any] = field(default_factory=dict)

    def program(self, text: str) -> str:
        for name, value in {"run": self.run, **self.names, **NUMBERS.get(os.uname().machine, {})}.items():
            text = text.replace("{" + name + "}", str(value))
        return text


@dataclass(frozen=True)
class Escape:
    """A way out. fence: the one that closes it; found: whether a program got out; around: what there is to reach."""

    fence: str
    program: str
    found: Callable[[World], bool]
    around: Callable[[World], Any] = contextlib.nullcontext


class Heard(Printed):
    """A test that keeps what the program printed."""

    said = ""

    def passed_by(self, output: str) -> bool:
        Heard.said = output
        return True


def attempt(escape: Escape, without: set[str]) -> bool:
    """Whether the program gets out of a sandbox that lacks these fences."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "run")
        world.run.mkdir()
        (world.run / "metrics.jsonl").write_text(world.secret)
        with escape.around(world):
            Heard.said = ""
            try:
                verdicts(world.program(escape.program), [Heard("", "")], LIMITS, without=without)
            except NoBoundary:
                world.missing = True
            world.said = Heard.said
            return escape.found(world)


def knows(world: World) -> bool:
    return world.secret in world.said


def says(word: str) -> Callable[[World], bool]:
    return lambda world: word in world.said


def made(name: str) -> Callable[[World], bool]:
    return lambda world: os.path.lexists(world.run / name)


# -- what there is to reach --------------------------------------------------------------------------------------


@contextlib.contextmanager
def sleeper(world: World) -> Iterator[None]:
    """A process of the same user without privileges, with a number of its own in its command line."""
    number = f"0.{secrets.randbelow(10**12):012}"
    with subprocess.Popen(["sleep", "60", number], preexec_fn=drop_capabilities) as process:
        world.names["process"], world.secret = process.pid, number
        try:
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def listener(world: World, family: int, kind: int, address: Any) -> Iterator[None]:
    """A socket that keeps what it hears."""
    with socket.socket(family, kind) as server:
        server.bind(address)
        if kind == socket.SOCK_STREAM:
            server.listen()
        server.setblocking(False)
        name = server.getsockname()
        world.names["address"] = repr(name[:2] if isinstance(name, tuple) else name)
        world.names["hears"] = lambda: heard(server, kind)
        yield


def heard(server: socket.socket, kind: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        if kind == socket.SOCK_STREAM:
            server.accept()[0].close()
            return True
        return bool(server.recv(100))
    return False


def hears(world: World) -> bool:
    return bool(world.names["hears"]())


def tcp(world: World) -> Any:
    return listener(world, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))


def udp(world: World) -> Any:
    return listener(world, socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))


def abstract(world: World) -> Any:
    return listener(world, socket.AF_UNIX, socket.SOCK_STREAM, b"\0" + world.secret.encode())


@contextlib.contextmanager
def posix_memory(world: World) -> Iterator[None]:
    path = Path("/dev/shm") / f"zoo-{world.secret[-8:]}"
    path.write_text(world.secret)
    world.names["memory"] = f"/{path.name}"
    try:
        yield
    finally:
        path.unlink()


def given(number: int) -> int:
    """What the kernel gave, unless it refuses this to everybody."""
    if number == -1:
        pytest.skip("this machine does not have what the program reaches for")
    return number


def libc() -> Any:
    found = ctypes.CDLL(None, use_errno=True)
    found.shmat.restype = ctypes.c_void_p
    return found


@contextlib.contextmanager
def segment(world: World) -> Iterator[None]:
    """A segment of System V's shared memory that holds the secret."""
    key = secrets.randbelow(1 << 30) + 1
    number = given(libc().shmget(key, 4096, 0o1600))
    place = libc().shmat(number, None, 0)
    ctypes.memmove(place, world.secret.encode(), len(world.secret))
    world.names["key"] = key
    try:
        yield
    finally:
        libc().shmctl(number, 0, None)
        libc().shmdt(ctypes.c_void_p(place))


@contextlib.contextmanager
def semaphore(world: World) -> Iterator[None]:
    world.names["key"] = secrets.randbelow(1 << 30) + 1
    world.names["semaphore"] = number = given(libc().semget(world.names["key"], 1, 0o1600))
    try:
        yield
    finally:
        libc().semctl(number, 0, 0)


@contextlib.contextmanager
def queue(world: World) -> Iterator[None]:
    """A message queue of POSIX."""
    name = f"/zoo-{world.secret[-8:]}"
    world.names["queue"] = name
    number = given(libc().mq_open(name.encode(), os.O_CREAT | os.O_RDWR | os.O_NONBLOCK, 0o600, None))
    message = ctypes.create_string_buffer(1 << 16)
    world.names["hears"] = lambda: libc().mq_receive(number, message, len(message), None) > 0
    try:
        yield
    finally:
        os.close(number)
        libc().mq_unlink(name.encode())


@contextlib.contextmanager
def keyring(world: World) -> Iterator[None]:
    """A key in the keyring of this process's session, which its children inherit."""
    call, numbers = libc().syscall, NUMBERS[os.uname().machine]
    adds = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
    world.names["name"] = f"zoo-{world.secret[-8:]}"
    # -3 is the keyring of the session, 9 unlinks.
    key = given(call(adds, b"user", world.names["name"].encode(), world.secret.encode(), len(world.secret), -3))
    try:
        yield
    finally:
        call(numbers["keyctl"], 9, key, -3)


def sources(world: World) -> Any:
    world.names["source"] = Path(zoo.__file__).parent / "rewards" / "code.py"
    return contextlib.nullcontext()


def packages(world: World) -> Any:
    world.names["packages"] = folder = Path(sysconfig.get_path("stdlib")) / "site-packages"
    found = os.listdir(folder) if folder.is_dir() else []
    world.secret = max(found, key=len) if found else str(given(-1))
    return contextlib.nullcontext()


def ring(world: World) -> Any:
    os.close(given(libc().syscall(425, 1, bytes(120))))
    return contextlib.nullcontext()


def faults(world: World) -> Any:
    os.close(given(libc().syscall(NUMBERS[os.uname().machine]["userfaultfd"], 1)))
    return contextlib.nullcontext()


# -- the programs --------------------------------------------------------------------------------------------------

ESCAPES = {
    "a data base in the run folder": Escape(
        "mount", "import sqlite3\nc = sqlite3.connect('{run}/new.db'); c.execute('create table t(x)')", made("new.db")
    ),
    "a pipe where the run writes": Escape("mount", "import os\nos.mkfifo('{run}/new.jsonl')", made("new.jsonl")),
    "the time of a file of the run": Escape(
        "mount",
        "import os\nos.utime('{run}/metrics.jsonl', (0, 0))",
        lambda world: (world.run / "metrics.jsonl").stat().st_mtime == 0,
    ),
    "a link out of the folder, swapped after it was looked at": Escape(
        "mount",
        "import os\nopen('mine', 'w').close()\nassert os.path.isfile('mine')\nos.remove('mine')\n"
        "os.symlink('{run}/metrics.jsonl', 'mine')\nprint(open('mine').read())",
        knows,
    ),
    "the command line of another process": Escape(
        "mount", "print(open('/proc/{process}/cmdline').read())", knows, sleeper
    ),
    "shared memory of POSIX": Escape(
        "mount",
        "import _posixshmem, os\nprint(os.read(_posixshmem.shm_open('{memory}', os.O_RDONLY, 0), 100).decode())",
        knows,
        posix_memory,
    ),
    "the sources of zoo": Escape("mount", "print(open('{source}').read())", says("def has_boundary"), sources),
    "a signal to another process": Escape(
        "pid",
        "import os, signal\nos.kill({process}, signal.SIGKILL)",
        lambda world: os.waitid(os.P_PID, world.names["process"], os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None,
        sleeper,
    ),
    "the priority of another process": Escape(
        "pid",
        "import os\nos.setpriority(os.PRIO_PROCESS, {process}, 19)",
        lambda world: os.getpriority(os.PRIO_PROCESS, world.names["process"]) == 19,
        sleeper,
    ),
    "the scheduling of another process": Escape(
        "pid",
        "import os\nos.sched_setscheduler({process}, os.SCHED_BATCH, os.sched_param(0))",
        lambda world: os.sched_getscheduler(world.names["process"]) == os.SCHED_BATCH,
        sleeper,
    ),
    "the limits of another process": Escape(
        "pid",
        "import resource\nresource.prlimit({process}, resource.RLIMIT_NOFILE, (7, 7))",
        lambda world: resource.prlimit(world.names["process"], resource.RLIMIT_NOFILE) == (7, 7),
        sleeper,
    ),
    "a connection": Escape("net", "import socket\nsocket.create_connection({address}, 1)", hears, tcp),
    "a datagram": Escape(
        "net", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', {address})", hears, udp
    ),
    "a socket without a file": Escape(
        "net", "import socket\nsocket.socket(socket.AF_UNIX).connect({address})", hears, abstract
    ),
    "the network's interfaces, by netlink": Escape(
        "net",
        "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\nprint(socket.if_nameindex())",
        lambda world: world.said.strip() == str(socket.if_nameindex()),
    ),
    "a segment of System V": Escape(
        "ipc",
        f"{LIBC}libc.shmat.restype = ctypes.c_void_p\n"
        "print(ctypes.string_at(libc.shmat(checked(libc.shmget({key}, 0, 0)), None, 0o10000)).decode())",
        knows,
        segment,
    ),
    "a semaphore": Escape(
        "ipc",
        f"{LIBC}checked(libc.semctl(checked(libc.semget({{key}}, 0, 0)), 0, 16, 7))",
        lambda world: libc().semctl(world.names["semaphore"], 0, 12) == 7,
        semaphore,
    ),
    "a message queue": Escape(
        "ipc", f"{LIBC}checked(libc.mq_send(checked(libc.mq_open(b'{{queue}}', 1)), b'x', 1, 0))", hears, queue
    ),
    "a key of the session": Escape(
        "calls",
        f"{LIBC}key = checked(libc.syscall({{keyctl}}, 10, -3, b'user', b'{{name}}', 0))\n"
        "text = ctypes.create_string_buffer(100)\nchecked(libc.syscall({keyctl}, 11, key, text, 100))\n"
        "print(text.value.decode())",
        knows,
        keyring,
    ),
    "all privileges, in a user namespace of its own": Escape(
        "calls",
        f"{LIBC}import struct\nchecked(libc.unshare(0x10000000))\nfound = ctypes.create_string_buffer(24)\n"
        "checked(libc.capget(struct.pack('Ii', 0x20080522, 0), found))\n"
        "print('privileged' if struct.unpack('6I', found)[0] >> 21 & 1 else '')",
        says("privileged"),
    ),
    "a ring of calls that no filter sees": Escape(
        "calls", f"{LIBC}checked(libc.syscall(425, 1, bytes(120)))\nprint('a ring')", says("a ring"), ring
    ),
    "page faults of its own": Escape(
        "calls", f"{LIBC}checked(libc.syscall({{userfaultfd}}, 1))\nprint('faults')", says("faults"), faults
    ),
    "a folder without a limit": Escape(
        "capabilities",
        f"{LIBC}checked(libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, b'size=1g'))\nimport os\n"
        "for i in range(4): open(f'/tmp/{i}', 'wb').write(bytes(1 << 20))\nprint(len(os.listdir('/tmp')), 'files')",
        says("4 files"),
    ),
    "the packages below their cover": Escape(
        "capabilities",
        f"{LIBC}checked(libc.umount2(b'{{packages}}', 2))\nimport os\nprint(os.listdir('{{packages}}'))",
        knows,
        packages,
    ),
    "many processes": Escape(
        "limits",
        "import os\nfor i in range(20):\n    if not os.fork(): os._exit(0)\nprint('forked')",
        says("forked"),
    ),
    "more memory": Escape("limits", "import mmap\nprint(len(mmap.mmap(-1, 1 << 32)))", says(str(1 << 32))),
    "memory as a file without a name": Escape(
        "limits",
        "import os\nfor i in range(9): print(os.ftruncate(os.memfd_create('x'), 1 << 24), i)",
        says("8"),
    ),
    "many open files": Escape("limits", "print(len([open('/dev/null') for i in range(99)]))", says("99")),
    "a verdict that goes missing": Escape(
        "descriptors", "import os\nos.write(2, b'not started')", lambda world: world.missing
    ),
}
