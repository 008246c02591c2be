"""The tiny models of the conformance suite, created and loaded once per process, as a run would load them."""

from __future__ import annotations

import atexit
import copy
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from zoo.contract.algorithm import Algorithm
from zoo.data.encoding.template import ChatTemplate
from zoo.models.names import Source
from zoo.models.start import load_policy
from zoo.options.config import TrainConfig
from zoo.options.roles import POLICY
from zoo.testing.tiny import make_model, make_tokenizer, write_folder

MOVES = (0.05, 0.003)
"""Standard deviations of the noise that moves a policy away from its reference, and from the weights that generated
its answers."""

ENDING = 4.0
"""Factor of the end token's embedding, which makes its logit often the largest or the smallest."""


@cache
def workplace() -> Path:
    """A folder for the tiny model and rows, deleted when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="zoo-conformance-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def source() -> Source:
    """The tiny model, modified so that it ends some of its answers early."""
    folder = write_folder(workplace() / "tiny")
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), tokenizer.eos_token_id)
    embeddings = model.get_input_embeddings().weight.detach()
    # The padding token's embedding is zero, which would make its logit zero.
    embeddings[tokenizer.eos_token_id] = ENDING * embeddings[0]
    model.save_pretrained(folder)
    return Source(str(folder), folder)


@cache
def other_source() -> Source:
    """The tiny model after random moves."""
    folder = workplace() / "tiny-moved"
    shutil.copytree(source().name, folder)
    moved(copy.deepcopy(pristine("lm", "32-true")), len(MOVES)).save_pretrained(folder)
    return Source(str(folder), folder)


@cache
def template() -> ChatTemplate:
    return ChatTemplate(make_tokenizer())


@cache
def pristine(head: str, precision: str) -> Any:
    """The model as a run would load it, before any change; copy it."""
    return load_policy(TrainConfig(accelerator="cpu"), source(), precision, head)


@cache
def frozen(head: str, precision: str) -> Any:
    """A reference."""
    return copy.deepcopy(pristine(head, precision)).requires_grad_(False)


def options_to_name(cls: type[Algorithm]) -> list[str]:
    """The options of the roles that an algorithm may need and that somebody must name a model for."""
    roles = {name: role for name, role in cls.role_table().items() if name != POLICY and role.start == "named"}
    return [role.option for name, role in roles.items() if callable(cls.needs) or name in cls.needs]


@cache
def stranger(head: str, precision: str) -> Any:
    """A frozen model that is another one than every policy and reference."""
    return moved(copy.deepcopy(pristine(head, precision)), 1, seed=2).requires_grad_(False)


@cache
def network(head: str, precision: str, moves: int) -> Any:
    """A policy after this many random moves away from its reference."""
    return moved(copy.deepcopy(pristine(head, precision)), moves)


def moved(model: Any, moves: int, seed: int = 1) -> Any:
    """The model, with noise on its weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for size in MOVES[:moves]:
            for parameter in model.parameters():
                parameter += size * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model
