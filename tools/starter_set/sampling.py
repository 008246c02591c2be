"""Samples answers from a model, batch by batch, the same ones again for the same seed on the same machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEMPERATURE = 0.8
TOP_P = 0.95
NEW_TOKENS = 96
BATCH = 64
"""Sequences generated together."""


@dataclass(frozen=True)
class Request:
    """A conversation to answer, and the text that the answer must open with (may be empty)."""

    id: str
    messages: tuple[dict[str, str], ...]
    opening: str = ""


@dataclass(frozen=True)
class Sample:
    """A sampled answer. `ended` is false where the length limit came before the end of the turn."""

    text: str
    ended: bool


class Nucleus:
    """Temperature and top-p over the most likely `width` tokens only: sorting the whole vocabulary is
    slow on CPU."""

    def __init__(self, temperature: float, top_p: float, width: int = 256):
        self.temperature, self.top_p, self.width = temperature, top_p, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits [B, V] → logits [B, V] with -inf outside the nucleus."""
        likely, ids = (scores / self.temperature).topk(min(self.width, scores.shape[-1]), dim=-1)
        probabilities = torch.softmax(likely, dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        likely = likely.masked_fill(before >= self.top_p, float("-inf"))
        return torch.full_like(scores, float("-inf")).scatter(1, ids, likely)


class Sampler:
    """A model and its tokenizer, in bfloat16."""

    def __init__(self, path: str):
        self.tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
        self.eos = self.tokenizer.eos_token_id

    def answers(
        self,
        requests: list[Request],
        each: int,
        seed: int,
        temperature: float = TEMPERATURE,
        note: Callable[[str], None] = print,
    ) -> dict[str, list[Sample]]:
        """`each` samples for every request, by its id. Requests of like length share a batch."""
        texts = {request.id: self._rendered(request) for request in requests}
        ordered = sorted(requests, key=lambda request: (len(texts[request.id]), request.id))
        found: dict[str, list[Sample]] = {}
        size = max(1, BATCH // each)
        for first in range(0, len(ordered), size):
            batch = ordered[first : first + size]
            torch.manual_seed(seed + first)
            samples = self._batch([texts[request.id] for request in batch], each, temperature)
            for number, request in enumerate(batch):
                mine = samples[number * each : (number + 1) * each]
                found[request.id] = [Sample((request.opening + text).strip(), ended) for text, ended in mine]
            note(f"  {first + len(batch)} of {len(ordered)} prompts")
        return found

    def _rendered(self, request: Request) -> str:
        chat = list(request.messages)
        text = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return str(text) + request.opening

    @torch.no_grad()
    def _batch(self, texts: list[str], each: int, temperature: float) -> list[tuple[str, bool]]:
        inputs = self.tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        output = self.model.generate(
            **inputs,
            do_sample=True,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            logits_processor=[Nucleus(temperature, TOP_P)],
            num_return_sequences=each,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=self.eos,
        )
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [(text, bool((row == self.eos).any())) for text, row in zip(texts, new, strict=True)]
