"""An endpoint as a judge, against a stand-in server: log-probs, votes, retries, failures, a key that stays secret."""

import math

import pytest
from formulas import close, tensor
from judge_server import completion, serving, tokens_of

from zoo.errors import ZooError
from zoo.judges.cache import JudgementCache
from zoo.judges.endpoint import FAILURES, Endpoint, read_choice, read_logps
from zoo.judges.judge import Judge
from zoo.judges.make import make_judge

GRADES = [str(n) for n in range(1, 11)]
PAIR = (["red?"], ["sun"], ["moon"])


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("ZOO_JUDGE_KEY", raising=False)


def judge_at(address, **options):
    return Judge(Endpoint(address, **{"pause": 0.01, "timeout": 5.0, **options}))


def sun_is_better(body, number):
    """An answer with log-probs: sun is better, in either place."""
    first = body["messages"][0]["content"].index("sun") < body["messages"][0]["content"].index("moon")
    likeliest = {"1": 0.6, " 1": 0.2, "2": 0.1} if first else {"1": 0.2, "2": 0.6}
    return 200, completion("1" if first else "2", tokens_of(["1" if first else "2"], [likeliest]))


def test_log_probs_are_renormalised_over_the_choices_and_averaged_over_the_orders():
    with serving(sun_is_better) as (address, requests):
        verdict = judge_at(address).compare(*PAIR)[0]
    close(tensor([verdict.first, verdict.second]), [0.8 / 0.9, 0.75])
    close(tensor(verdict.p), (0.8 / 0.9 + 0.75) / 2)
    assert {one["path"] for one in requests} == {"/v1/chat/completions"}
    assert requests[0]["body"]["model"] == "little-judge"
    assert requests[0]["body"]["logprobs"] is True and requests[0]["body"]["temperature"] == 0
    assert requests[0]["key"] is None


def test_without_log_probs_answers_are_sampled_and_counted():
    said = iter(["1", "1.", "**2**", "I cannot tell.", "Answer 1"])

    def answer(body, number):
        if "sun" not in body["messages"][0]["content"].split("Answer 1:")[1].split("Answer 2:")[0]:
            return 200, completion("2")
        return 200, completion("1" if body.get("logprobs") else next(said))

    with serving(answer) as (address, requests):
        verdict = judge_at(address, votes=5, parallel=1).compare(*PAIR)[0]
    close(tensor([verdict.first, verdict.second]), [3 / 4, 1.0])
    assert [one["body"]["temperature"] for one in requests[1:]] == [1.0] * 10


def test_a_server_that_refuses_to_give_log_probs_is_asked_for_votes():
    def answer(body, number):
        if "logprobs" in body:
            return 400, {"error": {"message": "logprobs are not supported by this model"}}
        return 200, completion("1")

    with serving(answer) as (address, requests):
        assert judge_at(address, votes=2).prefer(*PAIR).tolist() == [0.5]
    assert sum("logprobs" not in one["body"] for one in requests) == 4


def test_a_chain_of_thought_is_two_requests():
    def answer(body, number):
        if len(body["messages"]) == 1:
            return 200, completion(" The sun is bright. ")
        return sun_is_better(body, number)

    with serving(answer) as (address, requests):
        verdict = judge_at(address).compare(*PAIR, chain_of_thought=True)[0]
    assert verdict.thoughts == ("The sun is bright.",) * 2
    close(tensor(verdict.first), 0.8 / 0.9)
    last = [one["body"]["messages"] for one in requests if len(one["body"]["messages"]) == 3]
    assert [turn["role"] for turn in last[0]] == ["user", "assistant", "user"]
    assert last[0][1]["content"] == "The sun is bright." and "nothing else" in last[0][2]["content"]


