"""Holds a tokenizer against the model that reads its ids, by their files, before any weights are loaded.

Every command that loads a model comes by here (`zoo.models.loading.load_tokenizer`); a look ahead asks the same
questions of the files alone. Loads no torch and no transformers.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.models.names import read_header

LISTED = 4
"""Tokens that a message names."""
PAD, EOS = "pad_token", "eos_token"
GENERATION = "generation_config.json"
Settings = Mapping[str, Any]
ROLES = ("bos_token", EOS, PAD, "unk_token")
START_HINT = "Name the model that training started from, or one made of it."
NAMED_HINT = (
    "Name a model with the tokenizer of the one that is trained, such as a larger one of its family; or let any model "
    "write answers, and train on these."
)
"""What to do about a role whose model has other tokens: one that starts as the policy does, and one that is named."""


@dataclass(frozen=True)
class Words:
    """What a tokenizer can write. size: ids below this number; added: further tokens, and their ids.

    special: those of them that no text of the data may contain; roles: the texts of eos_token, pad_token, …, of those
    that the tokenizer has; template: the text of its chat template.
    """

    size: int
    added: Mapping[str, int] = field(default_factory=dict)
    special: Collection[str] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    template: str = ""

    @property
    def last(self) -> int:
        return max(self.size - 1, *self.added.values(), -1)


@dataclass(frozen=True)
class Findings:
    """What came of it. padding: the token to pad with instead of the tokenizer's own, "" for its own.

    rowless: tokens that no text may contain, because the model has no rows for them; notes: sentences on both.
    """

    padding: str = ""
    rowless: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def hold(
    name: str, words: Words, config: Settings, rows: int | None, new: Collection[str] = (),
    generation: Settings | None = None,
) -> Findings:  # fmt: skip
    """Compare a tokenizer with the configuration of its model. Raises ZooError where they do not belong together.

    config: config.json; generation: generation_config.json; rows: of the embedding, None where nothing says how many;
    new: tokens that are given rows before anything is read.
    """
    generation = generation or {}
    for file, settings in (("config.json", config), (GENERATION, generation)):
        _refuse_no_ids(name, file, settings)
    if rows is None:
        return Findings()
    outside = {token: number for token, number in words.added.items() if number >= rows and token not in new}
    read = {text for role, text in words.roles.items() if role != PAD}
    harmful = {
        token: number for token, number in outside.items()
        if token not in words.special or token in read or token in words.template
    }  # fmt: skip
    if words.size > rows or harmful:
        raise _outside(name, words, rows, harmful)
    # Only the embedding reads this one, which is made by config.json.
    if max(_numbers(config.get("pad_token_id")), default=0) >= rows:
        raise ZooError(
            f"The configuration of {name} pads with the token id {config['pad_token_id']}, and its embedding has "
            f"{rows:,} rows.", "Correct pad_token_id in config.json, or remove it.",
        )  # fmt: skip
    notes, padding = [], ""
    if words.roles.get(PAD) in outside:
        padding = words.roles.get(EOS, "")
        notes.append(f"{name} has no row for its padding token {words.roles[PAD]}: {padding} pads instead.")
    if others := [token for token in outside if token != words.roles.get(PAD)]:
        notes.append(f"{name} has no rows for {_some(others)}: no text may contain them.")
    said = {**config, **generation}
    for setting, what in (("eos_token_id", "stop at"), ("bos_token_id", "begin texts with")):
        if none := [number for number in _numbers(said.get(setting)) if not 0 <= number < rows]:
            notes.append(f"{name} is said to {what} the token id {none[0]}, which none of its {rows:,} tokens has: "
                         "it is left out.")  # fmt: skip
    return Findings(padding, frozenset(outside), tuple(notes))


def _outside(name: str, words: Words, rows: int, harmful: Mapping[str, int]) -> ZooError:
    named = sorted(harmful, key=lambda token: harmful[token])
    what = f", among them none for {_some([f'{token} ({harmful[token]})' for token in named])}" if named else ""
    hint = "They may not belong together: copy the model's own tokenizer into its folder."
    if named and words.size <= rows:
        rest = ",…" if len(named) > LISTED else ""
        hint += f" If they do, train with --new-tokens '{','.join(named[:LISTED])}{rest}', which gives them rows."
    return ZooError(
        f"The tokenizer of {name} writes token ids up to {words.last:,}, and the model has embeddings for {rows:,} "
        f"tokens only{what}.", hint,
    )  # fmt: skip


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - LISTED:,} more" if len(texts) > LISTED else ""
    return ", ".join(texts[:LISTED]) + more


def _numbers(value: Any) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _refuse_no_ids(name: str, file: str, settings: Settings) -> None:
    """Raises ZooError where the id of a token is no whole number. Only the end of an answer may have several."""
    for setting in ("eos_token_id", "bos_token_id", "pad_token_id"):
        value = settings.get(setting)
        numbers = _numbers(value) if setting == "eos_token_id" else [value]
        if value is not None and not all(type(number) is int for number in numbers):
            raise ZooError(
                f"{setting} in {file} of {name} is {json.dumps(value, default=str)}, which is no token id.",
                f"Correct it, or remove it: {file} of the model's publisher has the right one.",
            )


# -- from files ----------------------------------------------------------------------------------------------------


def opened(file: Path) -> Any:
    """The fast tokenizer in a tokenizer.json; None for a file that cannot be read."""
    try:
        return _opened(file, file.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=2)
def _opened(file: Path, _written: int) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    # The library raises one class for every problem with the file.
    except Exception:
        return None


def size_of(tokenizer: Any) -> int:
    """The words of a tokenizer: one more than the largest id. A model may have more rows, which are padding."""
    return max(tokenizer.get_vocab().values()) + 1


def words_in(folder: Path) -> Words | None:
    """What the tokenizer in a folder can write; None where its files do not say it."""
    fast = opened(folder / "tokenizer.json")
    if fast is None:
        return None
    tokens = fast.get_added_tokens_decoder()
    added = {token.content: number for number, token in tokens.items()}
    special = {token.content for token in tokens.values() if token.special}
    settings = {**_read(folder / "special_tokens_map.json"), **_read(folder / "tokenizer_config.json")}
    roles = {role: text for role in ROLES if (text := _text(settings.get(role)))}
    size, numbers = fast.get_vocab_size(with_added_tokens=False), set(added.values())
    while size - 1 in numbers:
        # Some vocabularies list their added tokens too.
        size -= 1
    return Words(size, added, special, roles, _template_in(folder, settings))


def own_template_in(folder: Path) -> str | None:
    """The text of the template in a folder, "" where it has none; None for several templates, or no tokenizer."""
    with contextlib.suppress(OSError, UnicodeError):
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    text = _read(settings).get("chat_template", "") if settings.is_file() else None
    return text if isinstance(text, str) else None


def _template_in(folder: Path, settings: Mapping[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    with contextlib.suppress(OSError, UnicodeError):
        return file.read_text(encoding="utf-8")
    return json.dumps(settings.get("chat_template") or "", ensure_ascii=False)


def rows_in(config: Mapping[str, Any]) -> int | None:
    """The rows of a model's embedding, by its configuration."""
    found = _mapping(config.get("text_config")).get("vocab_size", config.get("vocab_size"))
    return found if isinstance(found, int) and found > 0 else None


