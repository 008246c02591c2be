"""The seam to the libraries underneath: every reliance holds here, and is seen failing where a library changes."""

import ast
import functools
import inspect
import json
import logging
import sys
import tomllib
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from test_imports import imports

from zoo.cli.main import main
from zoo.libraries import (
    architecture,
    arithmetic,
    attention,
    caches,
    cluster,
    heads,
    meeting,
    precision,
    releases,
    reliance,
    tiny,
    trainer,
)

ROOT = Path(__file__).parent.parent

RELIANCES = [one for library in reliance.MODULES for one in reliance.reliances(library)]
BY_NAME = {one.check.__name__: one for one in RELIANCES}


@pytest.mark.parametrize("name", BY_NAME)
def test_what_is_relied_on_holds(name):
    BY_NAME[name].check()


def test_nothing_that_is_done_with_a_library_is_deprecated_there(looked_at_again):
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("transformers", "peft", "datasets", "huggingface_hub")]
    levels = [one.level for one in loggers]
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for one in loggers:
                one.addHandler(handler)
                one.setLevel(logging.WARNING)
            for name in BY_NAME:
                # What quietens the library in a run must not quieten it here.
                for one in loggers:
                    one.setLevel(logging.WARNING)
                BY_NAME[name].check()
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.removeHandler(handler)
            one.setLevel(level)
    told = [text for text in [*heard, *(str(one.message) for one in warned)] if "deprecat" in text.lower()]
    assert told == []


# -- each of them seen failing -----------------------------------------------------------------------------------------


def renamed(function, old, new):
    """The function with an argument under another name, as a library renames it."""

    @functools.wraps(function)
    def wrapper(*args, **options):
        options[old] = options.pop(new, None)
        return function(*args, **options)

    signature = inspect.signature(function)
    parameters = [p.replace(name=new) if p.name == old else p for p in signature.parameters.values()]
    wrapper.__signature__ = signature.replace(parameters=parameters)
    return wrapper


def changed(patch, module, name, change):
    """A function of a library that does what it did, and then something else."""
    former = getattr(module, name)
    patch.setattr(module, name, lambda *args, **options: change(former(*args, **options)))


def without(patch, module, *names):
    for name in names:
        patch.delattr(module, name)


def llama():
    import transformers

    return transformers.LlamaForCausalLM


def fresh_model(patch, **options):
    """The checks on another model than the one kept for them."""
    model = tiny.make_tiny(**options)
    for module in (architecture, caches, heads):
        patch.setattr(module, "tiny_model", lambda: model)
    return model


def cache_renamed(patch):
    name = caches.Signature.of(tiny.tiny_model()).cache
    patch.setattr(llama(), "forward", renamed(llama().forward, name, "memory"))


def all_logits(patch):
    patch.setattr(llama(), "forward", renamed(llama().forward, "logits_to_keep", "logits_kept"))


def keys_transposed(patch):
    former = caches.DynamicLayer.update

    def update(layer, *args, **options):
        found = former(layer, *args, **options)
        layer.keys = layer.keys.transpose(1, 2)
        return found

    patch.setattr(caches.DynamicLayer, "update", update)


def layers_ignored(patch):
    patch.setattr(
        caches.DynamicCache, "update",
        lambda cache, keys, values, *rest, **options: caches.DynamicLayer().update(keys, values),
    )  # fmt: skip


def rows_kept(patch):
    patch.setattr(caches.DynamicLayer, "reorder_cache", lambda layer, rows: None)


def eager_at_first(patch):
    make = tiny.make_tiny
    patch.setattr(attention, "make_tiny", lambda: make(attn_implementation="eager"))


def attention_not_asked(patch):
    patch.setattr(llama(), "set_attn_implementation", lambda model, name: None)


def mask_copied(patch):
    from transformers.models.llama import modeling_llama

    changed(patch, modeling_llama, "create_causal_mask", lambda mask: None if mask is None else mask.clone())


