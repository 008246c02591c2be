"""What a run needs is looked for before anything is loaded, and told all at once; --dry-run is that look."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_runs import cli, data_for, demonstrations, preferences, trainer, write_rows

import zoo
from zoo.data.encoding.named import check_syntax, named_templates
from zoo.data.glance import glance
from zoo.data.sources.reading import Reading
from zoo.errors import ZooError
from zoo.models.names import look_for
from zoo.testing.architectures import make
from zoo.training.outlook import look_ahead
from zoo.training.run import resolve_options


@pytest.fixture
def place(tmp_path, tiny_folder, monkeypatch):
    """An empty working directory with the tiny model as `tiny` and forty pairs."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    write_rows(tmp_path / "pairs.jsonl", preferences(40))
    return tmp_path


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    """The stages of a run are not even imported."""
    monkeypatch.setattr("zoo.training.execution.Execution", None)


def look(algo="dpo", **options):
    options = {"model": "tiny", "data": "pairs.jsonl", **options}
    return look_ahead(*resolve_options(algo, None, options, "command line"))


# -- what is missing -----------------------------------------------------------------------------------------------

MISSING = {
    "data": ({"data": "nothere.jsonl"}, "nothere.jsonl"),
    "held-out data": ({"eval_data": "nothere.jsonl"}, "nothere.jsonl"),
    "later data": ({"decay_data": "nothere.jsonl", "schedule": "wsd"}, "nothere.jsonl"),
    "split": ({"split": "tset"}, "no split 'tset'"),
    "column": ({"columns": "prompt=qestion"}, "no column 'qestion'"),
    "model": ({"model": "./nothere"}, "There is no model at ./nothere"),
    "reference": ({"reference": "./nothere"}, "There is no model at ./nothere"),
    "template": ({"template": "nothere.jinja"}, "nothere.jinja"),
    "name of a template": ({"template": "ChatML"}, "Did you mean 'chatml'?"),
    "rows as a template": ({"template": "pairs.jsonl"}, "pairs.jsonl is no chat template"),
    "text as a template": ({"template": "mine.py"}, "mine.py is no chat template"),
    "template that does not end": ({"template": "{% for m in messages %}\n{{ m }"},
                                   "is no program in Jinja: line 2: unexpected"),
    "filter of a template": ({"template": "{{ messages | nosuch }}"}, "line 1: No filter named 'nosuch'."),
    "break of a template": ({"template": "{{ messages }}{% break %}"}, "'break' outside loop"),
    "variable of a template": ({"template": "chatml", "template_args": "foo=1"}, "The chat template reads no 'foo'."),
    "variable of the model's template": ({"template_args": "add_generation_promp=1"},
                                         "Did you mean 'add_generation_prompt'?"),
    "variable of no template": ({"template": "none", "template_args": "foo=1"}, "has no template that takes"),
    "logger": ({"loggers": "wandbb"}, "Did you mean 'wandb'?"),
    "engine": ({"algo": "ppo", "engine": "vlm"}, "Did you mean 'vllm'?"),
    "option of an engine": ({"algo": "ppo", "engine": "vllm(urll=x)"}, "Did you mean 'url'?"),
    "value of a guard": ({"guards": "loss_spike(k=nan)"}, "k must be above 0"),
    "evaluation": ({"score": "perplexty"}, "Did you mean 'perplexity'?"),
    "option of an evaluation": ({"score": "pass_at_k(k=8)"}, "needs data"),
    "kind of the data": ({"algo": "kto", "data": "texts.jsonl"}, "is of kind 'text'"),
    "reward": ({"algo": "ppo", "reward": "exct"}, "Did you mean 'exact'?"),
    "option of a reward": ({"algo": "ppo", "reward": "exact(filed=a)"}, "no option filed"),
    "function": ({"algo": "ppo", "reward": "mine.py:wrong"}, "no function 'wrong'"),
    "module of a function": ({"algo": "ppo", "reward": "nothere.py:right"}, "There is no file nothere.py"),
    "reward model": ({"algo": "ppo", "reward": "tiny"}, "not a reward model"),
    "gold reward": ({"algo": "ppo", "reward": "mine.py:right", "gold_reward": "golld"}, "Did you mean 'gold'?"),
    "judge": ({"algo": "rlaif", "judge": "./nothere"}, "There is no model at ./nothere"),
    "judge of a reward": ({"algo": "ppo", "reward": "judge(modl=tiny)"}, "no option modl"),
    "address of a judge": ({"algo": "rlaif", "judge": "https://host/v1"}, "names no model"),
    "place for the run": ({"out": "pairs.jsonl/runs"}, "is a file"),
    "name of the run": ({"name": "last"}, "not a name for a run"),
    "machine": ({"num_nodes": 2}, "or srun: `zoo launch --dry-run train …` checks the options"),
    "accelerator": ({"accelerator": "foo"}, "must be one of auto, cpu, gpu, cuda, mps"),
    "device": ({"accelerator": "mps"}, "sees no MPS device"),
    "room for an answer": ({"max_length": 1}, "must be 2 or more"),
    "layer for adapters": ({"lora": True, "lora_targets": "nothere"}, "nothere names no layer of LlamaForCausalLM"),
    "one of the layers for adapters": ({"lora": True, "lora_targets": "q_proj,v_prj"},
                                       "v_prj names no layer of LlamaForCausalLM. Did you mean 'v_proj'?"),
    "layer beside all": ({"lora": True, "lora_targets": "all-linear,nosuch"}, "nosuch names no layer"),
    "experts for adapters": ({"lora": True, "lora_targets": "experts"}, "this model has no experts"),
    "layer whose rows are trained": ({"lora": True, "lora_targets": "lm_head", "new_tokens": "<x>"},
                                     "--lora-targets names lm_head, whose rows"),
    "routers to freeze": ({"freeze_routers": True}, "--freeze-routers: LlamaForCausalLM has no routers"),
    "routers to balance": ({"router_aux_loss": 0.1}, "--router-aux-loss 0.1: LlamaForCausalLM has no routers"),
    "judge that nobody asks": ({"judge": "./nothere"}, "There is no model at ./nothere"),
    "size of a rollout": ({"algo": "ppo", "reward": "mine.py:right", "answers_per_prompt": 3, "batch_size": 4},
                          "cannot hold 3 answers"),
}  # fmt: skip


