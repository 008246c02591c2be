"""Loading what `zoo.models.names` found: a language model or reward model, its tokenizer, adapters; and LoRA."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from zoo.data.encoding.named import AUTO, template_text, wanted
from zoo.data.encoding.new_tokens import NewTokens
from zoo.data.encoding.template import ChatTemplate
from zoo.errors import ZooError
from zoo.libraries import adapters, pretrained
from zoo.libraries.architecture import read_ending_ids, silence_dropout, with_scalar_head
from zoo.libraries.stored import load_stored, read
from zoo.libraries.vocabulary import give_rows, rows_by, rows_of, set_rows_by, vocabulary_modules
from zoo.libraries.wrappers import is_adapted
from zoo.models.names import Source, check_base, head_in, head_in_config, refuse_head, template_of
from zoo.models.scalar import fold_scale, start_head
from zoo.models.vocabulary import ROLES, Settings, Words, grown, hold, settings_in

Say = Callable[[str], None]


def load_template(
    source: Source, template: str | None = None, *, trust_remote_code: bool = False,
    new_tokens: Sequence[str] | None = None, eos_ids: Iterable[int] = (), day: date | None = None,
    args: Mapping[str, Any] | None = None, say: Say | None = None,
) -> ChatTemplate:  # fmt: skip
    """A model's tokenizer with a chat template, by default the one it was trained with.

    new_tokens, eos_ids, day, args: as of `ChatTemplate`; say: is told what is out of the ordinary. Raises ZooError for
    a tokenizer that does not belong to the model.
    """
    template = template_of(source) if template is None else template
    tokenizer = load_tokenizer(source, trust_remote_code, template=template, new_tokens=new_tokens, say=say)
    return ChatTemplate(tokenizer, template, new_tokens=new_tokens, eos_ids=eos_ids, day=day, args=args)


def load_tokenizer(
    source: Source, trust_remote_code: bool = False, *, template: str = AUTO, new_tokens: Sequence[str] | None = None,
    say: Say | None = None,
) -> Any:  # fmt: skip
    """The tokenizer, held against its model, with a padding token that the model can read.

    template, new_tokens: what it is to be used with; the tokens that these need will be given rows. Raises ZooError.
    """
    tokenizer = _pretrained("AutoTokenizer", source, trust_remote_code=trust_remote_code)
    text = template_text(template)
    new = () if new_tokens is None else wanted(text, new_tokens)
    words = _words_of(tokenizer, text)
    config, generation, rows = _configuration(source, trust_remote_code)
    if source.folder is not None:
        rows = grown(rows, source.folder, words)
    found = hold(source.name, words, config, rows, new, generation)
    if say is not None:
        for note in found.notes:
            say(note)
    if tokenizer.pad_token_id is None or found.padding:
        tokenizer.pad_token = found.padding or tokenizer.eos_token
    tokenizer.rowless = found.rowless
    return tokenizer


def _words_of(tokenizer: Any, template: str | None) -> Words:
    tokens = {token.content: number for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    special = {token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special}
    roles = {role: str(text) for role in ROLES if (text := getattr(tokenizer, role, None))}
    size = max((number for text, number in tokenizer.get_vocab().items() if text not in tokens), default=-1) + 1
    return Words(
        size, tokens, special, roles, template or json.dumps(tokenizer.chat_template or "", ensure_ascii=False)
    )


def _configuration(source: Source, trust_remote_code: bool) -> tuple[Settings, Settings, int | None]:
    """A model's configuration, that of its generation, and the rows of its embedding; None where it cannot be had."""
    base = source
    if source.is_adapter:
        name = adapters.base_named_in(source.path)[0]
        base = Source(name, Path(name) if Path(name).is_dir() else None)
    try:
        config = _pretrained("AutoConfig", base, trust_remote_code=trust_remote_code)
    except ZooError:
        # Loading the model says why.
        return {}, {}, None
    stops = settings_in(source.folder, base.folder)[1] if source.folder is not None else {}
    return config.to_dict(), stops, rows_by(config)


def load_model(source: Source, dtype: torch.dtype, trust_remote_code: bool = False, in_files: bool = False) -> Any:
    """A model on the CPU with dropout off: a causal language model, or a reward model where the folder holds one.

    An adapter folder is loaded on its base, trainable. in_files: its matrices stay in their files, if they can, until
    the model is shared out.
    """
    if head_of(source) == "scalar":
        return load_scorer(source, dtype, trust_remote_code, in_files)
    if source.is_adapter:
        assert source.folder is not None
        check_base(source)
        pretrained.quiet()
        model = _told(source, lambda: adapters.load_on_base(source.path, dtype=dtype))
        read_ending_ids(model, source.folder)
    else:
        options = {"dtype": dtype, "trust_remote_code": trust_remote_code}
        model = _pretrained("AutoModelForCausalLM", source, in_files, **options)
    silence_dropout(model)
    return model


