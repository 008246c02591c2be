"""Keeping banners and hints of the libraries underneath out of the output."""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator


def quiet_bitsandbytes() -> None:
    """Before it is imported, by peft too: without a package of kernels it warns, and computes the same."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Keep the libraries' own banners and hints out of the output; warnings about the user's input stay."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet_bitsandbytes()
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # To torch, a skipped first step looks like a wrong order of calls.
    warnings.filterwarnings("ignore", message=r".*`lr_scheduler.step\(\)` before `optimizer.step\(\)`.*")


@contextlib.contextmanager
def quiet_progress() -> Iterator[None]:
    """transformers draws a bar for the tensors of a GGUF file, also where nobody can see it move."""
    from tqdm.auto import tqdm

    before = tqdm.__init__
    tqdm.__init__ = functools.partialmethod(before, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = before


@contextlib.contextmanager
def quiet_tracing() -> Iterator[None]:
    """torch logs an operation that it cannot do without numbers, beside raising its error."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """peft reads a model's `is_gradient_checkpointing`, for which newer versions of transformers warn.

    It also warns of adapters on tied weights, which `adapters.merged` sees to.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model (has|with) `tie_word_embeddings=True`")
        warnings.filterwarnings("ignore", message="Unsupported layer type .*Experts")
        # Patterns for experts, which it adds to the settings of models that have them.
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield
