"""The fences around a program that a model wrote, as Linux gives them to a plain user. It imports nothing of zoo.

`set_apart` moves a process's children to namespaces of their own, and `confine` takes from a child whatever a program
does not need: all files but Python's library and an empty folder in memory, other processes, every network,
privileges, most system calls. The program runs after that and in the same process, so it can take nothing back: the
kernel forgets for good. `python -I -S fences.py` prints the paths that Python needs, as JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Collection, Iterator
from typing import Any

FENCES = ("mount", "pid", "net", "ipc", "capabilities", "calls", "limits", "descriptors", "hook")
NAMESPACES = {"mount": 0x00020000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x08000000}
ALWAYS = 0x10000000 | 0x04000000 | 0x02000000
"""CLONE_NEWUSER, without which a plain user gets no other; CLONE_NEWUTS, CLONE_NEWCGROUP."""
INSIDE = 1000
"""The number of the user and of the group inside, who is not root there."""
PLACE = "/tmp"
"""The folder of the program, inside."""
SHARED = "/dev/shm"
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
EXTRA = (*DEVICES, "/usr/share/zoneinfo", "/etc/ld.so.cache")
PACKAGES = ("site-packages", "dist-packages")
NOSUID, NODEV, READ_ONLY, NOEXEC, REMOUNT, BIND, EVERYWHERE, PRIVATE = 2, 4, 1, 8, 32, 4096, 16384, 1 << 18
KEPT = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}
"""Flags of a mount as statvfs and as mount spell them; the kernel lets nobody take them off."""
DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SET_DEATH_SIGNAL, SET_DUMPABLE, SET_FILTER, DROP_BOUND, SET_NO_NEW_PRIVILEGES = 1, 4, 22, 24, 38
CAPABILITIES = 0x20080522
"""The version of the structure that capset takes."""
DESCRIPTORS = 32


def needed() -> list[str]:
    """The existing paths that Python reads: its library, and the shared libraries of its own modules."""
    for place in filter(os.path.isdir, sys.path):
        for name in os.listdir(place):
            if name.endswith(".so") and not name.startswith("_tkinter"):
                with contextlib.suppress(OSError):
                    ctypes.CDLL(os.path.join(place, name))
    chosen: list[str] = []
    for path in filter(os.path.exists, [*sys.path, *map(os.path.normpath, loaded()), *EXTRA]):
        if not any(path == place or path.startswith(place + os.sep) for place in chosen):
            chosen.append(path)
    return chosen


def loaded() -> list[str]:
    """The paths under which the dynamic linker found the libraries of this process."""
    found: list[str] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_void_p)
    def see(fields: Any, size: int, nothing: Any) -> int:
        # The second field of the structure is the name.
        found.append(ctypes.string_at(fields[1]).decode())
        return 0

    ctypes.CDLL(None).dl_iterate_phdr(see, None)
    return [path for path in found if path.startswith("/")]


def call(name: str, *arguments: Any) -> None:
    """Call a function of the C library. Raises OSError that names it."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def set_apart(without: Collection[str]) -> None:
    """Move the future children of this process to namespaces of their own. Raises OSError if the kernel refuses."""
    user, group = os.getuid(), os.getgid()
    with contextlib.suppress(PermissionError):
        os.setgroups([])
    call("unshare", ALWAYS | sum(flag for name, flag in NAMESPACES.items() if name not in without))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{INSIDE} {user} 1"), ("gid_map", f"{INSIDE} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def confine(job: dict[str, Any], filter_for: Any) -> str:
    """Put up the fences around this process, all but those of job["without"]; the program's folder. Raises OSError."""
    fences = [fence for fence in FENCES if fence not in job["without"]]
    place = job["folder"]
    if job["namespaces"] and "mount" in fences:
        make_root(place, job["shown"], job["disk"])
        place = PLACE
    os.chdir(place)
    os.environ.clear()
    os.environ.update(HOME=place, TMPDIR=place, PATH="/usr/bin:/bin")
    if "limits" in fences:
        limit(job)
    if sys.platform == "linux":
        end_with_parent()
        call("prctl", SET_DUMPABLE, 0, 0, 0, 0)
        if "capabilities" in fences:
            drop_capabilities()
        call("prctl", SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        apply(filter_for(fences))
    return place


# -- files -----------------------------------------------------------------------------------------------------------


def make_root(folder: str, shown: list[str], disk: int) -> None:
    """Make a file system in memory, which shows paths read-only, this process's root, and unmount the old one.

    folder: an empty one, where it is built; disk: bytes of the program's folder and of shared memory.
    """
    call("mount", b"none", b"/", None, EVERYWHERE | PRIVATE, None)
    memory(folder, 1 << 20)
    for path in shown:
        show(path, folder + path)
    for name in hidden(shown):
        memory(folder + name, 4096, READ_ONLY)
    for name in (PLACE, SHARED):
        os.makedirs(folder + name, exist_ok=True)
        memory(folder + name, disk)
    os.chdir(folder)
    call("syscall", ctypes.c_long(PIVOT_ROOT[os.uname().machine]), b".", b".")
    call("umount2", b".", DETACH)
    os.chdir("/")
    call("mount", None, b"/", None, REMOUNT | BIND | READ_ONLY | NOSUID | NODEV, None)


def memory(path: str, size: int, flags: int = 0) -> None:
    """Mount an empty file system of that many bytes; it also bounds the number of files, which take memory too."""
    options = f"size={size},nr_inodes=1024,mode=755".encode()
    call("mount", b"tmpfs", path.encode(), b"tmpfs", NOSUID | NODEV | flags, options)


def show(path: str, at: str) -> None:
    """Show a path of the old root in the new one, read-only."""
    if os.path.isdir(path):
        os.makedirs(at, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(at), exist_ok=True)
        open(at, "w").close()
    call("mount", path.encode(), at.encode(), None, BIND, None)
    found = os.statvfs(path).f_flag
    flags = sum(flag for bit, flag in KEPT.items() if found & bit)
    call("mount", None, at.encode(), None, REMOUNT | BIND | READ_ONLY | NOSUID | flags, None)


def hidden(shown: list[str]) -> Iterator[str]:
    """The folders of installed packages within Python's library."""
    for path in shown:
        yield from (name for name in (os.path.join(path, packages) for packages in PACKAGES) if os.path.isdir(name))


# -- privileges, limits, descriptors ------------------------------------------------------------------------------


def end_with_parent() -> None:
    """Have the kernel end this process when its parent ends."""
    if sys.platform == "linux":
        call("prctl", SET_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)


def drop_capabilities() -> None:
    """Give up every privilege, for good."""
    with contextlib.suppress(OSError):
        for number in range(64):
            call("prctl", DROP_BOUND, number, 0, 0, 0)
    call("capset", struct.pack("Ii", CAPABILITIES, 0), bytes(24))


def apply(program: bytes) -> None:
    """Let the kernel look at each further system call with this BPF program."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    call("prctl", SET_FILTER, 2, header, 0, 0)


def limit(job: dict[str, Any]) -> None:
    """Limit seconds of CPU time, bytes of memory and of each file, descriptors; no process, thread or core file."""
    seconds = int(job["seconds"]) + 1
    limits = {
        resource.RLIMIT_CPU: seconds, resource.RLIMIT_AS: job["memory"], resource.RLIMIT_FSIZE: job["disk"],
        resource.RLIMIT_NOFILE: DESCRIPTORS, resource.RLIMIT_CORE: 0, resource.RLIMIT_NPROC: 0,
    }  # fmt: skip
    for name, value in limits.items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(name, (value, value))


def close_all_but(kept: int) -> int:
    """Close every descriptor but that one; its new number. Standard input, output and error lead nowhere."""
    nowhere, kept = os.open("/dev/null", os.O_RDWR), os.dup(kept)
    for number in range(3):
        os.dup2(nowhere, number)
    os.closerange(3, kept)
    os.closerange(kept + 1, 1 << 16)
    return kept


if __name__ == "__main__":
    print(json.dumps(needed()))
