"""vLLM: generation on a server of its own, with the weights of the run.

    VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --logprobs-mode processed_logprobs
    zoo train … --engine "vllm(url=http://127.0.0.1:8000)"

Token ids go to the server and come back; there is no text in between. Before a rollout the weights are written to a
folder that the server reads, so both must see it: on the same machine, or as a shared folder. The server also returns
the probabilities with which it sampled its tokens; the loss uses the trainer's own (see zoo/rollout/correction.py).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.errors import TrainingStopped, ZooError
from zoo.http import Server, ServerError
from zoo.libraries.adapters import merged_copy
from zoo.libraries.pretrained import save
from zoo.paths import typed_path
from zoo.rollout.budget import within
from zoo.rollout.engine import EngineSetup, Turns, check_request, check_texts
from zoo.rollout.sampling import Sampling, seeds
from zoo.rollout.weights import fingerprint, own_logps
from zoo.values.types import Answer

PROBE = "Grüße, 12,345 cats don't  know 你好.\n"
"""A text that two tokenizers are unlikely to split in the same way."""
PROBE_TOKENS = 16
LARGEST_GAP = 0.3
"""A mean difference of log-probabilities, in nats per token, that rounding to bfloat16 does not explain."""
START = "Start it with: VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --logprobs-mode processed_logprobs"
NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_p": 0.0}
"""Sent with every request: the server takes missing values from the model's own generation_config.json."""


