"""A base model becomes a chat model: templates by name, new tokens and their rows, and what ends an answer."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import FLOAT32, cli, write_rows

import zoo
from zoo.contract import registry
from zoo.contract.hookspecs import hookimpl
from zoo.data.encoding.named import listed, named_templates
from zoo.data.encoding.template import ChatTemplate
from zoo.errors import TrainingStopped, ZooError
from zoo.libraries.pretrained import save
from zoo.models.loading import load_template, load_tokenizer
from zoo.models.names import resolve_model
from zoo.models.start import resolve_start
from zoo.models.vocabulary import Words, hold, hold_files, words_in
from zoo.testing.tiny import make_tokenizer
from zoo.training.outlook import look_ahead
from zoo.training.run import resolve_options

CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""As a user writes it: literal text, and nothing on the tokens that it needs."""
END = "<|endoftext|>"
ROWS = [{"prompt": f"say {k}", "completion": "<a>yes<b>"} for k in range(4)]
TRAINED = {
    "algo": "sft",
    "score": "none",
    "quiet": True,
    "batch_size": 4,
    "max_steps": 60,
    "epochs": 60,
    "lr": 1e-2,
    **FLOAT32,
}


def base_tokenizer(*, pad=None, chat=False):
    """One token per byte, an end of text, and nothing of ChatML; chat: its two tokens are there, as in many bases."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, clean_up_tokenization_spaces=False)
    if chat:
        fast.add_tokens(
            [AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")], special_tokens=True
        )
    if pad:
        fast.add_special_tokens({"pad_token": pad})
    return fast


def base_model(rows, *, tied=True, eos=256, cls="Llama", **more):
    import transformers

    config = getattr(transformers, f"{cls}Config")(
        vocab_size=rows, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.1, tie_word_embeddings=tied,
        bos_token_id=None, eos_token_id=eos, pad_token_id=None, **more,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"{cls}ForCausalLM")(config).float().eval()


def base_folder(folder, tokenizer, **options):
    save(base_model(**{"rows": len(tokenizer), **options}), folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Base models with tied and with separate heads, rows, and a template in a file."""
    place = tmp_path_factory.mktemp("vocabulary")
    base_folder(place / "tied", base_tokenizer())
    base_folder(place / "untied", base_tokenizer(), tied=False)
    base_folder(place / "chat", base_tokenizer(chat=True))
    base_folder(place / "padout", base_tokenizer(pad="[PAD]"), rows=257)
    write_rows(place / "rows.jsonl", ROWS)
    (place / "t.jinja").write_text(CHATML)
    return place


@pytest.fixture(autouse=True)
def there(place, monkeypatch):
    monkeypatch.chdir(place)


def train(name, **options):
    options = {**TRAINED, "data": "rows.jsonl", "name": name, **options}
    return zoo.train(options.pop("algo"), **options)


@pytest.fixture(scope="module")
def trained(place):
    """`trained(kind)`: a run that has learned to say one thing, made once; kinds: full, and LoRA tied and untied."""
    made = {}

    def trained(kind):
        if kind not in made:
            lora = {"lora": True, "lora_rank": 8, "lr": 2e-2} if kind != "full" else {}
            model = "untied" if kind == "untied" else "tied"
            made[kind] = train(f"run-{kind}", model=model, template="chatml", new_tokens="<a>,<b>", **lora)
        return made[kind]

    return trained


KINDS = ["full", "tied", "untied"]


def plain_answer(model, tokenizer, text="say 1"):
    """What transformers itself makes of a folder: the new ids of its greedy answer."""
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]  # fmt: skip
    return model.generate(ids, max_new_tokens=30, do_sample=False)[0, ids.shape[1] :].tolist()


# -- a base model becomes a chat model -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_model_learns_a_template_and_new_tokens_and_stops(trained, kind):
    run = trained(kind)
    status, out, err = cli("chat", run.path, "--prompt", "say 1", "--temperature", "0", "--max-new-tokens", "30")
    assert (status, out.strip().splitlines()[-1]) == (0, "<a>yes<b>"), out + err


