"""Rewards that a server gives: what it is asked, what it may answer, and what happens when it is gone."""

import json
import threading
import time

import pytest
from json_server import JsonServer
from tiny_runs import cli, trainer, write_rows

from zoo.errors import TrainingStopped, ZooError
from zoo.rewards.reward import Reward

RECORDS = [
    {"prompt": "2 + 3?", "answer": 5, "row": 1},
    {"prompt": "4 + 4?", "solution": ["8", "eight"]},
    {"prompt": "Hello", "day": "2026-01-01"},
]
TEXTS = ["5", "eight", "Hi."]


def lengths(body, number):
    return 200, {"rewards": [len(text) for text in body["completions"]]}


@pytest.fixture
def server():
    server = JsonServer(lengths)
    yield server
    server.stop()


def bodies(server):
    return [request["body"] for request in server.requests]


def reward(server, options="", **settings):
    return Reward(f"http(url={server.url}/rewards{options})", {}, **settings)


def test_a_server_gets_texts_labels_and_rows_and_its_numbers_are_the_rewards(server):
    assert reward(server).score(TEXTS, RECORDS) == [1.0, 5.0, 3.0]
    (body,) = bodies(server)
    assert (
        server.requests[0]["path"] == "/rewards"
        and body["prompts"] == ["2 + 3?", "4 + 4?", "Hello"]
        and body["completions"] == TEXTS
    )
    # What OpenRLHF's servers read.
    assert body["query"] == ["2 + 3?5", "4 + 4?eight", "HelloHi."] and body["labels"] == [5, ["8", "eight"], None]
    assert body["records"] == RECORDS


def test_batches_are_asked_side_by_side_and_stay_in_their_order(server):
    server.answer = lambda body, number: (
        time.sleep(0.2 if body["completions"][0] == "0" else 0.0),
        (200, {"rewards": [float(text) for text in body["completions"]]}),
    )[1]
    texts = [str(number) for number in range(10)]
    found = reward(server, ", batch=3, parallel=2").score(texts, [{"prompt": "x"}] * 10)
    assert found == [float(number) for number in range(10)]
    assert sorted(len(body["prompts"]) for body in bodies(server)) == [1, 3, 3, 3]


def test_a_column_can_be_named_and_dates_become_texts(server):
    import datetime

    rows = [{"prompt": "x", "fact": {"right": "yes"}, "on": datetime.date(2026, 1, 2)}]
    assert reward(server, ", field=fact.right").score(["abc"], rows) == [3.0]
    (body,) = bodies(server)
    assert body["labels"] == ["yes"] and body["records"][0]["on"] == "2026-01-02"


def test_a_list_alone_is_enough_and_null_is_no_reward(server):
    server.answer = lambda body, number: (200, [0.5, None, "good"])
    found = reward(server).detailed(TEXTS, RECORDS)
    assert found.values == [0.5, None, None]
    assert any("gave 'good', not a number" in reason for reason in found.failures)


def test_an_answer_that_is_no_json_gives_no_reward_at_once(server):
    server.answer = lambda body, number: (200, b"hello")
    found = reward(server).detailed(TEXTS, RECORDS)
    assert found.values == [None] * 3 and "is not JSON: 'hello'" in next(iter(found.failures))
    assert len(server.requests) == 1


def test_the_time_limit_is_one_of_the_whole_answer(server):
    server.pause = 0.1
    began = time.monotonic()
    with pytest.raises(TrainingStopped, match="took more than 0.5 s over POST /rewards"):
        reward(server, ", timeout=0.5, attempts=1").score(TEXTS, RECORDS)
    assert time.monotonic() - began < 1.5
    server.answer = lambda body, number: (422, {"detail": "x" * 40})
    with pytest.raises(TrainingStopped, match="took more than 0.5 s"):
        reward(server, ", timeout=0.5, attempts=1").score(TEXTS, RECORDS)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_is_refused_and_says_where_it_leads(server, status):
    server.answer, server.location = lambda body, number: (status, {}), "/v2/rewards"
    with pytest.raises(TrainingStopped, match=f"status {status}: it redirects to {server.url}/v2/rewards") as caught:
        reward(server).score(TEXTS, RECORDS)
    assert f"Give {server.url}/v2/rewards as the address. It is the option url=." in caught.value.hint
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_key_names_the_variable(server, status):
    server.answer = lambda body, number: (status, {"detail": "who are you?"})
    with pytest.raises(TrainingStopped, match="who are you") as caught:
        reward(server).score(TEXTS, RECORDS)
    assert "as ZOO_REWARD_KEY" in caught.value.hint and "url=" not in caught.value.hint


def test_a_number_that_is_too_large_says_the_limit(server):
    server.answer = lambda body, number: (200, [1e308, 1.0, 2.0])
    found = reward(server).detailed(TEXTS, RECORDS)
    assert found.values == [None, 1.0, 2.0]
    assert any("gave 1e+308, more than the largest reward, 3.4e+38" in reason for reason in found.failures)


