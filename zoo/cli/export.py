"""`zoo export`: a trained model as a folder of its own, as a GGUF file, or as a repository of the hub."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli.completion import model_names
from zoo.cli.listings import Adapter
from zoo.cli.models import Out
from zoo.errors import ZooError
from zoo.paths import refuse_existing
from zoo.terminal import Console


def export(
    run: Annotated[
        str,
        typer.Argument(help="A run (path, name, last), or its checkpoint (last@step-200).", autocompletion=model_names),
    ],
    folder: Annotated[Path | None, typer.Argument(help="New folder for the model.")] = None,
    merge: Annotated[bool, typer.Option(help="Merge adapters into the weights they were trained on.")] = False,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    gguf: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Write a GGUF file: f16, q8_0, or with llama.cpp installed q4_k_m and others.",
        ),
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Put the model on the Hugging Face hub, under this name.")
    ] = None,
    private: Annotated[bool, typer.Option(help="With --push: a new repository is seen by nobody else.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --push: list what would go, with sizes, and send nothing.")
    ] = False,
    adapter: Adapter = None,
    out: Out = "runs",
) -> None:
    """Copy a run's model, or an adapter of a folder, to a new folder, with --merge as one model without adapters."""
    from zoo.models.names import adapters_in, with_adapter
    from zoo.paths import typed_path
    from zoo.runs import find_run, split_checkpoint

    _check(folder, dtype, gguf, push, private, dry_run)
    if adapter is None and not adapters_in(typed_path(run)):
        find_run(split_checkpoint(run)[0], out)
    run = with_adapter(run, adapter, out)
    console = Console()
    with _place(folder, push) as place:
        if gguf is None:
            _write(run, place, out, console.say, merge, dtype)
        else:
            _write_gguf(run, place, out, console.say, gguf)
        if folder is not None:
            console.print(f"Written to {folder}")
        if push is not None:
            _push(place, push, private, dry_run, console)


def _check(folder: Path | None, dtype: str, gguf: str | None, push: str | None, private: bool, dry_run: bool) -> None:
    """Raises ZooError for what cannot be done, before anything is loaded."""
    if folder is None and push is None:
        raise ZooError(
            "Where to? Neither a folder nor --push was given.",
            "Name a new folder: zoo export last my-model. Or a name on the hub: zoo export last --push owner/name",
        )
    if folder is not None:
        refuse_existing(folder)
    if dtype not in ("float32", "bfloat16"):
        raise ZooError(f"--dtype does not take '{dtype}'.", "Choose float32 or bfloat16.")
    if push is None and (private or dry_run):
        raise ZooError(f"--{'private' if private else 'dry-run'} is for --push.", "Add --push owner/name.")
    if gguf is not None:
        from zoo.models.gguf import require_kind

        if dtype != "float32":
            raise ZooError("--gguf says how the numbers are written, so --dtype has no effect.", "Leave --dtype out.")
        require_kind(gguf)


@contextlib.contextmanager
def _place(folder: Path | None, push: str | None) -> Iterator[Path]:
    """The folder to write to; one that goes after the upload if none was named."""
    if folder is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="zoo-") as temporary:
        yield Path(temporary) / str(push).rpartition("/")[2]


def _write(run: str, folder: Path, out: str, say: Any, merge: bool, dtype: str) -> None:
    """Write the folder of a model, and its card."""
    import torch

    from zoo.libraries.adapters import merged
    from zoo.libraries.architecture import ending_ids, is_tied
    from zoo.libraries.wrappers import is_adapted
    from zoo.models.loading import load_model, load_template
    from zoo.models.start import export_model, resolve_start

    source = resolve_start(run, out, say)
    model = load_model(source, getattr(torch, dtype))
    if merge:
        if not is_adapted(model):
            raise ZooError(f"The run {run} has no adapters to merge.", f"Leave --merge out: zoo export {run} {folder}")
        was_tied = is_tied(model)
        model = merged(model)
        if was_tied and not is_tied(model):
            say("Embedding and head have weights of their own now: one of the two was trained without the other.")
    template = load_template(source, eos_ids=ending_ids(model))
    export_model(model, template.trained_tokenizer(), folder, template.ends)
    _write_card(folder, source, out, f"The adapters were merged into the weights, which are in {dtype}." * merge)


def _write_card(folder: Path, source: Any, out: str, how: str) -> None:
    from zoo.models.card import base_named, base_of, write_card
    from zoo.models.names import run_of
    from zoo.runs import split_checkpoint

    trained = run_of(source)
    bases = [base_named(str(trained.config["model"]), out) if trained else base_of(source)]
    step = split_checkpoint(source.name)[1]
    write_card(folder, bases, trained, step=int(step.removeprefix("step-")) if step else None, how=how)


def _write_gguf(run: str, folder: Path, out: str, say: Any, kind: str) -> None:
    """Write a folder with a GGUF file and its card. Adapters are merged: the format has whole weights."""
    import torch

    from zoo.libraries.adapters import merged
    from zoo.libraries.architecture import ending_ids
    from zoo.libraries.wrappers import is_adapted
    from zoo.models.gguf import write_gguf
    from zoo.models.loading import load_model, load_template, require_head
    from zoo.models.start import export_model, resolve_start
    from zoo.paths import unique_beside

    source = resolve_start(run, out, say)
    require_head(source, "lm")
    model = load_model(source, torch.float32)
    adapted = is_adapted(model)
    template = load_template(source, eos_ids=ending_ids(model))
    tokenizer = template.trained_tokenizer()
    if template.ends:
        # The format has one token that ends an answer; the program that reads it knows others by their names.
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(template.ends[0])
    with unique_beside(folder) as beside:
        plain = beside.with_name(f"{folder.name}-plain")
        export_model(merged(model) if adapted else model, tokenizer, plain, template.ends)
        beside.mkdir()
        write_gguf(plain, beside / f"{folder.name}-{kind}.gguf", kind, say)
        how = (
            f"{'The adapters were merged into the weights. ' * adapted}The numbers of the file are of the kind {kind}."
        )
        _write_card(beside, source, out, how)
        beside.rename(folder)


def _push(folder: Path, name: str, private: bool, dry_run: bool, console: Console) -> None:
    """Send a folder to the hub, or say what would go."""
    from zoo.libraries import hub
    from zoo.models.card import adapted_base
    from zoo.models.names import Source
    from zoo.numbers import size

    source = Source(name, folder)
    if source.is_adapter and not adapted_base(source):
        raise ZooError(
            "These adapters belong to a model that only this machine has, so nobody else could load them.",
            "Add --merge: one model of both goes to the hub.",
        )
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    total = sum(file.stat().st_size for file in files)
    for file in files:
        console.print(f"{size(file.stat().st_size):>8}  {file.relative_to(folder)}")
    if dry_run:
        console.print(f"{size(total):>8}  in all would go to {name}; nothing was sent.")
    else:
        console.print(f"Sent {size(total)} to {hub.push(folder, name, private)}")