@pytest.mark.parametrize("kind", KINDS)
def test_other_programs_ask_and_stop_as_it_was_trained(trained, kind):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = trained(kind).model_path
    loader = AutoModelForCausalLM if kind == "full" else AutoPeftModelForCausalLM
    tokenizer, model = AutoTokenizer.from_pretrained(folder), loader.from_pretrained(folder).eval()
    stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stops == [end, 256], "the trained end first, then the end of text"
    if kind != "full":
        # peft alone does not read it: the base's own stops count until somebody says otherwise.
        model.generation_config.eos_token_id = stops
    answer = plain_answer(model, tokenizer)
    assert tokenizer.decode(answer) == "<a>yes<b><|im_end|>"


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_the_merged_folder_gives_the_answers_of_the_adapters(trained, kind, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, merged = trained(kind), tmp_path / "merged"
    status, out, err = cli("export", run.path, merged, "--merge")
    assert status == 0, err
    adapted, tokenizer = run.load()
    plain = AutoModelForCausalLM.from_pretrained(merged).eval()
    assert plain.config.vocab_size == len(AutoTokenizer.from_pretrained(merged)) == 261
    assert plain.config.tie_word_embeddings == (kind == "tied")
    prompts = [f"say {k}" for k in range(4)] + ["something else"]
    assert [plain_answer(plain, tokenizer, text) for text in prompts] == [
        plain_answer(adapted, tokenizer, text) for text in prompts
    ]
    ids = torch.tensor([[256, 257, 258, 259, 260, 1]])
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, adapted(ids).logits, atol=1e-4)


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_only_the_rows_of_new_tokens_are_trained_under_lora(trained, kind):
    weights = load_file(trained(kind).model_path / "adapter_model.safetensors")
    rows = {name: value for name, value in weights.items() if "trainable_tokens" in name}
    assert [list(value.shape) for value in rows.values()] == [[4, 32]] * (1 if kind == "tied" else 2)
    assert not any("lora" not in name for name in weights.keys() - rows.keys()), (
        "the rest of the embedding is not there"
    )
    start = load_file(f"{kind}/model.safetensors")["model.embed_tokens.weight"][:257].mean(0)
    changed = next(value for name, value in rows.items() if "embed" in name)
    assert all(not torch.allclose(row, start, atol=1e-3) for row in changed), "every new row was trained"


