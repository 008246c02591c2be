"""The sweep over architectures: what zoo computes beside plain forward passes of the same model.

Each cell of a row is "equal", "refused: why" or "differs: by how much". Equal is: log-probs within 1e-5 of those of
separate forward passes (relative where a log-prob is beyond −1), gradients those of autograd on these passes and not
zero, and what is generated with a cache the same as without. `tools/supported_models.py` makes docs/models.md of it.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.libraries.adapters import merged
from zoo.libraries.experts import expert_weights
from zoo.libraries.heads import own_logits
from zoo.libraries.pretrained import load, save
from zoo.models.attention import use_cpu_attention
from zoo.models.layout import LAYOUTS
from zoo.models.loading import add_lora
from zoo.models.logps import Head
from zoo.models.scoring import choose_layout, score_answers
from zoo.rollout.engine import InProcessEngine, Sampling
from zoo.testing.architectures import make
from zoo.values.types import Answer

EQUAL = "equal"
TOLERANCE = 1e-5
LONGEST = 32
"""Of the texts, in tokens: longer than the windows of the models."""
NEW_TOKENS = 12


class Differs(Exception):
    """What zoo computes is not what the model does."""


def policy_of(kind: str, tied: bool = False) -> Any:
    """The model of an architecture with the attention that a run gives it."""
    model = make(kind, tied)
    use_cpu_attention(model)
    return model


def texts() -> list[Answer]:
    """Two answers to one prompt, one to another, and a prompt of a single token."""
    draw = torch.Generator().manual_seed(0)
    first, second, third = (torch.randint(3, 96, (n,), generator=draw).tolist() for n in (11, 5, 1))
    lengths = ((first, 12), (first, 7), (second, 10), (third, 3))
    return [
        Answer.of(prompt, torch.randint(3, 96, (length,), generator=draw).tolist()) for prompt, length in lengths
    ]  # fmt: skip


def plain_logps(model: Any, answers: Sequence[Answer]) -> list[Tensor]:
    """log p of each answer's tokens, from the logits of a forward pass of its own; with gradient."""
    found = []
    for answer in answers:
        ids = torch.cat([answer.prompt, answer.completion])
        log_p = torch.log_softmax(own_logits(model, input_ids=ids[None])[0, :-1].float(), -1)
        found.append(log_p.gather(-1, ids[1:, None])[len(answer.prompt) - 1 :, 0])
    return found


def gradients(model: Any, values: Sequence[Tensor]) -> dict[str, Tensor]:
    """Those of the values' sum, each value with a weight of its own."""
    model.zero_grad()
    sum((0.7 + 0.3 * i) * value.sum() for i, value in enumerate(values)).backward()  # type: ignore[union-attr]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def scored(model: Any, layout: str) -> list[Tensor]:
    answers = texts()
    found = score_answers(model, answers, layout, balance=10**9).per_token
    return [found[i, : len(answer.completion)] for i, answer in enumerate(answers)]


def gap_of(found: Sequence[Tensor], own: Sequence[Tensor]) -> float:
    """The largest difference, relative beyond 1."""
    return max(float(((a - b).abs() / b.abs().clamp(min=1)).max()) for a, b in zip(found, own, strict=True))


def exact_layouts(model: Any) -> list[str]:
    """The layouts whose log-probs are the model's own, on texts longer than its window."""
    exact = []
    with torch.no_grad():
        own = plain_logps(model, texts())
        for layout in LAYOUTS:
            try:
                if gap_of(scored(model, layout), own) <= TOLERANCE:
                    exact.append(layout)
            except (TypeError, ValueError, RuntimeError):
                continue
    return exact


def chosen_layout(model: Any) -> str:
    """The layout that a run takes after its self-test on short texts."""
    short = [
        Answer(a.prompt[:3], a.completion[:3], torch.ones(len(a.completion[:3]), dtype=torch.bool)) for a in texts()
    ]
    return choose_layout(model, short, "auto", 1e-3, longest=LONGEST)[0]


def compare(model: Any, layout: str) -> None:
    """Raises Differs unless log-probs and gradients in this layout are those of separate forward passes."""
    own, found = plain_logps(model, texts()), scored(model, layout)
    if not (gap := gap_of(found, own)) <= TOLERANCE:
        raise Differs(f"log-probs by {gap:.1e}")
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    expected, got = gradients(model, own), gradients(model, found)
    idle = [name for name in trained if "lora_" in name and (name not in got or not got[name].any())]
    if idle:
        raise Differs(f"{idle[0]} is not trained")
    if not any(float(g.abs().max()) > 0 for g in got.values()):
        raise Differs("all gradients are zero")
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        # Some gradients are zero but for rounding, such as that of a bias of all keys.
        scale = float(gradient.abs().max())
        there = got.get(name, torch.zeros_like(gradient))
        if not torch.allclose(there, gradient, rtol=1e-4, atol=1e-4 * scale + 1e-6 * largest):
            raise Differs(f"the gradient of {name} by {float((there - gradient).abs().max()) / max(scale, 1e-12):.1e}")


