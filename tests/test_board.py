"""The board: what its pages say of runs that go on, and who may ask for what."""

import http.client
import json
import os
import shutil
import socket
import time

import pytest
from board_server import serving
from made_runs import made, online_rows, online_samples
from test_follow import TIMES, gone, live
from test_follow import beat as heart
from tiny_runs import cli

from zoo.board import server as board_server
from zoo.board.places import Places
from zoo.board.rows import Rows
from zoo.board.server import Board
from zoo.board.views import ListView, RunView
from zoo.errors import ZooError
from zoo.runs import Run

ROWS = [{"step": step, "loss": 2.0 - 0.1 * step, "grad_norm": 1.0} for step in range(1, 11)]


def ask(board, path, method="GET", **headers):
    """Status, headers and text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", board.server_address[1], timeout=20)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with runs of every state, a comparison that goes on, and a file outside."""
    folder = tmp_path_factory.mktemp("board")
    (folder / "secret.txt").write_text("not for the board")
    runs = folder / "runs"
    made(runs / "done", metrics=ROWS, status="finished", steps=10)
    (runs / "done" / "report.html").write_text("<p>the report</p>")
    (runs / "done" / "report-data").mkdir()
    (runs / "done" / "report-data" / "loss.csv").write_text("step,value\n1,1.9\n")
    live(runs / "busy", online_rows(10), samples=online_samples(), timings=TIMES)
    heart(live(runs / "killed"), pid=gone())
    group = folder / "comparisons" / "two"
    live(group / "sft-seed0", ROWS)
    made(group / "dpo-seed0", algo="dpo", metrics=ROWS, status="finished", steps=10)
    (group / "compare.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def board(place):
    with serving(place) as board:
        yield board


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_the_list_tells_of_every_run_and_comparison(board):
    status, _, page = ask(board, "/")
    assert status == 200
    for text in ("done", "busy", "killed", ">training<", ">dead<", ">finished<", "step 10 of 40", "sft of tiny on rows",
                 "1m00s left", "2 runs: ", "1 training", "rollout/reward"):  # fmt: skip
        assert text in page, text
    assert page.index(">busy<") < page.index(">done<"), "a run that goes on comes first"
    assert 'href="/runs/done/report.html"' in page and 'href="/runs/busy/report.html"' not in page


def test_the_page_of_a_run_has_curves_alarms_and_answers_before_it_ends(board):
    _, _, page = ask(board, "/runs/busy/")
    for text in ("training", "time left", "tokens/s", "The minimised loss", "<svg", "Newest answers", "answer 1 after",
                 "reward against √KL"):  # fmt: skip
        assert text in page, text
    rows = online_rows(40)
    fallen = [{**row, "entropy": 2.0 if row["step"] < 20 else 0.01} if "entropy" in row else row for row in rows]
    view = RunView("/runs/x/", live(board.places.folders["runs"] / "flat", fallen))
    view.look()
    assert "The entropy collapsed" in view.html()


def test_a_killed_run_says_how_to_go_on_and_a_finished_one_leads_to_its_report(board):
    assert "Continue with: zoo resume" in ask(board, "/runs/killed/")[2]
    assert 'href="report.html"' in ask(board, "/runs/done/")[2]
    assert "the report" in ask(board, "/runs/done/report.html")[2]
    assert ask(board, "/runs/done/report-data/loss.csv")[2] == "step,value\n1,1.9\n"


def test_the_runs_of_a_comparison_have_a_page_of_their_own(board):
    page = ask(board, "/comparisons/two/")[2]
    assert "sft-seed0" in page and "dpo-seed0" in page and "killed" not in page


def test_runs_are_compared_while_they_go_on(board):
    page = ask(board, "/compare?run=/comparisons/two/sft-seed0/&run=/comparisons/two/dpo-seed0/")[2]
    assert "Options that differ" in page and "<td>algo</td>" in page and page.count("<polyline") >= 2
    status, _, page = ask(board, "/compare?run=/runs/done/")
    assert status == 400 and "Choose 2 to 8 runs" in page


def test_the_oldest_of_many_runs_are_one_click_away(tmp_path):
    for i in range(55):
        made(tmp_path / f"run-{i}", status="finished", steps=i)
        os.utime(tmp_path / f"run-{i}" / "run.yaml", (i, i))
    view = ListView(Places({"runs": tmp_path}), Rows())
    view.look()
    assert [row.name for row in view.shown][:2] == ["run-54", "run-53"] and len(view.shown) == 50
    assert "5 older runs" in view.html()
    view.every = True
    view.look()
    assert len(view.shown) == 55


def test_an_empty_folder_says_what_to_type(tmp_path):
    view = ListView(Places({"runs": tmp_path / "runs"}), Rows())
    view.look()
    assert "zoo train" in view.html()


def test_a_run_that_has_ended_is_read_again_only_when_its_files_change(tmp_path):
    run, rows = made(tmp_path / "one", metrics=ROWS, status="finished", steps=10), Rows()
    first = rows.of("/runs/one/", run)
    assert rows.of("/runs/one/", run) is first and first.share == 1.0
    run.write_json("summary.json", {"status": "stopped", "steps": 12})
    assert rows.of("/runs/one/", run).state == "stopped" and rows.state(run) == "stopped"


def test_a_damaged_file_hides_no_run(tmp_path):
    run = made(tmp_path / "one", metrics=ROWS)
    (run.path / "run.yaml").write_text("algo: [broken\n")
    (run.path / "summary.json").write_text("{broken")
    assert Rows().of("/runs/one/", run).algo == "?"


def test_a_damaged_line_does_not_break_the_page_of_a_run(tmp_path):
    run = made(tmp_path / "one", metrics=ROWS, samples=[{"prompt": "?"}])
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"loss": 1.0}\n{"step": 11, "loss": "much"}\nnot json\n')
    view = RunView("/runs/one/", run)
    view.look()
    assert "loss" in view.html()


