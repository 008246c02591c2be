"""Evaluations by name with options, on a tiny model: what they count, what they say of mistakes."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import cli, write_rows

from zoo.contract.registry import contributions, manager
from zoo.data.encoding.template import ChatTemplate
from zoo.errors import ZooError
from zoo.evals import Eval, Score, Subject
from zoo.evals.answers import score_all
from zoo.evals.best_of import best_of_n, sampled_reward
from zoo.evals.calibration import calibration, question_of
from zoo.evals.chosen import by_default, choose
from zoo.evals.diversity import diversity
from zoo.evals.drawing import draw
from zoo.evals.losses import forgetting, kl, perplexity
from zoo.evals.verified import accuracy, maj_at_k, pass_at_k
from zoo.evals.win_rate import win_rate
from zoo.rollout.engine import Sampling


@pytest.fixture
def subject(tiny_model, tiny_tokenizer):
    return Subject(tiny_model, tiny_tokenizer, ChatTemplate(tiny_tokenizer))


@pytest.fixture
def moved(tiny_model, tiny_tokenizer):
    """The tiny model after its weights were disturbed, with the tiny model as its start."""
    model = copy.deepcopy(tiny_model)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return Subject(model, tiny_tokenizer, ChatTemplate(tiny_tokenizer), start=lambda: tiny_model)


@pytest.fixture
def questions(tmp_path):
    rows = [{"prompt": f"say {letter}", "answer": letter} for letter in "abcde"]
    return write_rows(tmp_path / "questions.jsonl", rows)


def counted(subject, records, samples, **sampling):
    return draw(subject, records, samples, Sampling(max_new_tokens=8, **sampling), 0)


# -- the spelling --------------------------------------------------------------------------------------------------


def made(subject, k: int = 1, where: str = "here") -> Score:
    """For tests."""
    return Score("made", float(k), 1, 0.0, 1.0, details={"where": where})


AVAILABLE = {
    "made": Eval("Makes.", made, details=("where", "gold_*")),
    "needs": Eval("Needs.", lambda subject, data: Score("needs", 0.0, 1, 0.0, 1.0), by_default=False),
    "scorer": Eval("Scores.", made, head="scalar"),
    "alone": Eval("Alone.", made, head="none", by_default=False),
}


def test_options_reach_the_function_and_the_text_names_the_score():
    one, plain = choose(["made(k=3, where=there)", "made"], AVAILABLE, "lm")
    score = one.run(None)
    assert (score.name, score.value, score.details) == ("made(k=3, where=there)", 3.0, {"where": "there"})
    assert plain.run(None).name == "made"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("maed", "No evaluation is called 'maed'. Did you mean 'made'"),
        ("made(kk=3)", "'made' has no option 'kk'. Did you mean 'k'"),
        ("made(k=many)", "option k = many"),
        ("needs", "'needs' needs data"),
        ("scorer", "scorer is for a reward model, but this is a language model"),
        ("made(k", "cannot be read"),
    ],
)
def test_a_slip_is_told(text, says):
    with pytest.raises(ZooError, match=says.replace("(", r"\(")):
        choose([text], AVAILABLE, "lm")


def test_what_needs_no_model_fits_any_and_what_is_made_by_default_fits_the_model():
    assert [one.label for one in choose(["alone"], AVAILABLE, "scalar")] == ["alone"]
    assert [one.label for one in by_default(AVAILABLE, "lm")] == ["made"]


def test_details_may_be_declared_by_how_they_begin():
    assert AVAILABLE["made"].has_detail("gold_64") and not AVAILABLE["made"].has_detail("proxy_64")


def test_every_bundled_evaluation_gives_the_details_that_it_declares():
    """Of those that make no answers; the others are held to it where they are tested."""
    found = contributions(manager(), "evals")["lc_simulation"]
    assert set(found.details) == set(found.run(None, models=5, prompts=50).details)


# -- answers that can be checked -----------------------------------------------------------------------------------


def test_greedy_accuracy_is_the_share_that_the_reward_finds_right(subject, tmp_path):
    prompts = [{"prompt": f"say {letter}"} for letter in "abc"]
    texts = [one[0] for one in counted(subject, prompts, 1, temperature=0.0).texts]
    rows = [{**row, "answer": text if i else "no"} for i, (row, text) in enumerate(zip(prompts, texts, strict=True))]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    score = accuracy(subject, data, reward="exact", max_new_tokens=8)
    assert (score.value, score.n) == (pytest.approx(2 / 3), 3) and score.low < 2 / 3 < score.high
    assert [sample["score"] for sample in score.samples] == [0.0, 1.0, 1.0]


def test_one_of_k_is_counted_from_all_samples(subject, questions):
    """Right is what holds an e: counted by hand over the answers that were drawn."""
    from math import comb

    options = {"reward": "regex(pattern=e)", "max_new_tokens": 8, "seed": 0}
    score = pass_at_k(subject, questions, k=2, samples=6, **options)
    drawn = counted(subject, [{"prompt": f"say {letter}"} for letter in "abcde"], 6)
    right = [sum("e" in text for text in texts) for texts in drawn.texts]
    assert 0 < sum(right) < 30, "the case is worth counting"
    assert score.value == pytest.approx(sum(1 - comb(6 - c, 2) / comb(6, 2) for c in right) / 5)
    assert score.details["accuracy"] == score.details["pass_at_1"] == pytest.approx(sum(right) / 30)
    assert score.details["pass_at_2"] == score.details["pass_at_k"] == score.value
    assert all(contributions(manager(), "evals")["pass_at_k"].has_detail(name) for name in score.details)


def test_the_majority_of_one_is_its_answer_and_more_samples_draw_the_same_first(subject, questions):
    alone = maj_at_k(subject, questions, k=1, reward="regex(pattern=e)", conclusion="text", max_new_tokens=8)
    assert alone.value == alone.details["accuracy"]


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 3, "samples": 2}, {"k": 2, "temperature": 0.0}])
def test_a_k_that_cannot_be_drawn_is_refused(subject, questions, options):
    with pytest.raises(ZooError, match="pass_at_k"):
        pass_at_k(subject, questions, reward="regex(pattern=e)", **options)


def test_without_a_reward_the_data_must_bring_one(subject, questions):
    with pytest.raises(ZooError, match="There is no reward that tells whether an answer"):
        accuracy(subject, questions)
    score = accuracy(subject, "starter", limit=2, max_new_tokens=4)
    assert score.n == 2


def test_answers_are_drawn_once_for_all_evaluations_of_a_subject(subject, questions, monkeypatch):
    from zoo.evals import drawing

    calls = []
    real = drawing.generate
    monkeypatch.setattr(drawing, "generate", lambda *given: calls.append(1) or real(*given))
    for _ in range(2):
        diversity(subject, questions, samples=3, max_new_tokens=4)
    assert len(calls) == 1
    diversity(subject, questions, samples=3, max_new_tokens=4, seed=1)
    assert len(calls) == 2


# -- rewards -------------------------------------------------------------------------------------------------------


def test_the_best_of_n_by_the_gold_reward_itself_rises_and_by_its_opposite_falls(subject, questions):
    options = {"data": questions, "gold": "length(target=8)", "n": "1 2 8", "pool": 8, "max_new_tokens": 8}
    up = best_of_n(subject, reward="length(target=8)", **options)
    down = best_of_n(subject, reward="0 - length(target=8)", **options)
    gold = [point["gold"] for point in up.details["curve"]]
    assert gold == sorted(gold) and gold == [point["proxy"] for point in up.details["curve"]]
    assert up.value == up.details["gold_8"] == up.details["peak"] and up.details["drop"] == 0
    assert down.details["gold_1"] == pytest.approx(up.details["gold_1"])
    assert (
        down.details["drop"] == pytest.approx(down.details["gold_1"] - down.details["gold_8"])
        and down.details["drop"] > 0
    )
    assert up.details["kl_8"] == pytest.approx(math.log(8) - 7 / 8)
    assert all(
        contributions(manager(), "evals")["best_of_n"].has_detail(name) for name in up.details if name != "curve"
    )


def test_the_best_of_n_by_an_ensemble_tells_what_its_members_choose_alone(subject, questions):
    options = {"data": questions, "gold": "length", "n": "1 2 8", "pool": 8, "max_new_tokens": 8}
    members = ["length", "repetition"]
    both = best_of_n(subject, reward="length - 0.5*repetition", **options).details
    each = [best_of_n(subject, reward=member, **options).details for member in members]
    for n in (1, 2, 8):
        assert both[f"alone_{n}"] == pytest.approx(sum(one[f"gold_{n}"] for one in each) / 2)
    assert both["alone_drop"] == pytest.approx(sum(one["drop"] for one in each) / 2)
    assert each[0]["gold_8"] > each[1]["gold_8"]
    assert "alone_1" not in each[0] and contributions(manager(), "evals")["best_of_n"].has_detail("alone_8")


def test_gaos_fit_finds_the_curve_that_it_describes():
    from zoo.evals.best_of import _shape

    distances = [0.0, 0.8, 1.5, 2.2]
    curve = [{"n": 4**i, "kl": d * d, "gold": 3 + d * (2 - 0.5 * d), "proxy": d} for i, d in enumerate(distances)]
    shape = _shape(curve)
    assert (shape["alpha"], shape["beta"]) == pytest.approx((2.0, 0.5))
    assert shape["peak_n"] == 64


@pytest.mark.parametrize("n", ["1 16", "0 2", "two"])
def test_an_n_above_the_pool_is_refused(subject, questions, n):
    with pytest.raises(ZooError, match="best_of_n: n ="):
        best_of_n(subject, reward="length", data=questions, gold="length", n=n, pool=8)


def test_sampled_rewards_are_means_over_prompts_of_all_answers(subject, questions):
    score = sampled_reward(subject, questions, reward="length(target=8)", samples=4, max_new_tokens=8)
    drawn = counted(subject, [{"prompt": f"say {letter}"} for letter in "abcde"], 4)
    assert (score.n, score.details["answers"]) == (5, 20)
    assert score.value != 0 and score.details["mean_tokens"] == pytest.approx(drawn.mean_tokens, abs=0.01)


# -- against the start ---------------------------------------------------------------------------------------------


def test_a_model_has_not_moved_from_itself(subject, questions, tmp_path):
    same = replace(subject, start=subject.model)
    data = write_rows(tmp_path / "texts.jsonl", [{"text": "red blue green"}, {"text": "one two"}])
    assert kl(same, questions, max_new_tokens=8).value == pytest.approx(0.0, abs=1e-5)
    assert forgetting(same, data).value == 0.0
    wins = win_rate(same, questions, reward="length(target=8)", max_new_tokens=8)
    assert (wins.value, wins.details["tied"]) == (0.5, 1.0)


def test_a_disturbed_model_has_moved_and_forgotten_what_the_start_could_do(moved, questions, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", [{"text": "red blue green"}, {"text": "one two"}])
    far, lost = kl(moved, questions, max_new_tokens=8), forgetting(moved, data)
    assert far.value > 0.1 and far.details["per_token"] > 0
    now, before = perplexity(moved, data), perplexity(moved.compared, data)
    assert lost.value == pytest.approx(math.log(now.value) - math.log(before.value), abs=1e-5)
    assert lost.details["loss"] - lost.details["loss_of_start"] == pytest.approx(lost.value, abs=1e-6)


def test_the_perplexity_is_that_of_all_tokens_together(subject, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", [{"text": "red blue green"}, {"text": "one"}])
    score = perplexity(subject, data)
    total, tokens = 0.0, 0
    for text in ("red blue green", "one"):
        answer = subject.template.tokenize([subject.template.render_text(text)])[0][0]
        total -= float(score_all(subject, [answer])[0].sum())
        tokens += int(answer.mask.sum())
    assert score.value == pytest.approx(math.exp(total / tokens), rel=1e-5)
    assert (score.n, score.details["tokens"], score.higher_is_better) == (2, tokens, False)
    assert perplexity(subject, data, max_length=8).details["tokens"] == tokens, "long texts are split"


def test_without_a_start_it_says_how_to_name_one(subject, questions):
    with pytest.raises(ZooError) as error:
        kl(subject, questions)
    assert "--against" in error.value.hint


def test_a_win_against_the_data_compares_with_its_answers(subject, tmp_path):
    rows = [{"prompt": f"say {letter}", "completion": "word " * 60} for letter in "abc"]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    score = win_rate(subject, data, reward="0 - length(target=1)", against="data", max_new_tokens=4)
    assert score.details["characters_other"] > score.details["characters"]
    assert 0 <= score.details["length_controlled_low"] <= score.details["length_controlled"] <= 1


@pytest.mark.parametrize("options", [{}, {"judge": "x", "reward": "length"}, {"reward": "length", "against": "me"}])
def test_a_win_rate_needs_one_who_decides(subject, questions, options):
    with pytest.raises(ZooError, match="win_rate needs"):
        win_rate(subject, questions, **options)


def test_a_judge_is_asked_in_both_orders(subject, questions, tiny_folder):
    score = win_rate(replace(subject, start=subject.model), questions, judge=str(tiny_folder), max_new_tokens=4)
    # Both answers are the same: only their order can decide, and the two orders make up for each other.
    assert score.value == pytest.approx(0.5, abs=1e-4) and score.details["order_decides"] == 1.0


# -- multiple choice -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ({"question": "q", "choices": ["x", "y"], "answer": 1}, 1),
        ({"prompt": "q", "choices": ["x", "y", "z"], "answer": "C"}, 2),
        ({"prompt": "q", "choices": ["3", "0", "1"], "answer": "1"}, 2),
        ({"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "1"}, 0),
        ({"ctx": "q", "endings": ["x", "y"], "label": "1"}, 1),
    ],
)
def test_questions_are_read_as_the_data_sets_have_them(row, place):
    assert question_of(row, "rows")[2] == place


@pytest.mark.parametrize("row", [{"prompt": "q", "answer": "x"}, {"prompt": "q", "choices": ["x", "y"], "answer": "w"}])
def test_what_is_no_question_is_told_with_its_row(row):
    with pytest.raises(ZooError, match="rows, row 7"):
        question_of({**row, "row": 7}, "rows")


def test_calibration_scores_each_choice_as_an_answer(subject, tmp_path):
    rows = [{"prompt": f"is it {i}", "choices": ["yes", "no", "maybe"], "answer": i % 3} for i in range(8)]
    score = calibration(subject, write_rows(tmp_path / "quiz.jsonl", rows), bins=5)
    certain = []
    for row in rows:
        logps = [float(one.sum()) for one in score_all(
            subject, [subject.template.answer(row["prompt"], text) for text in row["choices"]]
        )]  # fmt: skip
        shares = torch.tensor(logps).softmax(0)
        certain.append((float(shares.max()), int(shares.argmax()) == row["answer"]))
    assert score.details["confidence"] == pytest.approx(sum(c for c, _ in certain) / 8, abs=1e-5)
    assert score.details["accuracy"] == sum(right for _, right in certain) / 8
    assert (score.n, score.higher_is_better) == (8, False) and score.low <= score.value <= score.high
    declared = contributions(manager(), "evals")["calibration"].details
    assert set(declared) | {"reliability"} == set(score.details)


# -- diversity -----------------------------------------------------------------------------------------------------


def test_answers_that_vary_less_are_less_diverse(subject, questions):
    wide, narrow = (diversity(subject, questions, samples=6, temperature=t, max_new_tokens=8) for t in (1.0, 0.05))
    assert narrow.value < wide.value and narrow.details["self_bleu_per_input"] > wide.details["self_bleu_per_input"]
    assert narrow.details["ead_per_input"] < wide.details["ead_per_input"]
    assert wide.value == wide.details["distinct_per_input"]
    bleu = diversity(subject, questions, samples=6, measure="self_bleu", max_new_tokens=8)
    assert bleu.value == wide.details["self_bleu_per_input"] and not bleu.higher_is_better
    assert set(contributions(manager(), "evals")["diversity"].details) == set(wide.details)


def test_answers_too_short_for_an_ngram_have_no_diversity_instead_of_none_at_all(subject, questions):
    with pytest.raises(ZooError, match="is 9 tokens long") as error:
        diversity(subject, questions, n=9, samples=2, max_new_tokens=4)
    assert "n=1" in error.value.hint
    assert diversity(subject, questions, n=9, samples=2, measure="ead", max_new_tokens=4).n == 5


# -- without a model, and the library -------------------------------------------------------------------------------


def test_length_control_finds_the_true_order_under_a_judge_that_likes_length():
    score = contributions(manager(), "evals")["lc_simulation"].run(None)
    assert score.value >= 0.95 > 0.9 > score.details["plain"]


def test_what_is_not_installed_is_told_with_what_to_type(subject, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = contributions(manager(), "evals")
    with pytest.raises(ZooError) as error:
        found["lc_alpacaeval"].run(None)
    assert "pip install --no-deps alpaca-eval" in error.value.hint
    with pytest.raises(ZooError) as error:
        found["lm_eval"].run(subject, task="arc_easy")
    assert 'pip install "lm-eval[hf]>=' in error.value.hint


def test_a_task_of_lm_eval_gives_the_metric_with_its_standard_error(tmp_path):
    from zoo.evals.harness import _name_in, _score

    row = {
        "alias": "mine", "exact_match,strict": 0.5, "exact_match_stderr,strict": 0.1, "acc,none": 0.25,
        "acc_stderr,none": "N/A", "sample_len": 25,
    }  # fmt: skip
    found = {"results": {"mine": row}, "n-samples": {"mine": {"original": 40, "effective": 25}}}
    score = _score("mine", found, "")
    assert (score.value, score.n, score.high) == (0.5, 25, pytest.approx(0.5 + 1.959964 * 0.1))
    assert _score("mine", found, "acc").value == 0.25
    assert score.details == {"exact_match,strict": 0.5, "acc": 0.25}
    with pytest.raises(ZooError, match="has no metric 'accu'"):
        _score("mine", found, "accu")
    file = tmp_path / "mine.yaml"
    file.write_text("# a task\ntask: mine  # its name\ndoc_to_text: !function utils.text\n")
    assert _name_in(file) == "mine"
    file.write_text("group: ours\ntask:\n  - mine\n  - yours\n")
    assert _name_in(file) == "ours"


@pytest.fixture
def harness(tmp_path, monkeypatch):
    """A folder of tasks in the place of lm-eval's."""
    import importlib.util

    files = {"arc/easy.yaml": "task: arc_easy\nfewshot: 0\n", "mmlu/_mmlu.yaml": "group: mmlu\ntask: [a, b]\n"}
    for name, text in files.items():
        (tmp_path / "tasks" / name).parent.mkdir(parents=True)
        (tmp_path / "tasks" / name).write_text(text)
    found = importlib.util.find_spec
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: spec if name == "lm_eval" else found(name))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mmlu", """No evaluation is called 'mmlu', but lm-eval has such a task. Write "lm_eval(task=mmlu)"."""),
        ("arc_easy(limit=9)", 'lm-eval has such a task. Write "lm_eval(task=arc_easy, limit=9)"'),
        ("arc_esy", "Did you mean 'lm_eval(task=arc_easy)'?"),
        ("instrutcions", "Did you mean 'instructions'?"),
    ],
)
def test_the_name_of_a_task_of_lm_eval_leads_to_it(text, says, harness):
    with pytest.raises(ZooError) as error:
        choose([text], contributions(manager(), "evals"))
    assert says in f"{error.value.message} {error.value.hint}"


def test_a_task_of_lm_eval_leads_to_how_to_install_it(monkeypatch):
    monkeypatch.setattr("zoo.evals.chosen.is_missing", lambda module: True)
    status, _, err = cli("eval", "--eval", "gsm8k(fewshot=8)")
    told = " ".join(err.split())
    assert status == 2 and "No evaluation is called 'gsm8k'" in told
    assert 'pip install "lm-eval[hf]>=0.4.9", then write "lm_eval(task=gsm8k, fewshot=8)"' in told


@pytest.mark.long
def test_a_group_of_tasks_of_lm_eval_counts_the_questions_of_all(subject, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = write_rows(tmp_path / "rows.jsonl", [{"q": f"say {letter}", "a": ["a", "b"], "g": 0} for letter in "abc"])
    task = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}}}\ntest_split: test\n"
        'output_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_choice: "{{a}}"\ndoc_to_target: "{{g}}"\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\n{task}")
    both = tmp_path / "both.yaml"
    both.write_text("group: both\ntask: [one, two]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n")
    alone = contributions(manager(), "evals")["lm_eval"].run(subject, task=str(tmp_path / "one.yaml"))
    score = contributions(manager(), "evals")["lm_eval"].run(subject, task=str(both))
    assert (alone.n, score.n) == (3, 6) and score.value == alone.value


def test_a_task_that_would_run_programs_of_the_model_unguarded_is_refused():
    from zoo.evals.harness import _no_programs

    asks = (
        "Attempted to run task: humaneval which is marked as unsafe. Set confirm_run_unsafe_code=True to run this task."
    )
    with (
        pytest.raises(ZooError, match="The task humaneval runs programs that the model writes") as error,
        _no_programs("humaneval"),
    ):
        raise ValueError(asks)
    assert "reward=code" in error.value.hint
    with pytest.raises(ValueError, match="another"), _no_programs("humaneval"):
        raise ValueError("another")


def test_the_page_on_evaluations_has_every_one():
    page = (Path(__file__).parent.parent / "docs" / "evals.md").read_text(encoding="utf-8")
    bundled = {"zoo.evals", "zoo.bundled.starter.plugin", "zoo.bundled.harmless.plugin"}
    for name, evaluation in contributions(manager(), "evals").items():
        if any(evaluation.run.__module__.startswith(module) for module in bundled):
            assert f"`{name}`" in page, name


def test_the_numbers_of_the_leaderboard_are_those_that_can_be_counted_in_it(tmp_path, monkeypatch):
    """A leaderboard of five models made up so that its numbers can be worked out by hand."""
    from zoo.evals import leaderboard

    rows = [
        ("NullModel", 76, 86, 10), ("a", 10, 30, 100), ("b", 20, 20, 200), ("c", 30, 40, 300),
        ("c_concise", 20, 36, 150), ("c_verbose", 40, 44, 450),
    ]  # fmt: skip
    file = tmp_path / leaderboard.TABLE
    file.parent.mkdir(parents=True)
    lines = [f"{name},{win},{lc},{length}" for name, win, lc, length in rows]
    file.write_text("\n".join([",win_rate,length_controlled_winrate,avg_length", *lines]) + "\n")
    monkeypatch.setattr(
        leaderboard.importlib.util, "find_spec", lambda name: type("S", (), {"origin": str(tmp_path / "__init__.py")})
    )
    score = leaderboard.lc_alpacaeval(None)
    assert (score.n, score.details["models_asked"]) == (5, 1)
    # Ranks by length a, c_concise, b, c, c_verbose: wins 1, 2.5, 2.5, 4, 5; controlled 2, 3, 1, 4, 5.
    assert score.details["spearman_win_rate"] == pytest.approx(0.974679, abs=1e-6)
    assert score.value == pytest.approx(0.7)
    # 20, 30, 40: deviation 8.16497 of 30. 36, 40, 44: 3.26599 of 40.
    assert score.details["verbosity_win_rate"] == pytest.approx(0.272166, abs=1e-6)
    assert score.details["verbosity_lc"] == pytest.approx(0.081650, abs=1e-6)


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_list_has_every_evaluation_with_its_options():
    status, out, _ = cli("eval", "--list", "--json")
    cards = {card["name"]: card for card in json.loads(out)}
    assert status == 0 and {"instructions", "pass_at_k", "kl", "refusal", "lc_alpacaeval", "lm_eval"} <= set(cards)
    options = {option["name"]: option.get("default", "required") for option in cards["pass_at_k"]["options"]}
    assert (options["data"], options["k"]) == ("required", 8)
    status, out, _ = cli("eval", "--list")
    assert status == 0 and "best_of_n" in out and "pool=256" in out


def test_an_evaluation_without_a_model_loads_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = cli("eval", "--eval", "lc_simulation(models=6, prompts=60)", "--json")
    assert status == 0 and json.loads(out)["lc_simulation(models=6, prompts=60)"]["n"] == 6


def test_a_model_is_compared_with_another_one(tiny_folder, tmp_path, monkeypatch, questions):
    monkeypatch.chdir(tmp_path)
    spelled = f"kl(data={questions}, max_new_tokens=4)"
    status, out, err = cli("eval", tiny_folder, "--against", tiny_folder, "--eval", spelled, "--json")
    assert status == 0, err
    assert json.loads(out)[spelled]["value"] == pytest.approx(0.0, abs=1e-5)
    status, _, err = cli("eval", tiny_folder, "--eval", spelled)
    assert status == 2 and "--against" in err


def test_two_models_are_judged_in_one_command(tiny_folder, tmp_path, monkeypatch, questions):
    monkeypatch.chdir(tmp_path)
    judged = ["eval", tiny_folder, "--judge", tiny_folder, "--data", questions, "--max-new-tokens", "4", "--json"]
    status, out, err = cli(*judged, "--against", tiny_folder, "--limit", "3")
    assert status == 0, err
    ((name, score),) = json.loads(out).items()
    assert name == f"win_rate(data={questions}, judge={tiny_folder}, max_new_tokens=4)"
    # Both answers are the same, and the two orders make up for each other.
    assert (score["value"], score["n"]) == (pytest.approx(0.5, abs=1e-4), 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--judge", "smollm2-135m"], "--against names no second one. Name it: zoo eval last --against smollm2-135m"),
        (["--judge", "self", "--against", "last"], "--judge self would be one of the two models"),
        (["--judge", "https://host/v1", "--against", "last"], "names no model"),
        (["--data", "rows.jsonl"], "--data and --columns are for --reward and --judge"),
    ],
)
def test_a_judge_without_two_models_is_refused_before_any_is_loaded(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = cli("eval", "last", *arguments)
    assert status == 2 and says in " ".join(err.split())


def test_a_run_scores_an_evaluation_with_options_before_and_after(tiny_folder, tmp_path, monkeypatch, questions):
    monkeypatch.chdir(tmp_path)
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"p {i}", "completion": f"c {i}"} for i in range(4)])
    spelled = f"kl(data={questions}, max_new_tokens=4)"
    status, _, err = cli(
        "train", "--algo", "sft", "--model", tiny_folder, "--data", rows, "--score", f"{spelled},heldout_loss(limit=2)",
        "--lr", "0.01", "--eval-fraction", "0", "--name", "mine", "--warmup", "0",
    )  # fmt: skip
    assert status == 0, err
    scores = json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text())["scores"]
    assert scores["before"][spelled]["value"] < 1e-5 < scores["after"][spelled]["value"]
    assert scores["after"]["heldout_loss(limit=2)"]["n"] == 2
