"""Memory and time of a divergence over vocabularies of two sizes, as zoo computes it and with all logits at once.

    python benchmarks/divergence.py                     # 49,152 and 250,000 words, 1,024 positions, one thread
    python benchmarks/divergence.py --positions 4096    # the plain way then takes 4 GB for each table of logits

Memory is the kernel's mark of the largest resident memory, less that of the moment when hidden states and weights are
there, and less the gradient of the head's weights, which every way has to make. Each case is a process of its own.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

WORDS, WIDTH, TEACHER_WIDTH = (49_152, 250_000), 256, 384
WAYS = ("zoo", "zoo, 64 words", "all logits at once")


def resident(field: str) -> int:
    """This process's resident memory in bytes: VmRSS now, VmHWM at most."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(rf"{field}:\s+(\d+) kB", text)[0]) * 1024


def measure(way: str, words: int, positions: int) -> None:
    """Print the memory in MiB, the CPU seconds and the mean divergence of one case."""
    import torch

    from zoo.models.comparing import top_classes
    from zoo.models.divergence import Divergence, States, class_divergence, token_divergence
    from zoo.models.logps import Head

    torch.set_num_threads(1)
    torch.manual_seed(0)

    def states(width: int) -> States:
        return States(torch.randn(positions, width) / width**0.5, Head(torch.randn(words, width)))

    policy, teacher = states(WIDTH), states(TEACHER_WIDTH)
    policy.hidden.requires_grad_()
    policy.head.weight.requires_grad_()
    kind, before, began = Divergence("reverse_kl"), resident("VmRSS"), time.process_time()
    if way == "zoo":
        value = token_divergence(policy, teacher, kind)
    elif way == "all logits at once":
        log_p = (policy.hidden @ policy.head.weight.t()).log_softmax(-1)
        log_q = (teacher.hidden @ teacher.head.weight.t()).log_softmax(-1)
        value = (log_p.exp() * (log_p - log_q)).sum(-1)
    else:
        value = class_divergence(policy, *top_classes(teacher, 64, 1.0), kind, 1.0)
    value.sum().backward()
    seconds = time.process_time() - began
    memory = resident("VmHWM") - before - policy.head.weight.numel() * 4
    print(f"{memory / 2**20:.0f} {seconds:.1f} {float(value.detach().mean()):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        measure(given.case[0], int(given.case[1]), given.positions)
        return
    print(f"{'words':>8}  {'way':<20}{'MiB':>7}{'CPU s':>8}  mean of {given.positions:,} positions")
    for words in WORDS:
        for way in WAYS:
            command = [sys.executable, __file__, "--positions", str(given.positions), "--case", way, str(words)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            memory, seconds, mean = done.stdout.split()
            print(f"{words:>8,}  {way:<20}{memory:>7}{seconds:>8}  {mean}", flush=True)


if __name__ == "__main__":
    main()
