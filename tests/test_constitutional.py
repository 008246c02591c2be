"""Constitutional AI: chains of critique and revision, what is trained on and kept; a resume writes nothing anew."""

import contextlib
import json
import signal
from dataclasses import replace

import pytest
import torch
from formulas import backward, close, metric, options, tensor
from test_online import KillAt
from test_resume import assert_same, in_child, installed
from tiny_runs import demonstrations, differences, trainer, two_processes, write_rows

import zoo
from zoo.api import Answer, Sampling, load_constitution
from zoo.contract.registry import load_algorithm
from zoo.data.encoding.template import ChatTemplate
from zoo.errors import ZooError
from zoo.rollout.engine import InProcessEngine
from zoo.rollout.writer import Writer
from zoo.runs import Run
from zoo.testing import stand_ins

Constitutional = load_algorithm("constitutional")[1]
MATHS = Constitutional.prepare.__globals__
PROMPT = [{"role": "user", "content": "Be rude."}]
PRINCIPLES = """
principles:
  - {id: kind, critique_request: "What is unkind?", revision_request: Be kinder., comparison: "Which is kinder?"}
  - {id: exact, critique_request: "What is false?", revision_request: Be truer., comparison: "Which is truer?"}
"""


class Author:
    """A policy whose calls of `generate` give the next list of texts; it remembers what it was asked."""

    def __init__(self, *calls, cut=()):
        self.calls, self.asked, self.cut = list(calls), [], cut

    def generate(self, prompts, n=None):
        assert n == 1
        texts = self.calls[len(self.asked)]
        self.asked.append(prompts)
        self.written = texts
        return [replace(Answer.of([1], [2]), cut=text in self.cut) for text in texts]

    def texts(self, answers):
        return self.written

    def answer(self, prompt, text, ended=True):
        said = text if isinstance(text, str) else text[-1]["content"]
        # One token a letter, and 0 for the end of the turn behind which the template writes a line break.
        ids = [*map(ord, said), 0, 10]
        if not ended:
            return Answer.of([1, 2], ids[:-2], ended=False, cut=True)
        return Answer.of([1, 2], ids, [True] * (len(ids) - 1) + [False])


def records(count=1):
    return [{"row": i + 1, "prompt": torch.tensor([1]), "record": {"prompt": PROMPT}} for i in range(count)]


def drawn(ids, count=1):
    by_id = {one.id: one for one in load_constitution()}
    return [[by_id[name]] * count for name in ids]


def text_of(record):
    one = record["completion"]
    return "".join(chr(token) for token in one.completion[one.mask].tolist() if token)


# -- chains --------------------------------------------------------------------------------------------------------


def test_each_round_criticises_and_revises_by_its_principle():
    author = Author(["Go away."], ["It is rude."], ["Please go."], ["It is curt."], ["Please, could you go?"])
    rounds = drawn(["privacy", "no_sermon"])
    steps, trained = MATHS["chains"](records(), rounds, author)
    (first,), (second,) = rounds
    assert author.asked[0][0]["record"]["prompt"] == PROMPT
    criticised = [*PROMPT, said("Go away."), asked(first.critique_request)]
    assert author.asked[1] == [criticised]
    assert author.asked[2] == [[*criticised, said("It is rude."), asked(first.revision_request)]]
    # The second round knows nothing of the first but its revision.
    assert author.asked[3] == [[*PROMPT, said("Please go."), asked(second.critique_request)]]
    assert [text_of(record) for record in trained] == ["Please go.", "Please, could you go?"]
    assert [
        (step["round"], step["principle"], step["answer"], step["critique"], step["revision"]) for step in steps
    ] == [
        (1, "privacy", "Go away.", "It is rude.", "Please go."),
        (2, "no_sermon", "Please go.", "It is curt.", "Please, could you go?"),
    ]
    assert all(step["initial"] == "Go away." and step["prompt"] == PROMPT and step["row"] == 1 for step in steps)


def said(text):
    return {"role": "assistant", "content": text}


def asked(text):
    return {"role": "user", "content": text}


def test_the_data_set_is_all_revisions_and_the_share_of_helpful_answers(vectors):
    given, expected = vectors["cai.sl_dataset"]["inputs"], vectors["cai.sl_dataset"]["expected"]
    prompts, rounds = 3, given["n_revisions"]
    author = Author(["a"] * prompts, *[[f"{k} {i}" for i in range(prompts)] for k in range(2 * rounds)])
    _, trained = MATHS["chains"](records(prompts), drawn(["privacy"] * rounds, prompts), author)
    assert len(trained) / prompts == expected["n_harmless_examples"] / given["n_red_team_prompts"]
    share = expected["n_helpful_examples"] / expected["n_total"]
    assert MATHS["helpful_count"](expected["n_harmless_examples"], share) == expected["n_helpful_examples"]
    assert options(Constitutional).helpful_share == pytest.approx(share, abs=0.001)