OF_EXPERTS = {
    "misspelt beside experts": ("mixtral", {"lora": True, "lora_targets": "experts,v_prj"}, "Did you mean 'v_proj'?"),
    "dropout on experts": ("mixtral", {"lora": True, "lora_targets": "experts", "lora_dropout": 0.1}, "have dropout"),
    "router that is frozen": ("mixtral", {"lora": True, "lora_targets": "gate", "freeze_routers": True},
                              "Nothing is left to train"),
    "no auxiliary loss": ("deepseek_v3", {"router_aux_loss": 0.1}, "DeepseekV3ForCausalLM has no auxiliary loss"),
}  # fmt: skip


@pytest.mark.parametrize("case", OF_EXPERTS)
def test_what_does_not_fit_a_mixture_of_experts_is_refused_before_anything_is_loaded(place, nothing_is_loaded, case):
    kind, options, says = OF_EXPERTS[case]
    model = make(kind)
    model.resize_token_embeddings(258)
    model.save_pretrained(place / "moe")
    shutil.copy(place / "tiny" / "tokenizer.json", place / "moe")
    with pytest.raises(ZooError, match=says):
        look(model="moe", **options)


DAMAGED = {
    "cut weights": ("model.safetensors", lambda content: content[:-1000], "is cut off: it has "),
    "no weights": ("model.safetensors", lambda content: b"<html>", "is no safetensors file"),
    "architecture": ("config.json", lambda content: content.replace(b'"llama"', b'"foo"'), "the architecture 'foo'"),
    "tokenizer": ("tokenizer.json", None, "has no tokenizer"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_model_that_cannot_be_loaded_is_refused_before_anything_is_loaded(place, nothing_is_loaded, case):
    name, damage, says = DAMAGED[case]
    shutil.copytree(place / "tiny", place / "copy")
    file = place / "copy" / name
    if damage is None:
        file.unlink()
        (place / "copy" / "tokenizer_config.json").unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ZooError, match=says):
        look(model="copy")


@pytest.mark.parametrize("processes, wrong", [(1, False), (2, True)])
@pytest.mark.parametrize("names", [("SLURM_PROCID", "SLURM_NTASKS"), ("TORCHELASTIC_RUN_ID", "WORLD_SIZE")])
def test_processes_that_the_options_do_not_ask_for_are_refused(place, monkeypatch, names, processes, wrong):
    monkeypatch.setenv(names[0], "0")
    monkeypatch.setenv(names[1], str(processes))
    with pytest.raises(ZooError, match="started 2 processes, but") if wrong else contextlib.nullcontext():
        look()


@pytest.mark.parametrize("case", MISSING)
def test_a_run_that_lacks_something_is_refused_before_anything_is_loaded(place, nothing_is_loaded, case):
    options, says = MISSING[case]
    write_rows(place / "texts.jsonl", [{"text": f"text {i}"} for i in range(30)])
    (place / "mine.py").write_text("def right(completions, records):\n    return [1.0]\n")
    options = {"algo": "dpo", "model": "tiny", "data": "pairs.jsonl", "quiet": True, **options}
    with pytest.raises(ZooError) as caught:
        zoo.train(**options)
    assert says in str(caught.value)
    assert not (place / "runs").exists()


def test_a_template_file_and_the_model_s_own_are_read_before_anything_is_loaded(place, nothing_is_loaded, tiny_folder):
    broken = "{% for m in messages %}{{ m.content }"
    (place / "broken.jinja").write_text(broken, encoding="utf-8")
    with pytest.raises(
        ZooError, match=r"The chat template .*broken\.jinja is no program in Jinja: line 1: unexpected '}'"
    ):
        look("sft", template="broken.jinja")
    shutil.copytree(tiny_folder, place / "own")
    (place / "own" / "chat_template.jinja").write_text(broken, encoding="utf-8")
    with pytest.raises(ZooError, match=r"The chat template of own is no program in Jinja"):
        look("sft", model="own")


@pytest.mark.parametrize("name", named_templates())
def test_the_tags_that_transformers_adds_are_jinja(name):
    check_syntax(named_templates()[name].text, name)
    check_syntax("{% for m in messages %}{% generation %}{{ m }}{% endgeneration %}{% continue %}{% endfor %}", "mine")


def test_all_that_is_missing_is_told_at_once(place):
    arguments = ["--model", "./nomodel", "--data", "nodata.jsonl", "--loggers", "nologger", "--score", "noscore"]
    (status, out, err), (planned, plan, missing) = (
        cli("train", "--algo", "dpo", *arguments, *dry) for dry in ([], ["--dry-run"])
    )
    assert status == planned == 2 and not out and err == missing
    for name in ("nomodel", "nodata.jsonl", "nologger", "noscore"):
        assert name in err
    assert plan.startswith("option") and "Everything that the run needs is there" not in plan


def test_few_steps_and_epochs_that_end_before_the_steps_asked_for_are_told(place):
    few, early = "Fewer than 10 steps: a smaller", "--epochs 1 ends before --max-steps 500: raise --epochs."
    for options, told in (([], few), (["--max-steps", "500"], early), (["--max-steps", "1"], "")):
        out = cli("train", "--algo", "dpo", "--model", "tiny", "--data", "pairs.jsonl", "--epochs", "1", *options)[1]
        assert [text for text in (few, early) if text in " ".join(out.split())] == ([told] if told else [])


def test_what_only_the_hub_may_have_is_not_called_there(place):
    hub = "Whether the hub has no/data shows when the run starts. Everything else is there."
    here = "Everything that the run needs is there. Leave --dry-run out to start it."
    for data, end in (("no/data", hub), ("pairs.jsonl", here)):
        _, plan, _ = cli("train", "--algo", "dpo", "--model", "tiny", "--data", data, "--dry-run")
        assert plan.splitlines()[-1] == end


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(place, nothing_is_loaded):
    (place / "locked").mkdir(mode=0o500)
    with pytest.raises(ZooError, match="The run folder cannot be made in .*locked.*Permission denied"):
        zoo.train("dpo", model="tiny", data="pairs.jsonl", out="locked/runs")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a place in which nobody can make a file")
def test_where_nobody_can_make_a_file_a_run_is_refused_to_the_administrator_too(place, nothing_is_loaded):
    with pytest.raises(ZooError, match="The run folder cannot be made in /proc/nowhere"):
        zoo.train("dpo", model="tiny", data="pairs.jsonl", out="/proc/nowhere")


def test_a_resume_looks_too(place):
    run = trainer(place, "tiny")("dpo", name="mine", max_steps=1, data="pairs.jsonl")
    (run.path / "summary.json").unlink()
    (place / "pairs.jsonl").unlink()
    with pytest.raises(ZooError, match="pairs.jsonl"):
        zoo.resume(run.path, quiet=True)


def test_another_process_of_a_run_does_not_look(monkeypatch):
    from zoo.training.outlook import is_first_process

    assert is_first_process()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_first_process()


# -- what is there -------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_what_it_found_and_makes_nothing(place):
    before = sorted(place.iterdir())
    status, out, err = cli("train", "--algo", "dpo", "--model", "tiny", "--data", "pairs.jsonl", "--dry-run")
    assert status == 0, err
    for part in ("pairs.jsonl: 40 records of kind preference", "tiny: llama, 2 layers", "runs/dpo-tiny-1/",
                 "about 5, of 8 examples each, about"):  # fmt: skip
        assert part in out
    assert sorted(place.iterdir()) == before


def test_the_same_as_json(place):
    status, out, _ = cli("train", "--algo", "dpo", "--model", "tiny", "--data", "pairs.jsonl", "--dry-run", "--json")
    told = json.loads(out)
    assert status == 0 and told["options"]["data"] == {"value": "pairs.jsonl", "from": "command line"}
    assert told["found"]["steps"] == 5 and told["found"]["run"] == "runs/dpo-tiny-1"
    assert cli("train", "--json")[0] == 2


@pytest.mark.parametrize(
    ("algo", "options"),
    [("sft", {}), ("sft", {"epochs": 2.5, "eval_fraction": 0.2}), ("sft", {"limit": 10}), ("sft", {"max_steps": 3})],
)
def test_the_steps_it_tells_are_those_of_the_run(place, algo, options):
    data = write_rows(place / "rows.jsonl", demonstrations(60))
    options = {"batch_size": 4, "data": data, "model": "tiny", "eval_fraction": 0.0, **options}
    outlook = look(algo, **options)
    run = trainer(place, "tiny")(algo, **options)
    assert outlook.steps == run.summary["steps"]
    assert outlook.exact == (options.get("max_steps") == 3)
    assert outlook.run == f"runs/{run.name}"


def test_the_tokens_it_tells_are_near_those_of_the_run(place):
    outlook = look(data="pairs.jsonl", eval_fraction=0.0)
    run = trainer(place, "tiny")("dpo", data="pairs.jsonl", batch_size=8)
    # Prompts once for both answers, and what the chat template writes around them: it says about.
    assert 0.4 < outlook.tokens / run.summary["num_tokens"] < 2.5


def test_a_model_that_is_not_here_yet_is_told_and_not_fetched(place, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "fetched from the hub" in look(model="owner/name").facts["model"]
    assert "Did you mean 'smollm2-135m'?" in look(model="smollm2-135n").facts["model"]
    assert "made on first use" in look(model="world:gold").facts["model"]
    with pytest.raises(ZooError, match="No world is called 'golld'"):
        look(model="world:golld")


def test_a_part_of_the_weights_that_is_missing_is_named(place, tiny_folder):
    copy = place / "copy"
    copy.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (copy / name).write_bytes((tiny_folder / name).read_bytes())
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1-of-2.safetensors"}}))
    with pytest.raises(ZooError, match="lacks model-1-of-2.safetensors"):
        look_for("copy", "runs")


# -- the first rows ------------------------------------------------------------------------------------------------


def test_a_glance_reads_the_first_rows_and_counts_the_rest(place, monkeypatch):
    data = data_for("dpo", place, 500)
    seen = glance(data, ("feedback",))
    assert (seen.kind, seen.rows, seen.exact, len(seen.records)) == ("feedback", 1000, False, 1000)
    assert glance(data, ("preference",), Reading(limit=7)).rows == 7
    monkeypatch.setattr("zoo.data.glance.READ", 10)
    seen = glance(data, ("feedback",))
    assert (seen.rows, seen.exact, len(seen.records)) == (1000, False, 400), "of a large file the first rows"


def test_a_broken_line_of_a_small_file_is_found_before_the_run(place):
    lines = [json.dumps(row) for row in demonstrations(60)]
    lines[50] = lines[50][:20]
    (place / "rows.jsonl").write_text("\n".join(lines))
    with pytest.raises(ZooError, match=r"rows.jsonl:51 \[E_JSON\]"):
        glance("rows.jsonl", ("demonstration",))


def test_a_run_without_the_reward_that_it_learns_from_is_refused_at_once(place):
    write_rows(place / "p.jsonl", [{"prompt": f"Say {i}."} for i in range(4)])
    with pytest.raises(ZooError, match="grpo learns from a reward, and none is named"):
        look("grpo", data="p.jsonl")
    look("grpo", data="p.jsonl", reward="length")


def test_a_large_file_is_counted_by_its_first_part(place, monkeypatch):
    monkeypatch.setattr("zoo.data.glance.COUNTED", 2**20)
    rows = [{"prompt": f"{i:06}", "completion": "x" * 500} for i in range(8000)]
    seen = glance(write_rows(place / "large.jsonl", rows), ("demonstration",))
    assert not seen.exact and seen.rows == pytest.approx(8000, rel=0.01)


def test_other_files_and_named_sources_are_counted_where_that_is_quick(place, monkeypatch):
    (place / "rows.json").write_text(json.dumps(demonstrations(30)))
    (place / "rows.csv").write_text("prompt,completion\n" + "".join(f"p{i},c{i}\n" for i in range(30)))
    assert [glance(f"rows.{kind}", ("demonstration",)).rows for kind in ("json", "csv")] == [30, 30]
    monkeypatch.setattr("zoo.data.glance.READ", 10)
    assert glance("rows.json", ("demonstration",)).rows is None
    assert glance("owner/name", ("demonstration",)) is None


def test_a_bad_row_among_the_first_is_no_reason_to_refuse_but_all_of_them_are(place):
    rows = [{"prompt": "p", "completion": 3}, *demonstrations(30)]
    data = write_rows(place / "rows.jsonl", rows)
    assert len(glance(data, ("demonstration",)).records) == 30
    with pytest.raises(ZooError, match="--strict allows none"):
        glance(data, ("demonstration",), Reading(strict=True))
    with pytest.raises(ZooError, match="none of the 5 rows can be used"):
        glance(write_rows(place / "bad.jsonl", rows[:1] * 5), ("demonstration",), Reading(format="prompt-completion"))


def test_a_folder_with_a_model_is_proposed_for_a_mistyped_one(place, monkeypatch):
    (place / "notes").mkdir()
    (place / "notes" / "package_config.json").write_text("{}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for typed, proposed in (("tniy", " Did you mean 'tiny'?"), ("ntes", "")):
        with pytest.raises(ZooError) as error:
            look_for(typed, "runs")
        assert error.value.message.endswith(f"(offline).{proposed}")


def test_the_memory_is_not_computed_for_a_run_that_cannot_begin(place, monkeypatch):
    asked = []
    monkeypatch.setattr("zoo.training.outlook.preflight", lambda models, plan: asked.append(models))
    look()
    assert len(asked) == 1
    with pytest.raises(ZooError, match="nothere"):
        look(data="nothere.jsonl")
    assert len(asked) == 1, "it loads torch"