@pytest.mark.parametrize(
    ("given", "reason"), [({"rewards": [1.0]}, "gave 1 reward for 3 answers"), ({"scores": 3}, "{'scores': 3}")]
)
def test_other_answers_give_no_reward_and_say_why(server, given, reason):
    server.answer = lambda body, number: (200, given)
    found = reward(server).detailed(TEXTS, RECORDS)
    assert found.values == [None] * 3 and reason in next(iter(found.failures))


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("ZOO_REWARD_KEY", "a-key-of-ours")
    reward(server).score(TEXTS, RECORDS)
    assert server.requests[0]["key"] == "Bearer a-key-of-ours"


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 429])
def test_a_busy_server_is_asked_again(server, monkeypatch, status):
    monkeypatch.setattr("zoo.http.time.sleep", lambda seconds: None)
    server.answer = lambda body, number: (status, {}) if number < 2 else (200, [1, 2, 3])
    assert reward(server).score(TEXTS, RECORDS) == [1, 2, 3] and len(server.requests) == 3


def test_repeated_requests_are_told_of_once_for_all_that_wait(server, monkeypatch):
    monkeypatch.setattr("zoo.http.time.sleep", lambda seconds: None)
    failed = dict.fromkeys(TEXTS, 0)

    def busy(body, number):
        (text,) = body["completions"]
        failed[text] += 1
        return (503, {"detail": "loading"}) if failed[text] <= 2 else (200, [1.0])

    server.answer, said = busy, []
    assert reward(server, ", batch=1, parallel=3", say=said.append).score(TEXTS, RECORDS) == [1.0] * 3
    assert [line.split("loading; ")[1] for line in said] == ["attempt 2 of 9 in 1 s.", "attempt 3 of 9 in 2 s."]
    assert all(line.startswith(f"The server at {server.url} refused POST /rewards with status 503") for line in said)


def test_a_long_wait_for_a_server_is_told_of_more_and_more_rarely(server, monkeypatch):
    monkeypatch.setattr("zoo.terminal.Slow.first", 0.1)
    server.answer = lambda body, number: (
        time.sleep(1.0 if body["completions"] == ["Hi."] else 0.0),
        (200, [1.0]),
    )[1]
    said = []
    assert reward(server, ", batch=1", say=said.append).score(TEXTS, RECORDS) == [1.0] * 3
    lines = {f"Batches of answers scored by {server.url}: 2 of 3 after {seconds} s." for seconds in (0, 1)}
    assert 1 <= len(said) <= 4 and set(said) <= lines


def test_where_a_line_is_printed_is_no_option(server):
    with pytest.raises(ZooError, match="'http' has no option say"):
        reward(server, ", say=loudly")


def test_a_server_that_refuses_ends_the_run_with_its_reason(server):
    server.answer = lambda body, number: (422, {"detail": "no field 'question'"})
    with pytest.raises(TrainingStopped, match="status 422: no field 'question'"):
        reward(server).score(TEXTS, RECORDS)
    assert len(server.requests) == 1


def test_a_server_that_does_not_come_back_ends_the_run(server):
    server.stop()
    with pytest.raises(TrainingStopped, match="No server answers") as caught:
        reward(server, ", attempts=1").score(TEXTS, RECORDS)
    assert "zoo resume" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "needs the option url"),
        ("(url=localhost:5000)", "not the address of a server"),
        ("(url=http://me:secret@127.0.0.1:5000/x)", "must not hold a key"),
        ("(url=http://127.0.0.1:5000, batch=0)", "batch must be at least 1"),
        ("(url=http://127.0.0.1:5000, parallel=0)", "parallel must be at least 1"),
        ("(url=http://127.0.0.1:5000, timeout=0)", "timeout must be above 0"),
        ("(url=http://127.0.0.1:5000, attempts=0)", "attempts at least 1"),
    ],
)
def test_a_wrong_option_is_pointed_at_before_a_server_is_asked(options, message):
    with pytest.raises(ZooError, match=message) as caught:
        Reward(f"http{options}", {})
    assert "Reward, character" in caught.value.message


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, tiny_folder):
    train = trainer(tmp_path, tiny_folder)
    rows = write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"red {word}"} for word in ("one", "two", "blue", "cat")])

    def start(server, **options):
        given = {"data": rows, "batch_size": 8, "answers_per_prompt": 2, "max_new_tokens": 6, "epochs": 6}
        return train("grpo", reward=f"http(url={server.url}/rewards)", **{**given, **options})

    return start


def rewards_of(run):
    return [row["rollout/reward"] for row in map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
            if "rollout/reward" in row]  # fmt: skip


def test_a_server_that_is_killed_and_started_again_changes_nothing(run, server):
    plain = run(server, name="plain")
    asked = len(server.requests)

    def dying(body, number):
        if number == asked + 3:
            # It has read the request, and goes before it answers.
            threading.Thread(target=lambda: (server.stop(), time.sleep(1.5), server.start())).start()
            time.sleep(0.3)
            return 500, {}
        return lengths(body, number)

    server.answer = dying
    again = run(server, name="again")
    assert rewards_of(again) == rewards_of(plain) and len(rewards_of(plain)) >= 3
    assert (again.path / "model" / "model.safetensors").read_bytes() == (
        plain.path / "model" / "model.safetensors"
    ).read_bytes()


def test_a_run_whose_server_is_gone_is_resumed_when_it_is_back(run, server):
    plain = run(server, name="plain")
    asked = len(server.requests)
    server.answer = lambda body, number: lengths(body, number) if number < asked + 3 else (400, {"detail": "full"})
    with pytest.raises(TrainingStopped, match="full"):
        run(server, name="again", save_every=1)
    server.answer = lengths
    assert cli("resume", plain.path.parent / "again")[0] == 0
    again = plain.path.parent / "again" / "model" / "model.safetensors"
    assert again.read_bytes() == (plain.path / "model" / "model.safetensors").read_bytes()