class VLLMEngine:
    """A client of one vLLM server.

    url: its address; folder: where weights are written for it, by default in the temporary folder; timeout: seconds
    that one request may take; concurrency: requests at a time; bound and beyond: see
    `zoo.rollout.correction`. A key is read from VLLM_API_KEY.
    """

    remote = True

    def __init__(
        self,
        setup: EngineSetup,
        *,
        url: str = "http://127.0.0.1:8000",
        folder: str = "",
        timeout: float = 600.0,
        concurrency: int = 64,
        bound: float = 2.0,
        beyond: Literal["truncate", "mask"] = "truncate",
    ):
        if bound < 1 or beyond not in ("truncate", "mask"):
            raise ZooError(
                f"vllm(bound={bound}, beyond={beyond}) is not possible.",
                "bound must be at least 1, and beyond truncate or mask.",
            )
        self.bound, self.beyond = bound, beyond
        self.setup = setup
        self.server = Server(url, timeout=timeout, key=os.environ.get("VLLM_API_KEY"))
        self.concurrency = concurrency
        self.folder = typed_path(folder) if folder else Path(tempfile.mkdtemp(prefix="zoo-weights-"))
        if not folder:
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._meet()
        self._sent: tuple[int, ...] = ()
        self._updates = 0

    # -- answers -------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Tensor],
        n: int = 1,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Answer]:
        """See `Engine.generate`. Raises TrainingStopped when the server is lost."""
        sampling = sampling or Sampling()
        check_request(prompts, n, sampling, generator, self.longest)
        self._check_temperature(sampling)
        drawn = [0] * len(prompts) * n if generator is None else seeds(len(prompts) * n, generator)
        bodies = [self._body(prompt, n, sampling, seed) for prompt, seed in zip(prompts, drawn[::n], strict=True)]
        answers = [
            self._answer(prompt, choice, sampling)
            for prompt, choices in zip(prompts, self._ask(bodies, n), strict=True)
            for choice in choices
        ]
        return within(answers, sampling.budget)

    @contextmanager
    def episodes(self, sampling: Sampling) -> Iterator[Turns]:
        """See `Engine`. The server gets the ids, and keeps what it computed of them in its prefix cache."""
        self._check_temperature(sampling)
        yield _Episodes(self, sampling)

    def _check_temperature(self, sampling: Sampling) -> None:
        if sampling.temperature not in (0, 1) and self.logprobs_mode != "processed_logprobs":
            raise ZooError(
                f"The vLLM server at {self.server.url} gives log-probs at temperature 1 (--logprobs-mode "
                f"{self.logprobs_mode}), but this run samples at {sampling.temperature}.",
                "Start the server with --logprobs-mode processed_logprobs.",
            )

    def _body(self, prompt: Tensor, n: int, sampling: Sampling, seed: int) -> dict[str, Any]:
        """A request for n answers; the server seeds the j-th with seed + j."""
        return {
            "model": self.model,
            "prompt": prompt.tolist(),
            "n": n,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "seed": seed // 2,
            "stop": list(sampling.stop),
            "skip_special_tokens": False,
            # The run decides what ends an answer, not the server's generation_config.json.
            "stop_token_ids": sorted(self.setup.eos_ids),
            "ignore_eos": True,
            "logprobs": 0,
            "return_token_ids": True,
            **NEUTRAL,
        }

    def _ask(self, bodies: list[dict[str, Any]], n: int) -> Iterator[list[dict[str, Any]]]:
        """The choices of each request, in order; requests are made in parallel, so that the server can batch them."""
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            for number, answer in enumerate(pool.map(lambda body: self.server.post("/v1/completions", body), bodies)):
                if self.setup.progress:
                    self.setup.progress((number + 1) * n, len(bodies) * n)
                yield sorted(answer["choices"], key=lambda choice: choice["index"])
        except ServerError as error:
            raise TrainingStopped(
                error.message, f"{error.hint} Then `zoo resume` continues from here.".strip()
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, prompt: Tensor, choice: dict[str, Any], sampling: Sampling) -> Answer:
        try:
            return self._read(prompt, choice)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError):
            raise TrainingStopped(
                f"The vLLM server at {self.server.url} answered in an unknown form: {choice!r:.80}.",
                "Is this the address of another program?",
            ) from None

    def _read(self, prompt: Tensor, choice: dict[str, Any]) -> Answer:
        ids, logps = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
        if ids is None or logps is None or len(ids) != len(logps):
            raise TrainingStopped(
                f"The vLLM server at {self.server.url} returned no token ids with their log-probs.",
                "It is too old for `return_token_ids`: use vLLM 0.11 or later.",
            )
        if self.vocabulary is not None and max(ids, default=0) >= self.vocabulary:
            raise self._other_model(f"it sampled token {max(ids)}, but the trained model has {self.vocabulary}")
        if (reason := choice["finish_reason"]) not in ("stop", "length"):
            raise TrainingStopped(
                f"The vLLM server at {self.server.url} broke off an answer ({reason}): it was stopped or paused.",
                "Start it again. Then `zoo resume` continues from here.",
            )
        cut = reason == "length"
        return Answer.of(prompt.tolist(), ids, ended=not cut, cut=cut, behaviour=torch.tensor(logps).float())

    # -- weights -------------------------------------------------------------------------------------------------

    def update(self, model: Any) -> None:
        """Gives the weights of `model`, with adapters merged, to the server unless it has them already."""
        mark = fingerprint(model)
        if mark == self._sent:
            return
        self._updates += 1
        # A new name each time, so that the server or the file system cannot use old weights cached by path.
        folder = self.folder / f"weights-{os.getpid()}-{self._updates}"
        save(merged_copy(model), folder)
        try:
            self.server.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
            self._forget_prefixes()
        except ServerError as error:
            raise self._not_updated(error, folder) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._check(model)
        self._sent = mark

    def _check(self, model: Any) -> None:
        """Compares log-probabilities with the trainer's: a server may report success and keep old weights."""
        tokenizer = self.setup.tokenizer
        prompt = torch.tensor(tokenizer.encode(PROBE) if tokenizer else range(1, 9))
        body = self._body(prompt, 1, Sampling(PROBE_TOKENS), seed=0) | {"stop_token_ids": []}
        [[choice]] = self._ask([body], 1)
        answer = self._answer(prompt, choice, Sampling())
        gap = (own_logps(model, answer) - (answer.behaviour if answer.behaviour is not None else 0)).abs().mean()
        if not gap <= LARGEST_GAP:
            raise TrainingStopped(
                f"The vLLM server at {self.server.url} took the weights, but its log-probs differ from the trainer's "
                f"by {gap:.2f} per token: it does not compute with all of them.",
                "vLLM's CPU build, for example, keeps the old output head of models with tied embeddings.",
            )

    def _forget_prefixes(self) -> None:
        """Drop cached keys and values of the old weights. The server refuses while a request is running."""
        for _ in range(20):
            answer = self.server.post("/reset_prefix_cache")
            if answer is None or answer.get("success", True):
                return
            time.sleep(0.5)
        raise ServerError("it keeps its cache of the old weights, because requests are running", status=409)

    def _not_updated(self, error: ServerError, folder: Path) -> ZooError:
        if error.status == 404:
            return ZooError(f"The vLLM server at {self.server.url} takes no weights: it is not in dev mode.", START)
        return TrainingStopped(
            f"The vLLM server at {self.server.url} did not take the new weights from {folder}: {error.message}",
            "It must see that folder (vllm(folder=…) names one that both machines share), serve a model of the same "
            "architecture, and be of a version whose reload_weights takes weights_path (0.32 does).",
        )

    # -- the server ----------------------------------------------------------------------------------------------

    def _meet(self) -> None:
        """Checks the served model. Raises ZooError with the command to start if it does not fit."""
        try:
            served = self.server.get("/v1/models")["data"][0]
            info = self.server.get("/server_info?config_format=json")
        except ServerError as error:
            if error.status == 404:
                raise ZooError(
                    f"The server at {self.server.url} is not a vLLM server in dev mode, so it cannot get weights.",
                    START,
                ) from None
            raise ZooError(error.message, error.hint if error.status else START) from None
        self.model: str = served["id"]
        self.longest: int | None = served.get("max_model_len")
        self.logprobs_mode: str = info["vllm_config"]["model_config"].get("logprobs_mode", "raw_logprobs")
        embedding = self.setup.model.get_input_embeddings() if self.setup.model is not None else None
        self.vocabulary = None if embedding is None else embedding.weight.shape[0]
        if self.setup.tokenizer is not None:
            theirs = self.server.post("/tokenize", {"model": self.model, "prompt": PROBE, "add_special_tokens": False})
            if theirs["tokens"] != self.setup.tokenizer.encode(PROBE, add_special_tokens=False):
                raise self._other_model("its tokenizer splits a text into other tokens")

    def _other_model(self, sign: str) -> ZooError:
        return ZooError(
            f"The vLLM server at {self.server.url} serves another model ({self.model}) than the trained one: {sign}.",
            "Start it with the model of this run: vllm serve FOLDER.",
        )


class _Episodes:
    """Episodes on a vLLM server."""

    at_once: int | None = None

    def __init__(self, engine: VLLMEngine, sampling: Sampling):
        self.engine, self.sampling, self.longest = engine, sampling, engine.longest

    def __call__(
        self, numbers: Sequence[int], texts: Sequence[Tensor], limits: Sequence[int], seeds: Sequence[int],
        done: Callable[[int, Answer], None],
    ) -> None:  # fmt: skip
        """See `Turns`."""
        engine = self.engine
        check_texts(texts, limits, self.longest)
        bodies = [
            engine._body(text, 1, self.sampling, seed) | {"max_tokens": limit}
            for text, limit, seed in zip(texts, limits, seeds, strict=True)
        ]
        for number, text, [choice] in zip(numbers, texts, engine._ask(bodies, 1), strict=True):
            done(number, engine._answer(text, choice, self.sampling))