def test_new_rows_begin_as_the_mean_and_the_reference_keeps_them(place):
    from zoo.models.start import load_policy
    from zoo.options.config import TrainConfig

    source = resolve_model("untied")
    template = load_template(source, "chatml", new_tokens=("<a>",))
    policy = load_policy(TrainConfig(), source, "32-true", new=template.new)
    before = load_file("untied/model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = policy.get_parameter(name)
        assert torch.equal(rows[:257], before[name])
        assert torch.allclose(rows[257:], before[name].mean(0).expand(3, -1), atol=1e-6)


def test_the_reference_of_a_run_with_new_tokens_is_its_start(place):
    write_rows(place / "pairs.jsonl", [{"prompt": "say", "chosen": "<a>", "rejected": "no"}] * 4)
    for name, lora in (("full", {}), ("lora", {"lora": True, "lora_rank": 2})):
        run = train(
            f"dpo-{name}", algo="dpo", model="tied", data="pairs.jsonl", new_tokens="<a>", template="chatml",
            max_steps=2, epochs=2, reference_cache="off", **lora,
        )  # fmt: skip
        assert run.log_history[0]["loss"] == pytest.approx(0.693147, abs=1e-5), "policy and reference begin as one"


def test_rows_that_the_tokenizer_does_not_use_yet_are_taken_first(place):
    base_folder(place / "spare", base_tokenizer(), rows=264)
    run = train("spare", model="spare", template="chatml", lora=True, lora_rank=2, max_steps=1)
    model, tokenizer = run.load()
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 258 and model.get_input_embeddings().weight.shape[0] == 264


def test_a_token_that_is_there_already_keeps_its_row_and_is_trained_if_it_is_named(place):
    run = train("there", model="chat", template="chatml", new_tokens="<|im_end|>", lora=True, lora_rank=2, max_steps=1)
    settings = json.loads((run.model_path / "adapter_config.json").read_text())
    assert list(settings["trainable_token_indices"].values()) == [[258]]
    run = train("not-named", model="chat", template="chatml", lora=True, lora_rank=2, max_steps=1)
    assert not json.loads((run.model_path / "adapter_config.json").read_text())["trainable_token_indices"]


def test_a_run_with_new_tokens_is_resumed_and_its_checkpoints_are_models(place, monkeypatch):
    options = {"model": "tied", "template": "t.jinja", "new_tokens": "<|im_start|>,<|im_end|>", "max_steps": 4}
    options |= {"lora": True, "lora_rank": 2, "save_every": 2, "keep_checkpoints": True}
    whole = train("whole", **options)

    class Stop:
        @hookimpl
        def step_end(self, step):
            if step == 3:
                os.kill(os.getpid(), signal.SIGUSR1)

    modules, broken = registry.plugin_modules()
    with monkeypatch.context() as patch:
        patch.setattr(registry, "plugin_modules", lambda: ((*modules, ("mine@test", Stop())), broken))
        with pytest.raises(TrainingStopped):
            train("half", **options)
    half = zoo.resume("runs/half", quiet=True)
    name = "model/adapter_model.safetensors"
    assert (half.path / name).read_bytes() == (whole.path / name).read_bytes()
    folder = resolve_start("whole@step-4", "runs", print).folder
    assert (folder / "adapter_model.safetensors").read_bytes() == (whole.path / name).read_bytes()
    assert ChatTemplate(load_tokenizer(resolve_start("whole", "runs", print))).end_of_turn == "<|im_end|>"


def test_a_run_with_new_tokens_is_compared_with_its_start(trained):
    status, out, err = cli("eval", trained("tied").path, "--against", "tied", "--eval", "kl(data=rows.jsonl)", "--json")
    assert status == 0 and json.loads(out)["kl(data=rows.jsonl)"]["value"] > 0, out + err
    status, out, err = cli("eval", "tied", "--against", "chat", "--eval", "kl(data=rows.jsonl)")
    assert status == 2 and "has other tokens" in err


def test_a_scorer_learns_new_tokens_too(place):
    write_rows(place / "pairs.jsonl", [{"prompt": "say", "chosen": "<a>", "rejected": "no"}] * 4)
    run = train("rm", algo="rm", model="tied", data="pairs.jsonl", template="chatml", new_tokens="<a>", lora=True,
                lora_rank=2, max_steps=2)  # fmt: skip
    status, out, err = cli("eval", run.path, "--eval", "pair_accuracy(data=pairs.jsonl)", "--json")
    assert status == 0, out + err


def test_a_model_whose_vocabulary_cannot_grow_is_refused_in_words(place, monkeypatch):
    from zoo.libraries import vocabulary

    model = base_model(8)
    model.resize_token_embeddings = lambda *a, **o: (_ for _ in ()).throw(NotImplementedError("no such thing"))
    with pytest.raises(ZooError, match="vocabulary of LlamaForCausalLM cannot grow: no such thing"):
        vocabulary.give_rows(model, [8], 8)


def test_a_head_of_which_peft_cannot_train_rows_is_refused_under_lora():
    from zoo.libraries import adapters

    model = base_model(16, cls="Phi", tied=False, partial_rotary_factor=0.5)
    assert model.get_output_embeddings().bias is not None
    torch.nn.init.ones_(model.get_output_embeddings().bias)
    with pytest.raises(ZooError, match="cannot train single rows of lm_head") as refused:
        adapters.wrap(model, rank=2, alpha=2, dropout=0, targets=["q_proj"], tokens=[3])
    assert "--lora" in refused.value.hint


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_an_adapter_on_a_layer_whose_rows_are_trained_is_refused(target, tied):
    from zoo.libraries import adapters

    with pytest.raises(ZooError, match=rf"--lora-targets names (model\.)?{target}, whose rows"):
        adapters.wrap(base_model(16, tied=tied), rank=2, alpha=2, dropout=0, targets=[target, "q_proj"], tokens=[3])


# -- what data may contain -----------------------------------------------------------------------------------------


def test_tokens_of_the_template_are_control_tokens_and_new_ones_are_words(place):
    chat = load_template(resolve_model("tied"), "chatml", new_tokens=("<a>",))
    answer = chat.answer("say <a>", "<a>yes")
    ids = answer.completion.tolist()
    assert ids[0] == chat.tokenizer.convert_tokens_to_ids("<a>") and chat.end_of_turn == "<|im_end|>"
    assert chat.tokenizer.decode(ids, skip_special_tokens=True) == "<a>yes", "an answer shows it, and not its end"
    with pytest.raises(ZooError, match="control token"):
        chat.answer("say <|im_end|>", "yes")


def test_a_chat_in_another_form_says_which_tokens_the_model_lacks(place):
    status, out, err = cli("chat", "tied", "--prompt", "Hi", "--template", "chatml", "--max-new-tokens", "2")
    said = " ".join(out.split())
    assert status == 0 and "no token <|im_start|>, <|im_end|>" in said and "--new-tokens '<|im_start|>" in said, err
    assert "has another chat template than --template chatml." in said, "both end with the end of a text"


@pytest.mark.parametrize(("template", "says"), [("none", "A chat is made of messages"), ("", "no chat template ''")])
def test_a_chat_needs_a_template(place, template, says):
    status, _, err = cli("chat", "tied", "--prompt", "Hi", "--template", template)
    assert status == 2 and says in " ".join(err.split())


def test_what_looks_like_a_token_and_is_none_is_told(place):
    chat = load_template(resolve_model("tied"), "t.jinja", new_tokens=())
    assert chat.end_of_turn is None
    assert "no token <|im_start|>, <|im_end|>" in chat.notes[0] and "--new-tokens '<|im_start|>" in chat.notes[0]
    named = load_template(resolve_model("tied"), "t.jinja", new_tokens=("<|im_start|>", "<|im_end|>"))
    assert named.end_of_turn == "<|im_end|>" and not named.notes
    with pytest.raises(ZooError, match="control token"):
        named.answer("say <|im_end|>", "yes")


# -- templates by name ---------------------------------------------------------------------------------------------

ASKED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And one?"},
]
WRITTEN = {
    # As the models' own cards and repositories print them; <s> and </s> are the tokenizer's BOS and EOS.
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTwo and two?<|im_end|>\n"
              "<|im_start|>assistant\nFour.<|im_end|>\n<|im_start|>user\nAnd one?<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
              "<|start_header_id|>user<|end_header_id|>\n\nTwo and two?<|eot_id|>"
              "<|start_header_id|>assistant<|end_header_id|>\n\nFour.<|eot_id|>"
              "<|start_header_id|>user<|end_header_id|>\n\nAnd one?<|eot_id|>"
              "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<s><start_of_turn>user\nBe brief.\n\nTwo and two?<end_of_turn>\n"
             "<start_of_turn>model\nFour.<end_of_turn>\n"
             "<start_of_turn>user\nAnd one?<end_of_turn>\n<start_of_turn>model\n",
    "phi3": "<|system|>\nBe brief.<|end|>\n<|user|>\nTwo and two?<|end|>\n<|assistant|>\nFour.<|end|>\n"
            "<|user|>\nAnd one?<|end|>\n<|assistant|>\n",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nTwo and two?</s>\n<|assistant|>\nFour.</s>\n"
              "<|user|>\nAnd one?</s>\n<|assistant|>\n",
    "mistral": "<s>[INST] Be brief.\n\nTwo and two? [/INST] Four.</s>[INST] And one? [/INST]",
    "alpaca": "Be brief.\n\n### Instruction:\nTwo and two?\n\n### Response:\nFour.</s>\n\n"
              "### Instruction:\nAnd one?\n\n### Response:\n",
    "vicuna": "Be brief. USER: Two and two? ASSISTANT: Four.</s>USER: And one? ASSISTANT:",
    "plain": "System: Be brief.\n\nUser: Two and two?\n\nAssistant: Four.</s>\n\nUser: And one?\n\nAssistant:",
}  # fmt: skip
ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "phi3": "<|end|>"}


