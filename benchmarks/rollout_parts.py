"""Where the time of zoo's GRPO iteration goes: the parts of `rollout_trl.py`, and what this machine takes for them.

One iteration of that benchmark, on one thread, under torch's profiler: the seconds of each kind of operation in
generation, in the pass of the frozen reference, and in the policy's step. Matrix products are then timed alone, with
the same shapes: what they take there is what an iteration cannot go below while it computes them.

    python benchmarks/rollout_parts.py                        # about 15 minutes on an idle core
    python benchmarks/rollout_parts.py --max-new-tokens 8     # to see that it works
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from generation import QUESTIONS
from torch.profiler import ProfilerActivity, profile

import zoo
from zoo.models.reference import Reference
from zoo.rollout.engine import InProcessEngine
from zoo.training.step.module import PostTraining

sys.path.insert(0, str(Path(__file__).with_name("against_trl")))
from run_grpo_zoo import REWARD

KINDS = {
    "products of the layers": ("mm", "addmm", "matmul", "linear"),
    "products of the head": (),
    "products of attention": ("bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu"),
    "softmax, sampling": (
        "_softmax", "_softmax_backward_data", "_log_softmax", "argmax", "amax", "sort", "topk", "exponential_", "exp",
        "exp_", "log", "gather", "scatter_", "scatter_add_", "cumsum", "softmax",
    ),
    "copies, casts, indices": (
        "copy_", "index_select", "index", "cat", "clone", "fill_", "zero_", "index_put_", "index_add_", "embedding",
        "embedding_dense_backward", "index_fill_", "masked_fill_", "contiguous", "_to_copy", "new_zeros", "index_copy_",
    ),
    "optimizer, clipping": ("_fused_adamw_", "_foreach_norm", "_foreach_mul_", "linalg_vector_norm"),
}  # fmt: skip
ELEMENTS, REST = "other elements", "Python between them"
PACKED = "mkldnn::_linear_pointwise"
"""The product with weights that are packed for bfloat16, with which the local engine generates."""
VOCABULARY = 4096
"""A product with a side of this size or more is one of the head."""


class Parts:
    """Seconds, operations and shapes of products, by phase and kind."""

    def __init__(self) -> None:
        self.seconds: dict[str, Counter[str]] = defaultdict(Counter)
        self.products: dict[str, dict[str, Counter[tuple[Any, ...]]]] = defaultdict(lambda: defaultdict(Counter))

    def add(self, phase: str, events: Any, whole: float) -> None:
        self.seconds[phase][REST] += whole
        for event in events:
            if not event.name.startswith(("aten::", PACKED)):
                continue
            name = event.name.removeprefix("aten::")
            kind = next((kind for kind, names in KINDS.items() if name in names), ELEMENTS)
            shapes = [tuple(shape) for shape in event.input_shapes if shape]
            if name in ("mm", "addmm"):
                left, right = shapes[-2:]
                product = (*left, right[1])
                kind = "products of the head" if max(product) >= VOCABULARY else kind
            elif name == PACKED:
                *rows, inner = shapes[0]
                product = (math.prod(rows), inner, shapes[1][0])
                kind = "products of the head" if max(product) >= VOCABULARY else "products of the layers"
            elif name == "bmm":
                product = (*shapes[0], shapes[1][2])
            if name in ("mm", "addmm", "bmm", PACKED):
                self.products[phase][kind][product] += 1
            seconds = event.self_cpu_time_total / 1e6
            self.seconds[phase][kind] += seconds
            self.seconds[phase][REST] -= seconds


def main() -> None:
    options = read_options()
    torch.set_num_threads(1)
    parts, plain = Parts(), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="rollout-parts-") as folder:
        rows = Path(folder) / "prompts.jsonl"
        chats = [{"prompt": [{"role": "user", "content": question}]} for question in QUESTIONS]
        rows.write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
        watch(parts, plain)
        run(options, rows, folder)
    print_table(parts, plain, options)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="as for zoo train")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    return parser.parse_args()


def run(options: argparse.Namespace, rows: Path, folder: str) -> None:
    """Three iterations: the first warms up, the second is timed, the third is timed under the profiler."""
    zoo.train(
        algo="grpo", model=options.model, data=str(rows), out=folder, reward=f"{REWARD}:variety",
        batch_size=64, answers_per_prompt=8, minibatches=1, rollout_epochs=1, max_new_tokens=options.max_new_tokens,
        epochs=3, max_steps=3, lr=1e-6, schedule="constant", warmup=0, accelerator="cpu", eval_fraction=0.0,
        precision="bf16-mixed" if options.precision == "bf16" else "32-true", score="none", save_every=0, quiet=True,
    )  # fmt: skip


def watch(parts: Parts, plain: Counter[str]) -> None:
    """Note what the phases of the second iteration take, and profile those of the third."""
    calls = Counter[str]()

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        calls[name] += 1
        started = time.perf_counter()
        if calls[name] < 3:
            yield
            plain[name] = time.perf_counter() - started
            return
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True, acc_events=True) as found:
            started = time.perf_counter()
            yield
            took = time.perf_counter() - started
        parts.add(name, found.events(), took)

    def within(owner: Any, method: str, name: str) -> None:
        original = getattr(owner, method)

        def noted(*arguments: Any, **keywords: Any) -> Any:
            with phase(name):
                return original(*arguments, **keywords)

        setattr(owner, method, noted)

    within(InProcessEngine, "generate", "generation")
    within(Reference, "logps", "reference")
    within(PostTraining, "training_step", "policy's step")


def alone(product: tuple[int, ...], dtype: torch.dtype) -> float:
    """Seconds of one product of these shapes, the best of a few."""
    *batch, rows, inner, columns = product
    left, right = torch.randn(*batch, rows, inner, dtype=dtype), torch.randn(*batch, columns, inner, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        left @ right.transpose(-1, -2)
        best = min(best, time.perf_counter() - started)
    return best


def print_table(parts: Parts, plain: Counter[str], options: argparse.Namespace) -> None:
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    for name, seconds in parts.seconds.items():
        whole = sum(seconds.values())
        print(f"\n  {name}: {plain[name]:.1f} s, {whole:.1f} s under the profiler")
        print(f"  {'':28}{'seconds':>10}{'share':>8}{'GFLOP/s':>10}{'alone':>10}{'seconds alone':>15}")
        for kind, spent in seconds.most_common():
            line = f"  {kind:28}{spent:10.2f}{spent / whole:8.1%}"
            products = parts.products[name].get(kind)
            if products:
                work = sum(2 * torch.Size(product).numel() * count for product, count in products.items()) / 1e9
                least = sum(alone(product, dtype) * count for product, count in products.items())
                line += f"{work / spent:10.0f}{work / least:10.0f}{least:15.2f}"
            print(line)


if __name__ == "__main__":
    main()
