"""A model as a GGUF file, for llama.cpp, Ollama and LM Studio: by llama.cpp's own converter and quantiser.

The package `gguf` writes the format but knows no architecture; the converter does, and is in no wheel that is kept. The
source archive of llama-cpp-python on PyPI has llama.cpp as it was released. The converter is taken from there once, if
the archive is the one whose digest stands here. A folder of llama.cpp in ZOO_LLAMA_CPP goes before it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from zoo.errors import ZooError, nearest
from zoo.libraries.extras import needs
from zoo.paths import cache_folder, unique_beside

Say = Callable[[str], None]
PACKAGE = "llama-cpp-python==0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
"""Of the archive that was tested."""
SCRIPT = "convert_hf_to_gguf.py"
PARTS = (SCRIPT, "LICENSE", "conversion", "gguf-py")
"""What is taken of llama.cpp: two files and two folders."""
OWN = "ZOO_LLAMA_CPP"
"""The variable of the environment with a folder of llama.cpp: its source, and what was built of it."""
CONVERTED = ("f16", "bf16", "f32", "q8_0")
"""The kinds that the converter writes."""
NEWER = f"If its architecture or tokenizer is newer than {PACKAGE}, name the folder of a newer llama.cpp in {OWN}."
QUANTISER = "llama-quantize"
QUANTISED = (
    "q4_k_m", "q4_k_s", "q4_0", "q4_1", "q5_k_m", "q5_k_s", "q5_0", "q5_1", "q6_k", "q3_k_m", "q3_k_s", "q3_k_l",
    "q2_k", "iq4_nl", "iq4_xs",
)  # fmt: skip
"""The kinds that llama.cpp's own program makes of a file in f16."""


def require_kind(kind: str) -> None:
    """Raises ZooError for an unknown kind, or one for which something is not installed. Nothing is fetched."""
    if kind not in (*CONVERTED, *QUANTISED):
        raise ZooError(
            f"--gguf does not take '{kind}'.{nearest(kind, [*CONVERTED, *QUANTISED])}",
            f"Choose {', '.join(CONVERTED)}, or with llama.cpp installed {', '.join(QUANTISED)}.",
        )
    needs("sentencepiece", "gguf", "--gguf")
    if kind in QUANTISED:
        quantiser()


def quantiser() -> str:
    """The path of llama.cpp's program. Raises ZooError that says how to get it."""
    own = os.environ.get(OWN)
    built = str(Path(own) / "build" / "bin") if own else None
    found = shutil.which(QUANTISER, path=built) if built else None
    if (found := found or shutil.which(QUANTISER)) is None:
        raise ZooError(
            f"4-bit kinds of GGUF are made by llama.cpp's {QUANTISER}, which is not on the PATH.",
            "Install llama.cpp (brew install llama.cpp; winget install llama.cpp; or build it with cmake and name its "
            f"folder in {OWN}). Without it: --gguf q8_0.",
        )
    return found


def write_gguf(folder: Path, file: Path, kind: str, say: Say) -> None:
    """Write a Hugging Face folder as a GGUF file, complete or not at all. Raises ZooError."""
    converted = kind if kind in CONVERTED else "f16"
    script = _converter(say)
    with unique_beside(file) as beside:
        command = [sys.executable, str(script), str(folder), "--outfile", str(beside), "--outtype", converted]
        _run(command, "llama.cpp's converter", NEWER)
        if kind in QUANTISED:
            smaller = beside.with_name("quantised.gguf")
            _run([quantiser(), str(beside), str(smaller), kind.upper()], QUANTISER, "Try --gguf q8_0.")
            os.replace(smaller, beside)
        os.replace(beside, file)


def _run(command: list[str], name: str, hint: str) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip(" *")]
        why = next((line for line in reversed(said) if "rror" in line), said[-1] if said else "it said nothing")
        raise ZooError(f"{name} cannot make a GGUF file of this model: {why.strip()}", hint)


# -- the converter -----------------------------------------------------------------------------------------------------


def _converter(say: Say) -> Path:
    """llama.cpp's converter: of the user's own llama.cpp, from the cache, or fetched once."""
    if own := os.environ.get(OWN):
        if not (script := Path(own) / SCRIPT).is_file():
            raise ZooError(f"{OWN} is {own}, where there is no {SCRIPT}.", f"Name the folder of llama.cpp in {OWN}.")
        return script
    folder = cache_folder() / f"llama.cpp-{PACKAGE.partition('==')[2]}"
    if not (folder / SCRIPT).is_file():
        say(f"Getting llama.cpp's converter from the source of {PACKAGE} on PyPI (77 MB, once; kept in {folder}).")
        with tempfile.TemporaryDirectory() as temporary:
            _take(_fetched(Path(temporary)), folder)
    return folder / SCRIPT


def _fetched(folder: Path) -> Path:
    """The archive, fetched by pip from wherever it is set up to look."""
    package = PACKAGE.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", package]
    done = subprocess.run(
        [*command, "--dest", str(folder), PACKAGE], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ZooError(
            f"llama.cpp's converter is not in the cache, and pip could not get {PACKAGE}: {why}",
            f"Connect once, or name a folder with llama.cpp's source in {OWN}.",
        )
    with archives[0].open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != SHA256:
        raise ZooError(
            f"{archives[0].name} has sha256 {digest}, expected {SHA256}: it is damaged or another file.",
            f"Try again, or name a folder with llama.cpp's source in {OWN}.",
        )
    return archives[0]


def _take(archive: Path, folder: Path) -> None:
    """Unpack the converter alone."""
    with unique_beside(folder) as beside, tarfile.open(archive) as packed:
        for member in packed:
            # llama_cpp_python-0.3.36/vendor/llama.cpp/…
            parts = PurePosixPath(member.name).parts[3:]
            if parts and parts[0] in PARTS and member.isfile() and "tests" not in parts:
                member.name = str(PurePosixPath(*parts))
                packed.extract(member, beside, filter="data")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
