"""A tiny tokenizer and model made in code, and an environment that reaches nothing outside the test."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import copy
import json
import re
import sys
from bisect import bisect
from collections import Counter
from itertools import accumulate, chain
from pathlib import Path

import pytest
import torch

from zoo.libraries.reliance import require
from zoo.testing.tiny import make_model, make_tokenizer, write_folder

torch.set_num_threads(1)
# A test that writes a module anew within a second would be given the byte code of the one before.
sys.dont_write_bytecode = True

SEAM = {
    "test_libraries", "test_every_algorithm", "test_engine", "test_attention", "test_layout", "test_scoring",
    "test_logps", "test_comparing", "test_heads", "test_scalar_head", "test_checkpoints", "test_default_model",
    "test_data_sources", "test_report", "test_experts",
}  # fmt: skip
"""Files that other versions of the libraries can break: what the marker `seam` stands for."""


QUICK = {
    # Formulas.
    "test_sft", "test_lm", "test_dpo", "test_ipo", "test_cpo", "test_orpo", "test_simpo", "test_kto", "test_bco",
    "test_rm", "test_prm", "test_ppo", "test_grpo", "test_rlaif", "test_online_dpo", "test_constitutional", "test_ties",
    "test_spin",
    "test_opd", "test_gkd",
    "test_sums", "test_gradients", "test_schedule", "test_eval_formulas", "test_expression", "test_sampling",
    # Types and what computes them.
    "test_types", "test_logps", "test_divergence", "test_heads", "test_layout", "test_scoring", "test_attention",
    "test_contract_snapshot",
    # Data.
    "test_data_formats", "test_data_kinds", "test_data_load", "test_encode", "test_template", "test_tokens",
    "test_loader", "test_held_out", "test_mixture", "test_data_sources", "test_data_defaults", "test_curation",
    "test_reference_cache", "test_instructions", "test_reward_checkers", "test_recipe_claims",
    # Options and imports.
    "test_options", "test_points", "test_config", "test_spelling", "test_repeated_flags", "test_registry",
    "test_imports", "test_mutations", "test_terminal",
}  # fmt: skip
"""Files on formulas, types, data, options and imports: their tests that need no model in a folder, and so start no run,
have the marker `quick`."""
LONG = (
    "test_conformance", "test_documented_commands", "test_online", "test_processes", "test_resume", "test_compare",
    "test_new_plugin", "test_cli", "test_training", "test_reproduce", "test_startup", "test_packaging", "test_tutorial",
)  # fmt: skip
"""Files that take longest, in this order: they begin first, so that no process is left alone with one at the end."""
LONGEST = Path(__file__).parent / "longest.txt"
"""The tests that take longest and together two thirds of the time: they are `long`. `make longest` measures it anew."""
ALWAYS = re.compile(
    r"test_it_does_what_the_page_says|test_tutorial|test_new_plugin|test_third_party\.py::test_it_conforms"
    r"|conforms\[(dpo|grpo)-|takes_it_and_has_everything|allowed_to_run"
)
"""Tests that `make test` runs however long they take: the commands of the pages, which build on those before, and a
stranger's package."""
SLOW_LIMIT = 3600
"""Seconds for a test that is marked `slow`."""


def pytest_addoption(parser):
    parser.addoption("--write-longest", action="store_true", help="write tests/longest.txt from the times of this run")


def pytest_terminal_summary(terminalreporter):
    """Write the tests that together take two thirds of the time, if this is asked for."""
    if terminalreporter.config.option.write_longest:
        seconds = Counter()
        for report in chain(*map(terminalreporter.getreports, ("", "passed", "failed", "skipped"))):
            seconds[report.nodeid] += report.duration
        ordered = [name for name, _ in seconds.most_common()]
        spent = list(accumulate(seconds[name] for name in ordered))
        longest = ordered[: bisect(spent, spent[-1] * 2 / 3)]
        LONGEST.write_text("".join(f"{name}\n" for name in sorted(longest) if not ALWAYS.search(name)), "utf-8")


def pytest_collection_modifyitems(items):
    longest = set(LONGEST.read_text(encoding="utf-8").splitlines())
    for item in items:
        slow = item.get_closest_marker("slow") is not None
        if item.nodeid in longest:
            item.add_marker("long")
        if item.path.stem in SEAM:
            item.add_marker("seam")
        if item.path.stem in QUICK and not slow and "tiny_folder" not in item.fixturenames:
            item.add_marker("quick")
        if slow:
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT))
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_ignore_collect(collection_path, config):
    """If the quick tests or those of the seam alone are asked for, no other file need be imported."""
    asked = config.option.markexpr
    wanted = QUICK if asked == "quick" else SEAM if asked.startswith("seam") else ()
    return True if wanted and collection_path.stem.startswith("test_") and collection_path.stem not in wanted else None


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Models and reference log-probs of the tests go to a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def checkpoints_at_once(request):
    """A run that is killed at a step has the checkpoints of the steps before it. Tests of the thread put it back."""
    if request.config.option.markexpr == "quick":
        yield
        return
    from zoo.training.record import checkpoints

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "IN_BACKGROUND", False)
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


@pytest.fixture
def adapted(tiny_model):
    """A tiny model with adapters that change its output."""
    from zoo.models.loading import add_lora

    model = add_lora(copy.deepcopy(tiny_model), 4, 8.0, 0.0, "all-linear")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return model


@pytest.fixture
def alone():
    """A mesh of one process."""
    from zoo.libraries import sharding

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    sharding.make_mesh(torch.device("cpu"), 1)
    yield
    sharding.forget_mesh()
    torch.distributed.destroy_process_group()
