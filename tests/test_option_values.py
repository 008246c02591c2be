"""Every documented value of every option of the core works in a run, or is refused by name.

One tiny run a value; a new option of the core must be put into one of the lists below.
"""

import dataclasses
from importlib.util import find_spec
from typing import Literal, get_args, get_origin

import pytest
import torch
from tiny_runs import named_roles, trainer, write_rows

from zoo.contract import registry
from zoo.errors import ZooError
from zoo.libraries.quantising import QUANTISED
from zoo.optimizers.bundled import PACKAGES
from zoo.options.config import TrainConfig
from zoo.options.fields import options_of
from zoo.testing.tiny import tiny_rows

FREE = {
    "accelerator": ["auto", "cpu", "gpu", "mps"],
    "strategy": ["auto", "ddp", "fsdp"],
    "template": ["auto", "none", "chatml"],
    "template_args": [None],
    "new_tokens": ["", "<a>,<b>"],
    "lora_targets": ["all-linear", "q_proj,v_proj", ["q_proj"]],
    "train_modules": ["", "lm_head,norm", ["norm"]],
    "score": ["auto", "none"],
    "loggers": ["csv", "none", "tensorboard", "wandb", "mlflow"],
    "engine": ["local"],
    "stop": ["", "a,b"],
    "warmup": [0.5, 1],
    "max_grad_norm": [0.0],
    "ema": [0.0, 0.9],
    "eval_fraction": [0.0, 0.3],
    "save_every": [0, 1],
    "keep_last": [2],
    "keep_every": [0, 2],
    "keep_top": [0, 1],
    "temperature": [0.0, 0.7],
    "top_k": [0, 3],
    "top_p": [0.5],
    "token_budget": [0, 3],
    "reference_every": [0, 1],
    "rollout_epochs": [2],
    "minibatches": [2],
    "critic_lr": [1e-4],
    "eval_prompts": [1],
    "epochs": [0.5],
    "lora_dropout": [0.1],
    "lora_plus": [1.0, 16.0],
    "optimizer": [
        "adamw",
        "adamw(beta2=0.95)",
        "adamw_8bit",
        "paged_adamw_8bit",
        "adafactor",
        "lion",
        "muon",
        "rmsprop",
    ],
    "schedule": ["cosine", "linear", "constant", "wsd(decay_share=0.2)", "inverse_sqrt"],
    "eval_every": [1],
    "patience": [1],
    "best_metric": ["val/loss"],
    "limit": [3],
    "data_workers": [1, 2],
    "shuffle_buffer": [1, 5],
    "log_every": [2],
    "micro_tokens": [1, 10_000],
    "columns": ["prompt=prompt,completion=completion"],
    "format": ["prompt-completion"],
    "split": ["train"],
    "name": ["mine"],
    "guards": ["finite(action=stop)", "loss_spike(action=rollback, k=6), gradient_spike(action=off)"],
    "max_rollbacks": [0, 1],
    "rollback_lr": [0.5],
    "max_time": ["1-02:00:00", "45m", None],
}
"""Values of options whose type does not list them: those that the documents name, and one of each other kind."""
WITH = {
    "lora_targets": {"lora": True}, "lora_dropout": {"lora": True}, "train_modules": {"lora": True},
    "lora_kind": {"lora": True}, "lora_plus": {"lora": True}, "quantize": {"lora": True},
    "best_mode": {"keep_best": True},
    "best_metric": {"keep_best": True}, "patience": {"eval_every": 1},
    "long_rows": {"algo": "lm", "max_length": 32}, "reference_cache": {"algo": "dpo"}, "reference_every": {"beta": 0.1},
    "offload": {"strategy": "fsdp"}, "stream": {"max_steps": 2}, "shuffle_buffer": {"stream": True},
    "critic": {"algo": "ppo"}, "critic_lr": {"algo": "ppo", "critic": "head"}, "temperature": {"max_steps": 1},
}  # fmt: skip
"""What an option needs to have an effect."""
HELD_OUT = {"best_mode", "best_metric", "keep_best", "keep_top", "patience", "eval_every", "eval_prompts"}
HERE = {"gpu": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
LOGGERS = ("tensorboard", "wandb", "mlflow")
ELSEWHERE = {
    "model", "reference", "teacher", "data", "eval_data", "decay_data", "decay_mix", "out", "trust_remote_code",
    "variant", "reward", "gold_reward", "reward_timeout", "answers_per_prompt", "judge", "critic_model",
    "max_new_tokens", "lora_rank", "lora_alpha", "max_length", "max_steps", "batch_size", "lr", "lr_floor",
    "lora_continue", "adapter", "weight_decay", "seed", "devices", "num_nodes", "tensor_parallel",
    "freeze_routers", "router_aux_loss", "checkpoint_layers", "environment", "max_turns", "environment_timeout",
}  # fmt: skip
"""Names, paths and plain numbers, which tests of their own are about."""
ROLLOUTS = {option.name for option in options_of(TrainConfig) if option.group == "Rollouts"}


def listed(kind):
    """The values of a Literal, which may be one of several types."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [value for part in get_args(kind) for value in listed(part)]


def every_value():
    for option in options_of(TrainConfig):
        chosen = [True, False] if option.is_flag else listed(option.type)
        for value in chosen or FREE.get(option.name, []):
            if option.name not in ELSEWHERE:
                yield option.name, value


@pytest.fixture
def run(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    train = trainer(tmp_path, tiny_folder)

    def run(algo, held_out=False, **options):
        cls = registry.load_algorithm(algo)[1]
        kind = cls.kinds()[0]
        data = write_rows(tmp_path / f"{kind}.jsonl", tiny_rows(kind, 6))
        if held_out:
            options = {"eval_data": data, **options}
        if cls.online():
            own = {"reward": "length", "max_new_tokens": 4, "answers_per_prompt": 2, "epochs": 2}
            options = {name: value for name, value in own.items() if name != "reward" or algo in REWARDED} | options
        # By default a rollout of spin is for 32 steps.
        few = {"minibatches": 1} if algo == "spin" else {}
        options = {**few, **named_roles(cls, tiny_folder), **options}
        return train(algo, **{"data": data, "max_steps": 2, "score": "none", **options})

    return run


REWARDED = {"grpo", "ppo", "online-dpo"}
EVERY = sorted(entry.name for entry in registry.algorithms() if entry.package == "post-training-zoo")


def refused_here(value):
    """What is said of a value that needs a device or a package which is not here."""
    if not isinstance(value, str):
        return None
    if value in LOGGERS and find_spec(value) is None:
        return f"pip install {value}"
    if value in QUANTISED and find_spec("bitsandbytes") is None:
        return "pip install bitsandbytes"
    if value in PACKAGES and find_spec(PACKAGES[value]) is None:
        return f"pip install {PACKAGES[value]}"
    if value == "paged_adamw_8bit" and not torch.cuda.is_available():
        return "torch sees no GPU"
    return "torch sees no" if value in list(HERE) and not HERE[value]() else None


@pytest.mark.parametrize(("name", "value"), every_value())
def test_a_value_works_in_a_run(run, name, value):
    algo = "grpo" if name in ROLLOUTS else "sft"
    options = {"algo": algo, **WITH.get(name, {}), name: value}
    if (refusal := refused_here(value)) is not None:
        with pytest.raises(ZooError, match=refusal):
            run(**options, held_out=name in HELD_OUT)
        return
    done = run(**options, held_out=name in HELD_OUT)
    assert done.summary["status"] == "finished" and done.summary["steps"] >= 1
    assert done.summary["skipped_steps"] == 0


def test_no_option_is_forgotten():
    known = {name for name, _ in every_value()} | ELSEWHERE
    assert {field.name for field in dataclasses.fields(TrainConfig)} == known


@pytest.mark.parametrize("algo", EVERY)
def test_every_algorithm_trains_weights_in_bfloat16(run, algo):
    done = run(algo, precision="bf16-true", held_out=algo != "constitutional", lr=1e-2)
    assert done.summary["steps"] == 2 and done.summary["skipped_steps"] == 0
