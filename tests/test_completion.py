"""The tab key in the shells themselves: one command installs it, then commands, options and names are completed."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest

LIMIT = 60.0
"""Seconds that a shell has for an answer; a machine may be busy."""
SHELLS = {
    "bash": ["bash", "--noprofile", "-i"],
    "zsh": ["zsh", "-i"],
    "fish": ["fish", "-i"],
}
LINES = {
    "a command": ("zoo resu", "me"),
    "an option": ("zoo train dpo --label-s", "moothing"),
    "an algorithm": ("zoo train kt", "o"),
    "the value of --algo": ("zoo train --algo simp", "o"),
    "a run": ("zoo chat my-long", "-run"),
    "a command's help": ("zoo help expo", "rt"),
}
"""What is typed before the tab key, and what the shell adds."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a program `zoo` on the path that has no torch, and a folder with a run."""
    home = tmp_path_factory.mktemp("home")
    program = home / "bin" / "zoo"
    program.parent.mkdir()
    blocked = "sys.modules.update(dict.fromkeys(('torch', 'transformers', 'lightning', 'datasets', 'pandas')))"
    program.write_text(f"#!{sys.executable}\nimport sys\n{blocked}\nfrom zoo.__main__ import main\nmain()\n")
    program.chmod(0o755)
    (home / "runs" / "my-long-run").mkdir(parents=True)
    (home / "runs" / "my-long-run" / "run.yaml").write_text("algo: dpo\n")
    # What algorithms declare is read from their code once, which loads torch.
    subprocess.run([sys.executable, "-m", "zoo", "algos", "dpo"], check=True, stdout=subprocess.DEVNULL)
    return home


def environment(home):
    kept = {name: os.environ[name] for name in ("ZOO_CACHE", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}
    return {
        **kept, "HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "TERM": "dumb", "LANG": "C.UTF-8",
        "PWD": str(home), "COLUMNS": "300",
    }  # fmt: skip


class Terminal:
    """An interactive shell at a pseudo-terminal."""

    def __init__(self, arguments, home):
        self.child, self.file = pty.fork()
        if self.child == 0:
            os.chdir(home)
            os.execvpe(arguments[0], arguments, environment(home))
        self.seen = ""

    def type(self, text):
        os.write(self.file, text.encode())

    def wait_for(self, text):
        """Read until a text is seen; whether it was."""
        until = time.monotonic() + LIMIT
        while text not in self.seen and time.monotonic() < until:
            if select.select([self.file], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.file, 65536).decode(errors="replace")
                except OSError:
                    break
        return text in self.seen

    def close(self):
        os.close(self.file)
        os.kill(self.child, 9)
        os.waitpid(self.child, 0)


def offered_by_fish(line, home):
    """What fish would offer: asked as its own tests do, because a dumb terminal shows no menu."""
    asked = ["fish", "-i", "-c", f"complete -C {line!r}"]
    done = subprocess.run(
        asked, env=environment(home), cwd=home, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    return [offer.split("\t")[0] for offer in done.stdout.splitlines()]


@pytest.mark.long
@pytest.mark.parametrize("shell", SHELLS)
def test_the_tab_key_completes_commands_options_algorithms_and_runs(shell, home):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    installed = subprocess.run(
        [*SHELLS[shell], "-c", "zoo --install-completion; true"], env=environment(home), cwd=home, capture_output=True,
        text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert "completion installed" in installed.stdout, installed.stdout + installed.stderr
    for what, (line, rest) in LINES.items():
        if shell == "fish":
            offers = offered_by_fish(line, home)
            assert line.split()[-1] + rest in offers, f"{what}: {offers}"
            continue
        terminal = Terminal(SHELLS[shell], home)
        try:
            # Two quotes, so that what is typed is not taken for the prompt.
            terminal.type("PS1='rea''dy> '\n")
            assert terminal.wait_for("ready> "), terminal.seen
            terminal.type(f"{line}\t")
            assert terminal.wait_for(line + rest), f"{what}: {terminal.seen[-2000:]}"
        finally:
            terminal.close()
