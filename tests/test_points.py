"""Defaults that depend on the model: what is chosen between the sizes of the sources, whence the size, what is said.

The numbers are worked by hand from those that the papers give."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from each import each
from safetensors.torch import save_file
from tiny_runs import cli, data_for

from zoo.api import Algorithm, Point
from zoo.cards.algorithms import describe, stand_in
from zoo.contract import registry
from zoo.models.facts import DEFAULT_WEIGHTS, estimate, weights_in, weights_of
from zoo.options.config import resolve
from zoo.options.points import choose, count, is_points, known, shown
from zoo.options.strict_yaml import read_yaml

BUNDLED = {entry.name: registry.load_algorithm(entry.name)[1] for entry in registry.algorithms()}
TUNED = {
    "sft": 1e-4, "dpo": 5e-5, "ipo": 5e-5, "kto": 2e-4, "simpo": 1e-5, "orpo": 1e-4, "cpo": 5e-5, "bco": 1e-4,
    "rm": 5e-5, "prm": 2e-5, "grpo": 4e-5, "ppo": 5e-5, "online-dpo": 1e-5, "rlaif": 1e-5, "constitutional": 1e-4,
    "lm": 1e-3, "spin": 1e-5, "opd": 4e-5, "gkd": 4e-5,
}  # fmt: skip
"""Learning rates of the default model, which were there before any other size had one."""
PAPERS = {
    ("sft", 1.3e9): 9.65e-6, ("sft", 6e9): 9.65e-6, ("sft", 175e9): 5.03e-6,  # InstructGPT, appendix C.1
    ("sft --lora", 7e9): 2e-4, ("sft --lora", 13e9): 2e-4, ("sft --lora", 65e9): 1e-4,  # QLoRA, table 9
    ("lm", 1.3e9): 2e-4, ("lm", 6.7e9): 1.2e-4, ("lm", 175e9): 6e-5,  # GPT-3, table 2.1
    ("rm", 6e9): 9e-6, ("rm", 70e9): 5e-6,  # InstructGPT, appendix C.2; Llama 2
    ("prm", 7e9): 1e-6,  # Math-Shepherd
    ("dpo", 2.8e9): 1e-6, ("dpo", 7e9): 5e-7, ("dpo", 70e9): 2e-7,  # the paper, Zephyr, Tülu 3
    ("dpo --lora", 7e9): 5e-6,  # alignment-handbook, zephyr-7b-beta/dpo/config_qlora.yaml
    ("ipo", 7e9): 5e-7,  # alignment-handbook, pref_align_scan
    ("kto", 7e9): 5e-6,  # the paper; HALOs, config.yaml
    ("simpo", 8e9): 6e-7,  # llama-3-8b-base-simpo.yaml
    ("orpo", 7e9): 5e-6,  # run_mistral_orpo_beta.sh
    ("cpo --lora", 13e9): 1e-4,  # ALMA-R
    ("bco", 7e9): 5e-7,  # the paper, appendix C
    ("grpo", 7e9): 1e-6, ("grpo", 32e9): 1e-6,  # DeepSeekMath, DAPO
    ("grpo --lora", 3e9): 1e-5,  # TRL, LoRA Without Regret
    ("ppo", 1e9): 3e-6, ("ppo", 6.9e9): 3e-6,  # arXiv:2403.17031
    ("online-dpo", 1e9): 5e-7, ("online-dpo", 6.9e9): 5e-7,  # TRL's documentation
    ("spin", 7e9): 5e-7,  # the paper
    ("rlaif", 6.9e9): 1e-6,  # RLOO, section C
    ("opd", 8e9): 5e-5, ("opd --lora", 8e9): 1e-4,  # tinker-cookbook, recipes/distillation/README.md
    ("constitutional", 7e9): 2e-5,  # alignment-handbook, constitutional-ai
}  # fmt: skip
STAR = Point(135e6, 1e-4, "ours")


def rate(algo, weights, lora=False):
    return choose("lr", BUNDLED[algo].defaults["lr"], weights, lora)


def resolved(cls=None, weights=None, algo="mine", **options):
    """The options of an algorithm for a model of this size. weights: a number, or the numbers of models by name."""
    sizes = weights if isinstance(weights, dict) else {}
    return resolve(
        algo, cls or BUNDLED[algo], [("command line", options)],
        weights_of=lambda name, out: sizes.get(name) if sizes else weights,
    )  # fmt: skip


def mine(**declared):
    return type("Mine", (Algorithm,), {"api_version": 2, "data": "preference", **declared})


# -- what the sources say ----------------------------------------------------------------------------------------------


def test_at_the_size_of_a_source_its_value_is_taken():
    def check(case):
        (name, weights), value = case
        algo, _, lora = name.partition(" ")
        choice = rate(algo, weights, bool(lora))
        assert choice.value == value, choice
        assert f"for {count(weights)} weights" in choice.reason and "between" not in choice.reason, choice

    each(PAPERS.items(), check)


def test_the_default_model_keeps_what_was_tuned_on_it_and_adapters_have_ten_times_that():
    """The tenfold rate is LoRA Without Regret's; there is none for pretraining."""
    assert set(TUNED) == set(BUNDLED)

    def check(algo):
        for lora in (False, True):
            expected = pytest.approx(TUNED[algo] * (10 if lora and algo != "lm" else 1))
            for weights in ({"weights": DEFAULT_WEIGHTS}, {}):
                assert resolved(**weights, algo=algo, data="x", lora=lora).core.lr == expected

    each(TUNED, check)


