"""What a run needs is known before anything is loaded, from a configuration alone."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import transformers

from zoo.libraries.tracing import Live
from zoo.models import attention, memory
from zoo.models.memory import Step, Way, _of_model, _traced, held
from zoo.numbers import size
from zoo.optimizers.chosen import OPTIMIZERS, Chosen
from zoo.optimizers.memory import state_bytes
from zoo.options.config import TrainConfig
from zoo.training import preflight as module
from zoo.training.preflight import Need, Plan, Texts, of_plan, texts_of
from zoo.training.run import resolve_options

SIZES = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}  # fmt: skip
STEP = Step(300, 20, 40, 2)


def config(layers=8, kind=transformers.LlamaConfig, **options):
    return kind(**{**SIZES, "num_hidden_layers": layers, **options})


@pytest.fixture
def folder(tmp_path):
    """A configuration, and nothing else."""
    config(12, vocab_size=65536).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# -- a step that holds no numbers ------------------------------------------------------------------------------------


def test_what_lives_is_counted_and_what_is_freed_is_not():
    live = Live([known := torch.ones(100)])
    with live:
        made = known * 2
        assert live.bytes == 400 and made.view(10, 10).sum() == 200
        del made
    assert live.bytes <= 4 and live.peak >= 400


@pytest.mark.parametrize(
    "way",
    [
        Way("32-true"), Way("32-true", lora=True), Way("bf16-mixed", lora=True), Way("32-true", checkpointing=True),
        Way("32-true", scalar=True), Way("bf16-mixed", on_cpu=False), Way("bf16-true"),
    ],
    ids=str,
)  # fmt: skip
def test_two_models_of_few_layers_tell_what_more_layers_hold(way):
    short, whole = (dataclasses.asdict(how(config(), way, STEP)) for how in (_traced, _of_model))
    assert short["weights"] == whole["weights"] and short["matrices"] == whole["matrices"]
    peaks = [max(of["step"], of["rest"]) for of in (short, whole)]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.03)


def test_a_recomputed_step_holds_the_rounded_copies_of_a_block():
    """Lightning's autocast keeps none: of a layer more there are its inputs, 64 numbers for each of 300 tokens."""
    few, more = (_of_model(config(layers), Way("bf16-mixed", checkpointing=True), STEP) for layers in (8, 16))
    assert more.step - few.step == pytest.approx(8 * 300 * 64 * 4, rel=0.05)


def test_a_model_without_numbers_holds_what_a_real_one_holds():
    """Forward and backward pass of a real model, counted in the same way."""
    way = Way("32-true")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "fake_model", lambda config, dtype, scalar: transformers.LlamaForCausalLM(config).eval())
        real = _of_model(config(3), way, STEP)
    fake = _of_model(config(3), way, STEP)
    assert (
        fake.weights
        == real.weights
        == 4 * sum(p.numel() for p in transformers.LlamaForCausalLM(config(3)).parameters())
    )
    assert max(fake.step, fake.rest) == pytest.approx(max(real.step, real.rest), rel=0.02)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_of_equal_blocks_of_attention_the_last_ones_are_enough(monkeypatch, checkpointing):
    step, computed = Step(900, 20, 40, 2), []
    monkeypatch.setattr(attention, "TOGETHER", 1 << 12)
    weights = attention._weights
    monkeypatch.setattr(attention, "_weights", lambda *given: computed.append(1) or weights(*given))
    few = _of_model(config(2), Way("32-true", checkpointing=checkpointing), step)
    count = len(computed)
    monkeypatch.setattr(attention, "is_fake", lambda tensor: False)
    assert _of_model(config(2), Way("32-true", checkpointing=checkpointing), step) == few
    assert len(computed) - count > 1.5 * count


def test_recomputing_adapters_and_rounded_matrices_hold_less():
    plain, few = (_traced(config(), Way("32-true", checkpointing=given), STEP) for given in (False, True))
    assert few.step < 0.5 * plain.step and few.weights == plain.weights
    wide, rounded = (_traced(config(), Way("32-true", base_dtype=kind, lora=True), STEP)
                     for kind in ("float32", "bfloat16"))  # fmt: skip
    assert rounded.weights < 0.8 * wide.weights and wide.gradients < 0.5 * plain.gradients


