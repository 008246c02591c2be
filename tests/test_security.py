"""No secret gets into a message or a file of a run; limits on what is read; what a stranger's file cannot do."""

import itertools
import json
import os
import re
import tempfile
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest
from tiny_runs import cli, float32_flags, plugin_file, write_rows

import zoo
from zoo.errors import ZooError
from zoo.secrets import scrubbed, secret_in

HIDDEN = "Zx81qwertyCanary"
"""In every planted secret, so that one search finds them all."""
PLANTED = {
    "HF_TOKEN": f"hf_{HIDDEN}0123456789", "OPENAI_API_KEY": f"sk-{HIDDEN}-0123456789", "MY_PASSWORD": f"{HIDDEN}/p&1",
    "AWS_SECRET_ACCESS_KEY": f"{HIDDEN}+aws/secret", "ZOO_JUDGE_KEY": f"plain{HIDDEN}",
}  # fmt: skip
SHOWN = {
    f"hf_{HIDDEN}0123456789": "hf_***",
    f"ghp_{HIDDEN}0123456789": "ghp_***",
    f"github_pat_{HIDDEN}_0123456789": "github_pat_***",
    f"sk-proj-{HIDDEN}-0123456789": "sk-***",
    "AKIA0123456789ABCDEF": "AKIA***",
    f"Authorization: Bearer {HIDDEN}.abc": "Authorization: Bearer ***",
    f"https://me:{HIDDEN}@host/x": "https://***@host/x",
    f"https://host/x?a=1&api_key={HIDDEN}&b=2": "https://host/x?a=1&api_key=***&b=2",
    f"wss://host?token={HIDDEN}": "wss://host?token=***",
    f"-----BEGIN RSA PRIVATE KEY-----\n{HIDDEN}\n-----END RSA PRIVATE KEY-----": "-----BEGIN RSA PRIVATE KEY-----***",
}


@pytest.mark.parametrize(("text", "shown"), SHOWN.items(), ids=SHOWN.values())
def test_a_key_is_taken_out_of_a_text_and_its_kind_stays(text, shown):
    assert scrubbed(f"before {text} after").startswith(f"before {shown}")
    assert HIDDEN not in scrubbed(text) and secret_in(text)


def test_ordinary_words_stay():
    for text in (
        "hf_transfer", "sk-learn-tutorials-for-all", "http://127.0.0.1:8000/v1#model", "the basic rules of a bearer",
        "asia-pacific", "a key=value pair", "task-1234567890123456789", "see https://host/a:b@c", "HF_TOKEN is not set",
    ):  # fmt: skip
        assert scrubbed(text) == text and not secret_in(text)


def test_a_secret_variable_is_shown_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_PASSWORD", "correct horse/battery")
    monkeypatch.setenv("SHORT_KEY", "abc")
    monkeypatch.setenv("KEY_FILE", str(tmp_path))
    text = f"correct horse/battery, correct%20horse%2Fbattery, abc, {tmp_path}"
    assert scrubbed(text) == f"$MY_PASSWORD, $MY_PASSWORD, abc, {tmp_path}"
    assert secret_in("x correct horse/battery") == "the value of $MY_PASSWORD"