def llama_tokenizer():
    tokenizer = base_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    return tokenizer


def test_every_template_that_comes_with_zoo_has_its_text_here():
    assert set(WRITTEN) == set(named_templates())


@pytest.mark.parametrize("name", WRITTEN)
def test_a_template_by_name_writes_what_its_models_read_and_ends_each_turn(name):
    chat = ChatTemplate(llama_tokenizer(), name, new_tokens=())
    assert chat.prompt_text(ASKED) == WRITTEN[name]
    assert chat.end_of_turn == ENDS.get(name, "</s>")
    assert chat.preflight().startswith("The model learns to stop")
    turns = [*ASKED, {"role": "assistant", "content": "Five."}]
    text = chat.tokenizer.decode(chat.conversation(turns).completion)
    assert text.endswith(f"Five.{chat.end_of_turn}")


def test_templates_are_listed_and_printed():
    status, out, err = cli("templates", "--json")
    listed = {row["name"]: row for row in json.loads(out)}
    assert status == 0 and listed["chatml"]["tokens"] == ["<|im_start|>", "<|im_end|>"]
    status, out, err = cli("templates", "chatml")
    assert status == 0 and "<|im_start|>" in out and "add_generation_prompt" in out
    status, out, err = cli("templates", "chatlm")
    assert status == 2 and "Did you mean 'chatml'?" in err
    status, out, err = cli("train", "--model", "tied", "--data", "rows.jsonl", "--template", "chatlm")
    assert status == 2 and "Did you mean 'chatml'?" in err and "zoo templates" in err


