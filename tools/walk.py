"""Follows one preference row of two to its loss, in the zoo of the working folder: `files hops`.

files: files of zoo in which a function was called for it; hops: calls that lead from a function of one file to a
function of another one. Of `load`, `encode`, `default_collate` and the log-probs of the tiny model; what is only done
once in a process is done before.
"""

import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path

ROOT = Path.cwd()
CORE = str(ROOT / "zoo") + "/"
MOVED = {
    "encode": ("zoo.data.encoding.encode", "zoo.data.encode"),
    "ChatTemplate": ("zoo.data.encoding.template", "zoo.data.template"),
    "default_collate": ("zoo.data.encoding.collate", "zoo.data.collate"),
    "load": ("zoo.data.load",),
    "Policy": ("zoo.models.roles",),
    "make_model": ("zoo.testing.tiny",),
    "make_tokenizer": ("zoo.testing.tiny",),
}


def found(name):
    """A function or class where it stands now, or stood before."""
    for module in MOVED[name]:
        try:
            return getattr(import_module(module), name)
        except ModuleNotFoundError:
            continue
    raise SystemExit(f"{name} is in none of {', '.join(MOVED[name])}")


def walk(row, tokenizer, model):
    """The loss of one row."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text(json.dumps(row) + "\n")
        data = found("load")(str(file), "preference")
    encoded = found("encode")(data.records, data.kind, found("ChatTemplate")(tokenizer))
    batch = found("default_collate")(list(encoded))
    chosen, rejected = found("Policy")(model, "padded").logps(batch.chosen, batch.rejected)
    return (rejected.sum() - chosen.sum()).mean()


def main():
    tokenizer = found("make_tokenizer")()
    model = found("make_model")(len(tokenizer), tokenizer.eos_token_id)
    walk({"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven."}, tokenizer, model)
    files, hops = set(), 0

    def called(frame, event, _):
        nonlocal hops
        here = frame.f_code.co_filename
        if event != "call" or not here.startswith(CORE):
            return
        files.add(here)
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(CORE):
            caller = caller.f_back
        hops += caller is not None and caller.f_code.co_filename != here

    sys.setprofile(called)
    walk({"prompt": "Name a fruit.", "chosen": "A plum.", "rejected": "A saw."}, tokenizer, model)
    sys.setprofile(None)
    print(len(files), hops)


if __name__ == "__main__":
    main()
