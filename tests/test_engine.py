"""The in-process engine: the answers of one prompt at a time, whatever the batch; nothing left behind."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from zoo.errors import ZooError
from zoo.libraries.arithmetic import cpu_has_bfloat16
from zoo.rollout import cache, packing
from zoo.rollout.budget import common_length
from zoo.rollout.decoding import Forward
from zoo.rollout.engine import InProcessEngine, Sampling
from zoo.rollout.sampling import seeds, uniform_stream
from zoo.testing import sweep

VOCABULARY, END, PAD = 40, 3, 0
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # far from uniform predictions, so that a wrong mask or position shows
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": END,
}
GEMMA = {"head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
MODELS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama, eager attention": lambda: transformers.LlamaConfig(**SIZES, attn_implementation="eager"),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "gemma3, sliding window": lambda: transformers.Gemma3TextConfig(**SIZES, **GEMMA),
    "mistral, sliding window": lambda: transformers.MistralConfig(**SIZES, sliding_window=5),
    "gpt2, learned positions": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3
    ),
    "bloom, position from the mask": lambda: transformers.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3
    ),
    "lfm2, short convolutions": lambda: transformers.Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]),
}


def build(name="llama"):
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(MODELS[name]()).eval()


@pytest.fixture
def model():
    return build()


@pytest.fixture
def prompts():
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(4, VOCABULARY, (length,), generator=generator) for length in (3, 11, 7, 1, 7)]


def engine(model, **options):
    return InProcessEngine(model, eos_ids=[END], pad_id=PAD, **options)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def same(found, expected):
    """Equal answers; log-probs to the rounding of float32 sums in another order."""
    assert [a.completion.tolist() for a in found] == [a.completion.tolist() for a in expected]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.prompt, b.prompt) and (a.ended, a.cut) == (b.ended, b.cut)
        torch.testing.assert_close(a.behaviour, b.behaviour, atol=1e-4, rtol=0)


@torch.no_grad()
def recomputed(model, answer, temperature=1.0):
    """Log-probs of an answer from one forward without cache or padding."""
    logits = model(input_ids=torch.cat([answer.prompt, answer.completion])[None]).logits[0]
    logps = (logits[len(answer.prompt) - 1 : -1].float() / temperature).log_softmax(-1)
    return logps.gather(-1, answer.completion[:, None])[:, 0]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_answers_equal_those_of_transformers_one_prompt_at_a_time(name, prompts):
    model = build(name)
    answers = engine(model, max_batch=3).generate(prompts, 1, Sampling(24, temperature=0))
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = model.generate(
            prompt[None], attention_mask=torch.ones_like(prompt)[None], do_sample=False, max_new_tokens=24,
            eos_token_id=END, pad_token_id=PAD,
        )  # fmt: skip
        assert answer.completion.tolist() == expected[0, len(prompt) :].tolist()


def test_greedy_answers_equal_those_of_transformers_on_a_padded_batch(model, prompts):
    width = max(map(len, prompts))
    ids = torch.stack([torch.nn.functional.pad(p, (width - len(p), 0), value=PAD) for p in prompts])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(p), (width - len(p), 0)) for p in prompts])
    expected = model.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=30, eos_token_id=END, pad_token_id=PAD
    )[:, width:]
    answers = engine(model).generate(prompts, 1, Sampling(30, temperature=0))
    for row, answer in zip(expected, answers, strict=True):
        assert answer.completion.tolist() == row[: len(answer.completion)].tolist()


@pytest.mark.parametrize("way", [{}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}], ids=str)
def test_sampled_answers_equal_those_of_transformers_when_it_is_dealt_the_same_random_numbers(
    model, prompts, way, monkeypatch
):
    answers = engine(model).generate(prompts, 2, Sampling(20, **way), seeded())
    for i, answer in enumerate(answers):
        uniforms = iter(uniform_stream(seeds(len(answers), seeded())[i], 20))

        def dealt(probabilities, num_samples, uniforms=uniforms):
            """The first token at which the cumulated probability reaches 1 − u."""
            reached = probabilities.double().cumsum(-1) >= (1 - next(uniforms)) * probabilities.double().sum()
            return reached.int().argmax(-1, keepdim=True)

        monkeypatch.setattr(torch, "multinomial", dealt)
        expected = model.generate(
            answer.prompt[None], attention_mask=torch.ones_like(answer.prompt)[None], do_sample=True,
            max_new_tokens=20, eos_token_id=END, pad_token_id=PAD, **{"top_k": 0, "top_p": 1.0, **way},
        )  # fmt: skip
        assert answer.completion.tolist() == expected[0, len(answer.prompt) :].tolist()


@pytest.mark.parametrize("name", MODELS)
def test_sampling_log_probs_equal_recomputed_ones(name, prompts):
    model = build(name)
    for answer in engine(model, max_batch=4).generate(prompts, 3, Sampling(20, temperature=0.8), seeded()):
        torch.testing.assert_close(answer.behaviour, recomputed(model, answer, 0.8), atol=1e-5, rtol=1e-5)


def test_adapters_take_part(model, prompts):
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.eval()
    answers = engine(adapted).generate(prompts, 2, Sampling(16), seeded())
    for answer in answers:
        torch.testing.assert_close(answer.behaviour, recomputed(adapted, answer), atol=1e-5, rtol=1e-5)
    with adapted.disable_adapter():
        plain = engine(adapted).generate(prompts, 2, Sampling(16), seeded())
    assert [a.completion.tolist() for a in plain] != [a.completion.tolist() for a in answers]


@pytest.mark.parametrize("name", ["llama", "gemma3, sliding window", "lfm2, short convolutions"])
def test_answers_do_not_depend_on_the_batch_size(name, prompts):
    model = build(name)
    sampling = Sampling(32, temperature=2.0, top_p=0.95)

    def answers(max_batch):
        ends = [END, *range(10, 20)]
        batched = InProcessEngine(model, eos_ids=ends, pad_id=PAD, max_batch=max_batch)
        return batched.generate(prompts, 6, sampling, seeded(1))

    expected = answers(64)
    assert len({len(a.completion) for a in expected}) > 3, "answers must end at different times for this test"
    for max_batch in (1, 4, 7):
        same(answers(max_batch), expected)


def test_answers_do_not_depend_on_the_prompts_that_follow(model, prompts):
    together = engine(model).generate(prompts, 3, Sampling(16), seeded(2))
    alone = engine(model).generate(prompts[:2], 3, Sampling(16), seeded(2))
    same(together[:6], alone)


def test_a_longer_limit_only_lengthens_answers_that_were_cut(model, prompts):
    short = engine(model).generate(prompts, 2, Sampling(6), seeded(2))
    long = engine(model).generate(prompts, 2, Sampling(60), seeded(2))
    for a, b in zip(short, long, strict=True):
        assert b.completion[: len(a.completion)].tolist() == a.completion.tolist()
        assert a.cut == (len(a.completion) == 6 and not a.ended) and (a.cut or len(a) == len(b))


def test_a_block_that_fills_up_is_moved_without_loss(model, prompts):
    """150 answers through 4 places: columns run out, prompts shorter and longer than the window arrive."""
    many = [prompt for prompt in prompts for _ in range(30)]
    answers = engine(model, max_batch=4).generate(many, 1, Sampling(40, temperature=0.7), seeded(3))
    for answer in answers:
        torch.testing.assert_close(answer.behaviour, recomputed(model, answer, 0.7), atol=1e-5, rtol=1e-5)


def test_columns_that_were_never_written_stay_out_of_the_answers(model, prompts, monkeypatch):
    """Deterministic mode fills fresh memory with NaN, which a weight of zero would not hide."""
    monkeypatch.setattr("zoo.rollout.decoding.PREFILL_TOKENS", 1)  # one prompt at a time, so widths differ
    expected = engine(model).generate(prompts, 4, Sampling(20), seeded())
    torch.use_deterministic_algorithms(True)
    try:
        same(engine(model).generate(prompts, 4, Sampling(20), seeded()), expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_n_answers_to_a_prompt_are_adjacent_in_prompt_order_and_differ(model, prompts):
    answers = engine(model).generate(prompts, 4, Sampling(12), seeded())
    assert [a.prompt.tolist() for a in answers] == [p.tolist() for p in prompts for _ in range(4)]
    for i in range(0, len(answers), 4):
        assert len({tuple(a.completion.tolist()) for a in answers[i : i + 4]}) > 1


def looked_at(model):
    """Whether its cache has all of its state is found out once, in passes of its own."""
    Forward(model).rows(1)


def test_each_prompt_is_prefilled_once_for_all_its_answers(model, prompts):
    looked_at(model)
    fed = []
    handle = model.register_forward_pre_hook(
        lambda _, __, given: fed.append(given["input_ids"].shape), with_kwargs=True
    )
    engine(model, max_batch=8).generate(prompts, 16, Sampling(4, temperature=2.0), seeded())
    handle.remove()
    assert sum(rows for rows, width in fed if width > 1) == len(prompts) - 1  # the fifth has a single token
    assert max(rows for rows, _ in fed) <= 8


def test_finished_rows_are_not_computed_any_more(model, prompts):
    looked_at(model)
    rows = []
    handle = model.register_forward_pre_hook(
        lambda _, __, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    answers = engine(model).generate(prompts, 8, Sampling(32), seeded())
    handle.remove()
    # The last token of an answer is never fed; the first entry is the prefill.
    assert sum(rows[1:]) == sum(len(a.completion) - 1 for a in answers)


def test_an_end_token_is_kept_and_a_cut_answer_says_so(model, prompts):
    answers = engine(model).generate(prompts, 10, Sampling(20), seeded(4))
    assert {a.ended for a in answers} == {True, False}
    for answer in answers:
        assert answer.ended == (answer.completion[-1] == END) and answer.cut == (not answer.ended)
        assert END not in answer.completion[:-1] and answer.mask.all()
        assert len(answer.completion) == 20 or answer.ended


def test_any_of_several_end_tokens_ends(model, prompts):
    several = InProcessEngine(model, eos_ids={END, 5, 6}, pad_id=PAD)
    ends = {a.completion[-1].item() for a in several.generate(prompts, 20, Sampling(30), seeded()) if a.ended}
    assert ends == {END, 5, 6}


def test_a_stop_string_ends_an_answer_at_the_token_that_completes_it(model, prompts):
    class Letters:
        def decode(self, ids, **options):
            return "".join(chr(ord("A") + i) for i in ids)

    free = engine(model).generate(prompts, 4, Sampling(30), seeded(6))
    text = Letters().decode(free[0].completion.tolist())
    stop = text[3:5]
    stopped = engine(model, tokenizer=Letters()).generate(prompts, 4, Sampling(30, stop=[stop]), seeded(6))
    for a, b in zip(free, stopped, strict=True):
        whole, cut = Letters().decode(a.completion.tolist()), Letters().decode(b.completion.tolist())
        assert cut == (whole[: whole.index(stop) + 2] if stop in whole else whole)
        assert b.ended == (a.ended or stop in whole)


def test_sampled_pairs_have_the_probability_of_the_model(model):
    """Two steps, vocabulary cut to the three likeliest tokens: frequencies of all nine pairs."""
    prompt = torch.tensor([7, 8, 9])
    sampling = Sampling(2, temperature=1.5, top_k=3)
    answers = engine(model, max_batch=512).generate([prompt], 4000, sampling, seeded())
    with torch.no_grad():

        def kept(ids):
            top = (model(input_ids=ids[None]).logits[0, -1] / 1.5).topk(3)
            return dict(zip(top.indices.tolist(), top.values.softmax(-1).tolist(), strict=True))

        expected = {}
        for first, p in kept(prompt).items():
            following = kept(torch.cat([prompt, torch.tensor([first])])) if first != END else {}
            expected |= {(first, second): p * q for second, q in following.items()} or {(first,): p}
    for pair, probability in expected.items():
        found = sum(tuple(a.completion.tolist()) == pair for a in answers) / len(answers)
        assert abs(found - probability) < 4 * (probability * (1 - probability) / len(answers)) ** 0.5 + 1e-3


def test_randomness_comes_from_the_given_generator_alone(model, prompts):
    before = torch.get_rng_state()
    first = engine(model).generate(prompts, 2, Sampling(8), seeded(7))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    same(engine(model).generate(prompts, 2, Sampling(8), seeded(7)), first)
    moved = seeded(7)
    engine(model).generate(prompts, 2, Sampling(8), moved)
    after = moved.get_state()
    assert not torch.equal(after, seeded(7).get_state())
    longer = seeded(7)
    engine(model).generate(prompts, 2, Sampling(30), longer)
    assert torch.equal(after, longer.get_state()), "the generator must not depend on what came out"


def test_dropout_is_off_while_generating(prompts):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, attention_dropout=0.5))
    expected = engine(model.eval()).generate(prompts, 2, Sampling(12), seeded())
    same(engine(model.train()).generate(prompts, 2, Sampling(12), seeded()), expected)


def test_every_module_is_put_back_into_its_mode(model, prompts):
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    engine(model).generate(prompts, 1, Sampling(4), seeded())
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(KeyboardInterrupt):
        engine(model, progress=_interrupt).generate(prompts, 1, Sampling(4), seeded())
    assert [module.training for module in model.modules()] == modes


def _interrupt(done, total):
    raise KeyboardInterrupt


def test_bf16_weights_and_autocast_generate_and_autocast_still_trains(model, prompts):
    with torch.autocast("cpu", torch.bfloat16):
        answers = engine(model).generate(prompts, 2, Sampling(8), seeded())
        model(input_ids=prompts[1][None]).logits.float().logsumexp(-1).sum().backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
    half = engine(model.to(torch.bfloat16)).generate(prompts, 2, Sampling(8), seeded())
    for answer in answers + half:
        assert answer.behaviour.dtype == torch.float32 and torch.isfinite(answer.behaviour).all()


@torch.no_grad()
def test_under_autocast_log_probs_are_those_of_the_trainers_arithmetic(model, prompts):
    """Keys and values lie in bfloat16, to which attention rounds them in any case."""
    with torch.autocast("cpu", torch.bfloat16):
        answers = engine(model, max_batch=4).generate(prompts, 3, Sampling(20), seeded())
        for answer in answers:
            # Beyond rounding to 8 bits the two differ in the order of sums only.
            torch.testing.assert_close(answer.behaviour, recomputed(model, answer), atol=0.03, rtol=0.02)


def test_keys_and_values_under_autocast_take_half_the_memory(model, prompts, monkeypatch):
    kept = set()
    resize = cache._RollingLayer.resize
    monkeypatch.setattr(
        cache._RollingLayer, "resize", lambda self, *a, **k: (resize(self, *a, **k), kept.add(self.keys.dtype))[0]
    )
    with torch.autocast("cpu", torch.bfloat16):
        engine(model).generate(prompts, 2, Sampling(4), seeded())
    assert kept == {torch.bfloat16}
    kept.clear()
    engine(model).generate(prompts, 2, Sampling(4), seeded())
    assert kept == {torch.float32}


def test_progress_counts_up_to_all_answers(model, prompts):
    calls = []
    engine(model, max_batch=4, progress=lambda *c: calls.append(c)).generate(prompts, 3, Sampling(8), seeded())
    assert calls == sorted(calls) and calls[-1] == (15, 15)


def test_prompts_that_cannot_be_answered_are_refused_with_a_way_out(model, prompts):
    with pytest.raises(ZooError, match=r"Prompt 2 of 5 has 11 tokens.* 128 positions") as refused:
        engine(model).generate(prompts, 1, Sampling(118), seeded())
    assert "at most 117" in refused.value.hint
    with pytest.raises(ZooError, match="Prompt 1 of 1 has no tokens"):
        engine(model).generate([torch.tensor([], dtype=torch.long)], 1, Sampling(4), seeded())
    with pytest.raises(ValueError, match="generator"):
        engine(model).generate(prompts, 1, Sampling(4))
    assert engine(model).generate([], 3, Sampling(4), seeded()) == []


def test_weights_that_have_diverged_stop_generation(model, prompts):
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(ZooError, match="not finite"):
        engine(model).generate(prompts, 1, Sampling(4), seeded())


def test_a_state_space_model_writes_what_its_own_generate_writes(prompts):
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    model = transformers.MambaForCausalLM(transformers.MambaConfig(**sizes)).eval()
    for answer in engine(model).generate(prompts, 1, Sampling(6, temperature=0)):
        written = model.generate(answer.prompt[None], max_new_tokens=6, do_sample=False, eos_token_id=END)
        assert written[0, len(answer.prompt) :].tolist() == answer.completion.tolist()


@pytest.mark.parametrize("kind", ["rwkv", "recurrent_gemma", "xlstm"])
def test_a_model_that_keeps_its_state_outside_of_a_cache_writes_the_same_slowly_and_says_so(kind):
    """RWKV takes no cache, RecurrentGemma keeps states in its modules, xLSTM has a cache of its own."""
    with pytest.warns(UserWarning, match="keeps its state outside of a cache"):
        sweep.generation(kind)


def test_a_budget_cuts_the_longest_answers_at_one_length_whatever_the_batch(model, prompts):
    free = engine(model).generate(prompts, 6, Sampling(60, temperature=1.3), seeded(8))
    lengths = [len(a.completion) for a in free]
    budget = 20
    assert sum(lengths) > budget * len(free) and min(lengths) < budget, "the budget must bind, and not for all"
    longest = max(length for length in range(1, 60) if sum(min(n, length) for n in lengths) <= budget * len(free))
    for max_batch in (64, 7, 1):
        held = engine(model, max_batch=max_batch).generate(
            prompts, 6, Sampling(60, temperature=1.3, budget=budget), seeded(8)
        )
        for a, b in zip(free, held, strict=True):
            assert b.completion.tolist() == a.completion[:longest].tolist()
            assert len(b.mask) == len(b.behaviour) == len(b.completion)
            assert (b.ended, b.cut) == ((a.ended, a.cut) if len(a.completion) <= longest else (False, True))


def test_a_budget_that_is_spent_ends_the_generation(model, prompts):
    looked_at(model)
    steps = []
    handle = model.register_forward_pre_hook(
        lambda _, __, given: steps.append(len(given["input_ids"])), with_kwargs=True
    )
    never_ends = InProcessEngine(model, eos_ids=[], pad_id=PAD)
    answers = never_ends.generate(prompts, 4, Sampling(100, budget=10), seeded())
    handle.remove()
    assert {len(a.completion) for a in answers} == {10} and all(a.cut for a in answers)
    assert len(steps) <= 1 + 10  # the prefill, and no step beyond the one that passes the budget


def test_a_budget_that_is_enough_changes_nothing(model, prompts):
    free = engine(model).generate(prompts, 3, Sampling(20), seeded())
    same(engine(model).generate(prompts, 3, Sampling(20, budget=20), seeded()), free)


@pytest.mark.parametrize(
    "lengths, total, expected",
    [([3, 5, 9], 17, None), ([3, 5, 9], 16, 8), ([3, 5, 9], 11, 4), ([3, 5, 9], 3, 1), ([7, 7], 9, 4), ([], 0, None)],
)
def test_the_common_length_is_the_largest_that_fits(lengths, total, expected):
    assert common_length(lengths, total) == expected


@pytest.mark.skipif(not cpu_has_bfloat16(), reason="this CPU does not multiply bfloat16, so torch packs nothing")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_packed_weights_compute_the_same_to_the_last_bit(rows, bias):
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(96, 160, bias=bias))
    inputs = torch.randn(rows, 2, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = layer(inputs)
        with packing.packed(layer):
            assert "forward" in vars(layer[0]), "this torch packs nothing"
            assert torch.equal(layer(inputs), expected)
        assert "forward" not in vars(layer[0]) and torch.equal(layer(inputs), expected)


def test_answers_from_packed_weights_and_rounded_keys_are_those_from_plain_ones(model, prompts, monkeypatch):
    def answers():
        with torch.autocast("cpu", torch.bfloat16):
            return engine(model).generate(prompts, 3, Sampling(20), seeded())

    first = answers()
    monkeypatch.setattr(packing, "_forward", lambda layer: None)
    monkeypatch.setattr(cache, "_autocast_dtype", lambda like: None)
    for a, b in zip(answers(), first, strict=True):
        assert a.completion.tolist() == b.completion.tolist() and torch.equal(a.behaviour, b.behaviour)


def test_nothing_is_packed_in_float32_or_left_packed_after_an_error(model, prompts):
    with packing.packed(model):
        assert not any("forward" in vars(module) for module in model.modules())
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(KeyboardInterrupt):
        engine(model, progress=_interrupt).generate(prompts, 1, Sampling(4), seeded())
    assert not any("forward" in vars(module) for module in model.modules())


# -- episodes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_an_episode_goes_on_as_if_its_text_had_been_one_prompt(name, prompts):
    """Turn after turn, with texts of other lengths between them, each token is what the whole text would give."""
    model = build(name)
    engine = InProcessEngine(model, eos_ids={END}, pad_id=PAD, max_batch=16)
    texts = [prompt for prompt in prompts for _ in range(2)]
    generator = torch.Generator().manual_seed(1)
    numbers, turns = list(range(len(texts))), 0
    with engine.episodes(Sampling(12, temperature=0.9)) as take:
        while numbers and turns < 4:
            limits, drawn, answers = [3 + n % 9 for n in numbers], [100 * turns + n for n in numbers], {}
            take(numbers, [texts[n] for n in numbers], limits, drawn, answers.__setitem__)
            assert sorted(answers) == numbers
            for n, limit, seed in zip(numbers, limits, drawn, strict=True):
                answer = answers[n]
                check_turn(model, texts[n], answer, limit, seed)
                said = torch.randint(4, VOCABULARY, (1 + (3 * n + turns) % 7,), generator=generator)
                texts[n] = torch.cat([texts[n], answer.completion, said])
            # Some episodes end, so that others stand elsewhere in the next turn.
            numbers, turns = [n for n in numbers if (n + turns) % 4], turns + 1
    assert turns > 2


def check_turn(model, text, answer, limit, seed):
    assert answer.prompt.tolist() == text.tolist() and len(answer.completion) <= limit
    assert answer.cut == (not answer.ended) == (answer.completion[-1] != END)
    assert not answer.cut or len(answer.completion) == limit
    logits = model(input_ids=torch.cat([text, answer.completion])[None]).logits[0, len(text) - 1 : -1].float() / 0.9
    logps = logits.log_softmax(-1)
    torch.testing.assert_close(answer.behaviour, logps.gather(-1, answer.completion[:, None])[:, 0], atol=1e-4, rtol=0)
    for token, row, uniform in zip(answer.completion.tolist(), logps, uniform_stream(seed, 12), strict=False):
        above = row.exp().cumsum(-1)
        low, high = (float(above[token - 1]) if token else 0.0), float(above[token])
        assert low - 1e-4 <= 1 - uniform <= high + 1e-4


def test_what_a_turn_computed_is_not_computed_again(prompts, model):
    fed = []
    model.register_forward_pre_hook(lambda module, args, given: fed.append(given["input_ids"].shape), with_kwargs=True)
    engine = InProcessEngine(model, eos_ids={END}, pad_id=PAD)
    texts, answers = [prompts[1]] * 3, {}
    with engine.episodes(Sampling(8)) as take:
        take([0, 1, 2], texts, [8, 8, 8], [1, 2, 3], answers.__setitem__)
        assert (1, len(prompts[1])) in fed and (3, len(prompts[1])) not in fed, "one prompt for the three of them"
        longer = [torch.cat([texts[n], answers[n].completion, torch.arange(4, 6 + n)]) for n in range(3)]
        fed.clear()
        take([0, 1, 2], longer, [4, 4, 4], [4, 5, 6], answers.__setitem__)
        # The last token of a turn was chosen and not computed: with it, the one that has most to read has 5.
        assert fed[0] == (3, 5)


def test_an_episode_longer_than_the_model_is_refused(model, prompts):
    with (
        InProcessEngine(model, eos_ids={END}, pad_id=PAD).episodes(Sampling(8)) as take,
        pytest.raises(ZooError, match="Prompt 1 of 1 has 125 tokens; with max_new_tokens = 8"),
    ):
        take([0], [torch.full((125,), 5)], [8], [1], print)
