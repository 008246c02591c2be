"""Variables of chat templates: --template-args, and those of a row, from the command to the saved model."""

import json
from pathlib import Path

import pytest
from tiny_runs import FLOAT32, cli, write_rows

import zoo
from zoo.data.encoding.encode import encode
from zoo.data.encoding.named import template_args, with_args
from zoo.data.encoding.template import ChatTemplate
from zoo.data.load import load
from zoo.errors import ZooError
from zoo.models.loading import load_template
from zoo.models.start import resolve_start
from zoo.training.fingerprints import of_options
from zoo.training.resuming import Beginning
from zoo.training.run import resolve_options

THINKS = """{%- macro head(role) -%}<|im_start|>{{ role }}{{ ' ' ~ effort if effort is defined else '' }}
{% endmacro -%}
{% for m in messages %}{{ head(m.role) }}
{%- if m.role == 'assistant' and thinking is defined and not thinking %}<think>

</think>

{% endif %}{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}{{ head('assistant') }}
{%- if thinking is defined and not thinking %}<think>

</think>

{% endif %}{% endif %}"""
"""A template with two variables, one of them read in a macro; an asking prompt may close the thoughts."""
CLOSED = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("written", "args"),
    [
        ("enable_thinking=false", {"enable_thinking": False}),
        ("a=True, b = 3 ,c=0.5,d=none,e=high", {"a": True, "b": 3, "c": 0.5, "d": None, "e": "high"}),
        ('{"a": [1, 2], "b": "x,y"}', {"a": [1, 2], "b": "x,y"}),
        ({"a": False}, {"a": False}),
        ("", {}),
        (None, {}),
    ],
)
def test_arguments_are_values_of_their_types(written, args):
    assert template_args(written) == args


@pytest.mark.parametrize(
    ("written", "why"),
    [("thinking", "cannot be read"), ("a=1,a=2", "twice"), ("messages=1", "gives it a value itself"),
     ("a-b=1", "no name of a variable"), ("{a: 1}", "not a JSON object"), ({1: 2}, "no name of a variable")],
)  # fmt: skip
def test_arguments_that_cannot_be_are_refused(written, why):
    with pytest.raises(ZooError, match=why) as refused:
        template_args(written)
    assert "--template-args enable_thinking=false" in refused.value.hint


def test_an_argument_that_the_template_does_not_read_is_refused_with_the_nearest(tiny_tokenizer):
    with pytest.raises(ZooError, match="reads no 'thinkin'. Did you mean 'thinking'"):
        ChatTemplate(tiny_tokenizer, THINKS, args={"thinkin": False})
    with pytest.raises(ZooError) as refused:
        ChatTemplate(tiny_tokenizer, "chatml", args={"foo": 1})
    assert "Did you mean" not in refused.value.message, "'for' is no variable"
    with pytest.raises(ZooError, match="--template none"):
        ChatTemplate(tiny_tokenizer, "none", args={"thinking": False})


def test_what_an_argument_adds_to_the_asking_prompt_is_not_trained(tiny_tokenizer):
    template = ChatTemplate(tiny_tokenizer, THINKS, args={"thinking": False})
    answer = template.answer("Hi", "Ho")
    decode = tiny_tokenizer.decode
    assert decode(answer.prompt).endswith("assistant\n" + CLOSED) and decode(answer.completion) == "Ho<|im_end|>"
    assert answer.prompt.tolist() == template.prompt_ids("Hi")
    bare = ChatTemplate(tiny_tokenizer, THINKS)
    assert "<think>" not in decode(bare.prompt_ids("Hi"))
    assert bare.prompt_ids("Hi", args={"thinking": False}) == template.prompt_ids("Hi")
    assert template.prompt_ids("Hi", args={"thinking": True}) == bare.prompt_ids("Hi")


@pytest.mark.parametrize("kind", ["demonstration", "preference", "feedback", "prompt"])
def test_a_row_has_arguments_of_its_own(tiny_tokenizer, tmp_path, kind):
    fields = {"demonstration": {"completion": "Ho"}, "preference": {"chosen": "Ho", "rejected": "No"},
              "feedback": {"completion": "Ho", "label": True}, "prompt": {}}[kind]  # fmt: skip
    args = [{"effort": "high"}, '{"effort": "low"}', None, {"effort": None}]
    rows = [{"prompt": f"Hi {n}", **fields, "chat_template_kwargs": value} for n, value in enumerate(args)]
    loaded = load(write_rows(tmp_path / "rows.jsonl", rows), kind)
    assert "other columns kept" not in " ".join(loaded.report.notes), "it is a field of the record"
    records = encode(loaded.records, kind, ChatTemplate(tiny_tokenizer, THINKS)).records
    prompts = [record["prompt"] if kind == "prompt" else record[{"preference": "chosen"}.get(kind, "completion")].prompt
               for record in records]  # fmt: skip
    heads = [tiny_tokenizer.decode(ids).split("\n")[0] for ids in prompts]
    assert heads == ["<|im_start|>user high", "<|im_start|>user low", "<|im_start|>user", "<|im_start|>user"]


