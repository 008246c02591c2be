"""Loading and saving transformers folders, GGUF files, and rendering chat templates."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.libraries.pissa import PRINCIPAL, begins_at_base, joined, saved_as_one
from zoo.libraries.quiet import quiet_progress
from zoo.libraries.reliance import importing, relies_on, require
from zoo.libraries.streamed import TYPES, order_of, write
from zoo.libraries.tiny import IDS, make_tiny
from zoo.libraries.wrappers import is_adapted, save_options
from zoo.paths import give_usual_rights

COPIED = frozenset(("reasoning_content", "reasoning", "thinking"))
"""Keys of a message that the library copies to each other."""
TAKEN = frozenset((
    "messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize",
    "continue_final_message", "sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors",
    "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
))  # fmt: skip
"""Arguments of `apply_chat_template`, which are none of the template."""
GGUF_LEFTOVERS = ("quantization_config", "_pre_quantization_dtype")
"""Entries of the configuration of a model loaded from GGUF that a plain model must not have."""


def load(kind: str, path: str | Path, **options: Any) -> Any:
    """`from_pretrained` of a class of transformers: AutoTokenizer, AutoModelForCausalLM, …

    Weights are read only from safetensors, so that nothing is unpickled. Raises what transformers raises.
    """
    require("transformers")
    quiet()
    with importing("transformers"):
        import transformers

        loader = getattr(transformers, kind)
    if "dtype" in options and "gguf_file" not in options:
        options["use_safetensors"] = True
    return loader.from_pretrained(path, **options)


def reason(error: Exception) -> str:
    """Why something cannot be loaded, in a line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "ignore_mismatched_sizes" in lines[0]:
        # The report that it points to is in the library's log.
        return "its weights have other shapes than config.json says."
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])


class Gathered(Protocol):
    """The weights of a model, of which each process holds a part.

    like: as large as the whole ones, without values, by the names of the `state_dict`.
    """

    like: Mapping[str, Tensor]

    def lead(self, names: Iterable[str]) -> Iterator[Tensor]: ...
    def at_once(self, names: Iterable[str]) -> dict[str, Tensor]: ...


def save(model: Any, folder: Path, weights: Gathered | None = None) -> None:
    """Write a model, or its adapters, as a folder that transformers or peft loads.

    weights: None for its own. Those that are to be gathered are written one after the other, where the library would
    write them as they are; where it changes their form, they are in memory at once.
    """
    quiet()
    if is_adapted(model):
        _save_adapters(model, folder, weights)
    elif weights is None:
        model.save_pretrained(folder)
    elif files := _files_of(model, folder, weights.like):
        _write(files, weights)
    else:
        model.save_pretrained(folder, state_dict=weights.at_once(weights.like))
    give_usual_rights(*Path(folder).glob("*.safetensors"))


def _save_adapters(model: Any, folder: Path, weights: Gathered | None) -> None:
    options = save_options(model)
    if weights is not None:
        # Frozen weights of the base are in no file of adapters.
        frozen = {name for name, value in model.named_parameters(remove_duplicate=False) if not value.requires_grad}
        own = [name for name in weights.like if name not in frozen or f".{PRINCIPAL}." in name]
        options["state_dict"] = {**weights.like, **weights.at_once(own)}
    if not begins_at_base(model):
        model.save_pretrained(folder, **options)
        return
    options["state_dict"] = joined(options.get("state_dict") or model.state_dict())
    with saved_as_one(model):
        model.save_pretrained(folder, **options)


