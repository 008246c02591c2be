"""Formats with two answers to one prompt, of which the first is preferred."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from zoo.data.formats.conversation import CHAT_COLUMNS, chat_shape, has_pair, pair_holds_prompt
from zoo.data.formats.message import arrange
from zoo.data.formats.shape import ANSWERS, CHATS, TEXTS, Format, Row, Sample, take, take_text
from zoo.data.kinds import Message
from zoo.data.row_errors import RowError, describe

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_PROMPT_LIKE = ("prompt", "question", "query", "input", "instruction", "context", "history", "post", "user")


def _sides(row: Row) -> dict[str, Any]:
    return {"chosen": take(row, "chosen"), "rejected": take(row, "rejected")}


RATINGS = {"significantly better": 1.0, "better": 2 / 3, "slightly better": 1 / 3, "negligibly better": 0.0}
"""The margin for each rating of the chosen answer: the small margins of Llama 2 (arXiv:2307.09288, table 27)."""


def _scored(row: Row, record: dict[str, Any]) -> dict[str, Any]:
    """Add the margin and the soft label if the row has them; numbers may be texts, because csv holds texts."""
    rating = str(row.get("rating")).strip().lower()
    if rating in RATINGS:
        record["margin"] = RATINGS[rating]
    for field in ("margin", "p_chosen"):
        value = row.get(field)
        if value is None or value == "":
            continue
        try:
            record[field] = float(value)
        except (TypeError, ValueError):
            raise RowError("E_TYPE", field, f"is {describe(value)}, not a number") from None
    return record


def _pair(row: Row) -> dict[str, Any]:
    return _scored(row, arrange(row, take(row, "prompt"), _sides(row)))


def _implicit_pair(row: Row) -> dict[str, Any]:
    """A pair whose prompt is the common beginning of both sides."""
    sides = _sides(row)
    if not all(isinstance(side, str) for side in sides.values()):
        return _scored(row, arrange(row, None, sides))
    cut = common_words(sides["chosen"], sides["rejected"])
    if not cut:
        raise RowError("E_PROMPT_MISMATCH", "chosen", "the two texts do not begin with the same words")
    prompt = sides["chosen"][:cut]
    return _scored(row, arrange(row, prompt, {name: side[cut:] for name, side in sides.items()}))


def common_words(first: str, second: str) -> int:
    """Length of the common beginning of two texts, cut back to the end of a word.

    A prompt that ends within a word would get other tokens than the text that it comes from.
    """
    cut = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        cut += 1
    while cut and not (cut < min(len(first), len(second)) and first[cut].isspace() and second[cut].isspace()):
        cut -= 1
    return cut


def parse_transcript(text: str, field: str) -> list[Message]:
    """The turns of a text of the form "Human: …", blank line, "Assistant: …"."""
    pieces = _TURN.split(text)
    if len(pieces) < 3 or pieces[0].strip():
        raise RowError("E_TYPE", field, "does not begin with 'Human:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[name], "content": content.strip()}
        for name, content in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def transcript_prompt(text: str, field: str) -> list[Message]:
    """A transcript that ends with an empty assistant turn."""
    turns = parse_transcript(text, field)
    if turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()
    return turns


def _hh(row: Row) -> dict[str, Any]:
    if row.get("prompt") is not None:
        answers = {name: take_text(row, name).strip() for name in ("chosen", "rejected")}
        return arrange(row, transcript_prompt(take_text(row, "prompt"), "prompt"), answers)
    prompts, answers = {}, {}
    for name in ("chosen", "rejected"):
        text = take_text(row, name)
        before, marker, answer = text.rpartition("\n\nAssistant:")
        if not marker:
            raise RowError("E_MISSING_TURN", name, "there is no 'Assistant:' turn")
        if "\n\nHuman:" in answer:
            raise RowError("E_MISSING_TURN", name, "the transcript ends in a 'Human:' turn")
        prompts[name], answers[name] = before, answer.strip()
    if prompts["chosen"].strip() != prompts["rejected"].strip():
        raise RowError("E_PROMPT_MISMATCH", "chosen", "chosen and rejected differ before the last answer")
    return arrange(row, parse_transcript(prompts["chosen"], "chosen"), answers)


def _summaries(row: Row) -> dict[str, Any]:
    """A post and two summaries of it; `choice` is the index of the better one."""
    info, summaries, choice = take(row, "info"), take(row, "summaries"), take(row, "choice")
    if not isinstance(info, Mapping):
        raise RowError("E_TYPE", "info", f"is {describe(info)}, not an object")
    body = info.get("post") or info.get("article")
    if not body:
        raise RowError("E_MISSING_TURN", "info", "has no post and no article to summarise")
    if not (isinstance(summaries, list) and len(summaries) == 2 and choice in (0, 1)):
        raise RowError("E_TYPE", "summaries", "there must be two, and choice must be 0 or 1")
    heads = [f"{name.upper()}: {info[name]}" for name in ("subreddit", "title") if info.get(name)]
    prompt = "\n\n".join([*heads, f"POST: {body}", "TL;DR:"])
    texts = [summary.get("text") if isinstance(summary, Mapping) else summary for summary in summaries]
    return arrange(row, prompt, {"chosen": texts[int(choice)], "rejected": texts[1 - int(choice)]})


def _shp(row: Row) -> dict[str, Any]:
    answers = [take(row, "human_ref_A"), take(row, "human_ref_B")]
    better = take(row, "labels")
    if better not in (0, 1):
        raise RowError("E_LABEL", "labels", f"{better!r} is neither 1 (A is better) nor 0 (B is better)")
    chosen, rejected = answers if better == 1 else answers[::-1]
    return arrange(row, take(row, "history"), {"chosen": chosen, "rejected": rejected})


def _is_hh(sample: Sample) -> bool:
    if sample.has("prompt"):
        return sample.has("prompt", "transcript") and has_pair(sample)
    return sample.has("chosen", "transcript") and sample.has("rejected", "transcript")


def _is_explicit(sample: Sample) -> bool:
    return (
        sample.has("prompt")
        and not sample.has("prompt", "transcript")
        and has_pair(sample)
        and not _is_ultrafeedback(sample)
    )


def _is_ultrafeedback(sample: Sample) -> bool:
    return (
        sample.has("prompt", "text") and has_pair(sample) and sample.has("chosen", *CHATS) and pair_holds_prompt(sample)
    )


def _is_implicit(sample: Sample) -> bool:
    if sample.has("prompt") or sample.has("instruction") or not has_pair(sample):
        return False
    if sample.has("chosen", *CHATS):
        return pair_holds_prompt(sample)
    # Two bare texts contain their prompt only if they begin alike and no other column looks like a prompt.
    bare = sample.has("chosen", "text") and sample.has("rejected", "text") and not chat_shape(sample)
    others = any(sample.has(column, *ANSWERS) for column in _PROMPT_LIKE)
    return (
        bare
        and not others
        and sample.mostly(
            lambda row: (
                all(isinstance(row.get(side), str) for side in ("chosen", "rejected"))
                and common_words(row["chosen"], row["rejected"]) > 0
            )
        )
    )


_SHP = ("history", "human_ref_A", "human_ref_B", "labels")
_PAIR = ("prompt", "chosen", "rejected", "margin", "p_chosen")

PAIR_FORMATS = (
    Format(
        "preference",
        "preference",
        "prompt, chosen, rejected: texts or messages; maybe margin, p_chosen",
        _PAIR,
        _is_explicit,
        _pair,
    ),
    Format(
        "preference-implicit",
        "preference",
        "chosen, rejected: both begin with the prompt (whole conversations, or texts that begin alike)",
        (*_PAIR, *CHAT_COLUMNS),
        _is_implicit,
        _implicit_pair,
    ),
    Format(
        "ultrafeedback-binarized",
        "preference",
        "prompt: text; chosen, rejected: whole conversations that repeat it; maybe messages, scores",
        (*_PAIR, "messages"),
        _is_ultrafeedback,
        _pair,
    ),
    Format(
        "hh-rlhf",
        "preference",
        "chosen, rejected: transcripts 'Human: … Assistant: …' (or prompt: a transcript, and two answers)",
        _PAIR,
        _is_hh,
        _hh,
    ),
    Format(
        "summarize-comparisons",
        "preference",
        "info: {post or article, title, …}; summaries: two {text}; choice: 0 or 1",
        ("info", "summaries", "choice"),
        lambda s: s.has("info", "object") and s.has("summaries", "objects", "texts") and s.has("choice"),
        _summaries,
    ),
    Format(
        "shp",
        "preference",
        "history, human_ref_A, human_ref_B: texts; labels: 1 if A is better, 0 if B is",
        _SHP,
        lambda s: all(s.has(column, *TEXTS) for column in _SHP[:3]) and s.has("labels", "number", "bool"),
        _shp,
    ),
)
