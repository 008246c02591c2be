"""The tutorial is typed in and run, block by block, in an empty folder."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from packages import forget_modules, run
from tiny_runs import FLOAT32, cli

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
BLOCKS = re.findall(
    r"(?:^<!-- ([\w.]+) -->\n)?^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S
)
FILES = {name: content for name, _, content in BLOCKS if name}
COMMANDS = [line for name, language, content in BLOCKS if language == "sh" for line in content.splitlines()]


def test_everything_that_is_typed_is_under_sixty_lines():
    typed = [line for content in FILES.values() for line in content.splitlines() if line.strip()]
    assert len(typed) + len(COMMANDS) < 60
    assert set(FILES) == {"mine.py", "rows.jsonl", "test_mine.py", "pyproject.toml"}
    assert COMMANDS[-1].startswith("zoo train --algo mine ")


def install(folder, monkeypatch):
    """What `pip install` does, into a folder of its own and offline."""
    site = folder / "site"
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "-q", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "install", ".", "--target", site, *offline, cwd=folder)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))


@pytest.mark.long
def test_the_blocks_of_the_tutorial_work_in_their_order(tmp_path, monkeypatch, tiny_folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    pending = dict(FILES)
    flags = [part for key, value in FLOAT32.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    try:
        for name, language, content in BLOCKS:
            if name:
                Path(name).write_text(pending.pop(name), encoding="utf-8")
            for line in content.splitlines() if language == "sh" else ():
                program, *arguments = shlex.split(line)
                if program == "pip":
                    install(tmp_path, monkeypatch)
                elif program == "pytest":
                    run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py", cwd=tmp_path)
                else:
                    assert program == "zoo"
                    tiny = ["--model", tiny_folder] if arguments[0] in ("train", "data") else []
                    short = flags if arguments[0] == "train" else []
                    status, shown, error = cli(*arguments, *tiny, *short)
                    assert status == 0, f"{line}\n{error}"
                    assert "--help" not in line or "--margin" in shown
    finally:
        forget_modules(tmp_path)
    assert not pending
    assert {path.name for path in Path("runs").iterdir()} == {"mine-tiny-1", "mine-tiny-2"}
    last = Path("runs/mine-tiny-2/run.yaml").read_text()
    assert "margin: 2.0" in last and "algo: mine\n" in last


def test_its_formula_is_that_of_the_docstring():
    torch = pytest.importorskip("torch")
    from zoo.testing import stand_ins

    names = {}
    exec(compile(FILES["mine.py"], "mine.py", "exec"), names)
    chosen = torch.tensor([-1.0, -4.0], requires_grad=True)
    batch, models = stand_ins(policy={"chosen": chosen, "rejected": torch.tensor([-3.0, -3.5])})
    loss = names["Mine"]().loss(batch, models, names["Mine"].Config())
    assert loss.values.tolist() == [0.0, 1.5]
    loss.numerator.backward()
    assert chosen.grad.tolist() == [0.0, -1.0]
