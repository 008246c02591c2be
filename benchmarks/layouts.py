"""What rows that share a prompt cost on a CPU against padded ones, by the lengths of prompt and answers.

    OMP_NUM_THREADS=1 python benchmarks/layouts.py              # float32 and bfloat16, some minutes
    OMP_NUM_THREADS=1 python benchmarks/layouts.py --steps 1    # each measured once

Two layers of the default model's shape, forward and backward, in CPU seconds: the fastest of some steps.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

LENGTHS = ((512, 2, 128), (512, 2, 512), (1024, 2, 1024), (256, 8, 64), (16, 2, 2048))
"""Tokens of the prompt, answers, and tokens of each."""


def make_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    from zoo.models.attention import use_cpu_attention

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=576, intermediate_size=1536, num_hidden_layers=2, num_attention_heads=9, num_key_value_heads=3,
            vocab_size=1024, max_position_embeddings=8192, tie_word_embeddings=True,
        )
    )  # fmt: skip
    use_cpu_attention(model)
    return model


def seconds(model: Any, answers: Any, layout: str, precision: str, steps: int) -> float:
    """The fastest forward and backward pass."""
    from zoo.models.scoring import score_answers

    fastest = float("inf")
    for _ in range(steps):
        begun = time.process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
            score_answers(model, answers, layout).sum().sum().backward()
        fastest = min(fastest, time.process_time() - begun)
    return fastest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    steps = parser.parse_args().steps
    from zoo.values.types import Answer

    torch.set_num_threads(1)
    model = make_model()
    print(f"{'precision':<12}{'prompt':>8}{'answers':>12}{'shared, s':>12}{'padded, s':>12}{'shared / padded':>18}")
    for precision in ("32-true", "bf16-mixed"):
        for prompt, count, length in LENGTHS:
            start = torch.randint(1024, (prompt,))
            answers = [
                Answer(start, torch.randint(1024, (length,)), torch.ones(length, dtype=torch.bool))
                for _ in range(count)
            ]
            shared, padded = (seconds(model, answers, layout, precision, steps) for layout in ("shared", "padded"))
            lengths = f"{precision:<12}{prompt:>8}{f'{count} x {length}':>12}"
            print(f"{lengths}{shared:>12.2f}{padded:>12.2f}{shared / padded:>18.2f}", flush=True)


if __name__ == "__main__":
    main()