def another_softmax(patch):
    changed(patch, attention, "sdpa_attention_forward", lambda found: (found[0] * 1.1, found[1]))


def masks_left_out(patch):
    patch.setattr(caches.DynamicCache, "is_compileable", property(lambda cache: False))


def head_renamed(patch):
    fresh_model(patch)
    patch.setattr(llama(), "get_output_embeddings", lambda model: model.model.embed_tokens)


def logits_shifted(patch):
    import transformers

    def shift(found):
        found.logits = found.logits + 1
        return found

    changed(patch, transformers.GraniteForCausalLM, "forward", shift)


def plan_renamed(patch):
    from transformers import LlamaConfig

    patch.setattr(LlamaConfig, "base_model_tp_plan", {}, raising=False)


def turns_read_otherwise(patch):
    from transformers import PreTrainedTokenizerBase

    patch.setattr(PreTrainedTokenizerBase, "parse_response", lambda self, text, **options: {"content": text})


def window_renamed(patch):
    make = tiny.make_tiny

    def build(*args, **options):
        model = make(*args, **options)
        model.config.width_of_sight = vars(model.config).pop("sliding_window", None)
        return model

    patch.setattr(architecture, "make_tiny", build)


def router_keeps_its_logits(patch):
    from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

    changed(patch, MixtralTopKRouter, "forward", lambda found: (None, *found[1:]))


def embeddings_scaled(patch):
    former = llama().get_input_embeddings

    def louder(model):
        inner = former(model)
        return lambda ids: inner(ids) * 2

    patch.setattr(llama(), "get_input_embeddings", louder)


def dropout_elsewhere(patch):
    from transformers.models.llama.modeling_llama import LlamaAttention

    kept = property(lambda layer: 0.9, lambda layer, value: None)
    patch.setattr(LlamaAttention, "attention_dropout", kept, raising=False)


def recomputed_otherwise(patch):
    def enable(model, options):
        model.model.layers[0].mlp.up_proj.weight.register_hook(lambda grad: grad * 2)

    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        patch.setattr(llama(), name, enable, raising=False)


def made_in_half(patch):
    import transformers

    make = transformers.AutoModelForCausalLM.from_config
    patch.setattr(
        transformers.AutoModelForCausalLM, "from_config", lambda config, dtype: make(config, dtype=torch.half)
    )


def head_renamed_in_scorers(patch):
    import transformers

    def rename(model):
        model.classifier = model.score
        del model.score
        return model

    changed(patch, transformers.AutoModelForSequenceClassification, "from_config", rename)


def no_generation_config(patch):
    model = fresh_model(patch)
    model.generation_config = None


def sizes_renamed(patch):
    model = fresh_model(patch)
    patch.setattr(type(model.config), "get_text_config", lambda config, decoder=False: object())


def saved_without_weights(patch):
    patch.setattr(llama(), "save_pretrained", lambda model, folder, **options: model.config.save_pretrained(folder))


def no_plain_model(patch):
    import transformers

    patch.setattr(transformers.AutoModelForCausalLM, "from_config", lambda config, dtype: tiny.make_tiny(hidden_size=8))


def template_option_renamed(patch):
    import transformers

    former = transformers.PreTrainedTokenizerFast.apply_chat_template
    patch.setattr(
        transformers.PreTrainedTokenizerFast, "apply_chat_template",
        lambda tokenizer, turns, chat_template=None, **options: former(tokenizer, turns, **options),
    )  # fmt: skip


def padding_from_the_start(patch):
    import transformers

    patch.setattr(transformers.PreTrainedTokenizerFast, "pad_token_id", property(lambda tokenizer: 0), raising=False)


def added_tokens_are_words(patch):
    from transformers import PreTrainedTokenizerFast as fast

    former = fast.decode
    patch.setattr(fast, "decode", lambda one, ids, skip_special_tokens=False, **more: former(one, ids, **more))