def test_recomputing_some_layers_holds_what_lies_between(tmp_path):
    config().save_pretrained(tmp_path)
    count = config().num_hidden_layers
    ways = [Way("32-true"), Way("32-true", checkpointing=True, layers=count // 2), Way("32-true", checkpointing=True)]
    said = [held(tmp_path, way, STEP).step for way in ways]
    assert said[0] > said[1] > said[2]
    traced = _of_model(config(), ways[1], STEP)
    assert max(said[1], 0) == pytest.approx(max(traced.step, traced.rest), rel=0.1)


@pytest.mark.parametrize("kind", [transformers.Qwen2Config, transformers.GPT2Config, transformers.Gemma2Config])
def test_other_architectures_are_traced_too(kind):
    names = {"n_embd": 64, "n_layer": 8, "n_head": 4} if kind is transformers.GPT2Config else {"head_dim": 16}
    names = {} if kind is transformers.Qwen2Config else names
    traced = _traced(config(kind=kind, **names), Way("32-true"), STEP)
    assert traced.weights > 0 and traced.step > 0


# -- the optimizer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bytes_of_matrices"), [("adamw", 8), ("lion", 4), ("rmsprop", 4), ("adafactor", 8 / 256), ("muon", 4)]
)
def test_the_state_of_an_optimizer_is_measured(name, bytes_of_matrices):
    assert state_bytes(OPTIMIZERS.choose(name, OPTIMIZERS.bundled)).matrices == bytes_of_matrices


@pytest.mark.parametrize(("name", "temporaries"), [("adamw", 0), ("lion", 4), ("rmsprop", 8), ("adafactor", 12)])
def test_what_a_step_changes_in_place_is_not_counted_for_it(name, temporaries):
    """A step of one tensor after the other holds the temporaries of one."""
    found = state_bytes(OPTIMIZERS.choose(name, OPTIMIZERS.bundled))
    assert found.step == pytest.approx(0, abs=0.01) and found.largest == temporaries


def test_a_strangers_optimizer_need_not_say_what_it_holds():
    def momentum(groups):
        return torch.optim.SGD([group.options() for group in groups], momentum=0.9)

    found = state_bytes(Chosen("momentum", momentum, {}))
    assert (found.matrices, found.others) == (4, 4)
    assert state_bytes(Chosen("none", lambda groups: torch.optim.SGD([g.options() for g in groups]), {})).matrices == 0


# -- a plan ----------------------------------------------------------------------------------------------------------


def plan(folder, **options):
    given = {"batch_size": 64, "micro_tokens": 512, "save_every": 0, **options}
    others = {name: given.pop(name) for name in ("processes", "online", "models") if name in given}
    return Plan(
        TrainConfig(**given), others.pop("models", {"policy": folder}), Texts(50, 100, 2, 300),
        OPTIMIZERS.choose("adamw", OPTIMIZERS.bundled), others.pop("online", False), 10, "cpu", "32-true", **others,
    )  # fmt: skip


def test_the_parts_of_a_step_add_up(folder):
    need = of_plan(plan(folder))
    parts = need.parts["policy"]
    count = parts["weights"] / 4
    assert parts["gradients"] == 4 * count and parts["optimizer"] == pytest.approx(8 * count, rel=0.01)
    assert need.phases["steps"] == pytest.approx(sum(parts.values()) + module.PROCESS)
    assert not need.rough and need.tokens == 512 and "policy: weights" in need.text()


def test_frozen_roles_hold_their_weights_and_rollouts_their_cache(folder):
    models = {"policy": folder, "reference": folder, "critic": folder}
    need = of_plan(plan(folder, online=True, models=models))
    assert set(need.parts["reference"]) == {"weights"} and "optimizer" in need.parts["critic"]
    # Two numbers of float32 for 12 layers of two groups of 16; the block has a quarter more columns.
    assert need.parts["rollouts"]["cache"] == 64 * 1.25 * (50 + 128) * (2 * 12 * 2 * 16 * 4)


def test_a_group_shares_its_prompt_in_a_row_and_counts_it_for_each_answer_in_a_micro_batch(folder):
    """1,024 tokens hold one group of four answers of 60 behind a prompt of 100: 340 positions."""
    one = dataclasses.replace(plan(folder, micro_tokens=1024, batch_size=8), texts=Texts(100, 60, 4, 340, apart=True))
    assert (one.share, module._step(one)) == (1280, Step(340, 100, 60, 4))
    many = dataclasses.replace(one, texts=Texts(100, 60, 16, 160, apart=True))
    assert module._step(many) == Step(100 + 6 * 60, 100, 60, 6)
    pairs = dataclasses.replace(one, texts=Texts(100, 120, 2, 340))
    assert (pairs.share, module._step(pairs)) == (2720, Step(1020, 100, 120, 2))


def test_a_step_has_as_many_examples_as_fit_by_their_lengths_not_by_the_rounded_ones(folder):
    """Three pairs of 342 tokens are more than 1,024."""
    pairs = dataclasses.replace(plan(folder, micro_tokens=1024, batch_size=8), texts=Texts(100, 121, 2, 340))
    assert module._step(pairs) == Step(680, 100, 120, 2)


def test_shards_divide_what_stays_and_not_the_activations(folder, monkeypatch):
    whole, shared = of_plan(plan(folder)), of_plan(plan(folder, strategy="fsdp", processes=4))
    for what in ("weights", "gradients", "optimizer"):
        assert shared.parts["policy"][what] == whole.parts["policy"][what] / 4
    assert shared.parts["policy"]["activations"] == whole.parts["policy"]["activations"]
    assert "shards over 4 processes" in shared.text()
    # The embedding and the last norm, and two blocks: of each the matrices of the test below, and two norms.
    block = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64
    assert shared.parts["policy"]["gathered"] == 4 * (65536 * 64 + 64 + 2 * block)
    assert "gathered" not in whole.parts["policy"] and shared.peak > whole.peak / 4


def test_a_tensor_group_divides_the_matrices_of_its_layers(folder):
    whole, cut = (of_plan(plan(folder, processes=n, devices=n, tensor_parallel=n)) for n in (1, 2))
    # Queries and their product 64 by 64, keys and values 64 by 32, three matrices 64 by 128, in 12 layers of float32.
    matrices = 4 * 12 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    for what, each in (("weights", 1), ("gradients", 1), ("optimizer", 2)):
        saved = whole.parts["policy"][what] - cut.parts["policy"][what]
        assert saved == pytest.approx(each * matrices / 2, rel=0.01)
    assert cut.parts["policy"]["activations"] < whole.parts["policy"]["activations"]
    assert "layers cut among 2 processes" in cut.text() and cut.as_json()["cut"] == 2


def test_groups_share_out_what_they_have_cut_and_all_processes_the_rest(folder):
    whole, both = (
        of_plan(plan(folder, processes=n, devices=n, tensor_parallel=min(n, 2), strategy=how))
        for n, how in ((1, "auto"), (8, "fsdp"))
    )
    assert both.parts["policy"]["weights"] == pytest.approx(whole.parts["policy"]["weights"] / 8, rel=0.01)
    assert both.parts["policy"]["optimizer"] == pytest.approx(whole.parts["policy"]["optimizer"] / 8, rel=0.01)
    assert "layers cut among 2 processes, shards over 4 groups" in both.text()


def test_a_checkpoint_in_flight_counts_where_it_is_copied(folder):
    copied, full = (of_plan(plan(folder, save_every=2), free) for free in (None, 1.0))
    weights = copied.parts["policy"]["weights"]
    assert copied.parts["checkpoint"]["copy"] == pytest.approx(3 * weights, rel=0.01)
    assert "checkpoint" not in full.parts and "checkpoint" not in of_plan(plan(folder, save_every=50)).parts


def test_on_a_gpu_micro_batches_are_as_large_as_a_run_makes_them_and_more_devices_are_named(folder, monkeypatch):
    monkeypatch.setattr(module, "_free", lambda plan: (60e6, "the GPU"))
    one = dataclasses.replace(plan(folder, micro_tokens=None, batch_size=4096), accelerator="cuda")
    # 40 values of 64 numbers of float32 in 12 layers for a token, in an eighth of what is free, halved.
    assert one.tokens == max(1024, int(60e6 // 8 // 2 // (40 * 12 * 64 * 4)))
    need = module.preflight(one.models, lambda models: one)
    whole, shared = need.peak, need.remedies["--strategy fsdp --devices 8"]
    assert need.device == "the GPU" and shared < whole
    held = need.parts["policy"]
    kept = sum(held[what] for what in ("weights", "gradients", "optimizer"))
    gathered = of_plan(plan(folder, strategy="fsdp", processes=8)).parts["policy"]["gathered"]
    assert shared == pytest.approx(whole - 7 / 8 * kept + gathered, rel=0.01)


@pytest.mark.parametrize(
    ("options", "there", "not_there"),
    [
        ({"strategy": "fsdp"}, ["--devices 4", "--devices 8", "--offload --gradient-checkpointing"], ["--devices 2"]),
        ({"tensor_parallel": 2}, ["--strategy fsdp --devices 4"], ["--optimizer adafactor"]),
        ({"strategy": "ddp"}, ["--strategy fsdp --devices 2", "--optimizer adafactor"], ["--offload"]),
    ],
    ids=str,
)
def test_what_would_help_is_what_the_run_would_take(folder, monkeypatch, options, there, not_there):
    monkeypatch.setattr(module, "_free", lambda plan: (1e6, "the GPU"))
    asked = plan(folder, processes=2, devices=2, batch_size=64, **options)
    need = module.preflight(asked.models, lambda models: dataclasses.replace(asked, accelerator="cuda", here=2))
    assert {*there} <= {*need.remedies} and not {*not_there} & {*need.remedies}


def test_an_architecture_that_cannot_be_traced_is_told_roughly(folder, monkeypatch):
    monkeypatch.setattr(memory, "held", lambda *given: 1 / 0)
    need = of_plan(plan(folder))
    assert need.rough and need.text().startswith("very roughly") and need.peak > 0


def test_a_mixture_of_experts_is_told_roughly_with_what_a_pass_gathers_and_nothing_of_torch_s_log(tmp_path, capfd):
    mixtral = config(4, transformers.MixtralConfig, num_local_experts=4, vocab_size=65536)
    mixtral.save_pretrained(tmp_path)
    need = of_plan(plan(tmp_path, strategy="fsdp", processes=2))
    parts = need.parts["policy"]
    # The embedding, and two of four blocks.
    outside = 4 * 65536 * 64
    assert need.rough and parts["gathered"] == pytest.approx(outside + 2 * (2 * parts["weights"] - outside) / 4)
    assert capfd.readouterr() == ("", "")


def test_copies_that_autograd_keeps_of_rounded_weights_are_named(folder):
    """Those of a real forward pass under autocast, and as many from shards; recomputed blocks keep none."""
    model, seen = transformers.LlamaForCausalLM(config(4)), dict[int, int]()
    sizes = {frozenset(p.shape) for p in model.model.layers.parameters() if p.ndim == 2}

    def note(tensor):
        if tensor.dtype == torch.bfloat16 and tensor.ndim == 2 and frozenset(tensor.shape) in sizes:
            seen[tensor.data_ptr()] = tensor.numel() * 2
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        kept = model(torch.ones(1, 7, dtype=torch.long)).logits
    assert kept.requires_grad and _of_model(config(4), Way("bf16-mixed"), STEP).rounded == sum(seen.values())
    mixed = dataclasses.replace(plan(folder, strategy="fsdp", processes=4), precision="bf16-mixed")
    plain, few = (dataclasses.replace(mixed, core=dataclasses.replace(mixed.core, gradient_checkpointing=given))
                  for given in (False, True))  # fmt: skip
    matrices = 12 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    assert of_plan(plain).parts["policy"]["rounded weights"] == 2 * matrices
    assert "rounded weights" not in of_plan(few).parts["policy"]


def on_gpus(folder, **options):
    """What two GPUs of this machine would hold of a plan that shares out."""
    return dataclasses.replace(plan(folder, strategy="fsdp", processes=2, **options), accelerator="cuda", here=2)


def test_what_is_offloaded_counts_in_the_machine_s_memory(folder):
    with_it, without = (of_plan(on_gpus(folder, offload=given)) for given in (True, False))
    parts = without.parts["policy"]
    kept = sum(parts[what] for what in ("weights", "gradients", "optimizer"))
    assert with_it.host == pytest.approx(2 * kept, rel=0.01) and not without.host
    assert with_it.peak < without.peak - 0.9 * kept
    assert f"Offloaded to the machine's memory, by 2 processes: {size(round(with_it.host))}" in with_it.text()
    assert with_it.as_json()["host"] == round(with_it.host)


def test_what_is_offloaded_must_fit_into_the_machine(folder, monkeypatch):
    fewer, asked, kept = (on_gpus(folder, **options) for options in ({"lora": True, "offload": True},
                                                                     {"offload": True}, {}))  # fmt: skip
    monkeypatch.setattr(module, "_others", lambda plan, tokens: [("--lora", fewer), ("--offload", asked)])
    monkeypatch.setattr(module, "_host_free", lambda plan: 60e6)
    monkeypatch.setattr(module, "_free", lambda plan: (1e9, "the GPU"))
    need = module.preflight(asked.models, lambda models: asked)
    assert need.fits_device and not need.fits and set(need.remedies) == {"--lora"}
    assert need.warning().startswith("--offload needs about ") and "this machine has 60 MB left. " in need.warning()
    # A GPU that is too small is not helped by a machine that is too small.
    monkeypatch.setattr(module, "_free", lambda plan: (60e6, "the GPU"))
    assert "--offload" not in module.preflight(asked.models, lambda models: kept).remedies


def test_a_judge_with_a_name_is_whole_in_every_process(folder):
    models = {"policy": folder, "judge": folder, "reference": folder}
    for own in (None, "judge-model"):
        parts = of_plan(plan(folder, strategy="fsdp", processes=4, models=models, judge=own)).parts
        assert parts["judge"]["weights"] == parts["reference"]["weights"] * (4 if own else 1)


def test_where_it_does_not_fit_the_warning_names_what_would():
    need = Need(phases={"steps": 30e9}, free=20e9, remedies={"--lora": 8e9, "--micro-tokens 256": 25e9})
    assert need.warning() == (
        "This run needs about 30.0 GB of memory, and this machine has 20.0 GB left. It would fit with --lora (8.0 GB)."
    )
    need.remedies.pop("--lora")
    assert "Less is needed with --micro-tokens 256 (25.0 GB)." in need.warning()
    need.free = 40e9
    assert need.warning() == ""


def test_an_answer_has_a_token_that_ends_it():
    assert texts_of([(400, 800, 2), (420, 840, 2)], 0.25, 1024) == Texts(102, 103, 2, 300)


# -- in a dry run and a run ------------------------------------------------------------------------------------------


def look(folder, **options):
    from zoo.training.outlook import look

    options = {"model": str(folder), "data": "starter", "out": str(folder.parent), **options}
    return look(*resolve_options("dpo", None, options, "command line"))


def test_a_configuration_is_enough_and_the_second_look_traces_nothing(folder, monkeypatch):
    outlook, missing = look(folder)
    assert "no weights" in missing.message or "weights" in missing.message
    assert "policy: weights" in outlook.facts["memory"]
    said = json.loads(json.dumps(outlook.as_json()))["memory"]
    assert said["parts"]["policy"]["gradients"] == said["parts"]["policy"]["weights"] and said["fits"]
    monkeypatch.setattr(memory, "_traced", lambda *given: pytest.fail("it was traced again"))
    assert look(folder)[0].memory.parts == outlook.memory.parts


def test_a_run_that_does_not_fit_is_told_with_numbers(folder, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 30e6)
    said = look(folder)[0].facts["memory"]
    assert "This run needs about" in said and "--lora" in said and "--micro-tokens" in said


def test_what_a_gpu_would_hold_is_known_where_there_is_none(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = {"accelerator": "gpu", "batch_size": 64}
    one, missing = look(folder, **asked)
    assert "--accelerator gpu: torch sees no GPU here." in missing.message
    assert "of 80.0 GB free on an assumed GPU (there is none here)" in one.facts["memory"]
    assert one.as_json()["memory"]["device"].startswith("an assumed GPU")
    shared = look(folder, **asked, devices=8, strategy="fsdp")[0].memory
    for what in ("weights", "gradients", "optimizer"):
        assert 8 * shared.parts["policy"][what] == pytest.approx(one.memory.parts["policy"][what])
    # What a CPU process holds beside its tensors is not on a GPU.
    assert "process" in look(folder)[0].memory.parts and "process" not in one.memory.parts


def test_another_configuration_in_the_folder_is_traced_again(folder):
    before = held(Path(folder), Way("32-true"), STEP)
    config(14, vocab_size=65536).save_pretrained(folder)
    assert held(Path(folder), Way("32-true"), STEP).weights > before.weights
