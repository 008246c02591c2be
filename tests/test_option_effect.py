"""Options that belong to something that the run has not are told, in the run and in its dry run."""

import re

import pytest
from tiny_runs import cli, trainer

from zoo.contract.hook_arguments import may_write
from zoo.contract.registry import load_algorithm
from zoo.options.config import resolve
from zoo.options.effect import without_effect

UNUSED = {
    "lora_rank": 8, "lora_alpha": 16.0, "lora_dropout": 0.1, "lora_targets": "q_proj", "decay_mix": 0.5,
    "lora_kind": "dora", "lora_plus": 16.0,
    "mix_by": "tokens", "lr_floor": 0.1, "best_metric": "val/accuracy", "best_mode": "max", "answers_per_prompt": 2,
    "max_new_tokens": 9, "token_budget": 9, "temperature": 0.5, "top_k": 3, "top_p": 0.5, "stop": "!",
    "critic_lr": 1e-4,
}  # fmt: skip


def test_every_option_without_effect_is_told(tmp_path, tiny_folder, capsys):
    trainer(tmp_path, tiny_folder)("dpo", schedule="constant", max_steps=1, quiet=False, **UNUSED)
    said = capsys.readouterr().out
    told = re.findall(r"Note: --([\w-]+) has no effect: ", said)
    assert sorted(told) == sorted(name.replace("_", "-") for name in UNUSED)
    assert "--lora-rank has no effect: without --lora all weights are trained." in " ".join(said.split())


@pytest.mark.parametrize(
    ("origin", "values", "told"),
    [
        ("command line", {"lora_rank": 16}, ["lora_rank"]),
        ("command line", {"lora_rank": 8, "lora": True}, []),
        ("mine.yaml", {"lora_rank": 16, "lora_alpha": 16.0}, ["lora_alpha"]),
        ("variant small", {"lora_rank": 8}, []),
        ("data mine", {"temperature": 0.5}, []),
        ("command line", {"temperature": 1.0}, ["temperature"]),
        ("command line", {"keep_top": 1, "best_mode": "max"}, []),
        ("command line", {"schedule": "wsd", "lr_floor": 0.1, "decay_data": "x", "decay_mix": 0.5}, []),
        ("command line", {"data": "0.5*a + 0.5*b", "mix_by": "tokens"}, []),
        ("command line", {"decay_data": "b.jsonl", "mix_by": "tokens"}, []),
    ],
)
def test_without_effect_are_options_that_somebody_gave(origin, values, told):
    resolved = resolve("dpo", load_algorithm("dpo")[1], [(origin, values)])
    assert [name for name, _ in without_effect(resolved, ("policy", "reference"), writes=False)] == told


def test_offload_has_no_effect_on_a_cpu(tmp_path, tiny_folder, capsys):
    options = {"strategy": "fsdp", "offload": True}
    resolved = resolve("dpo", load_algorithm("dpo")[1], [("command line", options)])
    told = [
        name for device in ("cpu", "cuda", None) for name, _ in without_effect(resolved, ("policy",), False, device)
    ]
    assert told == ["offload"], "on a CPU only"
    trainer(tmp_path, tiny_folder)("dpo", max_steps=1, quiet=False, accelerator="cpu", **options)
    why = "on a CPU everything is in the CPU's memory already"
    assert f"Note: --offload has no effect: {why}." in " ".join(capsys.readouterr().out.split())
    typed = (
        "train",
        "--algo",
        "dpo",
        "--model",
        tiny_folder,
        "--accelerator",
        "cpu",
        "--strategy",
        "fsdp",
        "--offload",
    )
    assert f"unused: {why}" in " ".join(cli(*typed, "--dry-run")[1].split())


def test_the_options_of_sampling_serve_an_algorithm_whose_policy_may_write():
    resolved = resolve("dpo", load_algorithm("dpo")[1], [("command line", {"temperature": 0.5})])
    assert without_effect(resolved, ("policy", "reference"), writes=True) == []
    kinds = {name: may_write(load_algorithm(name)[1]) for name in ("grpo", "constitutional", "dpo", "sft")}
    assert kinds == {"grpo": True, "constitutional": True, "dpo": False, "sft": False}


def test_a_dry_run_tells_them(tiny_folder):
    _, said, _ = cli("train", "--algo", "dpo", "--model", str(tiny_folder), "--dry-run", "--lora-rank", "8")
    assert "8; unused: without --lora all weights are trained" in " ".join(said.split())
