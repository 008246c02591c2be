"""Every bundled optimizer against AdamW, each at its own best rate of three: SFT and DPO in a world of the laboratory.

    python benchmarks/optimizers.py              three seeds
    python benchmarks/optimizers.py --seeds 1    one
    python benchmarks/optimizers.py --memory     bytes of state for a weight, measured on a model of 135 M weights

For each optimizer it prints the best rate, the held-out loss at the end (mean over the seeds), and its difference to
AdamW's with the standard deviation over the seeds. Optimizers whose package or device is missing are left out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

import zoo
from zoo.errors import ZooError
from zoo.optimizers.bundled import BUNDLED
from zoo.optimizers.chosen import OPTIMIZERS
from zoo.options.config import TrainConfig
from zoo.training.step.schedule import make_optimizer, parameter_groups

MIDDLE = {"sft": 2e-3, "dpo": 6e-3}
"""The middle one of AdamW's three rates, each FACTOR times the one before it."""
FACTOR = 3.0
OF_ADAMW = {"lion": 0.3}
"""The rates of an optimizer as a share of AdamW's: the paper of Lion says a third to a tenth."""
ALGORITHMS = {"sft": ",shown=chosen", "dpo": ""}
OPTIONS = {
    "batch_size": 64, "epochs": 2, "eval_every": 1000, "save_every": 0, "score": "none", "precision": "32-true",
    "layout": "padded", "quiet": True,
}  # fmt: skip


def loss(algo: str, optimizer: str, lr: float, seed: int, folder: Path) -> float:
    """The held-out loss at the end of a run."""
    run = zoo.train(
        algo, model=f"world:gold(seed={seed})", data=f"world:gold(rows=1600,noise=0.1,seed={seed}{ALGORITHMS[algo]})",
        optimizer=optimizer, lr=lr, seed=seed, out=str(folder), **OPTIONS,
    )  # fmt: skip
    return run.summary["after"]["val/loss"]


def rates(algo: str, optimizer: str) -> tuple[float, ...]:
    middle = MIDDLE[algo] * OF_ADAMW.get(optimizer, 1.0)
    return (middle / FACTOR, middle, middle * FACTOR)


def best(algo: str, optimizer: str, seeds: int) -> tuple[float, list[float]]:
    """The best rate by the mean over the seeds, and the loss of each seed with it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        losses = {
            lr: [loss(algo, optimizer, lr, seed, place) for seed in range(seeds)] for lr in rates(algo, optimizer)
        }
    lr = min(losses, key=lambda lr: statistics.fmean(losses[lr]))
    return lr, losses[lr]


def here() -> Iterator[str]:
    """The optimizers that this machine has."""
    for name in BUNDLED:
        try:
            made(name, torch.nn.Linear(2, 2))
            yield name
        except ZooError as error:
            print(f"Left out: {error.message}")


def made(name: str, model: torch.nn.Module) -> torch.optim.Optimizer:
    groups = parameter_groups({"policy": model}, TrainConfig())
    return make_optimizer(OPTIMIZERS.choose(name, OPTIMIZERS.bundled), groups)


def compare(seeds: int) -> None:
    names = list(here())
    for algo in ALGORITHMS:
        print(f"\n{algo:<14}{'best rate':>12}{'held-out loss':>16}{'to adamw':>20}")
        base: list[float] = []
        for name in names:
            lr, losses = best(algo, name, seeds)
            base = base or losses
            gaps = [own - other for own, other in zip(losses, base, strict=True)]
            gap = f"{statistics.fmean(gaps):+.4f} ± {statistics.pstdev(gaps):.4f}"
            print(f"{name:<14}{lr:>12.2g}{statistics.fmean(losses):>16.4f}{gap:>20}", flush=True)


def memory() -> None:
    """One step of each optimizer on a model of SmolLM2's shape, and the bytes of its state."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    for name in here():
        model = LlamaForCausalLM(config)
        optimizer = made(name, model)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        state = [value for one in optimizer.state.values() for value in one.values() if torch.is_tensor(value)]
        # Tables that weights share count once.
        held = {value.data_ptr(): value.numel() * value.element_size() for value in state}
        print(f"{name:<14}{sum(held.values()) / sum(p.numel() for p in model.parameters()):8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    given = parser.parse_args()
    memory() if given.memory else compare(given.seeds)


if __name__ == "__main__":
    main()
