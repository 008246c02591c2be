"""A folder with the files and runs that a page speaks of: not a test file itself."""

import functools
import json
import os
import re
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
from documented import ROOT, pages

import zoo
from zoo.conversion.convert import convert
from zoo.testing.tiny import tiny_rows

EACH = 24
"""Rows of a file: enough for one step of any algorithm, and for rows that are held out."""
REWARDS = """

def score(completions, records):
    return [float(len(text)) for text in completions]


def politeness(completions, records, scale: float = 1.0):
    return [scale * ("please" in text.lower()) for text in completions]
"""
TEMPLATE = (
    "{%- for message in messages -%}\n### {{ message.role }}\n{{ message.content }}"
    '{{ eos_token if message.role == "assistant" }}\n{% endfor -%}\n'
    "{%- if add_generation_prompt -%}\n### assistant\n{% endif -%}\n"
)


def chats(count):
    return [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in tiny_rows("demonstration", count)
    ]


def questions(count):
    return [{"prompt": f"What is {i} and 1?", "question": f"What is {i} and 1?", "answer": str(i + 1),
             "solution": f"{i} and 1 is {i + 1}.", "subject": ("math", "code")[i % 2]}
            for i in range(count)]  # fmt: skip


def prose(number):
    """Text that every rule of curation lets pass, another one for each number."""
    place = "river meadow harbour castle garden bridge market forest island valley tower village".split()[number % 12]
    return (
        f"Nobody in town knows who first built the {place} with {number} doors.\n"
        f"An old song says that its stones came over the sea, {number + 2} ships at a time.\n"
        f"People have walked there every Sunday since, and children still count the steps.\n"
        f"In winter, when snow lies on the roofs, you can hear a bell that nobody rings.\n"
        f"My aunt painted it {number + 3} times and never sold one of those pictures.\n"
        f"If you come by train, ask the baker opposite the station for the shortest way."
    )


def written_rows(count):
    return [
        {"prompt": f"What have you heard of the place with {i} doors, and who told you of it?",
         "chosen": "\n".join(prose(i).split("\n")[:2]), "rejected": "I cannot say."} for i in range(count)
    ]  # fmt: skip


ROWS = {
    "pairs": lambda: tiny_rows("preference", EACH),
    **dict.fromkeys(("rows", "unique", "good"), lambda: written_rows(EACH)),
    "test": lambda: [
        {
            "prompt": f"Which lighthouse on the southern coast has {i} windows that look to the north?",
            "completion": f"The one of {i} keepers.",
        }
        for i in range(EACH)
    ],
    "pages": lambda: [{"text": prose(i)} for i in range(EACH)],
    "labelled": lambda: [{**row, "p_chosen": 0.75} for row in tiny_rows("preference", EACH)],
    "answers": lambda: tiny_rows("demonstration", EACH),
    "stories": lambda: tiny_rows("demonstration", EACH),
    "prompts": lambda: questions(EACH),
    "questions": lambda: questions(EACH),
    "gsm8k": lambda: questions(EACH),
    "solutions": lambda: tiny_rows("stepwise", EACH),
    "chats": lambda: chats(EACH),
    **dict.fromkeys(("documents", "worked"), lambda: tiny_rows("text", EACH)),
}
"""What the files hold that pages speak of without showing them; the others are the pages' own blocks."""

