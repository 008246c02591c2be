"""A pseudo-terminal, and what a person would see in it: not a test file itself."""

import os
import re
import subprocess
import sys

import pytest

SIZE = ("COLUMNS", "LINES")
"""What would tell a program another size than that of the terminal."""
pty = pytest.importorskip("pty")
CODES = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|(.)", re.DOTALL)


def screen_of(written, width):
    """The lines that a terminal of this width shows: of its codes those that rich writes."""
    lines, row, column = [""], 0, 0
    for number, code, letter in CODES.findall(written):
        if code == "A":
            row -= int(number or 1)
        elif code == "K":
            lines[row] = "" if number == "2" else lines[row][:column]
        elif letter == "\r":
            column = 0
        elif letter == "\n" or (letter and column == width):
            row, column = row + 1, 0
            lines += [""] if row == len(lines) else []
        if letter and letter not in "\r\n":
            lines[row] = lines[row].ljust(column)[:column] + letter + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def in_terminal(*arguments, width=80, **environment):
    """What python with these arguments writes into a terminal, as a person sees it, and as bytes."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**{name: value for name, value in os.environ.items() if name not in SIZE}, "TERM": "xterm", **environment},
    ) as process:  # fmt: skip
        os.close(theirs)
        written = b""
        # Linux ends a terminal that nobody holds any longer with an error.
        try:
            while part := os.read(ours, 4096):
                written += part
        except OSError:
            pass
    os.close(ours)
    assert process.returncode == 0, written.decode()
    return screen_of(written.decode(), width), written