def test_a_size_within_a_tenth_of_a_sources_is_that_size():
    for weights in (PUBLISHED["Llama 2 7B"][0], PUBLISHED["Mistral 7B"][0]):
        assert (rate("dpo", weights).value, rate("dpo", weights).reason) == (5e-7, "Zephyr's for 7 B weights")
    assert "between" in rate("dpo", 6.3e9).reason and "between" in rate("dpo", 7.8e9).reason


@pytest.mark.parametrize(
    ("algo", "low", "high"),
    [("kto", (135e6, 2e-4), (7e9, 5e-6)), ("dpo", (135e6, 5e-5), (2.8e9, 1e-6)), ("dpo", (7e9, 5e-7), (70e9, 2e-7)),
     ("rm", (6e9, 9e-6), (70e9, 5e-6))],
)  # fmt: skip
def test_between_two_sizes_logarithms_are_interpolated(algo, low, high):
    weights = math.sqrt(low[0] * high[0]) * 1.1
    share = (math.log10(weights) - math.log10(low[0])) / (math.log10(high[0]) - math.log10(low[0]))
    by_hand = 10 ** (math.log10(low[1]) + share * (math.log10(high[1]) - math.log10(low[1])))
    choice = rate(algo, weights)
    assert choice.value == pytest.approx(by_hand, rel=5e-3) and low[1] > choice.value > high[1]
    assert choice.value == float(f"{choice.value:.3g}"), "readable in run.yaml"
    assert choice.reason.startswith(f"between {low[1]:g} (") and f"and {high[1]:g} (" in choice.reason


def test_in_the_middle_of_two_sizes_stands_the_geometric_mean():
    points = [Point(1e8, 1e-4, "ours"), Point(1e10, 1e-6, "the paper's")]
    assert choose("lr", points, 1e9, False).value == pytest.approx(1e-5)


def test_nothing_is_extrapolated_and_a_note_says_where_no_source_is():
    points = [STAR, Point(7e9, 5e-6, "the paper's")]
    small, large, near = (choose("lr", points, weights, False) for weights in (1e6, 70e9, 8.03e9))
    assert (small.value, large.value, near.value) == (1e-4, 5e-6, 5e-6)
    assert near.reason == "the paper's for 7 B weights" and not near.notes, "8 B is what papers call 7 B or 8 B"
    assert large.notes[0].startswith("No source has a value of lr for full training of 70 B weights"), large
    assert small.reason == "ours for 135 M weights, the smallest with a source" and not small.notes


def test_a_value_of_one_size_is_not_scaled():
    assert [choose("lr", [STAR], weights, False).value for weights in (1e6, 135e6, 8e9)] == [1e-4] * 3
    assert "No source" in choose("lr", [STAR], 8e9, False).notes[0]


def test_adapters_have_points_of_their_own_and_without_them_are_not_scaled():
    points = [STAR, Point(7e9, 5e-6, "the paper's")]
    choice = choose("lr", points, 7e9, True)
    assert choice.value == 1e-4 and "for adapters, so it is that of full training" in choice.notes[0]
    own = [*points, Point(7e9, 2e-4, "another paper's", lora=True)]
    assert choose("lr", own, 7e9, True).value == 2e-4 and choose("lr", own, 7e9, False).value == 5e-6


