"""What the options of a run ask of a model's layers, asked of a model without weights, before anything is loaded."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch

from zoo.errors import ZooError
from zoo.libraries.adapters import refuse_doubled, rows_to_train
from zoo.libraries.architecture import recompute_activations
from zoo.libraries.pissa import KIND, refuse_rank
from zoo.libraries.reliance import require
from zoo.libraries.tensor_parallel import refuse_uncuttable
from zoo.libraries.tracing import FakeCopies, configuration, fake_model
from zoo.models.experts import refuse_coefficient
from zoo.models.start import with_trained
from zoo.options.checks import names_in
from zoo.options.config import TrainConfig


def check_layers(folder: Path, core: TrainConfig, head: str, new_tokens: bool) -> None:
    """Raises ZooError for adapters, and options of routers and layers, that do not fit the model in a folder.

    head: as of `load_policy`; new_tokens: rows of tokens are trained beside adapters. A model that cannot be made of
    its configuration alone is not looked at.
    """
    if core.lora:
        require("peft")
    traced = logging.getLogger("torch._subclasses.fake_tensor")
    level = traced.level
    traced.setLevel(logging.CRITICAL)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _try(folder, core, head, new_tokens)
    except ZooError:
        raise
    # What has no numbers fails in many ways, which say nothing about the model.
    except Exception:
        return
    finally:
        traced.setLevel(level)


def check_cut(folder: Path, size: int) -> None:
    """Raises ZooError for a model in a folder that cannot be cut among `size` processes."""
    refuse_uncuttable(configuration(folder), size)


def _try(folder: Path, core: TrainConfig, head: str, new_tokens: bool) -> None:
    # In this type a mixture of experts runs without numbers, too.
    model = fake_model(configuration(folder), torch.bfloat16, head == "scalar")
    refuse_coefficient(model, core.router_aux_loss)
    if new_tokens and core.lora and rows_to_train(model, [0], names_in(core.train_modules)):
        # peft must not train rows here: it copies numbers that are not there, which corrupts memory.
        refuse_doubled(model, core.lora_targets)
    if core.gradient_checkpointing:
        recompute_activations(model, adapted=False, layers=core.checkpoint_layers)
    with FakeCopies():
        # Adapters are no fake tensors: of the rank of the run they would take memory.
        adapted = with_trained(model, core, 1)
    if core.lora and core.lora_kind.startswith(KIND):
        refuse_rank(adapted, core.lora_rank)
