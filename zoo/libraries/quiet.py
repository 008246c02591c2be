"""Keeping banners and hints of the libraries underneath out of the output."""

from __future__ import annotations

import logging
import warnings


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
