"""LoRA with peft: adapters around a transformers model, and the model inside."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import safe_open
from torch import Tensor

from zoo.errors import ZooError, nearest
from zoo.libraries.architecture import evaluating, last_hidden, text_config, with_scalar_head
from zoo.libraries.experts import EXPERTS, expert_weights
from zoo.libraries.pissa import KIND, begin_at_principal_parts
from zoo.libraries.pretrained import load, save
from zoo.libraries.quantising import widen_quantised
from zoo.libraries.quiet import quiet_peft
from zoo.libraries.reliance import importing, relies_on, require
from zoo.libraries.rounding import widen_linear
from zoo.libraries.second_adapter import START
from zoo.libraries.stored import read, zeros
from zoo.libraries.tiny import IDS, make_tiny
from zoo.libraries.vocabulary import give_rows, rows_of, vocabulary_modules
from zoo.libraries.whole_modules import names_for_peft, paths_of, refuse_twice, rows_beside, whole_modules
from zoo.libraries.wrappers import COPIES, ORIGINAL, base_of, is_adapted
from zoo.numbers import amount

ADAPTER, TOKENS = "lora_", "trainable_tokens_"
"""Parts of the names of adapter parameters: of layers, and of rows of the vocabulary."""
PASSED_OVER = "peft passes over them in this architecture"
"""Why a layer has none, where it is not known better."""
_UNREACHED: WeakKeyDictionary[torch.nn.Module, dict[str, str]] = WeakKeyDictionary()
ALL_LINEAR = "all-linear"
"""The target that is all linear layers but the head; `EXPERTS` is all weights of experts that are one tensor."""


def is_outer(name: str) -> bool:
    """Whether a parameter is the matrix B of an adapter, which gives its output and begins at 0."""
    return any(part in name for part in ("lora_B", "lora_embedding_B"))


def without_adapters(model: Any) -> contextlib.AbstractContextManager[Any]:
    """A context in which the adapters of the model are off."""
    return model.disable_adapter()


def frozen_parameters(model: Any) -> list[tuple[str, Tensor]]:
    """Names and values of the parameters that do not belong to the trained adapter."""
    named = model.named_parameters()
    parts = (ADAPTER, TOKENS, f".{COPIES}.")
    return [(name, value) for name, value in named if f".{START}" in name or not any(part in name for part in parts)]


def merged(model: Any) -> Any:
    """The plain model with its adapters merged into its weights; the wrapper cannot be used any more."""
    if not is_adapted(model):
        return model
    # Sums of rounded weights and adapters would be rounded too.
    widen_linear(model)
    widen_quantised(model)
    _untie(model)
    return model.merge_and_unload()


def _untie(model: Any) -> None:
    """Give every module weights of its own where an adapter is on shared ones: merged, it would change all of them.

    Embedding and head share theirs, and some architectures share those of whole layers.
    """
    with importing("peft"):
        from peft.tuners.lora import LoraLayer
    base = base_of(model)
    owners: dict[int, list[tuple[torch.nn.Module, str]]] = {}
    for module in base.modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((module, name))
    adapted = {id(module.base_layer) for module in base.modules() if isinstance(module, LoraLayer)}
    adapted |= {id(module.original_module) for module in whole_modules(model).values()}
    shared = [places for places in owners.values() if len(places) > 1]
    if not any(id(module) in adapted for places in shared for module, _ in places):
        return
    for module, name in [place for places in shared for place in places[1:]]:
        former = getattr(module, name)
        setattr(module, name, torch.nn.Parameter(former.detach().clone(), requires_grad=former.requires_grad))
    for config in (base.config, text_config(base)):
        config.tie_word_embeddings = False


def merged_copy(model: Any) -> Any:
    """The model itself, or a copy of it with its adapters merged into the weights."""
    return merged(copy.deepcopy(model)) if is_adapted(model) else model


def has_virtual_tokens(model: Any) -> bool:
    """Whether the adapter is prompt learning, which puts virtual tokens before every prompt."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def wrap(
    model: Any, *, rank: int, alpha: float, dropout: float, targets: list[str] | str, tokens: Sequence[int] = (),
    kind: str = "lora", whole: Sequence[str] = (),
) -> Any:  # fmt: skip
    """The model with trainable low-rank adapters. The head of a classifier is trained and saved too.

    targets: names of modules, or a pattern, or "all-linear", which leaves out what `unreached` names; `experts`, or the
    names of weights of experts, beside any of them. tokens: ids whose rows are trained, in embedding and head; kind:
    "lora", or "rslora" (arXiv:2312.03732) and "dora" (arXiv:2402.09353), joined by "+", or as of
    `begin_at_principal_parts`; whole: names of modules whose weights are all trained.
    Raises ZooError for a name that is in no module, for adapters that would never be trained, and for a vocabulary of
    which peft cannot train single rows; peft's ValueError if no module fits a pattern.
    """
    require("peft")
    _refuse_unknown(model, targets)
    paths = paths_of(model, whole)
    refuse_twice(paths, [targets] if isinstance(targets, str) else targets)
    tokens = rows_to_train(model, tokens, whole)
    read(model, (module for path in paths for module in model.get_submodule(path).modules()))
    if tokens:
        refuse_doubled(model, targets)
    modules, weights = _split(model, targets)
    if weights and dropout:
        raise _no_dropout()
    no_use = unreached(model)
    left_out = list(no_use) if modules == ALL_LINEAR else None
    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": modules}
    settings |= {f"use_{name}": True for name in kind.split("+") if name in ("rslora", "dora")}
    settings |= {"exclude_modules": left_out} if left_out else {}
    settings |= {"target_parameters": weights} if weights else {}
    settings |= {"modules_to_save": names_for_peft(model, whole, paths)} if paths else {}
    try:
        adapted = _adapters_on(model, tokens, settings)
    except ValueError as error:
        if not (dropout and expert_weights(model)):
            raise
        raise _no_dropout() from error
    if kind.startswith(KIND):
        begin_at_principal_parts(adapted, kind)
    _UNREACHED[adapted] = no_use
    for name, module in base_of(adapted).named_modules():
        if name in no_use and hasattr(module, "base_layer"):
            raise ZooError(
                f"An adapter on {name} would never be trained: {no_use[name]}.", "Leave it out of --lora-targets."
            )
    return adapted