def called_in_capitals(patch):
    from transformers import PreTrainedTokenizerFast as fast

    former = fast._encode_plus
    patch.setattr(fast, "_encode_plus", lambda one, text, **more: former(one, [t.upper() for t in text], **more))


def grows_by_one_more(patch):
    former = llama().resize_token_embeddings
    patch.setattr(llama(), "resize_token_embeddings", lambda model, rows, **more: former(model, rows + 1, **more))


def rate_of_its_own(patch):
    from transformers.optimization import Adafactor

    patch.setattr(Adafactor, "_get_lr", staticmethod(lambda group, state: 0.01))


def rows_left_out(patch):
    import peft

    former = peft.LoraConfig
    patch.setattr(peft, "LoraConfig", lambda trainable_token_indices=None, **more: former(**more))


def adapters_stay_on(patch):
    import contextlib

    from peft import PeftModel

    patch.setattr(PeftModel, "disable_adapter", lambda model: contextlib.nullcontext())


def copies_stay_on(patch):
    from peft.utils import ModulesToSaveWrapper

    patch.setattr(ModulesToSaveWrapper, "enable_adapters", lambda module, enabled: None)


def adapters_never_change(patch):
    from peft import PeftModel

    patch.setattr(PeftModel, "set_adapter", lambda model, name, inference_mode=False: None)


def principal_parts_left_out(patch):
    from peft.tuners.lora import LoraLayer

    patch.setattr(LoraLayer, "pissa_init", lambda layer, name, kind: None)


def copied_as_itself(patch):
    patch.setattr(torch.Tensor, "__deepcopy__", lambda tensor, memo: tensor)


def saves_in_a_way_of_its_own(patch):
    from transformers import PreTrainedModel

    patch.setattr(PreTrainedModel, "save_pretrained", lambda model, *args, **options: None)


def merged_without_them(patch):
    from peft import LoraModel

    patch.setattr(LoraModel, "merge_and_unload", lambda model: model.unload())


def experts_left_out(patch):
    from peft.tuners.lora.layer import ParamWrapper

    patch.setattr(ParamWrapper, "merge", lambda layer, *args, **options: None)


def all_of_mamba_allowed(patch):
    from peft.tuners import tuners_utils

    patch.setattr(tuners_utils, "_check_lora_target_modules_mamba", lambda settings, model, name: None)


def adapters_name_nothing(patch):
    import peft

    def forget(settings):
        settings.base_model_name_or_path = None
        return settings

    changed(patch, peft.PeftConfig, "from_pretrained", forget)


def scorer_without_its_head(patch):
    import peft

    def build(model, inside, settings, adapter_name="default", **options):
        peft.PeftModel.__init__(model, inside, settings, adapter_name)

    patch.setattr(peft.PeftModelForSequenceClassification, "__init__", build)


def weights_read_elsewhere(patch):
    from transformers import modeling_utils

    own = modeling_utils.PreTrainedModel._load_pretrained_model
    former = modeling_utils.safe_open

    def load(*args, **options):
        patch.setattr(modeling_utils, "safe_open", former)
        return own(*args, **options)

    patch.setattr(modeling_utils.PreTrainedModel, "_load_pretrained_model", load)


def never_stops(patch):
    import lightning

    stop = property(lambda of: False, lambda of, value: None)
    patch.setattr(lightning.Trainer, "should_stop", stop, raising=False)


def files_of_lightning(patch):
    from lightning.fabric.plugins import TorchCheckpointIO
    from lightning.pytorch.strategies import Strategy

    own = property(lambda strategy: TorchCheckpointIO(), lambda strategy, value: None)
    patch.setattr(Strategy, "checkpoint_io", own)


def position_forgotten(patch):
    from lightning.pytorch.utilities import CombinedLoader

    patch.setattr(CombinedLoader, "_load_state_dicts", lambda loader, states: None)


def full_precision(patch):
    import contextlib

    from lightning.pytorch.plugins.precision import MixedPrecision

    patch.setattr(MixedPrecision, "forward_context", lambda plugin: contextlib.nullcontext())


