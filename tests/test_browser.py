"""The board and the reports in a real browser: narrow and wide, by keyboard, on paper, and while runs go on.

`make test-browser` runs these tests; docs/board.md says what they need. They also make its pictures.
"""

import itertools
import json
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from board_server import serving
from each import each
from made_runs import made, online_rows, online_samples
from test_follow import TIMES, gone, live
from test_follow import beat as heart
from tiny_runs import cli

from zoo.comparison.finished import compare_runs
from zoo.report.comparison_page import write_comparison_page, write_runs_page
from zoo.report.recipe_page import write_recipe_page
from zoo.report.run_page import write_run_page
from zoo.runs import Run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]

WIDTHS, SCHEMES = (400, 1200), ("light", "dark")
PICTURES = os.environ.get("ZOO_PICTURES")
"""A folder for the pictures of docs/board.md."""
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
INSTALL = (
    "These tests need Playwright and a Chromium: pip install -e '.[browser]' and apt-get install chromium (or "
    "playwright install chromium). ZOO_BROWSER names another program."
)
SERIOUS = ("serious", "critical")
LIVE, BUSY_STEP = "ppo-goes-on", 24


@pytest.fixture(scope="module")
def browser(request):
    """Chromium without a window. Without one these tests fail if they are asked for, else they are skipped."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        absent(request, INSTALL)
    program = os.environ.get("ZOO_BROWSER") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=program)
        except Error as error:
            absent(request, f"{INSTALL}\n{error}")
        yield browser
        browser.close()


def absent(request, why):
    asked = request.config.option.markexpr == "browser"
    (pytest.fail if asked else pytest.skip)(why)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A folder with two real runs of the laboratory; one of them also as it was at step 24, and one as killed there."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for algo in ("dpo", "ppo"):
            status, _, err = cli("train", "--algo", algo, "--data", "world:gold", "--max-steps", "60",
                                 "--name", f"{algo}-gold")  # fmt: skip
            assert status == 0, err
    cut(folder / "runs", "dpo-gold", "dpo-killed", pid=gone())
    cut(folder / "runs", "ppo-gold", LIVE)
    return folder


def cut(runs, whole, part, **process):
    """Copy a finished run as one that has come to step 24."""
    run = Run(Path(shutil.copytree(runs / whole, runs / part)))
    for name in ("metrics.jsonl", "timing.jsonl"):
        rows = [row for row in run.read_rows(name) if row["step"] <= BUSY_STEP]
        (run.path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [row for row in run.read_rows("samples.jsonl") if row["when"] != "after"]
    (run.path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("summary.json", "report.html", "heldout.json"):
        (run.path / name).unlink(missing_ok=True)
    (run.path / "run.yaml").touch()
    heart(run, step=BUSY_STEP, steps=60, **process)


@pytest.fixture(scope="module")
def place(real, tmp_path_factory):
    """The real runs, and made-up runs and results that are hard to show."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(real / "runs", folder / "runs")
    hard_to_show(folder)
    return folder


LONG = "a-name-that-is-rather-long-for-a-run-of-one-seed-0123456789"
HUGE = 1.2345e304
CLAIM = {
    "says": "The trained model follows more instructions than its start, on prompts that it has not seen.",
    "where": "Table 2",
    "metric": f"{LONG}.instructions_followed_in_all_answers", "rule": "at least 0.05 above the start, on every seed",
    "values": [0.1, HUGE, 0.3], "mean": 0.25, "sd": 0.1, "low": 0.05, "high": 0.45, "verdict": "reproduced", "why": "",
    "sides": [{"tuned": [0.4, 0.5, 0.6]}, {"start": [0.1, 0.2, 0.3]}],
}  # fmt: skip