RUNS = {
    **dict.fromkeys(
        ("mine", "first", "second", "sft-1", "sft-2", "sft-3", "agent", "sft-smollm2-135m-1", "constitutional-1"), "sft"
    ),
    **dict.fromkeys(("rm-1", "rm-2", "rm-gold", "rm-smollm2-135m-1"), "rm"),
    "rater": "rm",
    "dpo-smollm2-135m-3": "stopped",
}
"""The runs that pages speak of and do not make, and what each is."""


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@functools.cache
def blocks(text):
    """{name: content} of the blocks with a file's name above them."""
    named = re.findall(r"^<!-- ([\w.]+\.\w+) -->\n```\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return dict(named)


def write_file(command, name, folder):
    """The file of that name, from the command's page, ROWS, or another page. Nothing where none has it."""
    own = blocks(pages().get(command.page, ""))
    elsewhere = {key: content for text in pages().values() for key, content in blocks(text).items()}
    stem, _, ending = name.rpartition(".")
    file = folder / name
    if ending == "jsonl" and stem in ROWS and name not in own:
        write_rows(file, renamed(ROWS[stem](), command.text))
    elif "reproduce" in command.text:
        shutil.copy(ROOT / "recipes" / "ipo.yaml", file)
    elif content := own.get(name) or elsewhere.get(name):
        file.write_text(content + (REWARDS if name == "mine.py" else ""), encoding="utf-8")
    elif name == "mine.jinja":
        file.write_text(TEMPLATE, encoding="utf-8")
    elif name == "pairs.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS[stem]()), file)


def renamed(rows, text):
    """The rows with the columns that `--columns ours=theirs` names."""
    for ours, theirs in re.findall(r"\b(\w+)=(\w+)", " ".join(re.findall(r"--columns (\S+)", text))):
        rows = [row if theirs in row else {theirs: row[ours], **{k: row[k] for k in row if k != ours}} for row in rows]
    return rows


def make_runs(model):
    """In the working directory one run of each sort that RUNS names, and one with adapters."""
    write_rows(Path("pairs.jsonl"), ROWS["pairs"]())
    common = {"data": "pairs.jsonl", "model": model, "quiet": True, "max_steps": 1, "batch_size": 4,
              "precision": "32-true", "eval_fraction": 0.0}  # fmt: skip
    zoo.train("sft", name="sft", **common)
    zoo.train("sft", name="lora", lora=True, **common)
    zoo.train("rm", name="rm", **common)
    stopped = zoo.train("dpo", name="stopped", save_every=1, keep_checkpoints=True, **{**common, "max_steps": 2})
    shutil.rmtree(stopped.path / "model")
    (stopped.path / "summary.json").unlink()


def put_run(stock, kind, name, folder, last=False):
    """A run of that sort under this name; it is the newest if it is to be `last`, else older than all others."""
    place = folder / "runs" / name
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(stock / "runs" / kind, place)
    os.utime(place / "run.yaml", None if last else (0, 0))
    if not (folder / "pairs.jsonl").exists():
        shutil.copy(stock / "pairs.jsonl", folder)


# -- before a command --------------------------------------------------------------------------------------------

LAST = {
    r"zoo resume": "stopped",
    r"--merge": "lora",
    r"--reward last": "rm",
}
"""What the newest run is for a command that says nothing itself of how it came about."""


CURATED = ["deduplicated.jsonl", "filtered.jsonl", "uncontaminated.jsonl"]
"""Where the verbs of `zoo data` write by default."""


def prepare(command, folder, stock, model):
    """Put into the folder what the command reads and is not there yet, and take away what it is to write."""
    text = command.text
    for target in targets(command.words):
        remove(folder / target)
    for name in re.findall(r"[\w-]+\.(?:jsonl|yaml|jinja|parquet|py)\b", text):
        if name not in targets(command.words) and not (folder / name).exists():
            write_file(command, name, folder)
    for stem in re.findall(r"([\w-]+)\.zoo\.yaml", text):
        if not (folder / f"{stem}.zoo.yaml").exists():
            write_file(command, f"{stem}.yaml", folder)
            made = convert(folder / f"{stem}.yaml", algo="dpo" if stem == "trl" else None)
            (folder / f"{stem}.zoo.yaml").write_text(made.text(f"{stem}.yaml"), encoding="utf-8")
    for name, kind in RUNS.items():
        mentioned = re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)
        if mentioned and f"runs/{name}" not in targets(command.words) and not (folder / "runs" / name).exists():
            put_run(stock, kind, name, folder)
    if re.search(r"\b(last|first second)\b", text) or re.fullmatch(r"zoo (eval|chat|runs|resume).*", text):
        newest = next((kind for pattern, kind in LAST.items() if re.search(pattern, text)), None)
        if newest or not any(file.stat().st_mtime for file in folder.glob("runs/*/run.yaml")):
            put_run(stock, newest or "sft", f"the-{newest or 'sft'}-run", folder, last=True)
    if "my-model" in text and "export" not in text and not (folder / "my-model").exists():
        (folder / "my-model").symlink_to(model)
    if "shards/" in text and not (folder / "shards").exists():
        (folder / "shards").mkdir()
        for number in range(2):
            write_rows(folder / "shards" / f"{number}.jsonl", ROWS["pairs"]())
    if "my-folder" in text and not (folder / "my-folder").exists():
        (folder / "my-folder").mkdir()
        write_rows(folder / "my-folder" / "test.jsonl", ROWS["pairs"]())


def targets(words):
    """What the command writes, as far as that must not be there: paths in the folder."""
    command, *first = words[1:3]
    after = {flag: value for flag, value in zip(words, words[1:], strict=False) if flag.startswith("--")}
    rows = [after[flag] for flag in ("--out", "--copy") if flag in after]
    rows += {"label": ["labelled.jsonl"], "data": CURATED}.get(command, []) if "--out" not in after else []
    reports = [name.replace(".jsonl", ending) for name in rows for ending in (".report.json", ".json")]
    run = [f"runs/{after['--name']}"] if "--name" in after else []
    others = {
        "export": words[3:4],
        "soup": [after.get("--to", "none")],
        "convert-config": [f"{Path(name).stem}.zoo.yaml" for name in first] + [after.get("--out", "none")],
        "new-plugin": [f"zoo-{name}" for name in first],
    }.get(command, [])
    return [*rows, *reports, *run, *others]


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
