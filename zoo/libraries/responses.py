"""What a tokenizer itself says about the turns of its model: a response template, by which the library reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.libraries.reliance import relies_on


def knows_turns(tokenizer: Any) -> bool:
    """Whether a tokenizer brings a response template, and the library can read one."""
    return getattr(tokenizer, "response_template", None) is not None and hasattr(tokenizer, "parse_response")


def turn_of(tokenizer: Any, text: str, prefix: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A turn as a message, by the response template. prefix: the prompt. Raises what the library raises."""
    found = tokenizer.parse_response(text, prefix=prefix, tools=list(tools) or None)
    return dict(found)


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on("transformers", "`parse_response` reads thoughts, content and calls by the tokenizer's `response_template`.",
           everywhere=False)  # fmt: skip
def a_response_template_reads_turns() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokens = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, "a"))
    calls = {
        "open": "<call>", "close": "</call>", "repeats": True, "content": "json",
        "transform": {"type": "function", "function": "{content}"},
    }  # fmt: skip
    fields = {"thinking": {"open": "<think>", "close": "</think>"}, "tool_calls": calls, "content": {}}
    template = {"defaults": {"role": "assistant"}, "start_anchor": "[A]", "fields": fields}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="</s>", response_template=template)
    assert knows_turns(tokenizer), "it takes no response template"
    text = 'b</think>c<call>{"name": "f", "arguments": {"x": 1}}</call>'
    found = turn_of(tokenizer, text, "[A]<think>", [])
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    wanted = {"role": "assistant", "thinking": "b", "content": "c", "tool_calls": [call]}
    assert found == wanted, f"it read {found}"
