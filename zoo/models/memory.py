"""What a step of a model holds in memory, found without weights: the step is made with tensors that hold no numbers.

The step of two models of a few layers says what a layer more costs. It is traced on the CPU for every device.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.cards import kept
from zoo.libraries.architecture import heads_of, recompute_activations, silence_dropout, text_of
from zoo.libraries.quantising import QUANTISED, quantised_in
from zoo.libraries.releases import installed
from zoo.libraries.second_adapter import add_copy
from zoo.libraries.sharding import blocks_of
from zoo.libraries.tensor_parallel import cut_configuration
from zoo.libraries.tracing import FakeCopies, Live, configuration, fake_model, shortened, when_last_layer_is_done
from zoo.libraries.wrappers import base_of, current_layer
from zoo.models.attention import use_cpu_attention
from zoo.models.facts import weights_in
from zoo.models.layout import Rows, arrange
from zoo.models.loading import add_lora
from zoo.models.logps import Head, token_logps
from zoo.models.precision import autocast, round_frozen, weights_dtype
from zoo.models.scalar import head_values
from zoo.models.scoring import hidden_states, reads_segments
from zoo.values.types import Answer

VALUES = 40
"""Hidden-sized values that a layer keeps for the backward pass, as a rule of thumb."""
LAYERS = (2, 3)
"""Of the models that are traced; more layers cost what the difference says."""


@dataclass(frozen=True)
class Step:
    """The texts of a micro-batch, in tokens: examples of `answers` answers to one prompt, as many as fit."""

    tokens: int
    prompt: int
    completion: int
    answers: int

    def texts(self) -> list[Answer]:
        example = max(1, self.prompt + self.answers * self.completion)
        return [
            Answer.of([1 + number % 7] * self.prompt + [number], [2 + k] * self.completion)
            for number in range(max(1, self.tokens // example))
            for k in range(self.answers)
        ]


@dataclass(frozen=True)
class Way:
    """How a role is computed. base_dtype: as the option says it; targets, whole: separated by commas.

    goes_on: there is a second adapter, as at the start; layers: how many are recomputed, None for all; scalar: it
    scores; group: the processes among which its layers are cut.
    """

    precision: str
    base_dtype: str = "auto"
    trained: bool = True
    lora: bool = False
    rank: int = 16
    targets: str = "all-linear"
    kind: str = "lora"
    whole: str = ""
    goes_on: bool = False
    checkpointing: bool = False
    layers: int | None = None
    scalar: bool = False
    shared: bool = True
    on_cpu: bool = True
    group: int = 1


@dataclass(frozen=True)
class Held:
    """Bytes of a model and of its step. matrices, others: trained weights inside the network, and the other ones.

    weights: of all weights; gradients; largest: the largest gradient; step: everything else at the peak of a forward
    pass and of the backward pass through the head and the last layer, rest: through the other layers; scoring: of a
    forward pass without a gradient; cache: keys and values of one token. outside, block: weights outside of the blocks,
    which a pass of a sharded model gathers, and those of the largest block. rounded: of `step`, bfloat16 copies of
    matrices that autograd keeps for the backward pass, also of those that are sharded: it has gathered the originals.
    """

    weights: float
    gradients: float
    matrices: float
    others: float
    largest: float
    step: float
    rest: float
    scoring: float
    cache: float
    outside: float = 0.0
    block: float = 0.0
    rounded: float = 0.0

    def with_layers(self, more: Held, layers: int) -> Held:
        """What a model of so many layers holds. self, more: models of LAYERS.

        A backward pass frees one layer after the other, so that its peak is at the last layer, or where the embeddings
        get their gradient.
        """
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(more), strict=True)
        held = Held(*(a + (layers - LAYERS[0]) * (b - a) for a, b in pairs))
        return dataclasses.replace(held, largest=max(self.largest, more.largest), rest=max(self.rest, more.rest))

    def towards(self, other: Held, share: float) -> Held:
        """What a model holds of whose layers a share is computed as in the other one."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Held(*(a + share * (b - a) for a, b in pairs))


def held(folder: Path, way: Way, step: Step) -> Held:
    """What the model in a folder holds, by its configuration; kept in the cache. Raises whatever a model may raise."""
    if way.checkpointing and way.layers is not None:
        recomputed, plain = (
            held(folder, dataclasses.replace(way, checkpointing=given, layers=None), step) for given in (True, False)
        )
        return plain.towards(recomputed, way.layers / text_of(configuration(folder)).num_hidden_layers)
    versions = [f"{name} {installed(name)}" for name in ("torch", "transformers", "peft")]
    fields = [field.name for field in dataclasses.fields(Held)]
    place = [str(folder), *map(str, (*dataclasses.astuple(way), *dataclasses.astuple(step))), *versions, *fields]
    card = kept.read("memory", place)
    if card is None:
        card = dataclasses.asdict(_traced(cut_configuration(configuration(folder), way.group), way, step))
        kept.write("memory", place, card, [str(folder / "config.json"), __file__])
    return Held(**card)


