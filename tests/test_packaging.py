"""What is installed: the packages, the data that belongs to them, and nothing under a second name."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The files that git would take, so that building leaves nothing in the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    target = tmp_path_factory.mktemp("project")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def python(*arguments, cwd):
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(copy, tmp_path_factory):
    """The wheel, built offline; the environment must have what pyproject.toml names as build requirements."""
    pytest.importorskip("setuptools")
    if Version(version("packaging")) < Version("24.2"):
        # Without isolation this environment's own is used; an ordinary build fetches what it needs.
        pytest.skip("setuptools checks a licence expression with packaging 24.2 or later")
    out = tmp_path_factory.mktemp("wheel")
    python("-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(out), cwd=copy)
    return next(out.glob("*.whl"))


def members(file):
    if file.suffix == ".whl":
        return set(zipfile.ZipFile(file).namelist())
    return {name.partition("/")[2] for name in tarfile.open(file).getnames()}


def modules(folder):
    return {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")}


def test_the_wheel_holds_every_module_of_the_core_and_every_plugin(wheel):
    found = members(wheel)
    assert modules("zoo") <= found, sorted(modules("zoo") - found)
    assert {name.replace("plugins/", "zoo_plugins/") for name in modules("plugins")} <= found
    assert "zoo_recipes/__init__.py" in found and "zoo/py.typed" in found


def test_the_wheel_holds_the_starter_set_and_the_recipes_and_not_the_tests(wheel):
    found = members(wheel)
    starter = {str(path.relative_to(ROOT)) for path in (ROOT / "zoo" / "bundled" / "starter").glob("*.jsonl")}
    assert starter and starter <= found
    assert {f"zoo_recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")} <= found
    tops = {name.split("/")[0] for name in found}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"zoo", "zoo_plugins", "zoo_recipes"}


def test_the_wheel_registers_the_command_and_the_algorithms(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        text = archive.read(name).decode()
    assert "zoo = zoo.__main__:main" in text
    for key, value in PROJECT["project"]["entry-points"]["zoo.algorithms"].items():
        assert f"{key} = {value}" in text


def test_the_installed_wheel_works_without_the_checkout(wheel, tmp_path):
    """Unpacked beside the installed dependencies, from a folder where no source lies."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import importlib.resources, zoo, zoo_recipes\n"
        "from zoo.contract import registry\n"
        "assert zoo.__file__.startswith(sys.path[0]), zoo.__file__\n"
        "files = importlib.resources.files('zoo.bundled.starter')\n"
        "assert any(file.name.endswith('.jsonl') for file in files.iterdir())\n"
        "import zoo_plugins\n"
        "assert zoo_plugins.__file__.startswith(sys.path[0])\n"
        "print(registry.default_name())"
    )
    # -S and -I would hide the dependencies too; PYTHONSAFEPATH keeps the working folder out.
    assert python("-P", "-c", code, cwd=tmp_path).strip()


def test_the_source_distribution_builds_the_same_wheel(copy, wheel, tmp_path):
    code = f"import setuptools.build_meta as backend; print(backend.build_sdist({str(tmp_path)!r}))"
    python("-c", code, cwd=copy)
    sdist = next(tmp_path.glob("*.tar.gz"))
    found = members(sdist)
    assert modules("zoo") | modules("plugins") <= found
    assert {"pyproject.toml", "zoo/py.typed"} <= found
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked")
    source = next((tmp_path / "unpacked").iterdir())
    python("-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(tmp_path),
           cwd=source)  # fmt: skip
    assert members(next(tmp_path.glob("*.whl"))) == members(wheel)


def test_every_package_folder_is_listed():
    folders = {"zoo", *(".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "zoo").rglob("__init__.py"))}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders | {
        "zoo_plugins",
        "zoo_plugins.configs",
        "zoo_recipes",
    }


def test_every_registered_name_points_at_something_that_is_there():
    for group in ("zoo.algorithms", "zoo.plugins"):
        for target in PROJECT["project"]["entry-points"][group].values():
            module, _, attribute = target.partition(":")
            assert importlib.util.find_spec(module), target
            assert not attribute or hasattr(importlib.import_module(module), attribute), target


def test_the_installed_entry_points_are_those_of_the_project():
    """A new entry point needs a reinstall, even of an editable one."""
    name = PROJECT["project"]["name"]
    installed = {p.name: p.value for p in entry_points(group="zoo.algorithms") if p.dist.name == name}
    assert installed == PROJECT["project"]["entry-points"]["zoo.algorithms"], "run `pip install -e .` again"


def test_the_version_is_the_same_everywhere():
    import zoo

    assert zoo.__version__ == PROJECT["project"]["version"]


def test_a_release_finds_every_place_of_the_version():
    for file in PROJECT["tool"]["bumpversion"]["files"]:
        search = file["search"].format(current_version=PROJECT["project"]["version"])
        assert (ROOT / file["filename"]).read_text(encoding="utf-8").count(search) == 1, file["filename"]


def test_the_image_holds_what_the_package_is_built_from():
    copied = re.findall(r"^COPY ([^-].*?) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    folders = {folder.split("/")[0] for folder in PROJECT["tool"]["setuptools"]["package-dir"].values()}
    needed = {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], *folders}
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert set(" ".join(copied).split()) == needed == {line[1:] for line in kept if line.startswith("!")}


def test_actions_of_the_workflows_are_pinned_to_a_commit():
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    used = [line.strip() for file in files for line in file.read_text().splitlines() if "uses:" in line]
    assert len(files) >= 2 and len(used) > 5
    assert not [line for line in used if not re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d", line)]


def test_malicious_versions_of_a_dependency_are_excluded():
    (lightning,) = [d for d in PROJECT["project"]["dependencies"] if d.startswith("lightning")]
    assert "!=2.6.2" in lightning and "!=2.6.3" in lightning


def test_the_plugins_folder_refuses_a_second_name(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ImportError, match="import zoo_plugins instead"):
        importlib.import_module("plugins")