@pytest.mark.parametrize(
    "failure", [(429, {"error": {"message": "slow down"}}), (500, b"oops"), (503, b""), (200, b"{garb")]
)
def test_a_passing_failure_is_tried_again(failure):
    def answer(body, number):
        return failure if number < 2 else sun_is_better(body, number)

    with serving(answer) as (address, requests):
        judge = judge_at(address, parallel=1)
        assert float(judge.prefer(*PAIR)) > 0.5
    assert len(requests) == 4
    assert judge.statistics.summary()["unusable"] == 0


def test_a_request_that_takes_too_long_is_tried_again():
    import time

    def answer(body, number):
        if number == 0:
            time.sleep(0.6)
        return sun_is_better(body, number)

    with serving(answer) as (address, requests):
        assert float(judge_at(address, parallel=1, timeout=0.25).prefer(*PAIR)) > 0.5
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (completion("Both are fine.", tokens_of(["Both"], [{"Both": 0.9, "The": 0.05}])), "no choice in the answer"),
        ({"choices": []}, "the endpoint's answer has an unknown form"),
        ({"hello": "world"}, "the endpoint's answer has an unknown form"),
        ([1, 2], "the endpoint's answer has an unknown form"),
    ],
)
def test_what_cannot_be_read_is_missing_and_counted(body, reason):
    def answer(given, number):
        return (200, body) if "odd" in given["messages"][0]["content"] else sun_is_better(given, number)

    with serving(answer) as (address, _):
        judge = judge_at(address)
        found = judge.prefer(["odd", "red?"], ["sun", "sun"], ["moon", "moon"])
    assert found.isnan().tolist() == [True, False]
    assert judge.statistics.summary()["unusable_reasons"] == {reason: 1}


def test_a_question_that_always_fails_is_missing_and_attempts_are_bounded():
    def answer(body, number):
        return (500, b"oops") if "odd" in body["messages"][0]["content"] else sun_is_better(body, number)

    with serving(answer) as (address, requests):
        judge = judge_at(address, attempts=3)
        assert judge.prefer(["odd", "red?"], ["sun", "sun"], ["moon", "moon"]).isnan().tolist() == [True, False]
    assert len(requests) == 2 * 3 + 2
    assert judge.statistics.summary()["unusable_reasons"] == {"the endpoint failed (status 500)": 1}


def test_a_server_that_is_gone_ends_the_work_and_what_it_said_is_kept(tmp_path):
    prompts = [f"red {i}?" for i in range(12)]
    pairs = (prompts, ["sun"] * 12, ["moon"] * 12)
    with serving(lambda body, number: sun_is_better(body, number) if number < 6 else (500, b"oops")) as (
        address,
        requests,
    ):
        judge = judge_at(address, parallel=1, attempts=2)
        judge.cache = JudgementCache(tmp_path, "judge")
        with pytest.raises(ZooError, match=f"failed {FAILURES} times in a row") as caught:
            judge.prefer(*pairs)
        assert "continues from there" in caught.value.hint
        assert len(requests) == 6 + 2 * FAILURES
    # By now nobody listens there.
    with pytest.raises(ZooError, match="No server answers") as caught:
        judge_at(address, parallel=1, attempts=1, pause=0.0).prefer(*pairs)
    assert caught.value.hint.startswith("Start it, or correct the address.")
    with serving(sun_is_better) as (address, requests):
        judge = judge_at(address)
        judge.cache = JudgementCache(tmp_path, "judge")
        assert not judge.prefer(*pairs).isnan().any()
        assert len(requests) == 24 - 6


def test_a_wrong_key_or_model_is_an_error_at_once():
    with serving(lambda body, number: (401, {"error": {"message": "wrong key"}})) as (address, requests):
        with pytest.raises(ZooError, match="status 401: wrong key"):
            judge_at(address, parallel=1).prefer(*PAIR)
        assert len(requests) == 1