def rough(folder: Path, way: Way, step: Step) -> Held:
    """The same from the size of the model alone, for an architecture that cannot be traced."""
    text, count = text_of(configuration(folder)), float(weights_in(folder)[0]) / way.group
    wide, layers = text.hidden_size, text.num_hidden_layers
    trained = 0.0 if not way.trained else 4.0 * layers * wide * way.rank * 14 if way.lora else count
    size = 2.0 if way.precision == "bf16-true" or (way.base_dtype == "bfloat16" and trained < count) else 4.0
    if way.base_dtype in QUANTISED and trained < count:
        size = {"nf4": 0.52, "int8": 1.0}[way.base_dtype]
    recomputed = min(1.0, (way.layers or layers) / layers) if way.checkpointing else 0.0
    step_bytes = VALUES * 4.0 * layers * wide * step.tokens * (recomputed / 10 + 1 - recomputed)
    embedding = 4.0 * wide * text.vocab_size
    outside = embedding * (1 if way.scalar or getattr(text, "tie_word_embeddings", False) else 2)
    block = max(0.0, size * count - outside) / layers
    cache = _cached(text, way)
    return Held(size * count, size * trained, trained, 0.0, embedding, step_bytes, 3 * embedding, step_bytes / layers,
                cache, outside, block)  # fmt: skip


def _traced(config: Any, way: Way, step: Step) -> Held:
    layers = text_of(config).num_hidden_layers
    if layers <= LAYERS[1]:
        return _of_model(config, way, step)
    few, more = (_of_model(shortened(config, count), way, step) for count in LAYERS)
    return few.with_layers(more, layers)


def _of_model(config: Any, way: Way, step: Step) -> Held:
    model = _made(config, way)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    head = base_of(model).get_output_embeddings()
    outside = {id(value) for module in model.modules() if isinstance(module, torch.nn.Embedding) or module is head
               for value in module.parameters()}  # fmt: skip
    inside = [value for value in trained.values() if value.ndim == 2 and id(value) not in outside]
    mixed = way.precision == "bf16-mixed" and way.trained and not way.checkpointing
    rounded = [value for value in model.parameters() if value.ndim == 2 and id(value) not in outside
               and value.dtype == torch.float32] if mixed else []  # fmt: skip
    gradients = [_bytes(value) for value in trained.values()]
    matrices, everything = (sum(value.numel() for value in values) for values in (inside, trained.values()))
    scales = sum(layer.scales.size for layer in quantised_in(model))
    peaks = _peaks(model, list(trained.values()), way, step)
    return Held(
        sum(map(_bytes, model.parameters())) + scales, sum(gradients), matrices, everything - matrices,
        max(gradients, default=0), *peaks, _cached(config, way), *_gathered(base_of(model)),
        2 * sum(value.numel() for value in rounded),
    )  # fmt: skip


def _gathered(base: Any) -> tuple[int, int]:
    """`outside` and `block` of `Held`."""
    blocks = [{id(p): _bytes(p) for p in block.parameters()} for block in blocks_of(base)]
    inside = {name for block in blocks for name in block}
    outside = sum(_bytes(p) for p in base.parameters() if id(p) not in inside)
    return outside, max((sum(block.values()) for block in blocks), default=0)


def _made(config: Any, way: Way) -> Any:
    """The model as a run makes it."""
    model = fake_model(config, weights_dtype(way.precision), way.scalar)
    silence_dropout(model)
    if way.on_cpu:
        use_cpu_attention(model)
    if way.lora:
        with FakeCopies():
            model = add_lora(model, way.rank, 2.0 * way.rank, 0.0, way.targets.split(","), kind=way.kind,
                         whole=way.whole.split(",") if way.whole else ())  # fmt: skip
        if way.goes_on:
            add_copy(model)
    model.requires_grad_(way.trained) if not (way.lora and way.trained) else None
    if way.lora or not way.trained:
        round_frozen(model, way.precision, way.base_dtype)
    if way.checkpointing and way.trained:
        recompute_activations(model, way.lora, way.layers)
    return model.train(way.trained)


def _peaks(model: Any, trained: list[Tensor], way: Way, step: Step) -> tuple[int, int, int]:
    """Bytes beside weights and gradients: `step`, `rest` and `scoring` of `Held`."""
    one_row = way.shared and reads_segments(base_of(model))
    rows = arrange(step.texts(), "shared" if way.shared else "padded", one_row=one_row)
    alone = Live(model.parameters())
    with alone, torch.no_grad(), autocast(way.precision, "cpu", keeps=False):
        _numbers(model, rows, way).sum()
    torch.clear_autocast_cache()
    if not trained:
        return alone.peak, 0, alone.peak
    for value in trained:
        # Those of the micro-batches before it.
        value.grad = torch.empty_like(value)
    live = Live([*model.parameters(), *(value.grad for value in trained if value.grad is not None)])
    peaks: list[int] = []
    handle = when_last_layer_is_done(base_of(model), lambda: peaks.append(live.take_peak()))
    with live, autocast(way.precision, "cpu", keeps=False):
        _numbers(model, rows, way).sum().backward()
    if handle is not None:
        handle.remove()
    return peaks[0] if peaks else live.peak, live.peak, alone.peak


def _numbers(model: Any, rows: Rows, way: Way) -> Tensor:
    """Log-probabilities or scores."""
    hidden = hidden_states(model, rows)[rows.row, rows.column]
    if way.scalar:
        return head_values(model, hidden)
    layer = current_layer(base_of(model).get_output_embeddings())
    own = None if type(layer).forward is torch.nn.Linear.forward else layer
    return token_logps(hidden, Head(layer.weight, getattr(layer, "bias", None), layer=own), rows.target)[0]


def _cached(config: Any, way: Way) -> float:
    """Bytes of the keys and values of one token."""
    text = text_of(config)
    _, groups, size = heads_of(text)
    return 2.0 * text.num_hidden_layers * groups * size * (4 if way.precision == "32-true" else 2)


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()
