"""A stage that cannot run here is rehearsed: one step on a tiny model of the architecture that it is for."""

import pytest

from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError
from zoo.recipes.check import check_recipe
from zoo.recipes.load import load_recipe
from zoo.recipes.runner import Reproduction
from zoo.terminal import Console
from zoo.testing.rehearsal import FAMILIES, family_of, rehearse, rehearse_all, write_stand_in
from zoo.training.run import resolve_options


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("EleutherAI/pythia-1.4b", "gpt_neox"),
        ("mistralai/Mistral-7B-v0.1", "mistral"),
        ("alignment-handbook/zephyr-7b-sft-full", "mistral"),
        ("allenai/OLMo-2-1124-7B", "olmo2"),
        ("Qwen/Qwen2.5-32B", "qwen2"),
        ("openai-community/gpt2-medium", "gpt2"),
        ("huggyllama/llama-7b", "llama"),
        ("somebody/unheard-of", "llama"),
    ],
)
def test_the_name_tells_the_architecture(name, family):
    assert family_of(name) == family


@pytest.mark.parametrize("family", sorted(set(FAMILIES.values())))
def test_a_stand_in_is_of_its_architecture(family, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(write_stand_in(family, tmp_path / "model"))
    assert model.config.model_type == family
    assert sum(p.numel() for p in model.parameters()) < 200_000


@pytest.mark.parametrize(
    ("algo", "start", "said"),
    [
        ("dpo", "EleutherAI/pythia-2.8b", "one step on a tiny gpt_neox with 12 rows of preference"),
        ("grpo", "Qwen/Qwen2.5-32B", "one step on a tiny qwen2 with 12 rows of prompt"),
        ("rm", "openai-community/gpt2-medium", "one step on a tiny gpt2 with 12 rows of preference"),
    ],
)
def test_a_stage_for_a_big_model_takes_a_step_on_a_small_one(algo, start, said):
    resolved, cls = resolve_options(algo, None, {"model": start, "data": "someone/elses", "lora": True}, "test")
    assert rehearse(resolved, cls, start) == said


def test_every_stage_that_fails_is_told(tmp_path, monkeypatch):
    resolved, _ = resolve_options("sft", None, {"model": "huggyllama/llama-7b"}, "test")
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from zoo.api import Algorithm, ZooError\n\n\nclass Bad(Algorithm):\n    api_version = 2\n"
        "    data = 'demonstration'\n\n"
        "    def loss(self, batch, models):\n        raise ZooError('there is no loss')\n"
    )
    name, cls = load_algorithm(str(bad))
    wrong, _ = resolve_options(str(bad), None, {"model": "huggyllama/llama-7b"}, "test")
    sound = load_algorithm("sft")[1]
    with pytest.raises(ZooError, match="first: there is no loss") as error:
        rehearse_all({"first": (wrong, cls, "llama"), "second": (resolved, sound, "llama")})
    assert "second" not in error.value.message


def test_the_stages_of_a_bundled_recipe_lead_to_the_model_that_they_begin_with():
    recipe = check_recipe(load_recipe("tulu3"), "full")
    stages = Reproduction(recipe, "full", Console(quiet=True)).rehearsed()
    assert list(stages) == ["sft", "dpo", "plain_dpo", "rm", "rlvr"]
    assert {start for _, _, start in stages.values()} == {"meta-llama/Llama-3.1-8B"}


def test_one_layer_is_named_for_adapters_as_several_are(tmp_path):
    import torch

    from zoo.models.loading import add_lora, load_model
    from zoo.models.names import resolve_model

    folder = write_stand_in("gpt2", tmp_path / "model")
    for targets in ("c_attn", ["c_attn"], r".*\.c_attn"):
        adapted = add_lora(load_model(resolve_model(str(folder)), torch.float32), 2, 4.0, 0.0, targets)
        trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
        assert len(trained) == 4 and all("c_attn" in name for name in trained), targets
