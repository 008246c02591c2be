"""Engines by name, and the client of a vLLM server: against a stand-in that speaks its API with a tiny real model."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_episodes import SOURCE, assert_consistent
from tiny_runs import demonstrations, trainer, write_rows
from transformers import AutoModelForCausalLM

from zoo.data.encoding.template import ChatTemplate
from zoo.environments.named import make_pool
from zoo.errors import PluginError, TrainingStopped, ZooError
from zoo.http import Server, ServerError
from zoo.rollout.correction import importance_weights
from zoo.rollout.engine import EngineSetup, InProcessEngine, Sampling, make_engine
from zoo.rollout.episodes import Player
from zoo.rollout.plugin import engines
from zoo.rollout.vllm import VLLMEngine
from zoo.rollout.weights import fingerprint
from zoo.testing.tiny import make_model, make_tokenizer
from zoo.values.types import Answers

TOKENIZER = make_tokenizer()
END = TOKENIZER.eos_token_id
KNOWN = {
    "model", "prompt", "n", "max_tokens", "temperature", "top_k", "top_p", "seed", "stop", "stop_token_ids", "logprobs",
    "return_token_ids", "ignore_eos", "skip_special_tokens", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "min_p",
}  # fmt: skip


class StandIn(ThreadingHTTPServer):
    """The part of vLLM's API that the client speaks. What it was asked lies in `asked`, by path."""

    daemon_threads = True

    def __init__(self, model, logprobs_mode="processed_logprobs"):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.tokenizer, self.logprobs_mode = model, TOKENIZER, logprobs_mode
        self.dev_mode, self.busy, self.delay, self.stopping = True, 0, 0.0, False
        self.asked: dict[str, list] = {}
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path, body):
        """Status and body of the answer."""
        path, _, query = path.partition("?")
        self.asked.setdefault(path, []).append(body)
        time.sleep(self.delay)
        if self.busy:
            self.busy -= 1
            return 503, {"error": {"message": "starting"}}
        if not self.dev_mode and path in ("/server_info", "/collective_rpc", "/reset_prefix_cache"):
            return 404, {"detail": "Not Found"}
        if path == "/v1/models":
            return 200, {"data": [{"id": "served", "max_model_len": 256}]}
        if path == "/server_info":
            assert query == "config_format=json"
            return 200, {"vllm_config": {"model_config": {"logprobs_mode": self.logprobs_mode}}}
        if path == "/tokenize":
            return 200, {"tokens": self.tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"])}
        if path == "/reset_prefix_cache":
            return 200, {"success": len(self.asked[path]) > 1}  # refuses once
        return getattr(self, path.strip("/").replace("/", "_"))(body)

    def collective_rpc(self, body):
        assert body["method"] == "reload_weights"
        try:
            self.model = AutoModelForCausalLM.from_pretrained(body["kwargs"]["weights_path"], local_files_only=True)
        except OSError as error:
            return 500, {"error": {"message": str(error)}}
        return 200, {"results": [None]}

    def v1_completions(self, body):
        assert set(body) <= KNOWN and body["model"] == "served"
        sampling = Sampling(
            body["max_tokens"], body["temperature"], top_k=body["top_k"], top_p=body["top_p"], stop=body["stop"]
        )
        with self.lock:
            engine = InProcessEngine(
                self.model, eos_ids=body["stop_token_ids"], pad_id=END, tokenizer=self.tokenizer, max_batch=4
            )
            generator = torch.Generator().manual_seed(body["seed"])
            answers = engine.generate([torch.tensor(body["prompt"])], body["n"], sampling, generator)
        reason = "abort" if self.stopping else "stop"
        choices = [
            {
                "index": index,
                "token_ids": answer.completion.tolist(),
                "logprobs": {"token_logprobs": answer.behaviour.tolist()},
                "finish_reason": reason if answer.ended else "length",
            }
            for index, answer in enumerate(answers)
        ]
        return 200, {"choices": choices[::-1]}  # in any order


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self, body=None):
        status, answer = self.server.answer(self.path, body)
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self):
        self.do_GET(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, *arguments):
        pass


def tiny(seed=0):
    return make_model(len(TOKENIZER), END, seed)


@pytest.fixture
def server():
    standing = StandIn(tiny(seed=1))
    yield standing
    standing.shutdown()
    standing.server_close()


@pytest.fixture
def prompts():
    return [torch.tensor(TOKENIZER.encode(text)) for text in ("Say hello.", "a", "One, two, three")]


