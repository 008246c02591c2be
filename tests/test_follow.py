"""Watching a run from outside: what its files tell while it goes on, when it ends, and when it was killed."""

import json
import os
import signal
import socket
import threading
import time

import pytest
from made_runs import made, online_rows
from tiny_runs import cli, data_for, float32_flags, on_terminal, start_fork, status_of

from zoo.options.strict_yaml import read_some
from zoo.report import follow
from zoo.report.follow import Followed, Tail, sparkline
from zoo.runs import Run
from zoo.training.record.heartbeat import Beat, state_of
from zoo.training.record.progress import Pace, duration, line_of


def beat(run, step=4, steps=40, pid=None, ago=0.0):
    now = time.time() - ago
    facts = {"time": now, "step": step, "step_time": now, "steps": steps, "pid": pid or os.getpid()}
    run.write_json("heartbeat.json", {**facts, "host": socket.gethostname(), "rank": 0, "processes": 1})


def gone():
    """The number of a process that has ended."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def live(folder, rows=(), **more):
    """A run in the middle of its steps."""
    run = made(folder, metrics=rows, **more)
    (run.path / "summary.json").unlink()
    beat(run)
    return run


TIMES = [
    {"step": step, "seconds/training": 0.5, "seconds/rollout": 1.5, "speed/training": 400.0} for step in range(1, 11)
]


# -- states ------------------------------------------------------------------------------------------------------------


def test_a_heartbeat_tells_a_live_run_from_a_dead_one_in_the_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, facts in (("done", {"status": "finished", "steps": 40}), ("halted", {"status": "stopped", "steps": 9})):
        made(tmp_path / "runs" / name, **facts)
    live(tmp_path / "runs" / "busy")
    beat(live(tmp_path / "runs" / "killed"), pid=gone())
    beat(made(tmp_path / "runs" / "again", status="stopped", steps=2), step=7)
    (live(tmp_path / "runs" / "old").path / "heartbeat.json").unlink()
    rows = {row["name"]: (row["status"], row["steps"]) for row in json.loads(cli("runs", "--json")[1])}
    assert rows == {
        "done": ("finished", 40), "halted": ("stopped", 9), "busy": ("training", 4), "killed": ("dead", 4),
        "again": ("training", 7), "old": ("unfinished", "?"),
    }  # fmt: skip


def test_a_beat_left_behind_does_not_make_a_finished_run_dead():
    left = Beat(0.0, 4, 0.0, 40, gone(), socket.gethostname(), 0, 1)
    assert [state_of({"status": status}, left) for status in ("finished", "failed", "stopped")] == [
        "finished", "failed", "dead",
    ]  # fmt: skip
    assert state_of({"status": "finished", "ending": True}, left) == "dead", "its report is missing"


def test_the_list_reads_three_options_and_finds_long_and_quoted_ones(tmp_path):
    run = made(tmp_path / "one")
    long = "a/" + " ".join(["very long folder"] * 12)
    file = run.path / "run.yaml"
    file.write_text(f'algo: "dpo"\nlr: [broken\nmodel: >-\n  {long}\n  on\ndata: no\nmodels: x\n')
    found = read_some(file, ("algo", "model", "data"))
    assert found == {"algo": "dpo", "model": f"{long} on", "data": "no"}


# -- files that grow ---------------------------------------------------------------------------------------------------


def test_a_tail_reads_whole_lines_once_and_all_again_after_a_resume(tmp_path):
    file = tmp_path / "metrics.jsonl"
    tail = Tail(file)
    assert tail.look() == []
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in tail.look()] == [1, 2]
    with file.open("a") as stream:
        stream.write('ep": 3}\nnot json\n')
    assert [row["step"] for row in tail.look()] == [3] and tail.look() == []
    beside = tmp_path / "beside"
    beside.write_text('{"step": 1}\n')
    os.replace(beside, file)
    assert [row["step"] for row in tail.look()] == [1] and tail.rows == [{"step": 1}]


def test_a_long_file_is_read_in_part_with_all_validations_and_evenly_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "MOST_ROWS", 10)
    rows = [{"step": step, "loss": 1.0, **({"rollout/reward": 0.5} if step % 4 == 0 else {})} for step in range(400)]
    rows[200:200] = [{"step": 200, "val/loss": 1.0}]
    (tmp_path / "m").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = Tail(tmp_path / "m").look()
    kinds = [sum(name in row for row in read) for name in ("val/loss", "rollout/reward", "loss")]
    assert kinds == [1, 10, 20] and [read[0]["step"], read[-1]["step"]] == [0, 399]
    assert [row["step"] for row in read] == sorted(row["step"] for row in read)


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_a_sparkline_goes_from_the_least_to_the_largest_value():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 2) == "▁█" and sparkline([3.0] * 5, 3) == "▅▅▅"
    assert len(sparkline(range(1000), 30)) == 30 and sparkline([1.0], 30) == "▅"


def test_the_time_left_is_that_of_the_last_steps_with_their_rollouts(tmp_path):
    followed = Followed(live(tmp_path / "one", online_rows(steps=10), timings=TIMES))
    followed.look()
    assert (followed.state, followed.step, followed.steps) == ("training", 10, 40)
    assert followed.pace == {"tokens_per_second": 100.0, "seconds_left": 60.0}


def test_a_live_run_shows_state_curves_alarms_and_answers_without_obeying_them(tmp_path, monkeypatch):
    rows = [{**row, "rollout/cut": 0.9} if "loss" in row else row for row in online_rows(steps=10)]
    sample = {"eval": "rollout", "when": "step 9", "prompt": "Say\nred", "answer": "\x1b[2J[bold]red", "score": 0.25}
    run = live(tmp_path / "runs" / "busy", rows, timings=TIMES, samples=[sample])
    monkeypatch.setattr(follow, "EVERY", 0.05)
    monkeypatch.chdir(tmp_path)
    threading.Timer(0.4, lambda: run.write_json("summary.json", {"status": "finished", "steps": 40})).start()
    status, shown = on_terminal("runs", "--follow", "busy", width=100)
    assert status == 0
    for part in ("busy", "training", "step 10 of 40", "1m00s left", "100 tokens/s", "rollout/reward", "▁", "█",
                 "0.21 → 0.3", "of the answers were cut", "prompt  Say red", "answer  \\x1b[2J[bold]red", "score 0.25",
                 "busy is finished after step 40"):  # fmt: skip
        assert part in shown, part
    assert "\x1b[2J" not in shown.replace("\x1b[2K", "")


def test_a_pipe_gets_lines_and_each_alarm_once(tmp_path, monkeypatch):
    run = live(tmp_path / "one", [{"step": 0, "val/loss": 3.0}, {"step": 1, "loss": 2.5}], timings=TIMES)
    monkeypatch.setattr(follow, "EVERY", 0.02)

    def go_on():
        with (run.path / "metrics.jsonl").open("a") as stream:
            stream.write('{"step": 2, "loss": 2.4, "skipped": 1.0}\n{"step": 2, "val/loss": 2.9}\n')
        time.sleep(0.3)
        run.write_json("summary.json", {"status": "failed", "steps": 2, "reason": "It broke.", "hint": "Look."})

    threading.Timer(0.3, go_on).start()
    status, out, _ = cli("runs", "--follow", run.path)
    assert status == 1 and out.splitlines() == [
        "one  training  step 4 of 40  1m12s left  100 tokens/s",
        "step 0/40  1m12s left  100 tokens/s  val/loss 3",
        "step 1/40  1m12s left  100 tokens/s  loss 2.5",
        "step 2/40  1m12s left  100 tokens/s  val/loss 2.9",
        "Alarm: 1 of the steps read here were skipped.",
        "one  failed  step 2 of 40",
        "one has failed after step 2 of 40. It broke. Look.",
    ]


def test_a_run_that_was_killed_is_told_with_what_to_type(tmp_path):
    run = live(tmp_path / "one", [{"step": 4, "loss": 1.0}])
    beat(run, pid=gone(), ago=180)
    status, out, _ = cli("runs", "--follow", run.path)
    assert status == 1 and "one is dead after step 4 of 40: it was killed. Its last heartbeat was 3m00s ago" in out
    assert out.rstrip().endswith(f"Continue with: zoo resume {run.path}")


def test_a_new_folder_is_waited_for_and_an_old_one_without_a_word_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "EVERY", 0.02)
    run = live(tmp_path / "one")
    for name in ("heartbeat.json", "metrics.jsonl", "samples.jsonl"):
        (run.path / name).unlink()
    threading.Timer(0.2, lambda: run.write_json("summary.json", {"status": "finished", "steps": 3})).start()
    status, out, _ = cli("runs", "--follow", run.path)
    assert status == 0 and out.splitlines()[0] == "one  starting"
    (run.path / "summary.json").unlink()
    os.utime(run.path / "run.yaml", (0, 0))
    status, out, _ = cli("runs", "--follow", run.path)
    assert status == 1 and f"is not running, and is not finished. Continue with: zoo resume {run.path}" in out


def test_ctrl_c_ends_it_quietly(tmp_path):
    run = live(tmp_path / "one")
    child = start_fork(["runs", "--follow", str(run.path)], {}, tmp_path, tmp_path / "out", tmp_path / "err")
    while "training" not in (tmp_path / "out").read_text():
        time.sleep(0.02)
    time.sleep(0.2)
    os.kill(child, signal.SIGINT)
    assert status_of(child, 10) == 0 and (tmp_path / "err").read_text() == ""


def test_json_and_follow_are_refused_together(tmp_path):
    status, _, err = cli("runs", "--follow", "--json", live(tmp_path / "one").path)
    assert status == 2 and "--json and --follow cannot be combined." in err


# -- the lines of a log ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds, shown", [(0.4, "0s"), (59, "59s"), (60, "1m00s"), (3599, "59m59s"), (18420, "5h07m"), (187200, "2d04h")]
)
def test_a_duration_has_its_two_largest_parts(seconds, shown):
    assert duration(seconds) == shown


def test_the_pace_is_that_of_this_process_and_counts_what_lies_between_the_steps(monkeypatch):
    clock = iter([100.0, 104.0, 104.0, 110.0, 130.0])
    monkeypatch.setattr("zoo.training.record.progress.time.monotonic", lambda: next(clock))
    pace = Pace(40)
    pace.step(31, 3000.0)
    assert pace.facts(31) == {"seconds": 4.0}
    pace.step(33, 3400.0)
    assert pace.facts(33) == {"seconds": 10.0, "tokens_per_second": 400 / 6, "seconds_left": 21.0}
    pace.step(40, 4000.0)
    assert pace.facts(40) == {"seconds": 30.0, "tokens_per_second": 1000 / 26}


def test_a_line_says_what_is_known():
    facts = {"seconds": 133.0, "seconds_left": 200.0, "tokens_per_second": 3289.4}
    assert line_of(40, 100, {"loss": 1.234}, facts) == "step 40/100  2m13s, 3m20s left  3,289 tokens/s  loss 1.234"
    assert line_of(1, 0, {"loss": 1.0, "lr": 0.1}, {}) == "step 1  loss 1"


# -- a log for programs ------------------------------------------------------------------------------------------------

NAMES = ["time", "level", "event", "step", "metrics", "message"]


def log_of(*arguments):
    """Status, and the lines of the log; nothing else is printed."""
    status, out, err = cli(*arguments)
    assert err == ""
    rows = [json.loads(line) for line in out.splitlines()]
    assert all(list(row) == NAMES for row in rows)
    return status, rows


def test_a_run_prints_json_lines_alone(tmp_path, monkeypatch, tiny_folder):
    monkeypatch.chdir(tmp_path)
    flags = float32_flags(max_steps=2, model=tiny_folder, data=data_for("sft", tmp_path, 30), eval_fraction=0.2)
    monkeypatch.setattr("zoo.guards.bundled.Finite.look", lambda self, step, metrics: "a test objects")
    flags = [*flags, "--guards", "finite(action=warn)"]
    status, rows = log_of("train", "--name", "one", "--log-format", "json", *flags)
    warned, *reported = [row for row in rows if row["level"] == "warning"]
    assert warned["event"] == "warning" and "A test objects" in warned["message"]
    assert [row["message"] for row in reported] == Run(tmp_path / "runs" / "one").read_json("warnings.json")["warnings"]
    events = [row["event"] for row in rows]
    assert status == 0 and events[0] == "message" and events[-1] == "finished"
    steps = [row for row in rows if row["event"] == "step"]
    assert [row["step"] for row in steps] == [1, 2] and steps[1]["metrics"]["tokens_per_second"] > 0
    first = next(row for row in Run(tmp_path / "runs" / "one").log_history if "lr" in row)
    assert steps[0]["metrics"]["loss"] == first["loss"]
    assert "validation" in events and rows[-1]["metrics"]["val/loss"] > 0
    status, rows = log_of("resume", "one", "--log-format=json")
    assert status == 2 and [(row["level"], row["event"]) for row in rows] == [("error", "error")]
    assert "The run one is finished." in rows[0]["message"]


def test_mistakes_in_flags_warnings_and_faults_are_json_lines_too(monkeypatch):
    status, (row,) = log_of("train", "--log-format", "json", "--bogus", "1")
    assert status == 2 and "No such option: --bogus" in row["message"]

    def broken(*given, **options):
        import warnings

        warnings.warn("Look out.", stacklevel=1)
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("zoo.training.run.resolve_options", broken)
    status, rows = log_of("train", "--log-format", "json")
    assert status == 1 and [row["level"] for row in rows] == ["warning", "error"]
    assert "Look out." in rows[0]["message"] and "Traceback" in rows[1]["message"]