def test_arguments_of_a_row_that_cannot_be_are_refused_and_unread_ones_told(tiny_tokenizer, tmp_path):
    values = [{"effort": "low"}, "no json", {"messages": []}, 3]
    rows = [{"prompt": f"Hi {n}", "completion": "Ho", "chat_template_kwargs": value} for n, value in enumerate(values)]
    file = write_rows(tmp_path / "rows.jsonl", [*({"prompt": f"{n}", "completion": "Ho"} for n in range(20)), *rows])
    loaded = load(file, "demonstration")
    assert [problem.row for problem in loaded.report.problems if problem.code == "E_TYPE"] == [22, 23, 24]
    template = ChatTemplate(tiny_tokenizer)
    encode(loaded.records, "demonstration", template)
    assert [note for note in template.notes if "reads no 'effort'" in note], template.notes


@pytest.mark.parametrize("value", [False, None, 'high "é"\n', 3, 0.5, ["a", {"b": None}]])
def test_a_saved_template_has_the_arguments_and_writes_the_same(tiny_tokenizer, value):
    source = "  {% if add_generation_prompt %}\n{% endif %}{{ effort | tojson }}" + THINKS
    trained = ChatTemplate(tiny_tokenizer, source, args={"effort": value})
    saved = trained.trained_tokenizer()
    assert ChatTemplate(saved).prompt_text("Hi") == trained.prompt_text("Hi")
    asked = [{"role": "user", "content": "Hi"}]
    same = saved.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert same == trained.prompt_text("Hi") and tiny_tokenizer.chat_template == ChatTemplate(tiny_tokenizer).source
    other = ChatTemplate(saved, args={"effort": "other"})
    assert other.prompt_text("Hi") == ChatTemplate(tiny_tokenizer, source, args={"effort": "other"}).prompt_text("Hi")
    assert with_args(source, {}) == source


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    """A run with an argument, and a checkpoint."""
    folder = tmp_path_factory.mktemp("args")
    (folder / "t.jinja").write_text(THINKS)
    data = write_rows(folder / "rows.jsonl", [{"prompt": f"Say {n}", "completion": f"It is {n}."} for n in range(8)])
    return zoo.train(
        "sft", model=str(tiny_folder), data=data, template=str(folder / "t.jinja"), template_args="thinking=false",
        max_steps=1, score="none", quiet=True, keep_checkpoints=True, out=str(folder), **FLOAT32,
    )  # fmt: skip


def test_a_run_knows_its_arguments(run, tmp_path):
    assert run.config["template_args"] == "thinking=false"
    status, out, err = cli("export", str(run.path), str(tmp_path / "copy"))
    assert status == 0, out + err
    (checkpoint,) = (name.name for name in run.checkpoints.iterdir() if name.name.startswith("step"))
    for name in (str(run.path), f"{run.path}@{checkpoint}", str(tmp_path / "copy")):
        template = load_template(resolve_start(name, str(run.path.parent), print))
        assert template.prompt_text("Hi").endswith(CLOSED), name
        again = load_template(resolve_start(name, str(run.path.parent), print), args={"thinking": True})
        assert CLOSED not in again.prompt_text("Hi"), name


def test_commands_take_arguments(run):
    status, out, err = cli("chat", str(run.path), "--prompt", "Hi", "--template-args", "thinkin=true")
    assert status == 2 and "Did you mean 'thinking'?" in err
    status, out, err = cli("chat", str(run.path), "--prompt", "Hi", "--template-args", "thinking=true",
                           "--max-new-tokens", "2")  # fmt: skip
    assert status == 0, err
    status, out, err = cli(
        "eval", str(run.path), "--template-args", "thinking=true", "--eval", "refusal", "--limit", "2"
    )
    assert status == 0, err
    template = str(Path(run.config["template"]))
    shown = ("data", run.config["data"], "--for", "sft", "--model", run.config["model"], "--template", template)
    status, out, err = cli(*shown, "--json", "--template-args", "thinking=false", "--examples", "1")
    assert status == 0 and "<think>" in json.dumps(json.loads(out)["examples"]), out + err
    for name in ("train", "data", "chat", "eval", "label"):
        status, out, err = cli(name, "--help")
        assert "--template-args" in out, name
    status, out, err = cli("label", run.config["data"], "--kind", "prompt", "--template-args", "nothing")
    assert status == 2 and "--template-args nothing cannot be read" in err


def test_a_resume_with_other_arguments_is_refused(run):
    options = {name: run.config[name] for name in ("model", "data", "template", "template_args", "out")}
    was, is_now = (
        of_options(resolve_options("sft", None, {**options, **more}, "command line")[0])
        for more in ({}, {"template_args": "thinking=true"})
    )
    began = Beginning(run, (), print)
    began.prints = was
    began.compare({"template_args": was["template_args"]})
    with pytest.raises(ZooError, match="template_args was thinking=false, is thinking=true"):
        began.compare({"template_args": is_now["template_args"]})