def _refuse_unknown(model: Any, targets: list[str] | str) -> None:
    """Raises ZooError for a name of a target that no module and no weights of experts have. A pattern is peft's."""
    paths = [name for name, _ in model.named_modules()]
    weights = {name.rpartition(".")[2] for name in expert_weights(model)}
    for target in targets if isinstance(targets, list) else ():
        if target in {ALL_LINEAR, EXPERTS, *weights} or any(f".{path}".endswith(f".{target}") for path in paths):
            continue
        names = sorted({path.rpartition(".")[2] for path in _adaptable(model)} | weights)
        raise ZooError(
            f"--lora-targets {target} names no layer of {type(model).__name__}.{nearest(target, [*names, ALL_LINEAR])}",
            f"Its layers are called {', '.join(names)}; {ALL_LINEAR} takes all linear ones but the head"
            + (f", and {EXPERTS} the weights of experts." if weights else "."),
        )


def _adaptable(model: Any) -> list[str]:
    """The layers that can have adapters."""
    with importing("transformers"):
        from transformers.pytorch_utils import Conv1D
    kinds = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def _no_dropout() -> ZooError:
    return ZooError(
        "Adapters on the weights of experts cannot have dropout; in some architectures all-linear reaches them.",
        "Set --lora-dropout 0, or name other layers: --lora-targets q_proj,v_proj.",
    )


def told(model: Any) -> str:
    """Which layers have adapters, and of which rank, in a sentence."""
    with importing("peft"):
        from peft.tuners.lora import LoraLayer
    paths = [name for name, module in base_of(model).named_modules() if isinstance(module, LoraLayer)]
    names = list(dict.fromkeys(path.rpartition(".")[2] for path in paths))
    return f"Adapters of rank {model.active_peft_config.r} on {amount(len(paths), 'layer')}: {', '.join(names)}."