def launcher_without_a_list(patch):
    former = trainer._SubprocessScriptLauncher.__init__

    def build(launcher, *args, **options):
        former(launcher, *args, **options)
        launcher.processes = launcher.__dict__.pop("procs")

    patch.setattr(trainer._SubprocessScriptLauncher, "__init__", build)


def ranks_renamed(patch):
    patch.setattr(cluster.SLURMEnvironment, "global_rank", lambda environment: 0)


def meets_elsewhere(patch):
    patch.setattr(meeting.DDPStrategy, "setup_environment", lambda strategy: None)


def starts_elsewhere(patch):
    patch.setattr(meeting.Meeting, "_configure_launcher", meeting.DDPStrategy._configure_launcher)


def walks_the_batch(patch):
    patch.setattr(precision.Precision, "convert_input", lambda plugin, batch: dict(batch))


def a_logger_less(patch):
    from lightning.pytorch import loggers

    without(patch, loggers, "MLFlowLogger")


def rows_backwards(patch):
    import datasets

    def turn(table):
        return table.select(range(len(table))[::-1]) if isinstance(table, datasets.Dataset) else table

    changed(patch, datasets, "load_from_disk", turn)


def nothing_behind(patch):
    import datasets

    changed(patch, datasets.IterableDataset, "skip", lambda table: table.take(0))


def one_fingerprint(patch):
    import datasets

    def mark(table):
        table._fingerprint = "0"
        return table

    changed(patch, datasets, "load_from_disk", mark)


def unused_weights_left_alone(patch):
    from torch.distributed.fsdp import FSDPModule

    patch.setattr(FSDPModule, "set_reduce_scatter_unused_params", lambda module, reduced: None)


def asks_all_the_same(patch):
    import huggingface_hub

    def ask(api, name, timeout):
        raise ConnectionError("no such host")

    patch.setattr(huggingface_hub.HfApi, "model_info", ask)


def errors_renamed(patch):
    from huggingface_hub import errors

    without(patch, errors, "OfflineModeIsEnabled")


def found_everywhere(patch):
    import huggingface_hub

    patch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: f"/cache/{file}")


def nothing_known_of_the_cpu(patch):
    without(patch, torch.cpu, *(name for name in arithmetic.BFLOAT16_UNITS if hasattr(torch.cpu, name)))


def gradient_of_another_axis(patch):
    changed(patch, torch, "_softmax_backward_data", lambda grad: -grad)