def _pretrained(kind: str, source: Source, in_files: bool = False, **options: Any) -> Any:
    def load() -> Any:
        return pretrained.load(kind, source.path, **options)

    return _told(source, lambda: load_stored(load) if in_files else load())


def _told(source: Source, load: Callable[[], Any]) -> Any:
    """The result of `load`; its errors become ones that a user can act on."""
    try:
        return load()
    except ZooError:
        raise
    except Exception as error:
        first = pretrained.reason(error)
        if source.folder is None:
            raise ZooError(
                f"The model '{source.name}' is not a local folder and cannot be had from the hub: {first}",
                "Check the name, or give the path of a local model folder. Offline, only local folders, models in "
                "the hub's cache, and smollm2-135m work.",
            ) from error
        raise ZooError(f"The model in {source.folder} cannot be loaded: {first}") from error


def head_of(source: Source) -> str:
    """What the configuration says a model is: a reward model ("scalar") or a language model ("lm")."""
    if source.folder is not None:
        return head_in(source.folder)
    return head_in_config(_pretrained("AutoConfig", source).to_dict())


def require_head(source: Source, head: str) -> None:
    """Raises ZooError for a model of the other sort."""
    refuse_head(source.name, head_of(source), head)


def scorer_to_train(
    source: Source, dtype: torch.dtype, seed: int, trust_remote_code: bool = False, in_files: bool = False
) -> Any:
    """A model with a scalar head: its own, or a new one drawn with `seed` on a language model's backbone.

    in_files: as of `load_model`.
    """
    if head_of(source) == "scalar":
        model = load_scorer(source, dtype, trust_remote_code, in_files)
        fold_scale(model)
        return model
    language_model = load_model(source, dtype, trust_remote_code, in_files)
    if source.is_adapter:
        language_model = adapters.merged(language_model)
    model = with_scalar_head(language_model, dtype, trust_remote_code)
    start_head(model, seed)
    return model.requires_grad_(True)


def load_scorer(source: Source, dtype: torch.dtype, trust_remote_code: bool = False, in_files: bool = False) -> Any:
    """A reward model with the head, gain and bias it was saved with; an adapter folder on its base, trainable.

    in_files: as of `load_model`.
    """
    require_head(source, "scalar")
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if source.is_adapter:
        check_base(source)
        name, options["revision"] = adapters.base_named_in(source.path)
        # The adapter's folder has the configuration with the number of outputs, the padding, gain and bias, and the
        # base the number of its tokens.
        options["config"] = _pretrained("AutoConfig", source)
        if (rows := _configuration(source, trust_remote_code)[2]) is not None:
            set_rows_by(options["config"], rows)
        base = _pretrained("AutoModelForSequenceClassification", Source(name, None), **options)
        model = _told(source, lambda: adapters.load_on(adapters.with_rows(base, source.path), source.path))
    else:
        model = _pretrained("AutoModelForSequenceClassification", source, in_files, num_labels=1, **options)
    silence_dropout(model)
    return model.eval()


def rows_for(model: Any, new: NewTokens) -> list[int]:
    """Give rows to new tokens that have none; returns the ids of all tokens whose rows are to be trained."""
    rows = rows_of(model)
    fresh = sorted({*new.added, *(number for number in new.asked if number >= rows)})
    if fresh or new.asked:
        read(model, vocabulary_modules(model).values())
    if fresh:
        give_rows(model, fresh, new.known)
    return sorted({*fresh, *new.asked})


def add_lora(
    model: Any, rank: int, alpha: float, dropout: float, targets: list[str] | str, tokens: Sequence[int] = (),
    kind: str = "lora", whole: Sequence[str] = (),
) -> Any:  # fmt: skip
    """Wrap a model in trainable low-rank adapters; a model that has adapters keeps them.

    tokens: ids whose rows of the vocabulary are trained too; kind, whole: as of `adapters.wrap`.
    """
    if is_adapted(model):
        return model
    if isinstance(targets, list) and len(targets) == 1:
        targets = targets[0]
    if isinstance(targets, str) and targets != "all-linear" and re.fullmatch(r"\w+", targets):
        # peft reads a text as a pattern of whole paths; a single word is meant as a layer's name, as in a list.
        targets = [targets]
    try:
        return adapters.wrap(
            model, rank=rank, alpha=alpha, dropout=dropout, targets=targets, tokens=tokens, kind=kind, whole=whole
        )
    except ValueError as error:
        linear = sorted({name.split(".")[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise ZooError(
            f"--lora-targets {targets} does not fit this model: {str(error).splitlines()[0]}",
            f"Its linear layers are called {', '.join(linear)}; all-linear takes all but the head, and experts the "
            "weights of experts.",
        ) from None
