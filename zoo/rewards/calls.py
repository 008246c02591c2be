"""The system calls that a program may not make, as a seccomp filter in BPF. It imports nothing of zoo.

The filter refuses what has no use in a program that computes, and what a kernel of today does not yet know. Each list
belongs to a fence, because it closes the ways around that fence, or does the half of it that a namespace cannot.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Collection

CALLS = {
    "net": "socket 41 198",
    "ipc": "shmget 29 194, shmat 30 196, semget 64 190, msgget 68 186, mq_open 240 180",
    "limits": "clone 56 220, fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, memfd_create 319 279",
    "capabilities": "mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, setns 308 268, swapon 167 224, "
    "swapoff 168 225, sethostname 170 161, setdomainname 171 162",
    "calls": "unshare 272 97, ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, kcmp 312 272, "
    "add_key 248 217, request_key 249 218, keyctl 250 219, bpf 321 280, perf_event_open 298 241, "
    "userfaultfd 323 282, io_setup 206 0, prctl 157 167, seccomp 317 277, personality 135 92, "
    "init_module 175 105, finit_module 313 273, delete_module 176 106, kexec_load 246 104, kexec_file_load 320 294, "
    "reboot 169 142, acct 163 89, quotactl 179 60, syslog 103 116, settimeofday 164 170, clock_settime 227 112, "
    "adjtimex 159 171, clock_adjtime 305 266, name_to_handle_at 303 264, open_by_handle_at 304 265, "
    "fanotify_init 300 262, inotify_init 253 -, inotify_init1 294 26, "
    "iopl 172 -, ioperm 173 -, modify_ldt 154 -, uselib 134 -, vhangup 153 58, "
    "mbind 237 235, set_mempolicy 238 237, migrate_pages 256 238, move_pages 279 239, lookup_dcookie 212 18",
}
"""For each fence: the name of a call, and its number on x86_64 and on aarch64 (-: it has none)."""
SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
FIRST_NEW = 424
"""From here on, numbers are equal everywhere and name calls that no C library needs: it falls back to older ones."""
NEW = (436, 437, 439, 441, 449, 452, 454, 455, 456)
"""Except for these: close_range, openat2, faccessat2, epoll_pwait2, futexes, fchmodat2."""
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
AF_UNIX = 1
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Where the data that the filter sees hold these."""
KILL, ALLOW, FAIL = 0x80000000, 0x7FFF0000, 0x00050000


def refused(fence: str, machine: str) -> dict[str, int]:
    """The calls that a fence refuses, by name, with their numbers on a machine."""
    column = list(ARCHITECTURES).index(machine) + 1
    rows = [row.split() for row in CALLS.get(fence, "").split(",") if row]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def filter_for(fences: Collection[str]) -> bytes:
    """The BPF program of these fences for this machine. Raises OSError on a machine whose calls are not listed."""
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"the numbers of the system calls of {machine} are not known here")
    # A call by the numbers of another architecture ends the program: the lists would not fit.
    steps = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, ARCHITECTURES[machine]), (RETURN, 0, 0, KILL),
             (LOAD, 0, 0, NUMBER)]  # fmt: skip
    for fence in fences:
        for number in refused(fence, machine).values():
            steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, FAIL | errno.EPERM)]
    if "net" in fences:
        # An event loop needs a pair of sockets within the process.
        steps += [(EQUAL, 0, 4, SOCKETPAIR[machine]), (LOAD, 0, 0, FIRST_ARGUMENT), (EQUAL, 0, 1, AF_UNIX),
                  (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, FAIL | errno.EPERM)]  # fmt: skip
    if "calls" in fences:
        for number in NEW:
            steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
        steps += [(AT_LEAST, 0, 1, FIRST_NEW), (RETURN, 0, 0, FAIL | errno.ENOSYS)]
    steps += [(RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