def hard_to_show(folder):
    """Runs and results with huge numbers, long names and long texts, and their pages."""
    rows = [{**row, "rollout/reward": row.get("rollout/reward", 0) * HUGE / 10} for row in online_rows(40)]
    values = {"before": {"val/loss": 2.0, LONG: 0.1}, "after": {"val/loss": 5000.0, LONG: HUGE}}
    samples = [{**row, "answer": "word " * 400 + "x" * 900} for row in online_samples()]
    diverged = made(
        folder / "runs" / LONG, metrics=rows, samples=samples, status="finished", steps=40, scores={}, **values
    )
    write_run_page(diverged)
    live(folder / "comparisons" / "two" / "sft-seed0", online_rows(20), timings=TIMES)
    group = folder / "comparisons" / "two"
    for seed in (1, 2):
        write_run_page(
            made(group / f"dpo-seed{seed}", algo="dpo", metrics=online_rows(20), status="finished", steps=20)
        )
    write_comparison_page(group, comparison(), "zoo compare --algos sft,dpo --model " + "a/long/path" * 20)
    runs = [Run(folder / "runs" / name) for name in ("dpo-gold", "ppo-gold", LONG)]
    write_runs_page(folder / "side-by-side", compare_runs(runs), runs)
    recipe = folder / "runs" / "recipes" / "words-laptop"
    for stage in ("sft", "tuned"):
        write_run_page(
            made(recipe / "seed-0" / stage, metrics=online_rows(20), samples=samples, status="finished", steps=20)
        )
    (recipe / "recipe.yaml").write_text("name: words\n")
    write_recipe_page(recipe, reproduction())


def comparison():
    names = ["instructions", "kl", "answer_tokens", "cpu_seconds", "trained_tokens", "preference_accuracy"]
    cell = {"mean": 0.5, "std": 0.1, "values": [0.4, 0.6]}
    return {
        "definition": "Equal compute means that every algorithm trains on as many tokens, which here are 32,000.",
        "failed": [{"run": LONG, "error": "The run failed: " + "no room " * 30}], "evals": ["instructions"],
        "start": {name: {"value": 0.25} for name in names[:2]},
        "spread": "± is the sample standard deviation over 2 seeds",
        "algorithms": [{"label": label, "seeds": 2, "steps": 20,
                        "measures": {name: {**cell, "mean": HUGE if label == LONG else 0.5} for name in names}}
                       for label in ("sft", "dpo", LONG)],
        "measures": {name: f"What {name} measures, in a sentence that is long enough to wrap." for name in names},
        "warnings": ["dpo's answers are 1.9 times as long as the start's."], "notes": [],
        "differences": [{"score": "instructions", "from": "start", "to": to, "change": 0.25, "low": 0.1, "high": 0.4,
                         "paired": True, "chance": 0.01, "n": 120, "better": to == "dpo"} for to in ("dpo", LONG)],
        "runs": [{"label": "dpo", "run": f"dpo-seed{seed}", "seed": seed, "steps": 20, "passes": 1.0,
                  "measures": dict.fromkeys(names, 0.5), "intervals": {"instructions": [0.4, 0.6, 120]}}
                 for seed in (1, 2)],
    }  # fmt: skip


def reproduction():
    scores, intervals = {"instructions": 0.5, "val/loss": HUGE}, {"instructions": [0.4, 0.6, 120]}
    stage = {"kind": "dpo", "needs": ["base"], "swept": {}, "values": dict.fromkeys("012", scores),
             "intervals": dict.fromkeys("012", intervals)}  # fmt: skip
    return {
        "recipe": "words", "variant": "laptop", "title": "Words", "paper": {"text": "A paper", "version": "v2"},
        "verdict": "2 of 2 reproduced", "seeds": [0, 1, 2], "level": 0.95, "tests": "Whether words can be taught.",
        "made": {"date": "2026-01-01", "minutes": 3.0, "cpu_minutes": 4.0, "command": "zoo reproduce words --laptop",
                 "versions": {"torch": "2.8", "zoo": "0.1"}, "processors": 2},
        "caveat": "Nothing is learned from this about anything else.", "findings": "", "notes": "", "about": "",
        "claims": [CLAIM, {**CLAIM, "metric": "sft.kl", "verdict": "contradicted"}], "full_scale": [CLAIM],
        "stages": [{**stage, "name": name, "folder": name} for name in ("sft", "tuned")],
        "sweeps": {}, "at": [], "deviations": ["The words are others."], "not_reported": ["The learning rate."],
    }  # fmt: skip


@pytest.fixture(scope="module")
def board(place):
    with serving(place) as board:
        yield board


def addresses(place, board):
    """Every kind of page: those of the board, and reports as they open from disk."""
    return {
        "list": board.address,
        "run that goes on": f"{board.address}runs/{LIVE}/",
        "run with huge numbers": f"{board.address}runs/{LONG}/",
        "group": f"{board.address}comparisons/two/",
        "comparison of the board": f"{board.address}compare?run=/runs/dpo-gold/&run=/runs/{LIVE}/",
        "nothing there": f"{board.address}nothing/",
        "report of a run": (place / "runs" / "ppo-gold" / "report.html").as_uri(),
        "report with huge numbers": (place / "runs" / LONG / "report.html").as_uri(),
        "report of a comparison": (place / "comparisons" / "two" / "report.html").as_uri(),
        "report of runs": (place / "side-by-side" / "report.html").as_uri(),
        "report of a recipe": (place / "runs" / "recipes" / "words-laptop" / "report.html").as_uri(),
    }