def left_out(model: Any) -> list[str]:
    """What the adapters of `all-linear` do not reach, in sentences; empty if they reach all linear layers."""
    base, why = base_of(model), _UNREACHED.get(model, {})
    heads = [base.get_output_embeddings(), getattr(base, "score", None)]
    found: dict[str, set[str]] = {}
    for name, module in base.named_modules():
        inside = any(part in name for part in ("base_layer", "lora_", COPIES, ORIGINAL))
        if isinstance(module, torch.nn.Linear) and module not in heads and not inside:
            found.setdefault(why.get(name, PASSED_OVER), set()).add(name.rpartition(".")[2])
    told = [f"No adapters on {', '.join(sorted(names))}: {reason}." for reason, names in found.items()]
    weights = expert_weights(base)
    if weights and not any(ADAPTER in name and f".{EXPERTS}." in name for name, _ in base.named_parameters()):
        sizes = {name: parameter.numel() for name, parameter in base.named_parameters()}
        share = sum(sizes[name] for name in weights) / sum(sizes.values())
        told.append(
            f"No adapters on the experts, which are {share:.0%} of all weights: --lora-targets {ALL_LINEAR},{EXPERTS} "
            "reaches them."
        )
    return told


def _adapters_on(model: Any, tokens: Sequence[int], settings: dict[str, Any]) -> Any:
    """The model with adapters, in which the rows of these tokens are trained too."""
    with importing("peft"):
        from peft import LoraConfig, get_peft_model
    task = "SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM"
    former = vocabulary_modules(model) if tokens else {}
    rows: dict[str, Any] = {"trainable_token_indices": {name: list(tokens) for name in former}} if tokens else {}
    try:
        with quiet_peft(), zeros(model):
            # peft makes its dropout active, in a model that is not trained yet.
            adapted = get_peft_model(model, LoraConfig(task_type=task, **settings, **rows)).eval()
    except TypeError as error:
        if not tokens:
            raise
        raise _both(", ".join(former)) from error
    _check_rows(adapted, former, tokens)
    return adapted


def rows_to_train(model: Any, tokens: Sequence[int], whole: Sequence[str]) -> list[int]:
    """The tokens whose rows get parameters of their own. whole: names of modules whose weights are all trained.

    Raises ZooError where one of embedding and head is trained as a whole, and the other is not.
    """
    return rows_beside(tokens, _vocabulary(model), paths_of(model, whole))


