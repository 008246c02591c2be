"""peft: modules whose weights are all trained beside LoRA (`modules_to_save`): of each a copy is trained."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.errors import ZooError, nearest
from zoo.libraries.pretrained import save
from zoo.libraries.quiet import quiet_peft
from zoo.libraries.reliance import importing, relies_on
from zoo.libraries.tiny import IDS, make_tiny
from zoo.libraries.wrappers import base_of, current_layer

OPTION = "--train-modules"


def paths_of(model: Any, names: Sequence[str]) -> list[str]:
    """The paths of the modules that some names mean: the ends of paths, at a dot.

    Raises ZooError for a name that no module with weights of its own has.
    """
    owners = [path for path, module in model.named_modules() if path and list(module.parameters(recurse=False))]
    for name in names:
        if not any(_ends(path, name) for path in owners):
            ends = sorted({path.rpartition(".")[2] for path in owners})
            raise ZooError(
                f"{OPTION} {name} names no module of {type(model).__name__} that has weights of its own."
                f"{nearest(name, ends)}", f"Its modules with weights are called {', '.join(ends)}.",
            )  # fmt: skip
    return [path for path in owners if any(_ends(path, name) for name in names)]


def names_for_peft(model: Any, names: Sequence[str], paths: Sequence[str]) -> list[str]:
    """The names, or the paths where peft, which compares ends without a dot, would take further modules for them."""
    everything = [path for path, _ in model.named_modules(remove_duplicate=False)]
    taken = {path for path in everything if path.endswith(tuple(names))}
    return list(names) if taken == set(paths) else list(paths)


def _ends(path: str, name: str) -> bool:
    return f".{path}".endswith(f".{name}")


def refuse_twice(paths: Sequence[str], targets: Sequence[str]) -> None:
    """Raises ZooError for a module that is to be trained as a whole and has an adapter too."""
    for path in paths:
        if any(_ends(path, target) for target in targets):
            raise ZooError(
                f"{path} would be trained as a whole and have an adapter: {OPTION} and --lora-targets both name it.",
                "Leave it out of one of the two.",
            )


def rows_beside(tokens: Sequence[int], vocabulary: Sequence[str], paths: Sequence[str]) -> list[int]:
    """The tokens whose rows are still to be trained. vocabulary: the paths of embedding and head.

    Raises ZooError where one of embedding and head is trained as a whole, and the other is not.
    """
    missing = [path for path in vocabulary if path not in paths]
    if tokens and missing and len(missing) < len(vocabulary):
        names = ",".join(path.rpartition(".")[2] for path in vocabulary)
        raise ZooError(
            f"New tokens get rows in embedding and head, and {OPTION} names one of the two.",
            f"Name both: {OPTION} {names}; or none, and their rows are trained alone.",
        )
    return list(tokens) if missing else []


def whole_modules(model: Any) -> dict[str, Any]:
    """The modules of an adapted model of which copies are trained, by their paths."""
    with importing("peft"):
        from peft.utils import ModulesToSaveWrapper
    return {path: module for path, module in base_of(model).named_modules() if isinstance(module, ModulesToSaveWrapper)}


def told(model: Any) -> list[str]:
    """Which modules are trained as a whole, in sentences."""
    modules = whole_modules(model)
    counts: dict[str, int] = {}
    for path in modules:
        name = path.rpartition(".")[2]
        counts[name] = counts.get(name, 0) + 1
    weights = sum(p.numel() for module in modules.values() for p in current_layer(module).parameters())
    listed = ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.items())
    notes = [f"All weights of {listed} are trained beside the adapters: {weights:,}."] if modules else []
    base = base_of(model)
    ends = [layer for layer in (base.get_input_embeddings(), base.get_output_embeddings()) if layer is not None]
    originals = [getattr(layer, "original_module", layer) for layer in ends]
    if len(ends) == 2 and originals[0].weight is originals[1].weight and any(map(_is_copied, ends)):
        notes.append("Embedding and head, which shared their weights, have weights of their own from now on.")
    return notes


def _is_copied(layer: Any) -> bool:
    return current_layer(layer) is not layer


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on("peft", "`modules_to_save` trains copies of modules; with adapters off the model is the one before.")
def whole_modules_are_copies() -> None:
    with importing("peft"):
        from peft import LoraConfig, PeftModel, get_peft_model
    ids, plain = IDS, make_tiny()
    names = ["lm_head", "norm"]
    settings = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=names_for_peft(plain, names, ["lm_head"]))
    with quiet_peft():
        model: Any = get_peft_model(copy.deepcopy(plain), settings).eval()
    layer = base_of(model).get_output_embeddings()
    assert current_layer(layer) is not layer and type(current_layer(layer)) is torch.nn.Linear, "the head is no copy"
    with torch.no_grad():
        before = plain(input_ids=ids).logits
        for parameter in current_layer(layer).parameters():
            assert parameter.requires_grad, "the copy is not trained"
            parameter.add_(1)
        after = model(input_ids=ids).logits
        with model.disable_adapter():
            assert torch.equal(model(input_ids=ids).logits, before), "with adapters off the model differs"
            assert current_layer(layer) is layer.original_module, "with adapters off the copy is still used"
        assert parameter.requires_grad, "the copy is not trained any more after adapters were off"
        with tempfile.TemporaryDirectory() as folder:
            with quiet_peft():
                save(model, Path(folder))
                again = PeftModel.from_pretrained(make_tiny(), folder).eval()
            assert torch.equal(again(input_ids=ids).logits, after), "loaded again, its output differs"
    assert not torch.equal(after, before), "the copy changes nothing"