CHANGES = {
    "a_cache_takes_the_place_of_the_tokens_before": (cache_renamed, "takes no cache"),
    "the_last_logits_can_be_had_alone": (all_logits, "last_only=False"),
    "layers_hold_keys_and_values": (keys_transposed, "keys and values of shapes"),
    "a_layer_of_our_own_is_asked": (layers_ignored, "it got the columns []"),
    "rows_of_a_cache_can_be_picked": (rows_kept, "it selected other rows"),
    "a_model_says_which_attention_it_runs": (eager_at_first, "a new model uses 'eager'"),
    "a_registered_attention_is_called": (attention_not_asked, "0 calls in 2 layers"),
    "a_mask_reaches_the_attention_as_it_is": (mask_copied, "a different tensor"),
    "sdpa_is_the_formula": (another_softmax, "it differs by"),
    "a_mask_that_hides_nothing_is_passed": (masks_left_out, "got no mask"),
    "a_model_is_its_backbone_and_its_head": (head_renamed, "not those of its output layer"),
    "heads_of_other_architectures": (logits_shifted, "not those of its output layer"),
    "routers_can_be_heard": (router_keeps_its_logits, "logits and choices of shapes []"),
    "models_have_a_plan": (plan_renamed, "the plan of a Llama has the styles none"),
    "files_can_be_written_later": (saves_in_a_way_of_its_own, "it wrote []"),
    "a_response_template_reads_turns": (turns_read_otherwise, "it read {'content': "),
    "windows_are_in_the_configuration": (window_renamed, "a window of 4 and no window are read as"),
    "embeddings_may_be_given": (embeddings_scaled, "output for them differs"),
    "dropout_can_be_silenced": (dropout_elsewhere, "differs by"),
    "activations_can_be_recomputed": (recomputed_otherwise, "they differ by"),
    "fake_tensors_are_counted": (made_in_half, "bytes instead of"),
    "a_language_model_becomes_a_scorer": (head_renamed_in_scorers, "no scalar head for LlamaForCausalLM"),
    "models_say_what_ends_an_answer": (no_generation_config, "set() for a model with eos_token_id 1"),
    "configurations_have_their_sizes": (sizes_renamed, "[None, None, None] and None"),
    "a_model_can_be_saved_and_loaded": (saved_without_weights, "it wrote"),
    "a_plain_model_can_be_made": (no_plain_model, "RuntimeError"),
    "a_template_is_rendered": (template_option_renamed, "it rendered"),
    "a_tokenizer_may_be_given_a_padding_token": (padding_from_the_start, "a tokenizer without one has 0"),
    "tokens_can_be_added": (added_tokens_are_words, "and the text is '<x> <y>'"),
    "the_tokenizer_inside_gives_the_same": (called_in_capitals, "the ids are"),
    "weights_can_stay_in_their_files": (weights_read_elsewhere, "only [] have no values"),
    "vocabularies_can_grow": (grows_by_one_more, "embed_tokens has 19 rows"),
    "rows_of_new_tokens_are_trained": (rows_left_out, "groups of rows are trained"),
    "adapters_can_be_switched_off": (adapters_stay_on, "differs from before"),
    "adafactor_takes_the_rate_of_a_group": (rate_of_its_own, "rates of 0.1 and 0.2 move it by [0.0099"),
    "whole_modules_are_copies": (copies_stay_on, "with adapters off the model differs"),
    "two_adapters_take_turns": (adapters_never_change, "with the second adapter the model differs"),
    "principal_parts_are_those_of_peft": (principal_parts_left_out, "their matrices A differ by"),
    "fake_tensors_can_be_copied": (copied_as_itself, "it is the same"),
    "adapters_can_be_merged": (merged_without_them, "it differs by"),
    "adapters_on_tied_embeddings_can_be_merged": (merged_without_them, "of the merged model differs by"),
    "experts_can_be_adapted": (experts_left_out, "merged it differs by"),
    "layers_of_mamba_models_are_refused": (all_of_mamba_allowed, "it refuses none"),
    "adapters_can_be_saved_and_loaded": (adapters_name_nothing, "the base is called ('None', None)"),
    "the_head_of_a_scorer_is_trained": (scorer_without_its_head, "the trained parameters are"),
    "a_step_is_a_batch": (never_stops, "step 3"),
    "checkpoints_go_through_our_files": (files_of_lightning, "own 7"),
    "loaders_and_callbacks_go_on": (position_forgotten, "step 1"),
    "the_arithmetic_of_the_steps": (full_precision, "torch.float32"),
    "started_processes_are_listed": (launcher_without_a_list, "procs"),
    "places_are_known_from_the_environment": (ranks_renamed, "2 × 2 processes of SLURM is (0, 1, 4)"),
    "processes_meet_where_we_wait": (meets_elsewhere, "it was called 0 times"),
    "processes_are_started_where_we_start_them": (starts_elsewhere, "the launcher is a _SubprocessScriptLauncher"),
    "a_plain_precision_changes_nothing": (walks_the_batch, "the batch is walked"),
    "loggers_have_their_names": (a_logger_less, "no MLFlowLogger"),
    "tables_give_their_rows": (rows_backwards, "it gives"),
    "streamed_tables_can_be_read_in_parts": (nothing_behind, "it gives"),
    "tables_have_fingerprints": (one_fingerprint, "two tables have 0 and 0"),
    "being_offline_can_be_set": (asks_all_the_same, "it raises ConnectionError"),
    "errors_have_their_names": (errors_renamed, "no OfflineModeIsEnabled"),
    "the_cache_says_what_it_has": (found_everywhere, "a model that does not exist"),
    "torch_tells_what_the_cpu_has": (nothing_known_of_the_cpu, "bfloat16 would never be chosen"),
    "unused_weights_are_reduced": (unused_weights_left_alone, "it has the gradient None"),
    "the_gradient_of_softmax": (gradient_of_another_axis, "it differs by"),
}
"""Check → a library that behaves otherwise, and what the message then says was found."""