def _vocabulary(model: Any) -> list[str]:
    """The paths of embedding and head, also where they share their weights."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [path for path, module in model.named_modules() if any(module is layer for layer in layers)]


def _check_rows(wrapped: Any, former: Mapping[str, Any], tokens: Sequence[int]) -> None:
    """Raises ZooError where a layer of the vocabulary whose rows are trained computes something else than before."""
    base = base_of(wrapped)
    for layer in (base.get_input_embeddings(), base.get_output_embeddings()) if former else ():
        if layer is not None and any(ADAPTER in name for name, _ in layer.named_parameters()):
            raise _both(", ".join(former))
    for name, module in former.items():
        if isinstance(module, torch.nn.Embedding):
            given = torch.tensor([list(tokens)], device=module.weight.device)
        else:
            given = torch.ones(1, 1, module.weight.shape[-1], dtype=module.weight.dtype, device=module.weight.device)
        with torch.no_grad():
            now, before = base.get_submodule(name)(given), module(given)
        if not torch.allclose(now, before, rtol=1e-3, atol=1e-5):
            raise ZooError(
                f"peft cannot train single rows of {name} in this model, which new tokens need under LoRA.",
                "Train all weights: leave out --lora.",
            )


def refuse_doubled(model: Any, targets: list[str] | str) -> None:
    """Raises ZooError where embedding or head, whose rows for new tokens are trained, are targets too."""
    paths, names = _vocabulary(model), [targets] if isinstance(targets, str) else targets
    if doubled := [path for path in paths if any(f".{path}".endswith(f".{name}") for name in names)]:
        raise _both(" and ".join(doubled))


def _both(names: str) -> ZooError:
    return ZooError(
        f"--lora-targets names {names}, whose rows for new tokens are trained already.",
        "Leave it out of --lora-targets, or train all weights: leave out --lora.",
    )


def _split(model: Any, targets: list[str] | str) -> tuple[list[str] | str, list[str]]:
    """Targets that are modules, and the ends of the names of the weights of experts that are targets."""
    weights = expert_weights(model)
    named = [targets] if isinstance(targets, str) else list(targets)
    layers = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    wanted = [name for name in weights if EXPERTS in named or name.rpartition(".")[2] in set(named) - layers]
    if EXPERTS in named and not weights:
        raise ZooError(
            "--lora-targets experts: this model has no experts whose weights are one tensor, which adapters could "
            "reach.", "Leave out experts.",
        )  # fmt: skip
    ends = sorted({".".join(name.split(".")[-2:]) for name in wanted})
    rest = [name for name in named if name != EXPERTS and name not in {end.rpartition(".")[2] for end in ends}]
    if ALL_LINEAR in rest:
        return ALL_LINEAR, ends
    return targets if isinstance(targets, str) and rest else rest, ends


def unreached(model: Any) -> dict[str, str]:
    """Linear layers of a model without adapters on which an adapter is never trained or cannot be, each with why.

    A forward pass shows them: layers that are not called although their weights are used, and layers with several
    outputs.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    why: dict[str, str] = {}
    called: set[str] = set()

    def note(name: str, output: Any) -> None:
        called.add(name)
        if not isinstance(output, Tensor):
            why[name] = "it is a router, which gives more than one tensor"

    hooks = [
        layer.register_forward_hook(lambda module, given, output, name=name: note(name, output))
        for name, layer in layers.items()
    ]
    embeddings = model.get_input_embeddings().weight
    ids = (IDS if embeddings.is_meta else IDS.to(embeddings.device)) % len(embeddings)
    try:
        with evaluating(model), torch.no_grad(), zeros(model):
            last_hidden(model, input_ids=ids)
        heads = [model.get_output_embeddings(), getattr(model, "score", None)]
        rest = {name: layer for name, layer in layers.items() if name not in called and layer not in heads}
        if rest:
            with evaluating(model), torch.enable_grad(), zeros(model):
                total = last_hidden(model, input_ids=ids).float().square().sum()
                weights = [layer.weight for layer in rest.values()]
                used = torch.autograd.grad(total, weights, allow_unused=True)
            unused = "the model reads its weight without calling it"
            why |= {name: unused for name, grad in zip(rest, used, strict=True) if grad is not None}
    finally:
        for hook in hooks:
            hook.remove()
    for name in _refused_by_peft(model):
        why |= {layer: "peft has no adapters for it in this architecture" for layer in layers if layer.endswith(name)}
    return why


def unreached_layers(model: Any) -> list[torch.nn.Module]:
    """The layers of an adapted model that `unreached` has named; none for a model without adapters."""
    return [base_of(model).get_submodule(name) for name in _UNREACHED.get(model, {})]


def _refused_by_peft(model: Any) -> list[str]:
    """Names of layers that peft adapts in no model of this architecture."""
    with importing("peft"):
        from peft import LoraConfig
        from peft.tuners import tuners_utils
    check = getattr(tuners_utils, "_check_lora_target_modules_mamba", None)
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    refused: list[str] = []
    if check is None:
        return refused
    for name in sorted(names):
        try:
            check(LoraConfig(), model, name)
        except ValueError:
            refused.append(name)
    return refused


def base_named_in(path: str) -> tuple[str, str | None]:
    """The base model that a folder of adapters, or a hub name, names: (path or name, revision)."""
    with importing("peft"):
        from peft import PeftConfig
    settings = PeftConfig.from_pretrained(path)
    return str(settings.base_model_name_or_path), settings.revision


def set_base_named(model: Any, name: str, revision: str | None) -> None:
    """Set the name of the base model in the adapters."""
    for settings in model.peft_config.values():
        settings.base_model_name_or_path, settings.revision = name, revision


def load_on_base(path: str, **options: Any) -> Any:
    """The adapters of a folder on the language model that they name, trainable."""
    name, revision = base_named_in(path)
    return load_on(with_rows(load("AutoModelForCausalLM", name, revision=revision, **options), path), path)


def with_rows(base: Any, path: str) -> Any:
    """A model with as many rows of the vocabulary as a folder of adapters has values for."""
    rows, needed = rows_of(base), _rows_needed(path, base)
    if needed > rows:
        # The adapters bring what is in them.
        give_rows(base, range(rows, needed), rows)
    return base