# -- what is new -------------------------------------------------------------------------------------------------------


def events(board, address, count, between=lambda i: None):
    """The pages of so many events. between: called after each."""
    connection = http.client.HTTPConnection("127.0.0.1", board.server_address[1], timeout=20)
    connection.request("GET", f"/events?of={address}")
    answer, pages = connection.getresponse(), []
    assert answer.getheader("Content-Type").startswith("text/event-stream")
    while len(pages) < count:
        line = answer.readline().decode()
        if line.startswith("data: "):
            pages.append(json.loads(line[6:]))
            between(len(pages))
    connection.close()
    return pages


@pytest.mark.parametrize("address, after", [("/runs/new/", "<dd>11 of 40</dd>"), ("/", "step 11 of 40")])
def test_a_new_step_is_sent_to_an_open_page(tmp_path, address, after, monkeypatch):
    monkeypatch.setattr(board_server, "EVERY", 0.05)
    run = live(tmp_path / "runs" / "new", ROWS)

    def write(i):
        if i == 1:
            with (run.path / "metrics.jsonl").open("a") as stream:
                stream.write(json.dumps({"step": 11, "loss": 0.25}) + "\n")

    with serving(tmp_path) as board:
        first, second = events(board, address, 2, write)
    assert after not in first and after in second and "0.25" in second


def test_a_page_that_is_closed_is_no_longer_followed(place, monkeypatch):
    monkeypatch.setattr(board_server, "EVERY", 0.01)
    monkeypatch.setattr(board_server, "ALIVE", 0.02)
    monkeypatch.setattr(board_server, "MOST_PAGES", 1)
    with serving(place) as board:
        assert "done" in events(board, "/", 1)[0]
        until = time.monotonic() + 20
        while not board.open_pages.acquire(blocking=False):
            assert time.monotonic() < until, "the page is still followed"
            time.sleep(0.02)
        assert ask(board, "/events?of=/")[0] == 503


def test_the_page_of_a_run_that_is_removed_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(board_server, "EVERY", 0.05)
    run = live(tmp_path / "runs" / "new", ROWS)
    with serving(tmp_path) as board:
        connection = http.client.HTTPConnection("127.0.0.1", board.server_address[1], timeout=20)
        connection.request("GET", "/events?of=/runs/new/")
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data: ")
        shutil.rmtree(run.path)
        assert b"HTTP/1" not in answer.read()
        assert ask(board, "/runs/new/")[0] == 404


def test_a_page_that_cannot_be_shown_says_so_and_the_terminal_why(tmp_path, capsys):
    live(tmp_path / "runs" / "odd", ROWS, samples=[{"prompt": 5, "answer": "x"}])
    with serving(tmp_path) as board:
        status, _, page = ask(board, "/runs/odd/")
        assert status == 500 and "terminal says why" in page and ask(board, "/")[0] == 200
    assert "TypeError" in capsys.readouterr().err