def test_another_optimizer_of_the_source_is_told_where_its_value_counts():
    assert rate("dpo", 2.8e9).notes == ("lr 1e-06 was found with RMSprop; this run has AdamW. Try others.",)
    assert "RMSprop" in rate("dpo", 1e9).notes[0], "one of the two that it lies between"
    assert not rate("dpo", 7e9).notes and not rate("dpo", 135e6).notes


# -- among other values ------------------------------------------------------------------------------------------------


def test_a_value_that_was_given_wins_wherever_it_comes_from():
    points = [STAR, Point(7e9, 5e-6, "the paper's")]
    cls = mine(defaults={"lr": points}, variants={"hot": {"lr": 3e-3}})
    assert resolved(cls, 7e9).core.lr == 5e-6
    assert resolved(cls, 7e9, lr=1e-4).core.lr == 1e-4 and resolved(cls, 7e9, variant="hot").core.lr == 3e-3
    given = resolve("mine", cls, [("recipe.yaml", {"lr": 2e-6})], lambda data, cls: {"lr": 1e-3}, lambda *_: 7e9)
    assert (given.core.lr, given.origin["lr"], given.choices) == (2e-6, "recipe.yaml", {})


def test_one_number_is_never_scaled_and_for_a_large_model_a_note_says_so():
    small, large = (resolved(mine(defaults={"lr": 3e-4}), weights) for weights in (1e8, 8e9))
    assert small.core.lr == large.core.lr == 3e-4 and not small.choices
    assert large.choices["lr"].notes[0].startswith("Nothing says that lr 0.0003 suits 8 B weights. ")
    assert "8 B weights" in large.choices["lr"].notes[0]
    assert large.came("lr") == "default of mine: one number for models of any size"
    assert not resolved(mine(defaults={"lr": 3e-4}), 8e9, lr=1e-6).choices
    assert "one number" in resolved(mine(), 8e9).came("lr"), "the core's own default"


@pytest.mark.parametrize(
    ("brought", "variants", "typed"),
    [({"lr": 0.02}, {}, {}), ({}, {"hot": {"lr": 0.02}}, {"variant": "hot"})],
    ids=["data", "variant"],
)
def test_the_rate_of_a_source_or_a_variant_was_found_with_adamw_too(brought, variants, typed):
    def notes(**options):
        layers = [("default.yaml", options.pop("file", {})), ("command line", {**typed, **options})]
        found = resolve("mine", mine(variants=variants), layers, lambda data, cls: brought)
        return found.choices["lr"].notes if "lr" in found.choices else ()

    assert notes(optimizer="lion") == ("lr 0.02 was found with AdamW; this run has lion. Try others.",)
    assert notes(optimizer="adamw_8bit") == notes(optimizer="lion", lr=1e-3) == ()
    assert notes(optimizer="lion", file={"lr": 1e-3}) == () or typed


def test_a_dry_run_says_once_that_a_rate_was_found_with_another_optimizer(tiny_folder, tmp_path):
    typed = ("train", "--algo", "sft", "--model", str(tiny_folder), "--optimizer", "lion", "--dry-run", "--json")
    for data, reason in ((data_for("sft", tmp_path), "tuned here for 135 M weights, the smallest with a source"),
                         ("world:gold", "one number for models of any size")):  # fmt: skip
        found = json.loads(cli(*typed, "--data", data)[1])
        lr = f"{found['options']['lr']['value']:g}"
        told = f"{lr}, {reason}. lr {lr} was found with AdamW; this run has lion. Try others."
        assert found["found"]["lr by size"] == told


def test_a_variant_may_have_points():
    cls = mine(variants={"hot": {"lr": [STAR, Point(7e9, 1e-5, "its paper's")]}})
    found = resolved(cls, 7e9, variant="hot")
    assert found.core.lr == 1e-5 and found.came("lr") == "variant hot: its paper's for 7 B weights"


def test_any_number_of_the_core_may_depend_on_the_model():
    hot = [resolved(weights=weights, algo="constitutional").core.temperature for weights in (135e6, 2.65e9, 52e9)]
    assert hot == [0.7, pytest.approx(math.sqrt(0.7), rel=5e-3), 1.0]
    assert resolved(weights=52e9, algo="constitutional", lora=True).core.temperature == 1.0, "only rates mind adapters"