@contextmanager
def opened(browser, address, width=1200, scheme="light", height=900):
    """A page, and what it asked for and complained of: `page.asked`, `page.said`."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.asked, page.said = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.goto(address)
    if address.startswith("http") and page.locator("#sign").count():
        page.wait_for_selector("#sign[data-state=live]")
    try:
        yield page
    finally:
        context.close()


OVERFLOW = """() => {
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= wide) return [];
  const scrolls = e => e && (getComputedStyle(e).overflowX === "auto" || scrolls(e.parentElement));
  return [...document.querySelectorAll("body *")]
    .filter(e => e.getBoundingClientRect().right > wide + 1 && !scrolls(e.parentElement))
    .map(e => e.nodeName + "." + e.className + " " + e.textContent.slice(0, 40)).slice(0, 5);
}"""


def test_no_page_scrolls_sideways_or_has_a_serious_finding(browser, board, place):
    """Narrow and wide, light and dark. Findings are those of axe, an engine of accessibility rules."""
    from axe_playwright_python.sync_playwright import Axe

    def check(case):
        kind, width, scheme = case
        with opened(browser, addresses(place, board)[kind], width, scheme) as page:
            found = [f"too wide: {element}" for element in page.evaluate(OVERFLOW)]
            for rule in Axe().run(page).response["violations"]:
                if rule["impact"] in SERIOUS:
                    found += [f"{rule['id']}: {node['html'][:160]}" for node in rule["nodes"][:3]]
            assert not found, "\n".join(found)

    each(itertools.product(addresses(place, board), WIDTHS, SCHEMES), check)


def test_no_page_asks_another_server_or_breaks_its_own_policy(browser, board, place):
    def check(kind):
        with opened(browser, addresses(place, board)[kind]) as page:
            allowed = ("file:", board.address)
            assert [url for url in page.asked if not url.startswith(allowed)] == []
            assert [text for text in page.said if "404" not in text] == []

    each(addresses(place, board), check)


# -- keyboard ----------------------------------------------------------------------------------------------------------

FOCUSED = """() => {
  const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
  return {name: (e.getAttribute("aria-label") || e.textContent || e.id).trim().slice(0, 60), tag: e.nodeName,
          seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 && box.width > 0,
          inside: box.right <= innerWidth + 1 && box.left >= -1};
}"""


def walk(page, most=400):
    """What has the focus after each press of Tab, until it leaves the page."""
    found = []
    while len(found) < most:
        page.keyboard.press("Tab")
        place = page.evaluate(FOCUSED)
        if place["tag"] == "BODY":
            break
        found.append(place)
    return found


def test_every_page_can_be_walked_by_keyboard_and_shows_where_one_is(browser, board, place):
    def check(kind):
        with opened(browser, addresses(place, board)[kind], 400) as page:
            stops = walk(page)
            assert [stop for stop in stops if not (stop["seen"] and stop["inside"])] == []
            links = page.locator("a:visible, button:visible, input[type=checkbox]:visible, summary:visible").count()
            assert len(stops) >= links

    each(addresses(place, board), check)


def test_runs_are_chosen_and_compared_by_keyboard_in_the_order_of_the_page(browser, board):
    with opened(browser, board.address) as page:
        names = [stop["name"] for stop in walk(page)]
        runs = [name for name in names if name in ("dpo-gold", "ppo-gold", LIVE)]
        assert names[:2] == ["zoo board", "Compare"] and runs[0] == LIVE and set(runs) == {"dpo-gold", "ppo-gold", LIVE}
        assert names.index("compare dpo-gold") < names.index("dpo-gold") < names.index("report of dpo-gold")
        for name in ("dpo-gold", LIVE):
            page.get_by_label(f"compare {name}").focus()
            page.keyboard.press("Space")
        page.get_by_role("button", name="Compare").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Options that differ")
        page.get_by_role("link", name="zoo board").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Choose two runs")


# -- paper -------------------------------------------------------------------------------------------------------------


def test_every_page_fits_on_paper(browser, board, place):
    def check(kind):
        with opened(browser, addresses(place, board)[kind], width=700) as page:
            page.emulate_media(media="print")
            wide = page.evaluate("[...document.querySelectorAll('svg, table, pre')].filter(e => e.scrollWidth > "
                                 "e.clientWidth + 1 && getComputedStyle(e).overflowX === 'auto').length")  # fmt: skip
            assert page.evaluate(OVERFLOW) == [] and wide == 0
            assert page.locator("header:visible").count() == 0
            assert page.pdf(format="A4").startswith(b"%PDF")

    each(addresses(place, board), check)


# -- while a run goes on -----------------------------------------------------------------------------------------------


@pytest.fixture
def going(tmp_path):
    """A run that goes on, and a function that writes its next step."""
    run = live(tmp_path / "runs" / "new", online_rows(20), samples=online_samples())

    def write(step, loss):
        with (run.path / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps({"step": step, "loss": loss, "kl": 0.1, "num_tokens": 100.0 * step}) + "\n")
        heart(run, step=step)

    return tmp_path, write


@pytest.mark.parametrize("path, text", [("runs/new/", "21 of 40"), ("", "step 21 of 40")])
def test_a_new_step_is_seen_within_five_seconds(browser, going, path, text):
    folder, write = going
    with serving(folder) as board, opened(browser, board.address + path) as page:
        assert page.get_by_text(text).count() == 0
        began = time.monotonic()
        write(21, 0.123)
        page.get_by_text(text).first.wait_for(timeout=5000)
        page.get_by_text("0.123").first.wait_for(timeout=1000)
        print(f"a new step was seen after {time.monotonic() - began:.1f} s")


def test_a_page_that_renews_itself_leaves_the_reader_where_he_was(browser, going):
    folder, write = going
    with serving(folder) as board, opened(browser, f"{board.address}runs/new/", height=300) as page:
        page.get_by_label("tokens").check()
        page.get_by_label("tokens").focus()
        page.evaluate("scrollTo(0, 400); document.querySelector('main').dataset.mine = 'kept'")
        write(21, 0.123)
        page.get_by_text("21 of 40").first.wait_for(timeout=10_000)
        assert page.get_by_label("tokens").is_checked() and page.evaluate("scrollY") == 400
        assert page.evaluate("document.activeElement.id") == "axis-tokens"
        assert page.locator(".by-tokens:visible").count() > 0 and page.locator(".by-step:visible").count() == 0


def test_a_new_run_appears_in_the_list_and_keeps_what_was_chosen(browser, going):
    folder, _ = going
    with serving(folder) as board, opened(browser, board.address) as page:
        page.get_by_label("compare new").check()
        live(folder / "runs" / "newer", online_rows(8))
        page.get_by_text("newer", exact=True).wait_for(timeout=10_000)
        assert page.get_by_label("compare new", exact=True).is_checked()
        assert not page.get_by_label("compare newer").is_checked()
        assert page.evaluate("document.activeElement.value") == "/runs/new/"


def test_a_board_that_has_gone_is_told_of_and_found_again(browser, going):
    folder, _ = going
    with serving(folder) as board, opened(browser, board.address) as page:
        page.route("**/events*", lambda route: route.abort())
        page.evaluate("end(); begin()")
        page.wait_for_selector("#sign[data-state=lost]")
        page.unroute("**/events*")
        page.wait_for_selector("#sign[data-state=live]", timeout=20_000)


# -- pictures ----------------------------------------------------------------------------------------------------------

SHOWN = {
    "board": ("list", 520), "board-run": ("run that goes on", 1000), "board-compare": ("comparison of the board", 900),
    "report": ("report of a run", 1000),
}  # fmt: skip


SIZES = ((1200, "light"), (400, "dark"))


def test_the_pictures_of_the_page_are_made(browser, real, tmp_path):
    folder = Path(PICTURES or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    with serving(real) as board:
        for (stem, (kind, height)), (width, scheme) in itertools.product(SHOWN.items(), SIZES):
            with opened(browser, addresses(real, board)[kind], width, scheme, height) as page:
                page.screenshot(path=folder / f"{stem}-{width}.png", scale="css")
    sizes = {file.name: file.stat().st_size for file in folder.glob("*.png")}
    assert len(sizes) == len(SIZES) * len(SHOWN) and min(sizes.values()) > 5000 and sum(sizes.values()) < 1.5e6