# -- who may ask for what ----------------------------------------------------------------------------------------------


def test_it_listens_on_loopback_alone(board):
    assert board.server_address[0] == "127.0.0.1" and board.socket.family == socket.AF_INET


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8420", "127.0.0.1.evil.example", "localhost@evil", "", "[::2]:80", "localhost:x"],
)
def test_another_host_is_refused(board, host):
    for path in ("/", "/runs/done/report.html", "/events?of=/"):
        status, _, page = ask(board, path, Host=host)
        assert status == 403 and "done" not in page


def test_an_ssh_tunnel_with_a_port_of_its_own_is_served(board):
    for host in ("localhost:9000", "127.0.0.1:9000", "localhost", "[::1]:8420"):
        assert ask(board, "/", Host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"])
def test_everything_but_get_is_refused(board, method):
    status, headers, _ = ask(board, "/runs/done/", method)
    assert status == 405 and headers["Allow"] == "GET"


@pytest.mark.parametrize("path", [
    "/secret.txt", "/runs/../secret.txt", "/runs/%2e%2e/secret.txt", "/runs/..%2fsecret.txt", "/runs//etc/passwd",
    "/runs/done/../../secret.txt", "/runs/done/%00report.html", "//[evil",
    "/events?of=//[evil", "/runs/done/..%5c..%5csecret.txt", "//etc/passwd",
    "/runs/out/report.html", "/runs/out/", "/runs/linked/report.html", "/runs/done/run.yaml", "/runs/done/summary.json",
    "/runs/.hidden/report.html", "/runs/done/other.html", "/board.css", "/nothing", "/runs/done",
])  # fmt: skip
def test_no_path_leads_out_of_the_runs(place, path):
    outside = place / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "report.html").write_text("not for the board")
    (outside / "run.yaml").write_text("algo: secret\n")
    runs = place / "runs"
    for link, target in ((runs / "out", outside), (runs / "linked", outside)):
        if not link.is_symlink():
            link.symlink_to(target)
    (runs / ".hidden").mkdir(exist_ok=True)
    (runs / ".hidden" / "report.html").write_text("not for the board")
    (runs / "done" / "other.html").write_text("not for the board")
    with serving(place) as board:
        status, _, page = ask(board, path)
        assert status in (400, 404) and "not for the board" not in page and "secret" not in page
        assert '"/runs/out/' not in ask(board, "/")[2], "a link that leads out is not listed"


def test_text_of_strangers_is_escaped_and_no_page_may_load_or_run_anything(tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m\u202e"
    samples = [{"eval": evil, "when": evil, "prompt": [{"role": "user", "content": evil}], "answer": evil, "score": 1}]
    rows = [{"step": 1, "loss": 1.0, evil: 2.0}]
    run = live(tmp_path / "runs" / "a b&c", rows, samples=samples, algo=json.dumps(evil))
    (run.path / "report.html").write_text("<script>alert(1)</script>")
    with serving(tmp_path) as board:
        for path in ("/", "/runs/a%20b%26c/", "/runs/a%20b%26c/report.html"):
            status, headers, page = ask(board, path)
            policy = headers["Content-Security-Policy"]
            assert status == 200 and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
            assert ("script-src" in policy) == (not path.endswith("report.html"))
            if not path.endswith("report.html"):
                for text in ("<img", "alert(1)</script>", "\x1b", "\u202e"):
                    assert text not in page, (path, text)
        pages = events(board, "/runs/a%20b%26c/", 1)
        assert "<img" not in pages[0] and "&lt;img" in pages[0]


def test_no_page_names_another_server(board):
    for path in ("/", "/runs/busy/", "/comparisons/two/", "/board.js"):
        text = ask(board, path)[2]
        assert "http://" not in text and "https://" not in text and 'src="//' not in text


def test_the_code_that_a_run_names_is_not_run(tmp_path):
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    run = live(tmp_path / "runs" / "one", ROWS, algo=f"{tmp_path}/mine.py:Mine")
    view = RunView("/runs/one/", Run(run.path))
    view.look()
    assert "loss" in view.html() and not (tmp_path / "ran").exists()


def test_a_port_that_is_taken_says_what_to_type(board):
    with pytest.raises(ZooError, match="cannot listen on port") as caught:
        Board({}, board.server_address[1])
    assert "--port 0" in caught.value.hint
    status, _, err = cli("board", "--port", "70000")
    assert status == 2 and "--port 0" in err