def _rows_needed(path: str, base: Any) -> int:
    """The rows of the vocabulary for which a folder of adapters has values."""
    with importing("peft"):
        from peft import PeftConfig
    found = getattr(PeftConfig.from_pretrained(path), "trainable_token_indices", None) or []
    lists = list(found.values()) if isinstance(found, dict) else [found]
    rows = [number + 1 for numbers in lists for number in numbers]
    ends = tuple(f"{name}.weight" for name in vocabulary_modules(base))
    with safe_open(Path(path) / "adapter_model.safetensors", "pt") as stored:
        rows += [stored.get_slice(key).get_shape()[0] for key in stored.keys() if key.endswith(ends)]  # noqa: SIM118
    return max(rows, default=0)


def load_on(base: Any, path: str) -> Any:
    """The adapters of a folder on a loaded model, trainable."""
    require("peft")
    return _loaded(base, path)


def _loaded(base: Any, path: str) -> Any:
    with importing("peft"):
        from peft import PeftModel
    with quiet_peft():
        return PeftModel.from_pretrained(base, path, is_trainable=True)


# -- checks --------------------------------------------------------------------------------------------------------


def _adapted(scorer: bool = False) -> Any:
    """A tiny model with adapters that change its output."""
    model = make_tiny()
    model = with_scalar_head(model, torch.float32) if scorer else model
    with importing("peft"), quiet_peft():
        from peft import LoraConfig, get_peft_model

        task = "SEQ_CLS" if scorer else "CAUSAL_LM"
        model = get_peft_model(model, LoraConfig(r=2, task_type=task, target_modules=["q_proj"]))
        for name, parameter in model.named_parameters():
            if ADAPTER in name:
                torch.nn.init.normal_(parameter)
    return model.eval()


def _logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@relies_on("peft", "Only adapters are trained; they have 'lora_' in their names and are off in `disable_adapter`.")
def adapters_can_be_switched_off() -> None:
    model, plain = _adapted(), _logits(make_tiny())
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all(ADAPTER in name for name in trained), (
        f"the trained parameters are {', '.join(trained) or 'none'}"
    )
    assert is_adapted(model) and base_of(model) is not model, "the wrapper does not give the model inside"
    assert not torch.equal(_logits(model), plain), "adapters change nothing"
    with without_adapters(model):
        assert torch.equal(_logits(model), plain), "with adapters off the model differs from before"


@relies_on("peft", "`merge_and_unload` gives a plain model with the same output as the adapted one.")
def adapters_can_be_merged() -> None:
    model = _adapted()
    adapted = _logits(model)
    plain = merged(model)
    gap = float((_logits(plain) - adapted).abs().max())
    assert not is_adapted(plain) and gap < 1e-3, f"it differs by {gap:.2g}"


@relies_on(
    "peft", "An adapter on tied embeddings is merged into the embedding alone once head and embedding are apart."
)
def adapters_on_tied_embeddings_can_be_merged() -> None:
    with importing("peft"), quiet_peft():
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(make_tiny(tie_word_embeddings=True), LoraConfig(r=2, target_modules=["embed_tokens"]))
    for name, parameter in model.named_parameters():
        if ADAPTER in name:
            torch.nn.init.normal_(parameter)
    adapted = _logits(model.eval())
    with tempfile.TemporaryDirectory() as folder:
        save(merged(model), Path(folder))
        again = load("AutoModelForCausalLM", folder, dtype=torch.float32)
    gap = float((_logits(again) - adapted).abs().max())
    assert gap < 1e-3, f"the folder of the merged model differs by {gap:.2g}"


@relies_on("peft", "`target_parameters` adapts weights of experts in one tensor; they are saved, loaded and merged.",
           everywhere=False)  # fmt: skip
