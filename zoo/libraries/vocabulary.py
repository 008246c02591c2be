"""Rows of a model's vocabulary: how many there are, more of them, and the modules that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.libraries.reliance import relies_on
from zoo.libraries.tiny import IDS, make_tiny
from zoo.libraries.wrappers import base_of


def rows_of(model: Any) -> int:
    """The rows of a model's embedding."""
    return int(base_of(model).get_input_embeddings().weight.shape[0])


def rows_by(config: Any) -> int | None:
    """The rows of an embedding by a model's configuration."""
    return getattr(config.get_text_config(decoder=True), "vocab_size", None)


def set_rows_by(config: Any, rows: int) -> None:
    """Let a configuration say that the embedding has so many rows."""
    config.get_text_config(decoder=True).vocab_size = rows


def give_rows(model: Any, ids: Sequence[int], known: int) -> None:
    """Set the rows of token ids to the mean of the rows below `known`, in the embedding and in the head.

    Missing rows are appended. Raises ZooError for a model whose vocabulary cannot grow.
    """
    rows, needed = rows_of(model), max(ids) + 1
    known = min(known, rows)
    if needed > rows:
        _grow(model, needed)
    with torch.no_grad():
        for module in vocabulary_modules(model).values():
            for values in (module.weight, getattr(module, "bias", None)):
                if values is not None:
                    values[list(ids)] = values[:known].float().mean(0).to(values.dtype)


def _grow(model: Any, rows: int) -> None:
    try:
        # The new rows are drawn, and then replaced: the random numbers of the run stay where they are.
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(rows, mean_resizing=False)
        sizes = {name: len(module.weight) for name, module in vocabulary_modules(model).items()}
    # Every architecture that stores its vocabulary in its own way fails in its own way.
    except Exception as error:
        raise _cannot_grow(model, str(error).split("\n")[0]) from error
    if set(sizes.values()) != {rows}:
        raise _cannot_grow(model, ", ".join(f"{name} has {size:,} rows" for name, size in sizes.items()))


def _cannot_grow(model: Any, why: str) -> ZooError:
    return ZooError(
        f"The vocabulary of {type(model).__name__} cannot grow: {why}.",
        "Name a template whose tokens it has (`zoo templates`), and leave out --new-tokens.",
    )


def vocabulary_modules(model: Any) -> dict[str, Any]:
    """The embedding, and the output head unless it shares the embedding's weights, by their names."""
    model = base_of(model)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    modules = [embedding, *([] if head is None or head.weight is embedding.weight else [head])]
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(module)]: module for module in modules}


# -- checks --------------------------------------------------------------------------------------------------------


def _grown(tied: bool) -> Any:
    model = make_tiny(tie_word_embeddings=tied)
    give_rows(model, [16, 17], 16)
    return model


@relies_on("transformers", "`resize_token_embeddings` appends rows to embedding and head and keeps what was there.")
def vocabularies_can_grow() -> None:
    for tied in (True, False):
        before, model = make_tiny(tie_word_embeddings=tied), _grown(tied)
        weight = model.get_input_embeddings().weight
        assert list(weight.shape) == [18, 16] and model.config.vocab_size == 18, f"its shape is {list(weight.shape)}"
        shared = model.get_output_embeddings().weight is weight
        assert shared == tied, f"with tie_word_embeddings={tied} head and embedding are {'one' if shared else 'two'}"
        assert torch.allclose(weight[17], weight[:16].mean(0), atol=1e-6), "the new rows are not the mean"
        with torch.no_grad():
            gap = (model(input_ids=IDS).logits[..., :16] - before(input_ids=IDS).logits).abs().max()
        assert float(gap) < 1e-5, f"the logits of the other tokens differ by {float(gap):.2g}"