def settings_in(folder: Path, base: Path | None) -> tuple[Settings, Settings]:
    """config.json and generation_config.json. base: of the model under adapters, None if it is no folder."""
    place = base if (folder / "adapter_config.json").is_file() else folder
    if place is None:
        return {}, {}
    return _read(place / "config.json"), _read(folder / GENERATION) or _read(place / GENERATION)


def other_tokens(name: str, own: int, others: int, than: str, hint: str) -> ZooError:
    """The refusal of a model that is to read token ids of another one. than: whose ids, and what cannot be."""
    return ZooError(f"{name} has other tokens than {than}: {own:,} against {others:,}.", hint)


def told_of_role(role: str, is_named: bool) -> tuple[str, str]:
    """`than` and `hint` of `other_tokens` for a role of a run. is_named: it starts from no model of the run's."""
    return f"the model that is trained, so it cannot be its {role}", NAMED_HINT if is_named else START_HINT


def refuse_other_words(name: str, folder: Path, trained: Path, than: str, hint: str) -> None:
    """Raises ZooError where the tokenizers in two folders differ in words, by their files alone.

    Tokens that were added to one of them are left to the run, which may give them to the other.
    """
    pair = [opened(place / "tokenizer.json") for place in (folder, trained)]
    if None in pair:
        return
    added = {token.content for one in pair for token in one.get_added_tokens_decoder().values()}
    first, second = (one.get_vocab(with_added_tokens=False) for one in pair)
    if first != second and any(first.get(word) != second.get(word) for word in (first.keys() | second.keys()) - added):
        raise other_tokens(name, pair[0].get_vocab_size(), pair[1].get_vocab_size(), than, hint)


def hold_files(name: str, folder: Path, template: str | None, new: Collection[str] = ()) -> Findings:
    """`hold` by the files of a folder alone. template: the text of the one to use, None for the tokenizer's own."""
    words = words_in(folder)
    if words is None:
        return Findings()
    if template is not None:
        words = replace(words, template=template)
    named = _read(folder / "adapter_config.json").get("base_model_name_or_path")
    base = Path(named) if isinstance(named, str) and Path(named).is_dir() else None
    place = base if (folder / "adapter_config.json").is_file() else folder
    rows = rows_in(_read(place / "config.json")) if place is not None else None
    config, generation = settings_in(folder, base)
    return hold(name, words, config, grown(rows, folder, words), new, generation)


def lacking_in(folder: Path, tokens: Collection[str]) -> list[str]:
    """The tokens that the tokenizer in a folder does not have; none where its files do not say it."""
    fast = opened(folder / "tokenizer.json")
    return [] if fast is None else [token for token in tokens if fast.token_to_id(token) is None]


def grown(rows: int | None, folder: Path, words: Words) -> int | None:
    """The rows of a model with those that the adapters in a folder bring."""
    found = _read(folder / "adapter_config.json").get("trainable_token_indices") or []
    numbers = [number for listed in (found.values() if isinstance(found, dict) else [found]) for number in listed]
    # An embedding that was trained as a whole is in the file as it is.
    numbers += [rows - 1 for rows in _stored_rows(folder)]
    return None if rows is None else max(rows, *(number + 1 for number in numbers if number <= words.last), 0)


def _stored_rows(folder: Path) -> list[int]:
    """The rows of the matrices that are in a folder of adapters as they are."""
    if not _read(folder / "adapter_config.json").get("modules_to_save"):
        return []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, struct.error):
        stored = read_header(folder / "adapter_model.safetensors")[0]
        return [about["shape"][0] for name, about in stored.items() if "lora_" not in name and len(about["shape"]) == 2]
    return []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(token: Any) -> str:
    return token if isinstance(token, str) else str(_mapping(token).get("content", ""))


def _read(file: Path) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
