"""Two steps of every bundled algorithm, whole runs on the tiny model: what a new version of a library would break."""

import json
import math
import warnings

import pytest
from tiny_runs import named_roles

import zoo
from zoo.contract import registry
from zoo.testing.tiny import tiny_rows

BUNDLED = [entry.name for entry in registry.algorithms() if entry.package == "post-training-zoo"]
KINDS = {name: registry.load_algorithm(name)[1].kinds()[0] for name in BUNDLED}
HEADS = {name: registry.load_algorithm(name)[1].head for name in BUNDLED}
ONLINE = {name for name in BUNDLED if registry.load_algorithm(name)[1].online()}


LIBRARIES = r"(zoo|transformers|lightning|peft|datasets|huggingface_hub)\b"
"""Where a warning comes from that is to be heard."""


def run_of(algo, folder, model, **options):
    """Two steps, the reference and a rollout included where the algorithm has them, with a checkpoint and a report."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny_rows(KINDS[algo], 12)), encoding="utf-8")
    online = {"reward": "zoo.testing.tiny:tiny_reward", "answers_per_prompt": 2} if algo in ONLINE else {}
    # By default a rollout of spin is for 32 steps.
    online |= {"minibatches": 1} if algo == "spin" else {}
    online |= named_roles(registry.load_algorithm(algo)[1], model)
    return zoo.train(
        algo, data=str(rows), model=str(model), out=str(folder / "runs"), batch_size=4, max_steps=2, save_every=1,
        max_new_tokens=6, keep_checkpoints=True, lora_rank=2, lr=1e-2, warmup=0.0, eval_fraction=0.0, score="none",
        quiet=True, **online, **options,
    )  # fmt: skip


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("algo", BUNDLED)
def test_two_steps_with_a_checkpoint_a_report_and_a_model_that_loads(algo, lora, tmp_path, tiny_folder):
    with warnings.catch_warnings():
        # What a library says will go is to be heard while there is time.
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("error", category=category, module=LIBRARIES)
        run = run_of(algo, tmp_path, tiny_folder, lora=lora)
        model, tokenizer = run.load()
    assert run.status == "finished" and (run.path / "report.html").is_file()
    assert all(math.isfinite(row["loss"]) for row in run.log_history) and run.log_history[-1]["step"] == 2
    assert (run.path / "checkpoints" / "step-2" / "manifest.json").is_file()
    assert hasattr(model, "score") == (HEADS[algo] == "scalar") and tokenizer.chat_template