def test_each_check_has_a_library_that_it_refuses():
    assert sorted(CHANGES) == sorted(BY_NAME)


@pytest.fixture
def looked_at_again():
    """Nothing of what was found in an earlier look."""
    trainer._stopped_and_resumed.cache_clear()
    reliance.require.cache_clear()
    yield
    trainer._stopped_and_resumed.cache_clear()
    reliance.require.cache_clear()


@pytest.mark.parametrize("name", CHANGES)
def test_a_library_that_changes_is_named_with_what_changed_and_a_version_that_works(name, monkeypatch, looked_at_again):
    change, found = CHANGES[name]
    one = BY_NAME[name]
    change(monkeypatch)
    (broken,) = [b for b in reliance.broken(one.library) if b.claim == one.claim]
    assert broken.text().startswith(f"{one.library} {releases.installed(one.library)} has changed what zoo relies on: ")
    assert one.claim in broken.text() and found in broken.reason, broken.reason
    version = releases.tested(one.library)
    assert broken.remedy().endswith(f"'{one.library}=={version}'") and version[0].isdigit()
    monkeypatch.setattr(releases, "installed", lambda library: version)
    assert f"pip install --force-reinstall --no-deps '{one.library}=={version}'" in broken.remedy()
    monkeypatch.setattr(releases, "installed", lambda library: "0.1")
    assert f"is tested with zoo 0.1.0: pip install '{one.library}=={version}'" in broken.remedy()


# -- where it is told -------------------------------------------------------------------------------------------------


def test_a_run_with_a_library_that_changed_is_refused_before_anything_is_loaded(
    monkeypatch, looked_at_again, tmp_path, tiny_folder
):
    cache_renamed(monkeypatch)
    with pytest.raises(reliance.LibraryError) as refused:
        zoo_train(tmp_path, tiny_folder)
    told = str(refused.value)
    assert f"transformers {version('transformers')} has changed what zoo relies on: `forward` of a causal" in told
    assert f"'transformers=={releases.tested('transformers')}'" in told and "zoo doctor" in told
    assert refused.value.exit_status == 2 and not list(tmp_path.iterdir())


def test_what_one_library_lacks_is_not_asked_of_runs_that_do_not_use_it(
    monkeypatch, looked_at_again, tmp_path, tiny_folder
):
    adapters_stay_on(monkeypatch)
    zoo_train(tmp_path, tiny_folder)
    with pytest.raises(reliance.LibraryError, match="peft .* has changed"):
        zoo_train(tmp_path, tiny_folder, lora=True)


def zoo_train(out, model, **options):
    import zoo

    rows = out.parent / "answers.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Say {n}.", "completion": str(n)}) + "\n" for n in range(8)))
    return zoo.train(algo="sft", model=str(model), data=str(rows), out=str(out), max_steps=1, score="none", quiet=True,
                     **options)  # fmt: skip


def typed(capsys, *arguments):
    """Status and output of a command."""
    sys.argv = ["zoo", *arguments]
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0, capsys.readouterr().out