@dataclass(frozen=True)
class File:
    """A file that the library wants to write. tensors: some of those that it was given, by the names that it has."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def _files_of(model: Any, folder: Path, like: Mapping[str, Tensor]) -> list[File]:
    """The files of a model whose weights have no values yet; none where they are changed before they are written."""
    files: list[File] = []

    def note(tensors: Mapping[str, Tensor], path: str, metadata: Mapping[str, str]) -> None:
        files.append(File(Path(path), tensors, metadata))

    with importing("transformers"):
        from transformers import modeling_utils
    own = modeling_utils.safe_save_file
    modeling_utils.safe_save_file = note  # type: ignore[assignment]
    try:
        model.save_pretrained(folder, state_dict=dict(like))
    except OSError:
        raise
    # What cannot be changed without values fails in many ways.
    except Exception:
        return []
    finally:
        modeling_utils.safe_save_file = own
    ids = {id(tensor) for tensor in like.values()}
    as_they_are = all(id(t) in ids and t.dtype in TYPES for file in files for t in file.tensors.values())
    return files if as_they_are else []


def _write(files: Sequence[File], weights: Gathered) -> None:
    names = {id(tensor): name for name, tensor in weights.like.items()}
    values = weights.lead([names[id(file.tensors[name])] for file in files for name in order_of(file.tensors)])
    for file in files:
        write(file.path, file.tensors, values, file.metadata)


def quiet() -> None:
    """Keep the library's progress bars and hints out of the output."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


def load_gguf(file: Path) -> tuple[Any, Any]:
    """A GGUF model in float32, without any trace of quantisation, and its tokenizer.

    A model loaded from GGUF counts as quantised and cannot be saved, so its weights are copied into a plain model of
    the same configuration.
    """
    tokenizer = load("AutoTokenizer", file.parent, gguf_file=file.name)
    with quiet_progress():
        model = load("AutoModelForCausalLM", file.parent, gguf_file=file.name, dtype=torch.float32)
    return _plain(model), tokenizer


def _plain(loaded: Any) -> Any:
    with importing("transformers"):
        from transformers import AutoModelForCausalLM

    config = loaded.config
    for leftover in GGUF_LEFTOVERS:
        if hasattr(config, leftover):
            delattr(config, leftover)
    config._name_or_path = ""
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    return plain


def render(
    tokenizer: Any, messages: list[Any], *, tools: Any, asking: bool, template: str | None,
    args: Mapping[str, Any] | None = None,
) -> str:  # fmt: skip
    """The text of a rendered chat template.

    asking: add the generation prompt; template: None for the tokenizer's; args: further variables of the template.
    """
    if _is_simple(tokenizer, messages, tools, args or {}):
        return _written(tokenizer, messages, asking, template, args or {})
    options: Mapping[str, Any] = {"tokenize": False, "add_generation_prompt": asking, "chat_template": template}
    return str(tokenizer.apply_chat_template(messages, tools=tools, **options, **(args or {})))


def _is_simple(tokenizer: Any, messages: list[Any], tools: Any, args: Mapping[str, Any]) -> bool:
    """Whether `apply_chat_template` would give all that it gets to the template as it is."""
    return (
        tools is None
        and bool(messages)
        and _calls_nothing_else(tokenizer.__class__)
        and all(type(turn) is dict and turn.keys().isdisjoint(COPIED) for turn in messages)
        and all(type(text) is str for turn in messages for text in (*turn, *turn.values()))
        and all(name not in TAKEN and type(value) in (str, int, float, bool) for name, value in args.items())
    )


@lru_cache
def _calls_nothing_else(own: Any) -> bool:
    """Whether a class of tokenizers has the library's own `apply_chat_template`, in a version with a known inside."""
    from transformers import PreTrainedTokenizerBase
    from transformers.utils import chat_template_utils

    known = hasattr(chat_template_utils, "_compile_jinja_template")
    return known and getattr(own, "apply_chat_template", None) is PreTrainedTokenizerBase.apply_chat_template


def _written(tokenizer: Any, messages: list[Any], asking: bool, template: str | None, args: Mapping[str, Any]) -> str:
    """What `apply_chat_template` gives of simple messages, in less than half of its time."""
    compiled, names = _compiled(tokenizer.get_chat_template(template, None))
    own = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": asking}
    context = compiled.new_context({**names, **tokenizer.special_tokens_map, **args, **own}, shared=True)
    return "".join(compiled.root_render_func(context))