def experts_can_be_adapted() -> None:
    plain = make_tiny("Mixtral", num_local_experts=4)
    model = wrap(copy.deepcopy(plain), rank=2, alpha=4.0, dropout=0.0, targets=[EXPERTS])
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    adapted = _logits(model)
    assert not torch.equal(adapted, _logits(plain)), "adapters change nothing"
    with tempfile.TemporaryDirectory() as folder:
        base, adapters = Path(folder) / "base", Path(folder) / "adapters"
        save(plain, base)
        set_base_named(model, str(base), None)
        with quiet_peft():
            save(model, adapters)
        gap = float((_logits(load_on_base(str(adapters)).eval()) - adapted).abs().max())
    assert gap < 1e-3, f"loaded again it differs by {gap:.2g}"
    gap = float((_logits(merged(model)) - adapted).abs().max())
    assert gap < 1e-3, f"merged it differs by {gap:.2g}"


@relies_on("peft", "Layers of Mamba models that it does not adapt are told by `_check_lora_target_modules_mamba`.",
           everywhere=False)  # fmt: skip
def layers_of_mamba_models_are_refused() -> None:
    model = make_tiny("Mamba", state_size=4)
    assert "out_proj" in _refused_by_peft(model), f"it refuses {_refused_by_peft(model) or 'none'}"
    wrap(model, rank=2, alpha=4.0, dropout=0.0, targets=ALL_LINEAR)


@relies_on("peft", "Adapters are saved as safetensors without their base model, name it, and load on it, trainable.")
def adapters_can_be_saved_and_loaded() -> None:
    model = _adapted()
    with tempfile.TemporaryDirectory() as folder:
        base, adapters = Path(folder) / "base", Path(folder) / "adapters"
        save(make_tiny(), base)
        set_base_named(model, str(base), None)
        with quiet_peft():
            save(model, adapters)
        names = sorted(file.name for file in adapters.iterdir())
        assert "adapter_model.safetensors" in names and "model.safetensors" not in names, f"it wrote {', '.join(names)}"
        assert base_named_in(str(adapters)) == (str(base), None), f"the base is called {base_named_in(str(adapters))}"
        with importing("peft"), quiet_peft():
            from peft import AutoPeftModelForCausalLM

            again = AutoPeftModelForCausalLM.from_pretrained(str(adapters), is_trainable=True)
    assert any(parameter.requires_grad for parameter in again.parameters()), "no parameter of it is trainable"
    assert torch.equal(_logits(again.eval()), _logits(model)), "its output differs from that of the saved model"


@relies_on("peft", "peft also trains and saves the head of a classifier.")
def the_head_of_a_scorer_is_trained() -> None:
    trained = [name for name, parameter in _adapted(scorer=True).named_parameters() if parameter.requires_grad]
    assert any("score" in name for name in trained), f"the trained parameters are {', '.join(trained)}"


@relies_on(
    "peft", "Single rows of embedding and head are trained, tied or not, switched off, merged, saved and loaded."
)
def rows_of_new_tokens_are_trained() -> None:
    for tied in (True, False):
        plain = make_tiny(tie_word_embeddings=tied)
        give_rows(plain, [16, 17], 16)
        ids = torch.tensor([[3, 16, 4, 17]])
        with torch.no_grad():
            before = plain(input_ids=ids).logits
        model = _adapters_on(plain, [16, 17], {"r": 2, "target_modules": ["q_proj"]})
        rows = [value for name, value in model.named_parameters() if TOKENS in name]
        assert len(rows) == (1 if tied else 2), f"{len(rows)} groups of rows are trained, tied: {tied}"
        assert all(value.requires_grad and value.shape == (2, 16) for value in rows), "the rows are not trained"
        with torch.no_grad():
            for value in rows:
                value.add_(torch.arange(32.0).reshape(2, 16) / 32)
            adapted = model(input_ids=ids).logits
            with without_adapters(model):
                assert torch.equal(model(input_ids=ids).logits, before), "with adapters off the model differs"
        assert not torch.allclose(adapted, before), "the rows change nothing"
        with tempfile.TemporaryDirectory() as folder:
            with quiet_peft():
                save(model, Path(folder))
            again = _loaded(with_rows(make_tiny(tie_word_embeddings=tied), folder), folder).eval()
            with torch.no_grad():
                assert torch.equal(again(input_ids=ids).logits, adapted), "its output differs after loading"
        with torch.no_grad():
            gap = (merged(model)(input_ids=ids).logits - adapted).abs().max()
        assert float(gap) < 1e-3, f"merged, its output differs by {float(gap):.2g}"
