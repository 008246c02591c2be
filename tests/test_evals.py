"""Evaluations: numbers with their uncertainty, from log-probs and from answers."""

import math

import pytest
import torch

from zoo.data.encoding.template import ChatTemplate
from zoo.errors import PluginError
from zoo.evals import Score, Subject, mean_score, share_score
from zoo.evals.answers import answer_texts, answers_to, loss_eval, preference_eval, reward_eval, score_all
from zoo.rollout.engine import Sampling
from zoo.statistics import student
from zoo.values.types import Answer

GREEDY = Sampling(max_new_tokens=6, temperature=0.0)


@pytest.fixture
def subject(tiny_model, tiny_tokenizer):
    return Subject(tiny_model, tiny_tokenizer, ChatTemplate(tiny_tokenizer))


def demonstration(prompt, completion, row=1):
    return {"prompt": prompt, "completion": completion, "row": row}


ROWS = [
    demonstration("one two", "red", 1),
    demonstration("three", "green and blue", 2),
    demonstration("a", "b" * 30, 3),
]


def plain_logps(subject, record):
    """Log-probs of the trained tokens by the model's own forward pass."""
    answer = subject.template.answer(record["prompt"], record["completion"])
    ids = torch.cat([answer.prompt, answer.completion])
    with torch.no_grad():
        logps = subject.model(ids[None]).logits[0].float().log_softmax(-1)
    picked = logps[len(answer.prompt) - 1 : -1].gather(1, answer.completion[:, None])[:, 0]
    return picked[answer.mask]


# -- numbers -------------------------------------------------------------------------------------------------------


def test_a_mean_has_its_standard_error():
    score = mean_score("x", [1.0, 2.0, 3.0, 4.0])
    # Student's t with 3 degrees of freedom is 3.182.
    half = 3.182 * math.sqrt((5 / 3) / 4)
    assert (score.value, score.n) == (2.5, 4)
    assert (score.low, score.high) == pytest.approx((2.5 - half, 2.5 + half), abs=2e-2)
    half = score.high - 2.5
    assert score.text() == f"2.500 ± {half:.3f} (n 4)"


def test_an_interval_whose_longer_side_would_leave_the_shares_has_both_ends():
    """Wilson's interval of 1 of 2 (0.0945 to 0.9055) is symmetric; that of 3 of 3 is 0.4385 to 1."""
    assert share_score("x", 1, 2).text() == "0.500 ± 0.405 (n 2)"
    assert share_score("x", 3, 3).text() == "1.000 [0.439, 1.000] (n 3)"
    assert Score("loss", 0.5, 3, -0.1, 1.1).text() == "0.500 ± 0.600 (n 3)", "this is no share"


@pytest.mark.parametrize(
    ("freedom", "point"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (120, 1.980)]
)
def test_students_t_is_that_of_the_tables(freedom, point):
    assert student(freedom) == pytest.approx(point, abs=5e-4)


def test_equal_values_do_not_make_certain_what_their_bounds_leave_open():
    """Of 60 cases without an exception up to 3 / 60 of all may be exceptions (the rule of three)."""
    for value, (low, high) in {1.0: (1 - 3 / 60, 1.0), 0.0: (0.0, 3 / 60)}.items():
        score = mean_score("x", [value] * 60, (0.0, 1.0))
        assert score.value == value and 0 <= score.low <= low + 1e-9 and high - 1e-9 <= score.high <= 1
        assert score.high - score.low < 0.1
    few = mean_score("x", [1.0, 0.0, 0.0], (0.0, 1.0))
    plain = mean_score("x", [1.0, 0.0, 0.0])
    assert 0 <= few.low < 1 / 3 < few.high <= 1 and plain.low < 0, "no share is below 0"
    many = mean_score("x", [0.0, 0.5, 1.0] * 200, (0.0, 1.0))
    plain = mean_score("x", [0.0, 0.5, 1.0] * 200)
    assert (many.low, many.high) == pytest.approx((plain.low, plain.high), abs=1e-3)


def test_for_shares_the_interval_of_a_mean_is_about_that_of_a_share():
    mean, share = mean_score("x", [1.0] * 30 + [0.0] * 70, (0.0, 1.0)), share_score("x", 30, 100)
    assert (mean.low, mean.high) == pytest.approx((share.low, share.high), abs=5e-3)


def test_what_cannot_be_known_is_not_printed_as_certain():
    assert mean_score("x", [-3.0, -3.0]).text() == "-3.000 (n 2, all equal)"
    assert mean_score("x", [7.0]).text() == "7.000 (n 1, too few to tell more)"
    assert mean_score("x", [1.0, 1.0], (0.0, 1.0)).text() == "1.000 [0.290, 1.000] (n 2)"