@lru_cache
def _compiled(template: str) -> tuple[Any, dict[str, Any]]:
    """A compiled template, and what every template may call."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    compiled = _compile_jinja_template(template)
    return compiled, dict(compiled.globals)


def add_token(tokenizer: Any, text: str, special: bool) -> int:
    """Add a token to a tokenizer, or make a word of its vocabulary one; gives its id. special: not shown in answers."""
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(text, special=special, normalized=False)], special_tokens=special)
    return int(tokenizer.convert_tokens_to_ids(text))


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on("transformers", "save_pretrained writes config.json and model.safetensors, which from_pretrained loads.")
def a_model_can_be_saved_and_loaded() -> None:
    from transformers import AutoModelForCausalLM

    model = make_tiny()
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        names = {file.name for file in Path(folder).iterdir()}
        assert {"config.json", "model.safetensors"} <= names, f"it wrote {', '.join(sorted(names))}"
        again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, use_safetensors=True)
    assert again.dtype == torch.bfloat16, f"with dtype=torch.bfloat16 it gave {again.dtype}"
    same = all(torch.equal(a.bfloat16(), b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert same, "the loaded weights differ"


@relies_on("transformers", "`save_pretrained` gives `modeling_utils.safe_save_file` the tensors that it was given.",
           everywhere=False)  # fmt: skip
def files_can_be_written_later() -> None:
    model = make_tiny(tie_word_embeddings=True)
    like = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        files = _files_of(model, Path(folder), like)
        assert [file.path.name for file in files] == ["model.safetensors"], f"it wrote {files}"
        missing = sorted(like.keys() - files[0].tensors.keys())
        assert missing == ["lm_head.weight"], f"it left out {', '.join(missing)}"


@relies_on("transformers", "A model can be created from a configuration, and takes the weights of a loaded model.")
def a_plain_model_can_be_made() -> None:
    loaded = make_tiny()
    loaded.config.quantization_config = {}
    plain = _plain(loaded)
    assert not hasattr(plain.config, "quantization_config"), "its configuration still says that it is quantised"
    with torch.no_grad():
        assert torch.equal(plain.eval()(input_ids=IDS).logits, loaded(input_ids=IDS).logits), "its output differs"


@relies_on(
    "transformers", "`apply_chat_template` renders a given template, or the own one, as text with its arguments."
)
def a_template_is_rendered() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, "a")))
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    asked = "{{ messages[0].content }}{% if add_generation_prompt %}?{% endif %}{{ (tools or []) | length }}{{ extra }}"
    turns = [{"role": "user", "content": "a"}]
    own = render(tokenizer, turns, tools=None, asking=False, template=None)
    ways: list[Any] = [render(tokenizer, turns, tools=None, asking=True, template=asked, args={"extra": 1})]
    ways += [
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, chat_template=asked, extra=1)
    ]
    assert ways == ["a?01"] * 2, f"it rendered {' and '.join(map(repr, ways))}"
    given = render(tokenizer, turns, tools=[{}, {}], asking=True, template=asked, args={"extra": False})
    assert (own, given) == ("<user>a", "a?2False"), f"it rendered {own!r} and {given!r}"


@relies_on("transformers", "A tokenizer's padding token can be set; `all_special_ids` has the special ids.")
def a_tokenizer_may_be_given_a_padding_token() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokens = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, "a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="</s>")
    assert tokenizer.pad_token_id is None, f"a tokenizer without one has {tokenizer.pad_token_id}"
    tokenizer.pad_token = tokenizer.eos_token
    found = tokenizer.pad_token_id, list(tokenizer.all_special_ids)
    assert found == (1, [1]), f"after setting it, they are {found}"


@relies_on("transformers", "Added tokens get the next ids; special ones are left out of decoded text, others are not.")
def tokens_can_be_added() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokens = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, "a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="</s>")
    ids = [add_token(tokenizer, "<x>", True), add_token(tokenizer, "<y>", False)]
    text = tokenizer.decode(tokenizer("<x><y>", add_special_tokens=False)["input_ids"], skip_special_tokens=True)
    assert (ids, text) == ([2, 3], "<y>"), f"the ids are {ids}, and the text is {text!r}"
