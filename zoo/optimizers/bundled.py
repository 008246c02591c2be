"""The optimizers that come with zoo. docs/optimizers.md gives the source of each, and the memory that it needs.

Each is a function of the parameter groups and its options. What needs torch is imported inside, because
`zoo optimizers` and `--dry-run` read names and options alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from annotated_types import Interval

from zoo.errors import ZooError
from zoo.optimizers import ParameterGroup, options_of_groups

Groups = Sequence[ParameterGroup]
Share = Annotated[float, Interval(ge=0, lt=1)]
Positive = Annotated[float, Interval(gt=0, lt=math.inf)]


def adamw(groups: Groups, beta1: Share = 0.9, beta2: Share = 0.999, eps: Positive = 1e-8) -> Any:
    """AdamW: Adam with decoupled weight decay, fused (arXiv:1711.05101)."""
    import torch

    return torch.optim.AdamW(options_of_groups(groups), betas=(beta1, beta2), eps=eps, fused=True)


def adamw_8bit(groups: Groups, beta1: Share = 0.9, beta2: Share = 0.999, eps: Positive = 1e-8) -> Any:
    """AdamW with both moments in 8 bits, of bitsandbytes (arXiv:2110.02861)."""
    return _of_bitsandbytes("adamw_8bit", groups, beta1, beta2, eps, paged=False)


def paged_adamw_8bit(groups: Groups, beta1: Share = 0.9, beta2: Share = 0.999, eps: Positive = 1e-8) -> Any:
    """AdamW with moments of 8 bits in pages that leave a full GPU (arXiv:2305.14314)."""
    return _of_bitsandbytes("paged_adamw_8bit", groups, beta1, beta2, eps, paged=True)


def _of_bitsandbytes(name: str, groups: Groups, beta1: float, beta2: float, eps: float, paged: bool) -> Any:
    refuse_missing(name)
    from zoo.libraries.optimizers import adamw_8bit as make

    return make(options_of_groups(groups), (beta1, beta2), eps, paged)


def adafactor(groups: Groups, decay: Annotated[float, Interval(gt=-1, lt=0)] = -0.8, clip: Positive = 1.0) -> Any:
    """Adafactor: second moments of rows and columns instead of weights, no first moment (arXiv:1804.04235)."""
    from zoo.libraries.optimizers import adafactor as make

    return make(options_of_groups(groups), decay, clip)


def lion(groups: Groups, beta1: Share = 0.9, beta2: Share = 0.99) -> Any:
    """Lion: the sign of a momentum (arXiv:2302.06675)."""
    from zoo.optimizers.lion import Lion

    return Lion(options_of_groups(groups), betas=(beta1, beta2))


def muon(
    groups: Groups, momentum: Share = 0.95, nesterov: bool = True, steps: Annotated[int, Interval(ge=1, le=99)] = 5,
    scale: Literal["adamw", "original"] = "adamw", others_lr: Positive = 1.0, beta1: Share = 0.9,
    beta2: Share = 0.999, eps: Positive = 1e-8,
) -> Any:  # fmt: skip
    """Muon: orthogonalised momentum for matrices inside the network, AdamW for the other weights (arXiv:2502.16982)."""
    refuse_missing("muon")
    import torch

    from zoo.optimizers.joint import Joint

    inside, others = ([group.select(hidden) for group in groups] for hidden in (True, False))
    parts: list[torch.optim.Optimizer] = []
    if matrices := options_of_groups(inside):
        adjusted = {"adamw": "match_rms_adamw", "original": "original"}[scale]
        made = torch.optim.Muon(
            matrices, momentum=momentum, nesterov=nesterov, ns_steps=steps, adjust_lr_fn=adjusted
        )  # fmt: skip
        parts.append(made)
    if rest := options_of_groups(others):
        rest = [{**group, "lr": group["lr"] * others_lr} for group in rest]
        parts.append(torch.optim.AdamW(rest, betas=(beta1, beta2), eps=eps, fused=True))
    return Joint(parts)


def rmsprop(groups: Groups, alpha: Share = 0.99, eps: Positive = 1e-8, momentum: Share = 0.0) -> Any:
    """RMSprop: the gradient over the root of its mean square, torch's; its weight decay is added to the gradient."""
    import torch

    return torch.optim.RMSprop(options_of_groups(groups), alpha=alpha, eps=eps, momentum=momentum)


BUNDLED: dict[str, Callable[..., Any]] = {
    "adamw": adamw,
    "adamw_8bit": adamw_8bit,
    "paged_adamw_8bit": paged_adamw_8bit,
    "adafactor": adafactor,
    "lion": lion,
    "muon": muon,
    "rmsprop": rmsprop,
}
PACKAGES = {"adamw_8bit": "bitsandbytes", "paged_adamw_8bit": "bitsandbytes"}
"""Packages that optimizers need besides those of zoo."""


def refuse_missing(name: str) -> None:
    """Raises ZooError for an optimizer whose package is not installed, or whose device or class torch has not here."""
    package = PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        raise ZooError(f"The optimizer {name} needs {package}, which is not installed.", f"pip install {package}")
    if name not in ("muon", "paged_adamw_8bit"):
        return
    import torch

    if name == "muon" and not hasattr(torch.optim, "Muon"):
        here = torch.__version__
        raise ZooError(f"The optimizer muon needs torch 2.9, and this is {here}.", "pip install 'torch>=2.9'")
    if name == "paged_adamw_8bit" and not torch.cuda.is_available():
        raise ZooError(
            f"The optimizer {name} moves its state between a GPU and the memory of the machine, and torch sees no GPU "
            "here.",
            "Use --optimizer adamw_8bit.",
        )
