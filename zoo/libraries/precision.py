"""The precision of a run, as Lightning's trainer takes it."""

from __future__ import annotations

from typing import Any

import torch

from zoo.libraries.reliance import importing, relies_on

with importing("lightning"):
    from lightning.pytorch.plugins.precision import Precision


class BFloat16Weights(Precision):
    """Trains bfloat16 weights without changing anything else.

    Lightning's own plugin for bf16-true walks the batch, which is frozen here, and makes bfloat16 the dtype of every
    new tensor, rewards and advantages included.
    """

    precision: Any = "bf16-true"


def trainer_options(precision: str) -> dict[str, Any]:
    """What says it to `lightning.Trainer`: its option `precision`, or a plugin in the place of Lightning's own."""
    return {"plugins": [BFloat16Weights()]} if precision == "bf16-true" else {"precision": precision, "plugins": []}


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on("lightning", "The plugin `Precision` does not change model, batch or default dtype.")
def a_plain_precision_changes_nothing() -> None:
    plugin, model, batch = BFloat16Weights(), torch.nn.Linear(1, 1), {"a": torch.ones(1)}
    with plugin.forward_context(), plugin.tensor_init_context(), plugin.module_init_context():
        made = torch.ones(1).dtype
    assert made == torch.float32, f"new tensors are {made}"
    assert plugin.convert_input(batch) is batch, "the batch is walked"
    dtype = plugin.convert_module(model).weight.dtype
    assert dtype == torch.float32, f"weights become {dtype}"
