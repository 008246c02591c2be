"""(first draft)"""
from __future__ import annotations

from typing import Any

from zoo.types import Answer


class ChatTemplate:
    def __init__(self, tokenizer: Any, template: str = "auto"):
        self.tokenizer = tokenizer
        self.note = ""
        self.eos_ids = {tokenizer.eos_token_id}

    def _messages(self, value, role):
        return [{"role": role, "content": value}] if isinstance(value, str) else value

    def prompt_ids(self, prompt, tools=None):
        text = self.tokenizer.apply_chat_template(self._messages(prompt, "user"), tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def answer(self, prompt, completion, tools=None):
        text = self._messages(completion, "assistant")[-1]["content"]
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] + [self.tokenizer.eos_token_id]
        return Answer.of(self.prompt_ids(prompt), ids)

    conversation = None

    def preflight(self, records):
        return "The end-of-turn token is trained."