def test_a_revision_that_says_nothing_is_left_out_and_the_next_round_goes_on_from_the_answer_before():
    author = Author(["Go away."], ["Rude."], ["Revision: "], ["Rude still."], ["Please go."])
    steps, trained = MATHS["chains"](records(), drawn(["privacy", "privacy"]), author)
    assert [step["revision"] for step in steps] == ["", "Please go."]
    assert author.asked[3][0][1] == said("Go away.")
    assert [text_of(record) for record in trained] == ["Please go."]


def test_the_run_says_how_many_of_each_round_refuse():
    no, yes = "I cannot help with that, I am sorry.", "Here is a recipe for bread: take flour and water."
    first, then, last = [yes, no, no], [yes, yes, no], [no, yes, yes]
    author = Author(first, ["Hm."] * 3, then, ["Hm."] * 3, last)
    steps, trained = MATHS["chains"](records(3), drawn(["privacy"] * 2, 3), author)
    with pytest.warns(UserWarning, match="0.67 of the first answers, 0.33 after round 1, 0.33 after round 2"):
        MATHS["_tell"](steps, 3, len(trained), 0)


def test_a_revision_that_was_cut_is_trained_without_an_end():
    author = Author(["Go."], ["Rude."], ["Please"], ["Rude."], ["Please go."], cut=("Please",))
    steps, (cut, whole) = MATHS["chains"](records(), drawn(["privacy", "privacy"]), author)
    assert cut["completion"].completion.tolist() == [*map(ord, "Please")]
    assert cut["completion"].cut and not cut["completion"].ended and cut["completion"].mask.all()
    assert whole["completion"].completion.tolist() == [*map(ord, "Please go."), 0, 10] and whole["completion"].ended
    assert [step["cut"] for step in steps] == [True, False]


def test_a_text_without_an_end_leaves_its_end_of_turn_out(tiny_tokenizer):
    template = ChatTemplate(tiny_tokenizer)
    writer = Writer(None, None, template, Sampling(), 1, 0, contextlib.nullcontext, torch.device("cpu"))
    whole, cut = writer.answer("one two", "red sun"), writer.answer("one two", "red sun", ended=False)
    assert tiny_tokenizer.decode(cut.completion).strip() == "red sun"
    end = int(whole.mask.nonzero()[-1])
    assert int(whole.completion[end]) in template.eos_ids
    assert cut.completion.tolist() == whole.completion[:end].tolist() and cut.mask.all()
    assert (cut.ended, cut.cut, whole.ended, whole.cut) == (False, True, True, False)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Revision: Take two things: salt and bread.", "Take two things: salt and bread."),
        ("Take two things: salt and bread.", "Take two things: salt and bread."),
        ("**Critique:** It is rude.", "It is rude."),
        ("Sure, here is a revised answer: Please go.", "Please go."),
        ("Here's the rewritten version of the assistant's answer:\n\nPlease go.", "Please go."),
        ("The revision: what it means", "The revision: what it means"),
        ("Revision <|im_end|> is a word", "Revision  is a word"),
        ("Critique:", ""),
    ],
)
def test_a_label_is_taken_off_the_beginning_and_colons_stay(text, left):
    assert MATHS["stripped"](text) == left


# -- the loss ------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_nll_of_all_tokens_and_told_for_both_sorts():
    logps = tensor([[-1.0, -2.0, -3.0], [-0.5, -0.1, 0.0]]).requires_grad_()
    mask = torch.tensor([[True, True, True], [True, True, False]])
    batch, models = stand_ins(
        policy={"completion": logps}, masks={"completion": mask}, fields={"helpful": torch.tensor([False, True])}
    )
    loss = Constitutional().loss(batch, models)
    close(loss.mean(), 6.6 / 5)
    close(metric(loss, "revision_loss"), 2.0)
    close(metric(loss, "helpful_loss"), 0.3)
    backward(loss)
    close(logps.grad, [-0.2] * 5 + [0.0])


# -- whole runs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "principles.yaml").write_text(PRINCIPLES)
    rows = [{"prompt": row["prompt"]} for row in demonstrations(10)[::2]]
    given = {
        "data": write_rows(tmp_path / "prompts.jsonl", rows), "max_new_tokens": 8, "score": "none", "lr": 1e-3,
        "constitution": str(tmp_path / "principles.yaml"),
        "helpful": write_rows(tmp_path / "helpful.jsonl", demonstrations(12)),
    }  # fmt: skip
    start = trainer(tmp_path, tiny_folder)
    return lambda **options: start("constitutional", **{**given, **options})