def test_a_share_has_its_wilson_interval():
    """Worked by hand for 8 of 10: centre (0.8 + z²/20) / (1 + z²/10)."""
    score = share_score("x", 8, 10)
    assert score.value == 0.8
    assert (score.low, score.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert share_score("x", 0, 5).low == 0.0 and share_score("x", 5, 5).high == 1.0


def test_nothing_to_evaluate_is_said_and_not_divided_by():
    assert share_score("x", 0, 0).n == mean_score("x", []).n == 0
    assert (share_score("x", 0, 0).low, share_score("x", 0, 0).high) == (0.0, 1.0)


def test_samples_do_not_go_into_the_summary():
    score = mean_score("x", [1.0], samples=[{"answer": "long text"}])
    assert "samples" not in score.as_json() and score.as_json()["value"] == 1.0


# -- log-probs -----------------------------------------------------------------------------------------------------


def test_scores_come_in_the_order_of_the_answers_whatever_their_length(subject):
    answers = [subject.template.answer(row["prompt"], row["completion"]) for row in ROWS]
    for row, logps in zip(ROWS, score_all(subject, answers), strict=True):
        assert logps.per_token[logps.mask].tolist() == pytest.approx(plain_logps(subject, row).tolist(), abs=1e-4)


def test_scoring_in_several_batches_gives_the_same(subject, monkeypatch):
    from zoo.evals import answers as module

    answers = [Answer.of([1, 2, 3], [4] * length) for length in (5, 1, 9, 3, 7)]
    whole = [float(logps.sum()) for logps in score_all(subject, answers)]
    monkeypatch.setattr(module, "SCORING_TOKENS", 1)
    assert [float(logps.sum()) for logps in score_all(subject, answers)] == pytest.approx(whole, abs=1e-4)


def test_the_loss_is_a_mean_over_tokens(subject):
    everything = torch.cat([plain_logps(subject, row) for row in ROWS])
    score = loss_eval("loss", subject, ROWS)
    assert score.value == pytest.approx(-float(everything.mean()), abs=1e-5)
    assert (score.n, score.details["tokens"], score.higher_is_better) == (3, len(everything), False)
    assert score.low < score.value < score.high


def test_a_limit_takes_the_first_rows(tiny_model, tiny_tokenizer):
    limited = Subject(tiny_model, tiny_tokenizer, ChatTemplate(tiny_tokenizer), limit=2)
    assert loss_eval("loss", limited, ROWS).n == 2


def test_preference_compares_log_probs_a_token(subject):
    """Of two texts the likelier one a token is preferred, though the longer one has the lower sum."""
    pairs = []
    for i, text in enumerate(["red", "green and", "blue blue blue blue"]):
        record = {"prompt": "one", "chosen": text, "rejected": "x" * (3 + i), "row": i + 1}
        pairs.append(record)
    expected = sum(
        float(plain_logps(subject, demonstration(pair["prompt"], pair["chosen"])).mean())
        > float(plain_logps(subject, demonstration(pair["prompt"], pair["rejected"])).mean())
        for pair in pairs
    )
    assert preference_eval("preference", subject, pairs).value == pytest.approx(expected / 3)
    swapped = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs]
    assert preference_eval("preference", subject, swapped).value == pytest.approx(1 - expected / 3)


# -- answers -------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_plain_greedy_decoding(subject):
    prompts = ["one two three", [{"role": "user", "content": "hello"}]]
    for prompt, text in zip(prompts, answer_texts(subject, prompts, GREEDY), strict=True):
        ids = subject.template.prompt_ids(prompt)
        generated = subject.model.generate(
            torch.tensor([ids]), max_new_tokens=6, do_sample=False, eos_token_id=list(subject.template.eos_ids)
        )
        expected = subject.tokenizer.decode(generated[0][len(ids) :], skip_special_tokens=True).strip()
        assert text == expected


def test_sampled_answers_depend_on_the_seed_alone(subject):
    sampling = Sampling(max_new_tokens=8, temperature=1.0)
    first, again, other = (answer_texts(subject, ["hello"], sampling, seed) for seed in (1, 1, 2))
    torch.manual_seed(7)
    assert first == again != other


def test_a_reward_that_has_no_value_is_counted_and_not_a_zero(subject):
    def reward(texts, records):
        return [1.0, None, 0.0]

    score = reward_eval("reward", subject, [{"prompt": text} for text in ("a", "b", "c")], reward, GREEDY)
    assert (score.value, score.n, score.details["missing"]) == (0.5, 2, 1)
    assert [sample["score"] for sample in score.samples] == [1.0, None, 0.0]
    assert score.samples[0]["prompt"] == "a"


def test_samples_tell_which_answers_the_limit_cut(subject):
    short = Sampling(max_new_tokens=2, temperature=0.0)
    prompts = [f"{text} {text}" for text in "abcdefgh"]
    score = reward_eval("reward", subject, [{"prompt": text} for text in prompts], lambda texts, _: [0.0] * 8, short)
    last = [int(answer.completion[-1]) for answer in answers_to(subject, prompts, short)]
    assert [sample["cut"] for sample in score.samples] == [token not in subject.template.eos_ids for token in last]
    assert any(sample["cut"] for sample in score.samples)


def test_a_reward_that_is_no_number_is_missing_and_one_too_few_is_the_plugins_fault(subject):
    prompts = [{"prompt": text} for text in ("a", "b")]
    score = reward_eval("reward", subject, prompts, lambda texts, records: [float("nan"), 1.0], GREEDY)
    assert (score.value, score.n, score.details["missing"]) == (1.0, 1, 1)
    with pytest.raises(PluginError, match="gave 1 value for 2 answers"):
        reward_eval("reward", subject, prompts, lambda texts, records: [1.0], GREEDY)


def test_progress_is_told(tiny_model, tiny_tokenizer):
    heard = []
    subject = Subject(
        tiny_model,
        tiny_tokenizer,
        ChatTemplate(tiny_tokenizer),
        progress=lambda done, total: heard.append((done, total)),
    )
    answer_texts(subject, ["a", "b", "c"], GREEDY)
    assert heard[-1] == (3, 3)
