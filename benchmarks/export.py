"""What the first process needs to write a model that several share out: tensor by tensor, and with all of it at once.

    python benchmarks/export.py                 # a model of 352 million weights, four processes

Prints the largest resident memory of the first process beyond its own part of the model, which is there before.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from memory import forked, import_all, make_folder, places, resident

PROCESSES = 4
WAYS = ("at once", "tensor by tensor")


def write(place: Path, way: str, rank: int) -> None:
    """Share out the model with the other processes, and write it; the first one prints what that took."""
    import torch

    from zoo.libraries import sharding
    from zoo.libraries.pretrained import load, save
    from zoo.libraries.stored import load_stored

    torch.distributed.init_process_group("gloo")
    sharding.make_mesh(torch.device("cpu"), PROCESSES)
    model = sharding.shard(load_stored(lambda: load("AutoModelForCausalLM", place / "model", dtype=torch.float32)))
    before = resident("VmRSS")
    # The kernel's mark of the most so far is set back.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    weights: Any = sharding.weights_to_gather(model)
    if rank:
        weights.follow()
    elif way == WAYS[0]:
        model.save_pretrained(place / way, state_dict=weights.at_once(weights.like))
    else:
        save(model, place / way, weights)
    if rank == 0:
        print(f"{way:<18}{(resident('VmHWM') - before) / 1e9:.2f} GB", flush=True)


def main() -> None:
    import_all()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        done = forked([{}], lambda rank: make_folder(place / "model", "400m"))
        for way in WAYS:
            done = done and forked(places(PROCESSES), partial(write, place, way))
        files = {(place / way / "model.safetensors").read_bytes() for way in WAYS} if done else set()
    if not done:
        sys.exit(1)
    print("The files are equal." if len(files) == 1 else "The files differ.")


if __name__ == "__main__":
    main()