# -- a run knows its own template ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moved(place):
    """A run whose template file is gone, with a checkpoint."""
    before = os.getcwd()
    os.chdir(place)
    try:
        Path("gone.jinja").write_text(CHATML)
        run = train("moved", model="chat", template="gone.jinja", keep_checkpoints=True)
        Path("gone.jinja").unlink()
    finally:
        os.chdir(before)
    return run


def test_a_run_knows_its_template_after_the_file_is_gone(moved):
    for name in ("moved", "moved@last", "runs/moved/model"):
        status, out, err = cli("chat", name, "--prompt", "say 1", "--temperature", "0", "--max-new-tokens", "30")
        assert (status, out.strip().splitlines()[-1]) == (0, "<a>yes<b>"), out + err


def test_the_end_that_was_trained_stops_other_programs(moved):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = moved.model_path
    assert json.loads(Path("chat/generation_config.json").read_text())["eos_token_id"] == 256
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [258, 256]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answer = plain_answer(AutoModelForCausalLM.from_pretrained(folder), tokenizer)
    assert tokenizer.decode(answer) == "<a>yes<b><|im_end|>"


def test_another_template_than_the_trained_one_is_told(moved):
    status, out, err = cli("chat", "moved", "--prompt", "Hi", "--template", "zephyr", "--max-new-tokens", "2")
    assert status == 0 and "Note: moved has another chat template than --template zephyr" in out
    status, out, err = cli("chat", "moved", "--prompt", "Hi", "--template", "chatml", "--max-new-tokens", "2")
    assert status == 0 and "Note:" not in out, "the same form under another name is no difference"
    status, out, err = cli("eval", "moved", "--template", "nothere.jinja", "--eval", "loss")
    assert status == 2 and "nothere.jinja" in err


def test_a_resume_without_its_template_file_says_where_the_copy_is(moved):
    options = {"template": "gone.jinja", "model": "chat", "data": "rows.jsonl"}
    resolved, cls = resolve_options("sft", None, options, "command line")
    with pytest.raises(ZooError, match="gone.jinja") as refused:
        look_ahead(resolved, cls, moved)
    assert "cp runs/moved/template.jinja gone.jinja" in refused.value.hint


# -- a tokenizer that does not belong to its model -----------------------------------------------------------------


def words(**more):
    return Words(**{"size": 8, "added": {"<e>": 8, "[PAD]": 9}, "special": {"<e>", "[PAD]"},
                    "roles": {"eos_token": "<e>", "pad_token": "[PAD]"}, **more})  # fmt: skip


def test_a_padding_token_without_a_row_is_replaced():
    found = hold("it", words(), {}, 9)
    assert (found.padding, found.rowless) == ("<e>", {"[PAD]"}) and "no row for its padding token" in found.notes[0]
    assert hold("it", words(), {}, 10).padding == "" and not hold("it", words(), {}, 10).notes