def connect(server, model=None, progress=None, **options):
    setup = EngineSetup(model or tiny(), frozenset([END, 65]), END, TOKENIZER, progress)
    engine = VLLMEngine(setup, url=server.url, **options)
    engine.server.pause = 0.01
    return engine


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def recomputed(model, answer, temperature=1.0):
    logits = model(input_ids=torch.cat([answer.prompt, answer.completion])[None]).logits[0]
    logps = (logits[len(answer.prompt) - 1 : -1].float() / temperature).log_softmax(-1)
    return logps.gather(-1, answer.completion[:, None])[:, 0]


# -- generation --------------------------------------------------------------------------------------------------


def test_answers_are_adjacent_in_prompt_order_with_the_log_probs_they_were_drawn_with(server, prompts):
    answers = connect(server).generate(prompts, 4, Sampling(12, temperature=0.8), seeded())
    assert [a.prompt.tolist() for a in answers] == [p.tolist() for p in prompts for _ in range(4)]
    assert len({tuple(a.completion.tolist()) for a in answers}) == 12
    for answer in answers:
        assert answer.behaviour.dtype == torch.float32
        torch.testing.assert_close(answer.behaviour, recomputed(server.model, answer, 0.8), atol=1e-5, rtol=1e-5)


def test_a_server_writes_the_turns_of_episodes_and_every_turn_reads_those_before(server, tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    template = ChatTemplate(TOKENIZER)
    template.eos_ids |= {END, *range(60, 100)}
    player = Player(make_pool(f"{tmp_path / 'mine.py'}:Counting()", {}, 20.0), template, 8)
    engine = VLLMEngine(EngineSetup(tiny(), frozenset(template.eos_ids), END, TOKENIZER, None), url=server.url)
    try:
        answers = player.play(engine, [{"prompt": f"prompt {i}"} for i in range(3)], 2, Sampling(200), list(range(6)))
    finally:
        player.close()
    assert len(answers) == 6 and all(len(answer.episode.messages) > 2 for answer in answers)
    asked = [len(body["prompt"]) for body in server.asked["/v1/completions"]]
    assert len(asked) > 6 and max(asked) > 2 * min(asked), "a turn is asked for with all before it"
    for answer in answers:
        assert_consistent(answer, server.model, template)


def test_the_run_says_what_ends_an_answer(server, prompts):
    answers = connect(server).generate(prompts, 20, Sampling(30), seeded(1))
    assert {a.ended for a in answers} == {True, False}
    for answer in answers:
        assert answer.ended == (int(answer.completion[-1]) in (END, 65)) and answer.cut == (not answer.ended)
        assert not set(answer.completion[:-1].tolist()) & {END, 65}
    assert all(body["ignore_eos"] and body["stop_token_ids"] == [65, END] for body in server.asked["/v1/completions"])


def test_every_answer_has_random_numbers_of_its_own_from_the_given_generator_alone(server, prompts):
    engine = connect(server)
    same_prompt = [prompts[0]] * 3
    first = engine.generate(same_prompt, 2, Sampling(8), seeded(3))
    assert len({tuple(a.completion.tolist()) for a in first}) == 6
    torch.manual_seed(99)
    again = engine.generate(same_prompt, 2, Sampling(8), seeded(3))
    assert [a.completion.tolist() for a in again] == [a.completion.tolist() for a in first]
    moved, local = seeded(3), seeded(3)
    engine.generate(same_prompt, 2, Sampling(8), moved)
    InProcessEngine(tiny(), eos_ids=[END], pad_id=END).generate(same_prompt, 2, Sampling(2), local)
    assert torch.equal(moved.get_state(), local.get_state()), "as many draws as the in-process engine makes"


def test_greedy_answers_equal_those_of_the_in_process_engine(server, prompts):
    sampling = Sampling(16, temperature=0)
    local = InProcessEngine(server.model, eos_ids=[END, 65], pad_id=END).generate(prompts, 1, sampling)
    remote = connect(server).generate(prompts, 1, sampling)
    assert [a.completion.tolist() for a in remote] == [a.completion.tolist() for a in local]


def test_settings_of_sampling_reach_the_server_and_nothing_is_left_to_its_own_defaults(server, prompts):
    connect(server).generate(prompts[:1], 2, Sampling(5, temperature=0.5, top_k=7, top_p=0.9, stop=["x"]), seeded())
    body = server.asked["/v1/completions"][0]
    assert (body["max_tokens"], body["temperature"], body["top_k"], body["top_p"]) == (5, 0.5, 7, 0.9)
    assert body["stop"] == ["x"] and body["n"] == 2 and 0 <= body["seed"] < 2**62
    assert {body[name] for name in ("presence_penalty", "frequency_penalty", "min_p")} == {0.0}
    assert body["repetition_penalty"] == 1.0


def test_a_budget_holds_for_a_server_too_and_progress_is_told(server, prompts):
    calls = []
    engine = connect(server, progress=lambda *c: calls.append(c))
    free = engine.generate(prompts, 4, Sampling(40), seeded(2))
    assert calls[-1] == (12, 12) and calls == sorted(calls)
    held = engine.generate(prompts, 4, Sampling(40, budget=15), seeded(2))
    longest = max(len(a.completion) for a in held)
    assert sum(len(a.completion) for a in held) <= 15 * 12 < sum(len(a.completion) for a in free)
    for a, b in zip(free, held, strict=True):
        assert b.completion.tolist() == a.completion[:longest].tolist() and len(b.behaviour) == len(b.completion)
        assert b.cut == (a.cut or len(a.completion) > longest) and b.ended == (not b.cut)


# -- weights -----------------------------------------------------------------------------------------------------


def test_the_server_gets_the_weights_of_the_run_and_forgets_what_it_computed_with_others(server, prompts):
    model = tiny()
    engine = connect(server, model)
    assert engine.remote
    engine.update(model)
    assert len(server.asked["/reset_prefix_cache"]) == 2  # the first was refused
    for answer in engine.generate(prompts, 2, Sampling(8), seeded()):
        torch.testing.assert_close(answer.behaviour, recomputed(model, answer), atol=1e-5, rtol=1e-5)


def test_weights_are_sent_only_when_they_changed_and_leave_nothing_behind(server, tmp_path):
    model = tiny()
    engine = connect(server, model, folder=str(tmp_path))
    engine.update(model)
    engine.update(model)
    assert len(server.asked["/collective_rpc"]) == 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    model(input_ids=torch.tensor([[5, 6]])).logits.logsumexp(-1).sum().backward()
    optimizer.step()
    engine.update(model)
    sent = [body["kwargs"]["weights_path"] for body in server.asked["/collective_rpc"]]
    assert len(set(sent)) == 2 and all(path.startswith(str(tmp_path)) for path in sent)
    assert list(tmp_path.iterdir()) == []


def test_adapters_are_merged_into_what_is_sent_and_stay_apart_here(server, prompts):
    torch.manual_seed(0)
    adapted = get_peft_model(tiny(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    before = {name: weight.clone() for name, weight in adapted.named_parameters()}
    engine = connect(server, adapted.eval())
    engine.update(adapted)
    for answer in engine.generate(prompts, 2, Sampling(8), seeded()):
        torch.testing.assert_close(answer.behaviour, recomputed(adapted, answer), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(weight, before[name]) for name, weight in adapted.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fingerprint_differs_when_one_weight_does(dtype):
    model = tiny().to(dtype)
    first = fingerprint(model)
    assert fingerprint(model) == first
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] *= 1.01
    assert fingerprint(model) != first


# -- mistakes ----------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_up_is_told_with_how_to_start_it():
    server = Server("http://127.0.0.1:9", attempts=2, pause=0.01)
    with pytest.raises(ServerError, match=r"No server answers at http://127.0.0.1:9"):
        server.get("/health")
    with pytest.raises(ZooError, match="not the address of a server"):
        Server("127.0.0.1:8000")


def test_connecting_to_nothing_names_the_command(monkeypatch):
    monkeypatch.setattr("zoo.http.time.sleep", lambda seconds: None)
    with pytest.raises(ZooError, match="No server answers") as told:
        VLLMEngine(EngineSetup(tiny(), frozenset([END]), END), url="http://127.0.0.1:9")
    assert "vllm serve" in told.value.hint


def test_a_busy_server_is_asked_again_a_bounded_number_of_times(server, prompts):
    engine = connect(server)
    server.busy = 2
    assert len(engine.generate(prompts[:1], 1, Sampling(2), seeded())) == 1
    server.busy = 100
    with pytest.raises(TrainingStopped, match="503: starting") as told:
        engine.generate(prompts[:1], 1, Sampling(2), seeded())
    assert "zoo resume" in told.value.hint and server.busy == 96


def test_a_request_that_takes_too_long_is_not_repeated(server, prompts):
    engine = connect(server)
    engine.server.timeout, server.delay = 0.2, 1.0
    with pytest.raises(TrainingStopped, match=r"more than 0.2 s over POST /v1/completions"):
        engine.generate(prompts[:1], 1, Sampling(2), seeded())
    assert len(server.asked["/v1/completions"]) == 1


def test_an_answer_that_a_stopped_server_broke_off_is_not_taken_for_a_whole_one(server, prompts):
    engine = connect(server)
    server.stopping = True
    with pytest.raises(TrainingStopped, match=r"broke off an answer \(abort\)") as stopped:
        engine.generate(prompts, 20, Sampling(30), seeded(1))
    assert "zoo resume" in stopped.value.hint


def test_a_server_without_dev_mode_is_refused_before_anything_runs(server):
    server.dev_mode = False
    with pytest.raises(ZooError, match="not a vLLM server in dev mode") as told:
        connect(server)
    assert "VLLM_SERVER_DEV_MODE=1" in told.value.hint


def test_another_tokenizer_and_another_vocabulary_are_noticed(server, prompts):
    class Shifted:
        def encode(self, text, **how):
            return [i + 1 for i in TOKENIZER.encode(text, **how)]

    server.tokenizer = Shifted()
    with pytest.raises(ZooError, match=r"another model \(served\).*tokenizer splits a text into other tokens"):
        connect(server)
    server.tokenizer = TOKENIZER
    engine = connect(server)
    engine.vocabulary = 5
    with pytest.raises(ZooError, match=r"it sampled token \d+, but the trained model has 5"):
        engine.generate(prompts, 1, Sampling(4), seeded())


def test_the_bound_of_the_weights_is_an_option_of_the_engine(server):
    engine = connect(server, bound=1.5, beyond="mask")
    assert (engine.bound, engine.beyond) == (1.5, "mask")
    for wrong in ({"bound": 0.5}, {"beyond": "clip"}):
        with pytest.raises(ZooError, match="bound must be at least 1|is not possible"):
            connect(server, **wrong)


def test_log_probs_at_another_temperature_are_refused_with_the_flag_that_helps(prompts):
    raw = StandIn(tiny(), logprobs_mode="raw_logprobs")
    engine = connect(raw)
    engine.generate(prompts, 1, Sampling(2), seeded())
    with pytest.raises(ZooError, match="gives log-probs at temperature 1") as told:
        engine.generate(prompts, 1, Sampling(2, temperature=0.7), seeded())
    assert "--logprobs-mode processed_logprobs" in told.value.hint
    raw.shutdown()


def test_a_prompt_that_is_too_long_for_the_server_is_refused_here(server):
    with pytest.raises(ZooError, match=r"Prompt 1 of 1 has 250 tokens.* 256 positions"):
        connect(server).generate([torch.full((250,), 70)], 1, Sampling(10), seeded())
    assert "/v1/completions" not in server.asked


def test_weights_that_the_server_cannot_load_stop_the_run_with_what_to_look_at(server):
    engine = connect(server)
    server.collective_rpc = lambda body: (500, {"error": {"message": "size mismatch"}})
    with pytest.raises(TrainingStopped, match="did not take the new weights.*size mismatch") as told:
        engine.update(tiny())
    assert "same architecture" in told.value.hint


def test_a_server_that_says_done_and_keeps_its_old_weights_is_caught(server):
    engine = connect(server)
    server.collective_rpc = lambda body: (200, {"results": [None]})
    with pytest.raises(TrainingStopped, match=r"log-probs differ from the trainer's by \d+\.\d\d per token"):
        engine.update(tiny())


# -- by name -----------------------------------------------------------------------------------------------------


def make(spec, **more):
    given = {"model": tiny(), "eos_ids": [END], "pad_id": END, "tokenizer": TOKENIZER, "named": engines()} | more
    return make_engine(spec, **given)


def test_engines_are_made_by_name_with_options_in_brackets(server):
    local = make("local(max_batch=3)")
    assert isinstance(local, InProcessEngine) and local.max_batch == 3 and not local.remote
    remote = make(f"vllm(url={server.url}/v1, timeout=5)")
    assert remote.server.url == server.url and remote.server.timeout == 5.0


def test_a_plugin_brings_an_engine_of_its_own(prompts):
    class Echo:
        remote = False

        def __init__(self, setup, *, loud: bool = False):
            self.setup, self.loud = setup, loud

        def generate(self, prompts, n, sampling, generator):
            return []

    made = make("echo(loud=yes)", named={"echo": Echo})
    assert made.loud is True and made.setup.pad_id == END

    class Silent(Echo):
        remote = True

    with pytest.raises(PluginError, match="'silent' .* has no 'update'"):
        make("silent", named={"silent": Silent})


@pytest.mark.parametrize(
    "spec, told",
    [
        ("vlm", r"No engine is called 'vlm'. Did you mean 'vllm'\?"),
        ("vllm(ulr=http://x)", r"has no option 'ulr'. Did you mean 'url'\?"),
        ("local(max_batch=many)", "option max_batch = many: "),
        ("vllm(url=)", "cannot be read"),
        ("vllm(http://x", "cannot be read"),
    ],
)
def test_a_slip_in_the_text_is_told_with_what_was_meant(spec, told):
    with pytest.raises(ZooError, match=told):
        make(spec)


# -- correction --------------------------------------------------------------------------------------------------


def test_importance_weights_are_ratios_with_a_bound():
    trainer = torch.tensor([[-1.0, -1.0, -2.0, -3.0], [-0.5, -0.5, -1.0, -9.0]], requires_grad=True)
    engine = torch.tensor([[-1.0, -2.0, -1.5, -4.5], [-0.5, -100.0, -torch.inf, -1.0]])
    mask = torch.tensor([[True, True, True, True], [True, True, True, False]])
    # exp(0) = 1; exp(1) = 2.718282 > 2; exp(-0.5) = 0.606531; exp(1.5) = 4.481689 > 2.
    weights = importance_weights(trainer, engine, mask, cap=2.0)
    assert weights[0].tolist() == pytest.approx([1.0, 2.0, 0.606531, 2.0], abs=1e-6)
    assert weights[1].tolist() == pytest.approx([1.0, 2.0, 0.0, 1.0], abs=1e-6)
    assert not weights.requires_grad
    masked = importance_weights(trainer, engine, mask, cap=2.0, beyond="mask")
    assert masked[0].tolist() == pytest.approx([1.0, 0.0, 0.606531, 0.0], abs=1e-6)
    wide = importance_weights(trainer, engine, mask, cap=3.0, beyond="mask")
    assert wide[0].tolist() == pytest.approx([1.0, 2.718282, 0.606531, 0.0], abs=1e-6)


def test_weights_of_a_server_with_other_weights_lead_to_the_trainers_expectation(server, prompts):
    """Σ over the vocabulary of engine probability times weight is 1, and reweighted frequencies are the trainer's."""
    model, other = tiny(), server.model
    with torch.no_grad():
        ours, theirs = (m(input_ids=prompts[1][None]).logits[0, -1].log_softmax(-1) for m in (model, other))
    mask = torch.ones_like(ours, dtype=torch.bool)[None]
    weights = importance_weights(ours[None], theirs[None], mask, cap=1e9)[0]
    torch.testing.assert_close(theirs.exp() * weights, ours.exp(), atol=1e-6, rtol=1e-4)
    answers = Answers(connect(server).generate(prompts, 2, Sampling(6), seeded()))
    assert answers.behaviour.shape == answers.mask.shape


# -- in a run ----------------------------------------------------------------------------------------------------


PLUGINS = Path(__file__).parent / "online_plugins.py"
REWARD = f"{PLUGINS.with_name('online_rewards.py')}:odd_letters"


@pytest.fixture
def train(tmp_path, tiny_folder):
    start = trainer(tmp_path, tiny_folder)
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": row["prompt"]} for row in demonstrations(8)])
    options = {
        "data": prompts, "reward": REWARD, "max_new_tokens": 6, "epochs": 1, "max_steps": 3, "lr": 1e-3,
        "answers_per_prompt": 2, "batch_size": 4, "eval_fraction": 0.0,
    }  # fmt: skip
    return lambda **more: start(f"{PLUGINS}:Reinforce", **{**options, **more})


def test_a_run_learns_from_a_servers_answers_and_hands_it_the_weights_of_every_step(train, server):
    run = train(engine=f"vllm(url={server.url})")
    gaps = [row["rollout/engine_gap"] for row in run.log_history if "rollout/engine_gap" in row]
    assert len(gaps) == 3 and max(gaps) < 1e-4
    assert len(server.asked["/collective_rpc"]) == 3
    ours, theirs = load_weights(run.path / "model"), server.model.state_dict()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours), "the last step came after the last rollout"
    local = train()
    assert local.summary["steps"] == run.summary["steps"] == 3


def test_a_budget_of_a_run_cuts_its_answers(train):
    run = train(token_budget=4)
    for row in (row for row in run.log_history if "rollout/length" in row):
        assert row["rollout/length"] <= 4 and row["rollout/cut"] > 0


def load_weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).state_dict()
