"""Small packages on the path of this process, as good as installed: not a test file itself."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

from zoo.contract.registry import plugin_modules


def put_on_path(folder, monkeypatch):
    """Make a package of flat modules importable and its entry points visible, without pip; gives its name."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    groups = project["entry-points"]
    lines = [part for g in groups for part in (f"[{g}]", *(f"{name} = {to}" for name, to in groups[g].items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    plugin_modules.cache_clear()
    return project["name"]


def forget_modules(folder):
    """Let nothing that was imported from this folder reach another test."""
    for name, module in list(sys.modules.items()):
        if str(folder) in str(getattr(module, "__file__", "")):
            del sys.modules[name]
    plugin_modules.cache_clear()


def run(*command, cwd, env=None):
    """A program to its end; gives its output. Fails with what it said."""
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fresh_environment(folder, *projects, root=Path(__file__).parent.parent):
    """A virtual environment that holds the wheels of zoo and of other projects, and sees only the dependencies here.

    The packages of this environment lie on the new one's path as a plain folder: an editable install in it, whose
    finder belongs to it, is not seen. Gives (folder of the programs, environment variables).
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=root)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # Building writes beside the source: what is built is a copy.
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=root).splitlines()
    source = folder / "source"
    for name in listed:
        if (root / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, source / name)
    wheels = folder / "wheels"
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "-q")
    for project in (source, *projects):
        run(sys.executable, "-m", "pip", "wheel", project, *offline, "-w", wheels, cwd=folder)
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        "-q",
        "--force-reinstall",
    )
    run(*pip, *wheels.glob("*.whl"), cwd=folder)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return folder / "bin", {**variables, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