def test_doctor_says_which_library_which_version_what_changed_and_which_version_works(
    monkeypatch, looked_at_again, capsys
):
    monkeypatch.setattr("zoo.cli.doctor._recipe_problems", lambda: [])
    monkeypatch.setenv("COLUMNS", "1000")
    status, out = typed(capsys, "doctor")
    assert (status, out.count(" checks hold")) == (0, len(reliance.MODULES)) and "No problems" in out
    adapters_stay_on(monkeypatch)
    status, out = typed(capsys, "doctor")
    works = releases.tested("peft")
    assert status == 1 and f"peft {version('peft')} has changed what zoo relies on: Only adapters are trained" in out
    assert f"'peft=={works}'" in out and "8 of 11 checks hold" in out
    facts = json.loads(typed(capsys, "doctor", "--json")[1])
    (peft,) = [library for library in facts["libraries"] if library["name"] == "peft"]
    assert [check["holds"] for check in peft["checks"]].count(False) == 3 and peft["tested"] == works


def test_a_version_outside_of_the_range_is_a_problem(monkeypatch, capsys):
    monkeypatch.setattr("zoo.cli.doctor._recipe_problems", lambda: [])
    monkeypatch.setattr(releases, "installed", lambda name: "99.0")
    status, out = typed(capsys, "doctor", "--json")
    (first, *_) = json.loads(out)["problems"]
    assert status == 1 and first.startswith("torch 99.0 is outside the range that zoo allows, >=2.8")


def test_a_name_that_is_gone_is_the_library_s_change_and_not_the_model_s():
    with pytest.raises(reliance.LibraryError) as told, reliance.importing("transformers"):
        from transformers import NoSuchName  # noqa: F401
    assert "transformers" in str(told.value) and "cannot import name 'NoSuchName'" in str(told.value)
    assert "'transformers==" in told.value.hint


def test_a_library_that_is_missing_is_told_with_its_range(monkeypatch):
    monkeypatch.setattr(releases, "installed", lambda name: "none")
    with pytest.raises(reliance.LibraryError) as told, reliance.importing("peft"):
        raise ModuleNotFoundError("No module named 'peft'", name="peft")
    assert told.value.message == "peft is not installed." and "pip install 'peft>=0.18" in told.value.hint


def test_a_look_at_the_libraries_draws_no_random_number(looked_at_again):
    import random

    import numpy

    torch.manual_seed(3)
    random.seed(3)
    numpy.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    for library in reliance.MODULES:
        assert reliance.broken(library) == []
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert numpy.random.get_state()[1].tolist() == before[2]


# -- ranges and locks -------------------------------------------------------------------------------------------------

LOWEST = {
    "torch": "2.8", "lightning": "2.5", "transformers": "5.17", "peft": "0.18", "datasets": "4", "dill": "0.3.8",
    "pluggy": "1.5", "typer": "0.15", "rich": "13", "pyyaml": "6", "pydantic": "2.8", "jinja2": "3.1",
    "safetensors": "0.5", "numpy": "1.26", "huggingface-hub": "1.0", "gguf": "0.17", "packaging": "24",
    "regex": "2025.10.22",
}  # fmt: skip
"""What people have, and may go on having: lower bounds do not rise."""


def requirements(extra=None):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {canonicalize_name(one.name): one.specifier for one in map(Requirement, lines)}


def pins(file):
    """Package → its versions in a constraints file, one for each marker."""
    found = {}
    for line in (ROOT / "zoo/libraries" / file).read_text(encoding="utf-8").splitlines():
        if line and not line.lstrip().startswith("#"):
            one = Requirement(line)
            (pin,) = one.specifier
            assert pin.operator == "==" and not one.url, line
            found.setdefault(canonicalize_name(one.name), []).append(Version(pin.version))
    return found


def test_lower_bounds_do_not_rise():
    lowest = {name: next(s.version for s in bounds if s.operator == ">=") for name, bounds in requirements().items()}
    assert lowest == LOWEST


def test_what_the_seam_touches_ends_before_the_next_minor_version():
    touched = [name for name in releases.LIBRARIES if name != "torch"]
    uppers = {name: [s.version for s in requirements()[name] if s.operator == "<"] for name in touched}
    tested = {name: pins("lock.txt")[name] for name in touched}
    assert uppers == {name: [f"{one.major}.{one.minor + 1}" for one in tested[name]] for name in touched}


