"""The precision of a run, as Lightning's trainer takes it.

Relies on `lightning.pytorch.plugins.precision.Precision`, which leaves model and batch alone.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.plugins.precision import Precision


class BFloat16Weights(Precision):
    """Trains weights that are bfloat16 already, and changes nothing.

    Lightning's own plugin for bf16-true walks the batch, which here is frozen, and makes bfloat16 the type of every new
    tensor, rewards and advantages included.
    """

    precision: Any = "bf16-true"


def trainer_options(precision: str) -> dict[str, Any]:
    """What says it to `lightning.Trainer`: its option `precision`, or a plugin in the place of Lightning's own."""
    return {"plugins": [BFloat16Weights()]} if precision == "bf16-true" else {"precision": precision, "plugins": []}