def test_no_error_holds_a_secret(monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", HIDDEN)
    error = ZooError(f"It holds {HIDDEN}.", "Not sk-abcdefgh-01234567.")
    assert str(error) == "It holds $MY_PASSWORD.\nNot sk-***." and error.args == ("It holds $MY_PASSWORD.",)


REFUSED = {
    "a flag": ["train", "--judge", f"https://me:{HIDDEN}@host/v1#m"],
    "an algorithm's own": ["train", "--algo", "grpo", "--reward", f"judge(model=sk-{HIDDEN}-0123456789)"],
    "the environment's": ["train", "--data", PLANTED["ZOO_JUDGE_KEY"]],
    "labelling": ["label", "starter", "--judge", f"https://host/v1?key={HIDDEN}#m"],
}


@pytest.mark.parametrize("typed", REFUSED.values(), ids=REFUSED)
def test_a_secret_in_an_option_is_refused_before_anything_is_written(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_JUDGE_KEY", PLANTED["ZOO_JUDGE_KEY"])
    status, *said = cli(*typed)
    assert status == 2 and "environment" in "".join(said) and HIDDEN not in "".join(said)
    assert not list(tmp_path.iterdir())


REWARD = """
import os
calls = 0

def leaky(completions, records):
    global calls
    calls += 1
    if calls % 3 == 0:
        return [i / 7 for i, _ in enumerate(completions)]
    secrets = [os.environ[name] for name in {names}]
    raise ValueError("https://me:{hidden}@host " + " ".join(secrets))
"""
ALGORITHM = """
import os, warnings

class Leaky(Algorithm):
    \"\"\"Says all it knows.\"\"\"
    api_version = 2
    data = "demonstration"
    def loss(self, batch, models):
        secrets = " ".join(os.environ[name] for name in {names})
        warnings.warn(secrets)
        raise ValueError(secrets)
"""


def texts_below(*folders):
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                yield path, path.read_bytes()


def test_no_file_of_a_run_and_no_line_holds_a_secret(tmp_path, monkeypatch, tiny_folder):
    """Row 28 of the faults: secrets in the environment, in an address, in a reward's exception and in a warning."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    names = repr(tuple(PLANTED))
    Path("mine.py").write_text(REWARD.format(names=names, hidden=HIDDEN))
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"count {i}"} for i in range(8)])
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"count {i}", "completion": "1 2"} for i in range(8)])
    flags = ["--model", str(tiny_folder), *float32_flags(max_length=64)]
    online = ["train", "--algo", "grpo", "--data", prompts, "--reward", "./mine.py:leaky", "--max-new-tokens", "4",
              "--answers-per-prompt", "2"]  # fmt: skip
    ended = [
        cli(*online, *flags, "--loggers", "csv", "--name", "online"),
        cli("eval", "online", "--reward", "./mine.py:leaky", "--data", prompts, "--limit", "2"),
        cli("train", "--algo", plugin_file(tmp_path, ALGORITHM.format(names=names)), "--data", rows, *flags,
            "--name", "bug"),
        cli("resume", "online"), cli("runs", "online"), cli("runs", "--json"),
    ]  # fmt: skip
    assert "rewards are missing" in ended[0][1] and "$MY_PASSWORD" in ended[0][1], ended[0]
    assert "$HF_TOKEN" in "".join(ended[2][1:]), ended[2]
    printed = "".join(text for _, *texts in ended for text in texts)
    assert HIDDEN not in printed
    written = dict(texts_below("runs", "cache"))
    assert {"run.yaml", "command.txt", "environment.json", "metrics.jsonl", "samples.jsonl", "traceback.txt"} <= {
        path.name for path in written
    }
    assert [path for path, content in written.items() if HIDDEN.encode() in content] == []


# -- limits ----------------------------------------------------------------------------------------------------------


def endless(path):
    """10 GB without a line break, which take no room on the disk."""
    with path.open("wb") as file:
        file.truncate(10**10)


def bomb(path):
    """8 MiB of rows that compress to a thousandth."""
    row = json.dumps({"prompt": "a", "completion": "b" * 2**20}).encode()
    rows = {
        ".csv.gz": b"prompt,completion\n" + b"a,%s\n" % (b"b" * 2**20) * 8,
        ".json.gz": b"[%s]" % b",".join([row] * 8),
    }
    suffix = "".join(path.suffixes)
    path.write_bytes(zlib.compress(rows.get(suffix, (row + b"\n") * 8), 9, wbits=31))


def parquet_bomb(path):
    import pyarrow
    import pyarrow.parquet

    rows = {"prompt": [f"{i}" for i in range(8)], "completion": [f"{i}" + " " * 2**20 for i in range(8)]}
    pyarrow.parquet.write_table(pyarrow.table(rows), path, compression="zstd", use_dictionary=False)


def rows_of(text):
    return lambda path: path.write_text(text)


DEEP = "[" * 100_000
COLUMNS = [f"c{i}" for i in range(100_000)]
TWICE = [f'"{name}":1' for name in COLUMNS[:20_000]] * 2
TOO_MUCH = {
    "a line without an end": ("a.jsonl", endless, "a.jsonl:1: the line is longer than 16 MiB"),
    "a line of a table without an end": ("a.csv", endless, "a.csv:1: the line is longer than 16 MiB"),
    "a document without an end": ("a.json", endless, "may have 2 GiB"),
    "compressed lines": ("a.jsonl.gz", bomb, "more than 200 times its size"),
    "a compressed table": ("a.csv.gz", bomb, "more than 200 times its size"),
    "a compressed document": ("a.json.gz", bomb, "more than 200 times its size"),
    "compressed columns": ("a.parquet", parquet_bomb, "more than 200 times its size"),
    "a deep row": ("a.jsonl", rows_of(f'{{"prompt": {DEEP}\n'), "a.jsonl:1 [E_JSON] line: holds lists"),
    "a deep row that can be parsed": (
        "a.jsonl", rows_of(f'{{"prompt": {"[" * 100}{"]" * 100}}}\n'), "a.jsonl:1 [E_LIMIT] row: holds lists or objects"
    ),
    "a deep document": ("a.json", rows_of(DEEP), "more than 64 deep"),
    "a wide row": ("a.jsonl", rows_of(json.dumps(dict.fromkeys(COLUMNS, 1))), "a.jsonl:1 [E_LIMIT] row: has 100,000"),
    "a wide table": ("a.csv", rows_of(f"{','.join(COLUMNS)}\n{',' * 99_999}\n"), "a.csv:1 [E_LIMIT] row: has 100,000"),
    "keys that come twice": ("a.jsonl", rows_of(f"{{{','.join(TWICE)}}}"), "has 20,000 columns"),
    "a large row": (
        "a.json", rows_of(json.dumps([{"prompt": "a", "completion": "b" * (2**24 + 1)}])), "at most 16,777,216 are read"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "write", "says"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_data_beyond_a_limit_is_refused_in_little_memory(tmp_path, monkeypatch, name, write, says):
    # Of the document only its length is tried, for it is read as a whole.
    monkeypatch.setattr("zoo.limits.DOCUMENT", 2**21 if write is endless else 2**31)
    monkeypatch.setattr("zoo.limits.UNCOUNTED", 2**20)
    write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    try:
        status, _, said = cli("data", name, "--for", "demonstration")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    says = says.replace("2 GiB", "2 MiB")
    assert status == 2 and says in said, said[:500]
    assert most < 400 * 2**20


def test_a_row_of_a_million_characters_is_read(tmp_path):
    from zoo.data.load import load

    rows = [{"prompt": "a" * 10**6, "completion": "b"}, {"prompt": "a", "completion": "b"}]
    assert len(load(write_rows(tmp_path / "a.jsonl", rows), "demonstration")) == 2


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
YAML = {
    "aliases of aliases": (LAUGHS, "more than 100,000 values"),
    "an alias of itself": ("data: &a [*a]\n", "holds itself"),
    "brackets": ("data: " + DEEP, "more than 64 deep"),
    "indentation": ("\n".join(" " * i + "a:" for i in range(100)), "more than 64 deep"),
    "a large file": ("# " + "x" * 2**20, "larger than 1 MiB"),
    "a tag of Python": ("data: !!python/object/apply:os.system [id]\n", "not valid YAML"),
    "a tag that does not fit": ("data: !!timestamp x\n", "not valid YAML"),
    "a number of many digits": (f"data: {'9' * 10_000}\n", "not valid YAML"),
}


@pytest.mark.parametrize(("text", "says"), YAML.values(), ids=YAML)
def test_options_beyond_a_limit_are_refused(tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(text)
    for typed in (["train", "--config", "run.yaml"], ["reproduce", "./run.yaml"]):
        status, _, said = cli(*typed)
        assert status == 2 and says in said and "run.yaml" in said, said[:500]


def test_a_sweep_of_too_many_stages_is_refused(tmp_path):
    from recipe_mistakes import GOOD

    values = ", ".join(map(str, range(100)))
    file = tmp_path / "wide.yaml"
    file.write_text(GOOD.replace("sweep: {beta: [0.05, 0.10]}", f"sweep: {{beta: [{values}], lr: [{values}]}}"))
    status, _, said = cli("recipes", file)
    assert status == 2 and "the sweep has 10,000 stages; at most 1,000 are read" in said


TEMPLATES = {
    "for ever": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "CPU time"),
    "all memory": ("{{ 'a' * 10**11 }}", "of memory"),
    "doubling": (
        "{% set n = namespace(a='aaaaaaaa') %}{% for i in range(40) %}{% set n.a = n.a + n.a %}{% endfor %}",
        "of memory",
    ),
    "what is not its own": ("{{ messages.__class__.__base__.__subclasses__() }}", "unsafe"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "says"), TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_that_takes_too_much_is_refused(tmp_path, monkeypatch, tiny_folder, text, says):
    monkeypatch.setattr("zoo.data.encoding.rendering.TEMPLATE_SECONDS", 0.3)
    monkeypatch.setattr("zoo.data.encoding.rendering.TEMPLATE_BYTES", 2**27)
    (tmp_path / "evil.jinja").write_text(text + "{{ messages[0].content }}")
    status, _, said = cli(
        "data", "starter", "--model", tiny_folder, "--template", tmp_path / "evil.jinja", "--limit", "3"
    )
    assert status == 2 and says in said and "chat template" in said, said


REWARDS = {
    "a power": ("9**9**9", "not allowed in a reward"),
    "brackets": ("(" * 4000 + "length" + ")" * 4000, "cannot be read"),
    "a long sum": ("+".join(["length"] * 1400), "too deep"),
    "a long text": ("length" + " " * 10_000, "at most 10,000 are read"),
}


@pytest.mark.parametrize(("text", "says"), REWARDS.values(), ids=REWARDS)
def test_a_reward_beyond_a_limit_is_refused(text, says):
    from zoo.options.expression import Expression

    with pytest.raises(ZooError, match=says):
        Expression(text)


def test_the_page_has_every_limit():
    from zoo import limits

    page = (Path(zoo.__file__).parent.parent / "docs" / "security.md").read_text(encoding="utf-8")
    table = page.split("## Limits")[1].split("\n## ")[0]
    for shown in (
        limits.size(limits.ROW), f"{limits.COLUMNS:,}", f"{limits.DEPTH}", f"{limits.EXPANSION} times",
        limits.size(limits.UNCOUNTED), limits.size(limits.DOCUMENT), limits.size(limits.ANSWER),
        limits.size(limits.YAML_BYTES),
        f"{limits.YAML_VALUES:,}", f"{limits.EXPRESSION:,}", f"{limits.STAGES:,} stages", f"{limits.FILES:,} |",
        f"{limits.SEEDS:,} |",
        f"{limits.TEMPLATE_SECONDS} s",
        limits.size(limits.TEMPLATE_BYTES),
    ):  # fmt: skip
        assert shown in table, shown


# -- faults that no other file injects -------------------------------------------------------------------------------

ROWS = {
    b'{"prompt": ': "[E_JSON]", b'{"prompt": 3, "chosen": "a", "rejected": "b"}': "[E_TYPE]",
    b'{"prompt": "a", "chosen": "same", "rejected": "same"}': "[E_IDENTICAL_PAIR]",
    b'{"prompt": "a", "chosen": "", "rejected": "b"}': "[E_EMPTY_RESPONSE]",
    b'{"prompt": "\xff", "chosen": "a", "rejected": "b"}': "not valid UTF-8 at byte 13",
    b'{"prompt": "a\x00", "chosen": "a", "rejected": "b"}': "NUL character",
    b'{"prompt": "\\ud83d", "chosen": "a", "rejected": "b"}': "lone surrogate",
}  # fmt: skip


def test_each_sort_of_bad_row_is_told_with_its_line_and_too_many_end_the_command(tmp_path, tiny_folder, monkeypatch):
    """Row 15."""
    monkeypatch.chdir(tmp_path)
    good = b'{"prompt": "a", "chosen": "b", "rejected": "c"}'
    Path("pairs.jsonl").write_bytes(b"\n".join([good, *ROWS]))
    status, _, said = cli("data", "pairs.jsonl", "--for", "preference", "--model", tiny_folder)
    assert status == 2 and "7 of 8 rows cannot be used" in said or "4 of 8 lines cannot be read" in said, said
    for number, why in enumerate(ROWS.values(), start=2):
        assert any(f"pairs.jsonl:{number} " in line and why in line for line in said.splitlines()), (number, why, said)


def test_a_tokenizer_of_another_model_is_refused_before_training(tmp_path, tiny_folder):
    """Row 19."""
    import shutil

    from zoo.testing.tiny import make_tokenizer

    folder = tmp_path / "mixed"
    shutil.copytree(tiny_folder, folder)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"<more{i}>" for i in range(500)])
    tokenizer.save_pretrained(folder)
    data = write_rows(tmp_path / "a.jsonl", [{"prompt": f"{i}", "completion": "b"} for i in range(8)])
    status, _, said = cli("train", "--model", folder, "--data", data, "--out", tmp_path / "runs")
    assert status == 2 and "has embeddings for" in said and not (tmp_path / "runs").exists(), said


@pytest.fixture
def trained(tmp_path, tiny_folder):
    """Trains a little in a folder of this name: its metrics and weights, as bytes."""
    data = write_rows(tmp_path / "a.jsonl", [{"prompt": f"{i}", "completion": "b c"} for i in range(8)])

    def train(name):
        out = tmp_path / name
        typed = ["train", "--algo", "sft", "--model", tiny_folder, "--data", data, "--out", out, "--save-every", "1"]
        assert cli(*typed, *float32_flags())[0] == 0
        (run,) = out.iterdir()
        return [(run / file).read_bytes() for file in ("metrics.jsonl", "model/model.safetensors")]

    return train


def test_a_clock_that_jumps_changes_nothing(trained, monkeypatch):
    """Row 26: days forwards and backwards at every look at the time of day."""
    plain, real, jumps = trained("plain"), time.time, itertools.cycle((0, 86400 * 400, -86400 * 30))
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    assert trained("jumped") == plain


def test_temporary_files_on_another_disk_change_nothing(trained, tmp_path, monkeypatch):
    """Row 2: nothing that has a name in the run comes from there, for it could not be renamed."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("There is no other disk here.")
    plain, renamed, replace = trained("plain"), [], os.replace
    monkeypatch.setattr(
        os, "replace", lambda old, new, **more: (renamed.append(str(old)), replace(old, new, **more))[1]
    )
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        assert trained("elsewhere") == plain
    assert renamed and not [name for name in renamed if name.startswith(folder)]


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a/../../outside", ".", ""])
def test_a_name_cannot_lead_out_of_the_folder_of_runs(tmp_path, monkeypatch, name):
    """Row 27."""
    monkeypatch.chdir(tmp_path)
    status, _, said = cli("train", "--data", "starter", "--name", name)
    assert status == 2 and ("is not a name for a run" if name else "Option 'name' (command line) is empty") in said
    assert not list(tmp_path.iterdir())


# -- the page of faults ----------------------------------------------------------------------------------------------


def test_every_fault_of_the_list_is_held_by_tests_that_exist():
    """Every row, from 1 to 28, names its tests as `tests/test_x.py::test_y`."""
    root = Path(zoo.__file__).parent.parent
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", (root / "docs" / "faults.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 29))
    for number, row in rows:
        named = re.findall(r"`(tests/\w+\.py)::(\w+)`", row.split("|")[-1])
        assert named, f"Row {number} names no test."
        for file, test in named:
            text = (root / file).read_text(encoding="utf-8") if (root / file).is_file() else ""
            assert f"\ndef {test}(" in text, f"Row {number}: there is no {file}::{test}."