def test_ranges_and_locks_agree():
    held = [("lock.txt", {**requirements(), **requirements("dev")}), ("oldest.txt", requirements())]
    assert [
        f"{file}: {name} {pins(file)[name]} is not {bounds}"
        for file, required in held
        for name, bounds in required.items()
        if not all(one in SpecifierSet(str(bounds)) for one in pins(file)[name])
    ] == []


def test_the_oldest_are_the_lower_bounds_where_these_fit_together():
    # transformers 5.17 needs a later hub; safetensors is bound by torch.
    pinned = pins("oldest.txt")
    higher = {name for name, lowest in LOWEST.items() if min(pinned[name]) != Version(lowest)}
    assert higher == {"huggingface-hub", "safetensors"}, higher


def test_no_lock_names_where_packages_come_from():
    for file in ("lock.txt", "oldest.txt"):
        text = (ROOT / "zoo/libraries" / file).read_text(encoding="utf-8")
        assert "://" not in text and "index" not in text and "+cpu" not in text


# -- who may reach inside ---------------------------------------------------------------------------------------------

PUBLIC = {
    "lightning": {"Trainer", "LightningModule"},
    "transformers": {
        "AutoConfig", "AutoModelForCausalLM", "LlamaConfig", "LlamaForCausalLM",
        "PreTrainedTokenizerFast",
    },
    "tokenizers": {"Regex", "Tokenizer", "decoders", "models", "pre_tokenizers", "processors"},
    "peft": set(),
    "datasets": set(),
    "huggingface_hub": set(),
    "gguf": set(),
}  # fmt: skip
"""What all of zoo may import of these libraries: their public classes. Everything else belongs to the seam."""
INSIDES = {
    "past_key_values", "cache_params", "_attn_implementation", "set_attn_implementation", "get_base_model",
    "base_model", "base_model_prefix", "peft_config", "active_peft_config", "disable_adapter", "merge_and_unload",
    "get_text_config", "layer_types", "sliding_window", "final_logit_softcapping",
    "max_position_embeddings", "generation_config", "apply_chat_template", "precision_plugin", "launcher",
    "gradient_checkpointing_enable", "activation_checkpointing_enable", "enable_input_require_grads", "_fingerprint",
    "with_format", "HF_HUB_OFFLINE", "_softmax_backward_data", "checkpoint_io",
}  # fmt: skip
"""Attributes by which the insides of these libraries are reached."""
OUTSIDE = [
    path for folder in ("zoo", "plugins") for path in sorted((ROOT / folder).rglob("*.py"))
    if (ROOT / "zoo/libraries") not in path.parents and "starter/sampling" not in str(path)
]  # fmt: skip
"""All but the seam itself, and the script that once drew the starter set, which no program imports."""


def reached_inside(path):
    """What a file imports or reads that belongs to the seam."""
    for target, _ in imports(path):
        top, *rest = target.split(".")
        if top in PUBLIC and (not (rest or PUBLIC[top]) or (rest and (len(rest) > 1 or rest[0] not in PUBLIC[top]))):
            yield f"{path.relative_to(ROOT)} imports {target}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in INSIDES:
            yield f"{path.relative_to(ROOT)}:{node.lineno} reads .{node.attr}"


def test_only_the_seam_reaches_into_libraries():
    assert [line for path in OUTSIDE for line in reached_inside(path)] == []


def test_reaching_inside_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "reaching.py"
    lines = ("import datasets", "from transformers.cache_utils import Cache", "from lightning import Trainer",
             "def f(model):", "    from peft import PeftModel", "    return model.peft_config")  # fmt: skip
    file.write_text("\n".join(lines))
    assert list(reached_inside(file)) == [
        "reaching.py imports datasets", "reaching.py imports transformers.cache_utils.Cache",
        "reaching.py imports peft.PeftModel", "reaching.py:6 reads .peft_config",
    ]  # fmt: skip