@pytest.mark.parametrize(
    ("given", "rows", "says"),
    [
        (words(), 8, "among them none for <e> (8)"),
        (words(size=12), 9, "token ids up to 11, and the model has embeddings for 9 tokens only"),
        (words(added={"<e>": 8, "<w>": 9}, roles={"eos_token": "<e>"}), 9, "none for <w> (9)"),
        (words(template="{{ '[PAD]' }}"), 9, "none for [PAD] (9)"),
    ],
)  # fmt: skip
def test_tokens_without_rows_are_named(given, rows, says):
    with pytest.raises(ZooError) as refused:
        hold("it", given, {}, rows)
    assert says in refused.value.message
    assert ("--new-tokens" in refused.value.hint) == (given.size <= rows), refused.value.hint


def test_what_a_run_adds_and_what_nobody_writes_is_no_fault():
    assert hold("it", words(), {}, 8, new={"<e>", "[PAD]"}).notes == ()
    more = words(added={"<e>": 8, "<extra>": 9}, special={"<e>", "<extra>"}, roles={"eos_token": "<e>"})
    found = hold("it", more, {"eos_token_id": [8, 40]}, 9)
    assert found.rowless == {"<extra>"} and len(found.notes) == 2
    with pytest.raises(ZooError, match="pads with the token id 12"):
        hold("it", words(), {"pad_token_id": 12}, 10)


@pytest.mark.parametrize(
    ("value", "why"),
    [(" ", "is empty"), (",", "is empty"), ("<a>,,<b>", "is empty"), ([""], "is empty"), ([" <y>"], "white space"),
     (["<x>\n"], "white space"), (["<\x00>"], "cannot be seen"), ("<\u202e>", "cannot be seen"), ([3], "is no text")],
)  # fmt: skip
def test_what_cannot_be_a_new_token_is_refused(value, why):
    with pytest.raises(ZooError, match=f"new_tokens has .*{why}"):
        listed(value)


def test_spaces_around_commas_are_no_part_of_a_token():
    assert listed("<a>, <b c>,<a>") == ("<a>", "<b c>") and listed("") == listed([]) == ()


NO_IDS = ["foo", [[256]], ["5"], 2.5, True]


@pytest.mark.parametrize("value", NO_IDS)
@pytest.mark.parametrize("setting", ["eos_token_id", "bos_token_id", "pad_token_id"])
def test_what_is_no_token_id_is_refused_with_its_file(setting, value):
    with pytest.raises(ZooError, match=f"{setting} in generation_config.json of it is .*, which is no token id"):
        hold("it", words(), {}, 10, generation={setting: value})
    with pytest.raises(ZooError, match=f"{setting} in config.json of it"):
        hold("it", words(), {setting: value}, None)


def test_ids_that_no_token_has_are_told_and_what_pads_the_embedding_is_refused():
    found = hold("it", words(), {"bos_token_id": 99999, "eos_token_id": 3}, 10, generation={"eos_token_id": [8, -1]})
    assert ["stop at the token id -1" in found.notes[0], "begin texts with the token id 99999" in found.notes[1]]
    assert len(found.notes) == 2 and all("left out" in note for note in found.notes)
    with pytest.raises(ZooError, match="pads with the token id 9999"):
        hold("it", words(), {"pad_token_id": 9999}, 10, generation={"pad_token_id": 3})