def test_a_separate_critic_has_a_rate_by_its_own_size_and_is_trained_in_full():
    sizes = {"policy": 1e9, "scorer": 175e9}
    found = resolved(weights=sizes, algo="ppo", model="policy", critic="own", critic_model="scorer", lora=True)
    assert found.core.critic_lr == 5e-6, "InstructGPT, appendix C.4"
    assert resolved(weights=sizes, algo="ppo", model="policy", critic="own").core.critic_lr == pytest.approx(
        5e-5 * (9e-6 / 5e-5) ** (math.log(1e9 / 135e6) / math.log(1.3e9 / 135e6)), rel=5e-3
    )


def test_the_rate_of_a_critic_follows_the_policys_if_that_was_given_and_if_it_is_a_head():
    assert resolved(weights=7e9, algo="ppo", critic="own", lr=1e-6).core.critic_lr is None
    assert resolved(weights=7e9, algo="ppo").core.critic_lr is None
    assert resolved(weights=7e9, algo="ppo", critic="own", critic_lr=1e-4).core.critic_lr == 1e-4


def test_without_a_critic_there_is_no_rate_of_one():
    assert "critic_lr" not in resolved(weights=7e9, algo="rlaif").choices
    assert resolved(weights=6.9e9, algo="rlaif", baseline="value").core.critic_lr == 1e-6


def test_every_default_of_a_bundled_algorithm_says_whose_it_is():
    def check(cls):
        free = {"data", "score"}
        assert set(cls.defaults) - free <= set(cls.reasons), set(cls.defaults) - free - set(cls.reasons)
        wrong = [
            name for name, why in cls.reasons.items() if not why.startswith(("Paper: ", "Tuned here", "Neither: "))
        ]
        assert not wrong and "lr" in cls.reasons and is_points(cls.defaults["lr"])

    each(BUNDLED.values(), check, name=lambda cls: cls.__name__)


def test_a_card_and_a_help_text_keep_the_points():
    def check(cls):
        copy = stand_in(json.loads(json.dumps(describe(cls))), lambda: pytest.fail("the plugin was asked"))
        assert (copy.defaults, copy.reasons, copy.variants) == (cls.defaults, cls.reasons, cls.variants)

    each(BUNDLED.values(), check, name=lambda cls: cls.__name__)
    lr = BUNDLED["kto"].defaults["lr"]
    assert shown(lr) == "0.0002 (135 M weights) to 5e-06 (7 B)" and known({"lr": lr, "epochs": 1}) == {
        "lr": 2e-4, "epochs": 1,
    }  # fmt: skip


# -- how many weights a model has --------------------------------------------------------------------------------------

LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
PUBLISHED = {
    "SmolLM2 135M": (134_515_008, LLAMA | {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True}),
    "Llama 2 7B": (6_738_415_616, LLAMA | {"intermediate_size": 11008, "vocab_size": 32000}),
    "Llama 3 8B": (8_030_261_248, LLAMA | {
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False}),
    "Mistral 7B": (7_241_732_096, LLAMA | {
        "model_type": "mistral", "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000}),
    "Mixtral 8x7B": (46_702_792_704, LLAMA | {
        "model_type": "mixtral", "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000,
        "num_local_experts": 8}),
    "Qwen2 0.5B": (494_032_768, {
        "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True}),
    "GPT-2": (124_439_808, {
        "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}),
}  # fmt: skip


def test_a_configuration_alone_tells_the_published_number_of_weights():
    each(PUBLISHED.items(), lambda case: _equal(estimate(case[1][1]), case[1][0]), name=lambda case: case[0])
    assert estimate({"model_type": "llama"}) == 0 and estimate({"text_config": PUBLISHED["GPT-2"][1]}) == 124_439_808


def _equal(found, published):
    assert found == published, f"{found:,} and not {published:,}"


def test_what_is_in_the_files_counts_and_a_tied_head_once(tiny_model, tiny_folder, tmp_path):
    counted = sum(weights.numel() for weights in tiny_model.parameters())
    assert weights_in(tiny_folder) == (counted, True) and weights_of(str(tiny_folder), "runs") == counted
    (tmp_path / "twice").mkdir()
    embedding = {"model.embed_tokens.weight": torch.zeros(5, 3), "lm_head.weight": torch.zeros(5, 3)}
    save_file(embedding, tmp_path / "twice/model.safetensors")
    for tied, weights in ((True, 15), (False, 30)):
        (tmp_path / "twice/config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
        assert weights_in(tmp_path / "twice") == (weights, True)
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny_folder)}))
    (tmp_path / "adapters/adapter_model.safetensors").write_bytes(b"")
    assert weights_of(str(tmp_path / "adapters"), "runs") == counted, "adapters are as large as their base"
    assert weights_of("smollm2-135m", "runs") == DEFAULT_WEIGHTS and weights_of("./nothere", "runs") is None


# -- what is said ------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, tiny_folder, monkeypatch):
    """An empty working directory with the tiny model, and the configuration of Llama 3 8B with a tokenizer."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    (tmp_path / "large").mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder / file, tmp_path / "large")
    (tmp_path / "large/config.json").write_text(json.dumps(PUBLISHED["Llama 3 8B"][1]))
    return tmp_path


def test_a_dry_run_without_weights_shows_the_plan_and_then_what_is_missing(place):
    data = data_for("dpo", place)
    status, out, err = cli("train", "--algo", "dpo", "--model", "large", "--data", data, "--dry-run")
    assert status == 2 and "large has a configuration but no weights" in err and "Everything that" not in out
    lr = next(line for line in out.splitlines() if line.startswith("lr "))
    assert "between 5e-07 (Zephyr's for 7 B weights) and 2e-07 (Tülu 3's for 70 B weights)" in lr
    assert "large: llama, 32 layers, about 8.03 B weights" in out
    status, out, _ = cli("train", "--algo", "kto", "--model", "large", "--data", "starter", "--dry-run", "--json")
    told = json.loads(out)
    assert status == 2 and told["options"]["lr"] == {
        "value": 5e-6, "from": "default of kto", "reason": "the paper's for 7 B weights",
    }  # fmt: skip
    assert told["options"]["batch_size"]["reason"].startswith("Paper: 8 to 128") and "no weights" in told["missing"][0]


def test_the_size_of_a_model_that_had_to_be_fetched_is_counted_once_it_is_there(tiny_model):
    from zoo.training.assembly import Assembly

    cls = mine(defaults={"lr": [Point(1e3, 1e-2, "mine"), Point(1e7, 1e-6, "the paper's")]})
    found, said = resolved(cls, None, model="nobody/nothing"), []
    assert found.core.lr == 1e-2 and "until the model is there" in found.reasons["lr"]
    run = SimpleNamespace(core=found.core, policy=tiny_model, resolved=found, say=said.append)
    run._weights = lambda name, out: Assembly._weights(run, name, out)
    Assembly._say_choices(run)
    weights = sum(values.numel() for values in tiny_model.parameters())
    by_hand = 1e-2 * (1e-6 / 1e-2) ** (math.log(weights / 1e3) / math.log(1e7 / 1e3))
    assert found.core.lr == pytest.approx(by_hand, rel=5e-3) and said[0].startswith(f"lr {found.core.lr:g}: between")


PLUGIN = '''
from zoo.api import Algorithm, Loss, Point


class Mine(Algorithm):
    """A stranger's."""

    api_version = 2
    data = "demonstration"
    defaults = {"lr": [Point(1e3, 1e-2, "mine"), Point(1e7, 1e-6, "the paper's", "SGD")]}

    def loss(self, batch, models):
        return Loss.per_example(-models.policy.logps(batch.completion).sum())
'''


def test_a_run_says_what_it_has_chosen_keeps_it_and_runs_again_with_it(place):
    (place / "mine.py").write_text(PLUGIN)
    arguments = ["train", "--algo", "./mine.py:Mine", "--model", "tiny", "--data", data_for("sft", place)]
    status, out, err = cli(*arguments, "--max-steps", "1", "--score", "none", "--name", "a")
    assert status == 0, err
    weights = weights_of("tiny", "runs")
    by_hand = 1e-2 * (1e-6 / 1e-2) ** (math.log(weights / 1e3) / math.log(1e7 / 1e3))
    kept = read_yaml(place / "runs/a/run.yaml")["lr"]
    assert kept == pytest.approx(by_hand, rel=5e-3)
    assert f"lr {kept:g}: between 0.01 (mine for 0.001 M weights) and 1e-06 (the paper's for 10 M weights)." in out
    assert "was found with SGD; this run has AdamW. Try others." in out
    origin = json.loads((place / "runs/a/origins.json").read_text())["lr"]
    assert origin.startswith("default of mine: between") or origin.startswith("default of ./mine.py:Mine: between")
    out = cli("train", "--config", "runs/a/run.yaml", "--model", "tiny", "--dry-run", "--json")[1]
    assert json.loads(out)["options"]["lr"] == {"value": kept, "from": "runs/a/run.yaml"}