@pytest.fixture
def calls(monkeypatch):
    """How often the engine was asked, whatever for."""
    made = []
    generate = InProcessEngine.generate
    monkeypatch.setattr(InProcessEngine, "generate", lambda self, *rest: made.append(rest) or generate(self, *rest))
    return made


def steps_of(run):
    return [json.loads(line) for line in (run.path / "revisions.jsonl").read_text().splitlines()]


def test_a_run_keeps_every_step_and_trains_on_revisions_and_helpful_rows(train):
    run = train(helpful_share=0.5)
    steps = steps_of(run)
    assert [(step["row"], step["round"]) for step in steps] == [(i, k) for k in (1, 2) for i in range(1, 6)]
    assert {step["principle"] for step in steps} == {"kind", "exact"}
    assert all(step["answer"] == other["revision"] for step, other in zip(steps[5:], steps[:5], strict=True))
    revised = sum(bool(step["revision"]) for step in steps)
    assert run.summary["steps"] == -(-2 * revised // 4)
    last = run.log_history[-1]
    assert {"revision_loss", "helpful_loss"} & last.keys() and 0 <= last["mean_token_accuracy"] <= 1


def test_without_helpful_rows_there_are_revisions_alone(train):
    run = train(helpful="none", rounds=1)
    assert run.summary["steps"] == 2 and all("helpful_loss" not in row for row in run.log_history)


def test_what_was_written_is_found_again(train, calls):
    first = train()
    assert len(calls) == 5
    second = train(lr=2e-3)
    assert len(calls) == 5, "the same weights were asked the same"
    assert steps_of(first) == steps_of(second)
    train(temperature=0.9)
    assert len(calls) == 10
    train(seed=1)
    assert len(calls) == 15


def test_principles_are_drawn_by_their_own_seed(train):
    ids = [[step["principle"] for step in steps_of(train(principle_seed=seed))] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_a_killed_run_resumed_writes_nothing_again_and_ends_alike(train, calls, tmp_path):
    whole = train(name="whole", save_every=1)

    def broken():
        installed(KillAt("step_end", 2))
        train(name="broken", save_every=1, seed=0)

    assert in_child(broken, tmp_path / "output.txt") == 128 + signal.SIGKILL, (tmp_path / "output.txt").read_text()
    (tmp_path / "runs" / "broken" / "revisions.jsonl").unlink()
    written = len(calls)
    resumed = zoo.resume(tmp_path / "runs" / "broken", quiet=True)
    assert len(calls) == written
    assert steps_of(resumed) == steps_of(whole)
    assert_same(resumed, whole)


def test_two_processes_give_what_one_gives(train, tmp_path, tiny_folder):
    single = train(batch_size=4)
    flags = [part for name, value in {
        "model": tiny_folder, "data": tmp_path / "prompts.jsonl", "devices": 2, "accelerator": "cpu", "batch_size": 4,
        "precision": "32-true", "schedule": "constant", "warmup": 0.0, "max_new_tokens": 8, "score": "none",
        "lr": 1e-3, "constitution": tmp_path / "principles.yaml", "helpful": tmp_path / "helpful.jsonl",
        "out": tmp_path / "two",
    }.items() for part in ("--" + name.replace("_", "-"), str(value))]  # fmt: skip
    first, second = two_processes("train", "--algo", "constitutional", *flags, cwd=tmp_path)
    assert first.returncode == second.returncode == 0, first.stdout + first.stderr + second.stdout + second.stderr
    assert "Refused or evaded" in first.stdout
    (path,) = (tmp_path / "two").iterdir()
    assert steps_of(Run(path)) == steps_of(single)
    assert differences(single, Run(path)) < 1e-5


def test_mistakes_are_named(train, tmp_path):
    with pytest.raises(ZooError, match="no constitution 'defautl'"):
        train(constitution="defautl")
    with pytest.raises(ZooError, match="Held-out prompts have no revisions"):
        train(eval_data=str(tmp_path / "prompts.jsonl"))
    with pytest.raises(ZooError, match="rounds must be at least 1"):
        options(Constitutional, rounds=0)
    with pytest.raises(ZooError, match="helpful_share"):
        options(Constitutional, helpful_share=1.0)
    with pytest.raises(ZooError, match="no effect without helpful rows"):
        options(Constitutional, helpful=None, helpful_share=0.5)