def full(kind: str, tied: bool) -> None:
    """All weights are trained, in every layout that a run may take."""
    model = policy_of(kind, tied)
    for layout in sorted({chosen_layout(model), *exact_layouts(model)}):
        compare(model, layout)


def lora(kind: str, targets: list[str], tied: bool) -> None:
    """Adapters are trained, and merged into the same function, which is saved and loaded."""
    model = add_lora(policy_of(kind, tied), 2, 4.0, 0.0, targets)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.2)
    compare(model, chosen_layout(model))
    with torch.no_grad():
        before = plain_logps(model, texts())
        with tempfile.TemporaryDirectory() as folder:
            save(merged(copy.deepcopy(model)), Path(folder))
            after = plain_logps(load("AutoModelForCausalLM", folder, dtype=torch.float32).eval(), texts())
    if not (gap := gap_of(after, before)) <= 10 * TOLERANCE:
        raise Differs(f"merged, by {gap:.1e}")


def module_name(model: Any, module: Any) -> str:
    return next(name for name, one in model.named_modules() if one is module).split(".")[-1]


def generation(kind: str) -> None:
    """Greedy answers, several prompts at a time, with a cache."""
    model = policy_of(kind)
    prompts = [answer.prompt for answer in texts()[1:]]
    engine = InProcessEngine(model, eos_ids=[], pad_id=0)
    found = engine.generate(prompts, 1, Sampling(temperature=0.0, max_new_tokens=NEW_TOKENS))
    for prompt, answer in zip(prompts, found, strict=True):
        ids = prompt
        with torch.no_grad():
            for _ in range(NEW_TOKENS):
                ids = torch.cat([ids, own_logits(model, input_ids=ids[None])[0, -1].argmax()[None]])
        if answer.completion.tolist() != ids[len(prompt) :].tolist():
            raise Differs("greedy answers")


def cell(tried: Callable[[], None]) -> str:
    """What one cell says."""
    try:
        tried()
    except Differs as error:
        return f"differs: {error}"
    except ZooError as error:
        return f"refused: {error.message}"
    except Exception as error:
        return f"fails: {type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
    return EQUAL


def both(tried: Callable[[bool], None], has_tied: bool) -> str:
    """A cell for a head of its own, and one that is tied to the embeddings."""
    untied = cell(lambda: tried(False))
    tied = cell(lambda: tried(True)) if has_tied else "none"
    if untied == tied:
        return untied
    return f"{untied}; none are tied" if tied == "none" else f"{untied}; tied: {tied}"


COLUMNS = (
    "output head", "rows", "all weights", "LoRA", "LoRA on the head", "LoRA on embeddings", "LoRA on experts",
    "generation",
)  # fmt: skip


def row(kind: str) -> dict[str, str]:
    """The cells of one architecture, by the names of the columns. A column that does not apply is empty."""
    model = policy_of(kind)
    embeddings = module_name(model, model.get_input_embeddings())
    output = module_name(model, model.get_output_embeddings())
    tied = make(kind, tied=True)
    has_tied = tied.get_input_embeddings().weight is tied.get_output_embeddings().weight
    exact, chosen = exact_layouts(model), chosen_layout(model)
    head, has_experts = Head.of(model), bool(expert_weights(model))
    return {
        "output head": "own forward" if head is None else _spelled(head),
        "rows": ", ".join(exact) if chosen in exact else f"differs: {chosen}",
        "all weights": both(lambda tie: full(kind, tie), has_tied),
        "LoRA": both(lambda tie: lora(kind, ["all-linear"], tie), has_tied),
        "LoRA on the head": both(lambda tie: lora(kind, [output], tie), has_tied),
        "LoRA on embeddings": both(lambda tie: lora(kind, [embeddings], tie), has_tied),
        "LoRA on experts": cell(lambda: lora(kind, ["all-linear", "experts"], False)) if has_experts else "",
        "generation": cell(lambda: generation(kind)),
    }


def _spelled(head: Head) -> str:
    scale = "" if head.scale == 1 else f"× {head.scale:.4g}"
    cap = f"cap {head.softcap:.4g}" if head.softcap else ""
    bias = "bias" if head.bias is not None else ""
    return ", ".join(filter(None, (scale, cap, bias))) or "plain"
