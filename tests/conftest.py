"""A tiny tokenizer and model made in code, and an environment that reaches nothing outside the test."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
from pathlib import Path

import pytest
import torch

from zoo.libraries.reliance import require
from zoo.testing.tiny import make_model, make_tokenizer, write_folder

torch.set_num_threads(1)

SEAM = {
    "test_libraries", "test_every_algorithm", "test_engine", "test_attention", "test_layout", "test_scoring",
    "test_logps", "test_scalar_head", "test_checkpoints", "test_default_model", "test_data_sources", "test_report",
}  # fmt: skip
"""Files that other versions of the libraries can break: what the marker `seam` stands for."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SEAM:
            item.add_marker("seam")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Models and reference log-probs of the tests go to a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def hub_looked_at():
    """The checks of the hub's library, kept from then on: before a test puts another hub in its place."""
    require("huggingface-hub")


@pytest.fixture(scope="session")
def tiny_tokenizer():
    return make_tokenizer()


@pytest.fixture
def tiny_model(tiny_tokenizer):
    """A fresh model for each test; it is always the same one."""
    return make_model(len(tiny_tokenizer), tiny_tokenizer.eos_token_id)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The tiny model and tokenizer as a Hugging Face folder. Read only: copy it to change it."""
    return write_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def vectors():
    """Worked numbers: `{name: {formula, inputs, expected, notes}}`."""
    return json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))["vectors"]