def test_a_stop_that_no_token_has_is_not_saved(place):
    shutil.copytree("tied", "stops", dirs_exist_ok=True)
    settings = json.loads(Path("stops/generation_config.json").read_text())
    Path("stops/generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [256, -1, 9999]}))
    run = train("stops", model="stops", max_steps=1)
    assert json.loads((run.model_path / "generation_config.json").read_text())["eos_token_id"] == 256


FILES = {
    "pads": ("config.json", {"pad_token_id": 9999}, "pads with the token id 9999"),
    "rows": ("config.json", {"vocab_size": 300}, "says vocab_size 300, and the embedding in model.safetensors has 257"),
    "no number": ("config.json", {"vocab_size": "many"}, 'vocab_size in .*config.json is "many"'),
    "no tokenizer": ("tokenizer.json", None, "tokenizer.json is damaged"),
    "no object": ("generation_config.json", [1], "generation_config.json is not a JSON object"),
    "no settings": ("tokenizer_config.json", [1], "tokenizer_config.json is not a JSON object"),
    "no id": ("generation_config.json", {"eos_token_id": "foo"}, "which is no token id"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_dry_run_reads_the_files_of_the_model(place, tmp_path, case):
    name, change, says = FILES[case]
    wrong = shutil.copytree("tied", tmp_path / "wrong")
    file = wrong / name
    before = json.loads(file.read_text()) if isinstance(change, dict) else {}
    file.write_text(json.dumps({**before, **change} if isinstance(change, dict) else change or {}))
    status, out, err = cli("train", "--algo", "sft", "--model", str(wrong), "--data", "rows.jsonl", "--dry-run")
    assert status == 2 and re.search(says, " ".join(err.split())), err


def test_the_files_alone_say_the_same(place):
    tokenizer = load_tokenizer(resolve_model("padout"))
    assert tokenizer.pad_token == END and tokenizer.rowless == {"[PAD]"}
    assert hold_files("padout", Path("padout"), None).padding == END
    found = words_in(Path("padout"))
    assert (found.size, found.added, found.roles["pad_token"]) == (256, {END: 256, "[PAD]": 257}, "[PAD]")


def test_an_added_token_that_the_vocabulary_lists_too_is_an_added_token(tmp_path):
    from tokenizers import AddedToken, Tokenizer, models

    tokens = Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<image>": 2}, "a"))
    tokens.add_special_tokens([AddedToken("</s>", special=True), AddedToken("<image>", special=True)])
    tokens.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    found = words_in(tmp_path)
    assert (found.size, found.added, found.roles) == (1, {"</s>": 1, "<image>": 2}, {"eos_token": "</s>"})
    assert hold("it", found, {}, 2).rowless == {"<image>"}, "a text model beside the tokenizer of one for images"


def test_a_run_pads_with_a_token_that_the_model_can_read(place):
    write_rows(place / "prompts.jsonl", [{"prompt": "Say it" + " please" * k} for k in range(4)])
    run = train("pads", algo="grpo", model="padout", data="prompts.jsonl", reward="length", max_new_tokens=4,
                answers_per_prompt=2, batch_size=4, max_steps=1)  # fmt: skip
    model, tokenizer = run.load()
    assert tokenizer.pad_token == END
    status, out, err = cli("data", "rows.jsonl", "--model", "padout", "--for", "sft")
    assert status == 0 and "no row for its padding token [PAD]" in " ".join(out.split())
    write_rows(place / "raw.jsonl", [{"text": "a [PAD] b"}, {"text": "a b"}])
    status, out, err = cli("data", "raw.jsonl", "--model", "padout", "--template", "none", "--json")
    assert status == 0 and "no row for '[PAD]'" in out


def test_a_dry_run_sees_it_without_loading_anything(place):
    def look(**options):
        return look_ahead(*resolve_options("sft", None, {"data": "rows.jsonl", **options}, "command line"))

    assert "no row for its padding token" in look(model="padout").facts["tokenizer"]
    facts = look(model="tied", template="chatml", new_tokens="<a>").facts
    assert facts["new tokens"] == "<|im_start|>, <|im_end|>, <a>" and "tokenizer" not in facts
    base_folder(place / "short", base_tokenizer(), rows=250)
    with pytest.raises(ZooError, match="token ids up to 256, and the model has embeddings for 250"):
        look(model="short")
    for command in (["train", "--data", "rows.jsonl", "--model", "short"], ["chat", "short", "--prompt", "x"],
                    ["eval", "short"], ["data", "rows.jsonl", "--model", "short"]):  # fmt: skip
        status, out, err = cli(*command)
        assert status == 2 and "token ids up to 256" in " ".join(err.split()), command
    assert not Path("runs/sft-short-1").exists()


# -- the beginning of a text ---------------------------------------------------------------------------------------


def test_the_saved_template_writes_the_bos_that_was_trained():
    from tokenizers import processors

    tokenizer = llama_tokenizer()
    number = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", number)]
    )
    for name in ("zephyr", "llama3"):
        chat = ChatTemplate(tokenizer, name, new_tokens=())
        ids = chat.prompt_ids("Hi")
        assert ids[0] == number and ids.count(number) == 1
        saved = chat.trained_tokenizer()
        asked = saved.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
        assert list(asked["input_ids"] if hasattr(asked, "keys") else asked) == ids, name
        assert ChatTemplate(saved).prompt_ids("Hi") == ids
    assert ChatTemplate(make_tokenizer()).trained_tokenizer().chat_template == make_tokenizer().chat_template