def test_the_key_comes_from_the_environment_and_is_kept_nowhere(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.setenv("ZOO_JUDGE_KEY", "sk-secret")
    with serving(sun_is_better) as (address, requests):
        judge = make_judge(address)
        judge.prefer(*PAIR)
        assert requests[0]["key"] == "Bearer sk-secret"
        assert "sk-" not in judge.name
        assert b"sk-" not in judge.cache.path.read_bytes()
    with pytest.raises(ZooError, match="must not hold a key"):
        Endpoint("https://me:sk-secret@host/v1#judge")
    with pytest.raises(ZooError, match="names no model"):
        Endpoint("https://host/v1")


def test_grades_from_log_probs():
    def answer(body, number):
        return 200, completion("7", tokens_of(["7"], [{"7": 0.4, "8": 0.3, " 10": 0.1, "The": 0.1}]))

    with serving(answer) as (address, _):
        found = judge_at(address).rate(["red?"], ["sun"])
    assert found.tolist() == pytest.approx([(7 * 0.4 + 8 * 0.3 + 10 * 0.1) / 0.8])


# -- reading -----------------------------------------------------------------------------------------------------


def probabilities(found):
    return [0.0 if logp == -math.inf else math.exp(logp) for logp in found]


def test_ten_in_two_tokens_is_shared_out_by_the_next_token():
    found = read_logps(tokens_of(["1", "0"], [{"1": 0.5, "8": 0.4}, {"0": 0.9, " 0": 0.05, "": 0.05}]), GRADES)
    close(tensor(probabilities(found)), [0.5 * 0.1, *[0.0] * 6, 0.4, 0.0, 0.5 * 0.9])


def test_a_one_that_might_be_a_ten_is_left_out_when_nobody_can_tell():
    found = read_logps(tokens_of(["8", "."], [{"8": 0.6, "1": 0.1}, {".": 1.0}]), GRADES)
    assert probabilities(found) == pytest.approx([0.0] * 7 + [0.6] + [0.0] * 2)
    whole = read_logps(tokens_of(["8"], [{"8": 0.6, "1": 0.1, "10": 0.2}]), GRADES)
    assert probabilities(whole) == pytest.approx([0.1] + [0.0] * 6 + [0.6, 0.0, 0.2])


def test_a_one_after_which_the_text_ended_is_no_ten():
    tokens = tokens_of(["1"], [{"1": 0.9, "2": 0.1}])
    assert probabilities(read_logps(tokens, GRADES, ended=True)) == pytest.approx([0.9, 0.1] + [0.0] * 8)
    assert probabilities(read_logps(tokens, GRADES)) == pytest.approx([0.0, 0.1] + [0.0] * 8)


def test_brackets_before_a_letter_are_passed_over():
    tokens = tokens_of(["(", "A", ")"], [{"(": 0.9}, {"A": 0.7, "B": 0.2}, {")": 1.0}])
    assert probabilities(read_logps(tokens, ["(A)", "(B)"])) == pytest.approx([0.7, 0.2])
    assert probabilities(read_logps(tokens_of(["(A"], [{"(A": 0.7, "(B": 0.2}]), ["(A)", "(B)"])) == pytest.approx(
        [0.7, 0.2]
    )
    assert read_logps(tokens_of(["Well"], [{"Well": 0.7}]), ["(A)", "(B)"]) is None
    assert read_logps(tokens_of([" "], [{" ": 0.7}]), ["(A)", "(B)"]) is None


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("2", "12", 1), (" **1**\n", "12", 0), ("Answer 2 is better.", "12", 1), ("1 or 2", "12", None),
        ("12", "12", None), ("", "12", None), ("7/10", GRADES, 6), ("10", GRADES, 9), ("I give 10 points", GRADES, 9),
        ("8.5", GRADES, None), ("9.", GRADES, 8), ("(B)", ["(A)", "(B)"], 1), ("B", ["(A)", "(B)"], 1),
        ("B)", ["(A)", "(B)"], 1),
        ("A better answer is (B).", ["(A)", "(B)"], 1), ("A is a letter", ["(A)", "(B)"], None),
        ("(A) is better than (B)", ["(A)", "(B)"], None),
    ],
)  # fmt: skip
def test_a_choice_is_read_from_a_text(text, choices, expected):
    assert read_choice(text, list(choices)) == expected
