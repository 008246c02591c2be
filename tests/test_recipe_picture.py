"""The picture of a reproduction: drawn as its claims read, whole without anything around it, shown where it exists."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from each import each

from zoo.recipes.claims import Measured, judge
from zoo.recipes.form import Claim
from zoo.recipes.table import TABLE, shown
from zoo.report.plots.axes import COLOURS
from zoo.report.plots.lines import paths
from zoo.report.plots.recipe_picture import recipe_picture, write_picture
from zoo.report.plots.seeds import key
from zoo.report.plots.standalone import stand_alone

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
PICTURES = sorted((RECIPES / "results").glob("*.svg"))
SEEDS = [3, 8]


def found(stages, claims, sweeps=None, swept=None, at=()):
    """results.json as a reproduction writes it, as far as the picture reads it. stages: {stage: {metric: by seed}}."""
    values = {seed: {stage: {name: of[k] for name, of in metrics.items()} for stage, metrics in stages.items()}
              for k, seed in enumerate(SEEDS)}  # fmt: skip
    sweeps = sweeps or {}
    measured = Measured(values, lambda text: sweeps[text[:-3]] if text.endswith("(*)") else [text])
    return {
        "recipe": "mine", "variant": "laptop", "seeds": SEEDS, "verdict": "reproduced", "sweeps": sweeps, "at": at,
        "claims": [judge(Claim(**{"where": "", **claim}), measured, SEEDS) for claim in claims],
        "stages": [{"name": stage, "swept": (swept or {}).get(stage, {}),
                    "values": {str(seed): values[seed][stage] for seed in SEEDS}} for stage in stages],
    }  # fmt: skip


def places(svg, tag="polyline", colour=None):
    """The corners of every line of the picture, in pixels of its plot."""
    return [
        [tuple(map(float, place.split(","))) for place in one.split()]
        for shade, one in re.findall(rf'<{tag} class="curve" stroke="([^"]*)" points="([^"]*)"', svg)
        if colour in (None, shade)
    ]


def words(svg):
    """All texts of the picture, as they are read."""
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def marks(svg):
    """How many circles and squares: the marks of the first seed and of the second."""
    return svg.count("<circle"), svg.count("<polygon")


@pytest.fixture
def compared():
    return found(
        {"a": {"score": [1.0, 2.0]}, "b": {"score": [0.5, 0.25]}},
        [{"says": "A is better than B, which is a long sentence that nothing of may be lost of.", "metric": "a.score",
          "baseline": "b.score", "by": 0.1}],
    )  # fmt: skip


def test_two_sides_of_a_claim_are_rows_with_a_mark_for_each_seed(compared):
    svg = recipe_picture(compared)
    assert marks(svg) == (2, 2) and "● seed 3\u2003■ seed 8\u2003| mean" in words(svg)
    assert {"a.score", "b.score", "score", "undecided"} <= set(words(svg))
    # Of the values 2, 1, 0.5 and 0.25 the largest stands rightmost, and the distances between them are kept.
    circles = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', svg)]
    squares = [float(x) for x in re.findall(r'<polygon points="([\d.]+)', svg)]
    assert (circles[0] - circles[1]) / (squares[0] - squares[1]) == pytest.approx(0.5 / 1.75, abs=0.01)


def test_the_title_is_the_whole_sentence_of_the_claim(compared):
    picture = ElementTree.fromstring(recipe_picture(compared))
    title = [one.text for one in picture.iter() if one.get("class") == "title"]
    assert len(title) > 1 and " ".join(title) == compared["claims"][0]["says"]


def test_a_sweep_is_a_line_for_each_seed_and_what_it_is_compared_with_a_level():
    stages = {f"tuned(beta={b})": {"score": [1 / (1 + k), 1.1 / (1 + k)]} for k, b in enumerate(("0.1", "1", "20"))}
    svg = recipe_picture(found(
        {**stages, "start": {"score": [0.0, 0.2]}},
        [{"says": "The first.", "metric": "tuned(beta=0.1).score", "baseline": "start.score", "by": 0.1},
         {"says": "All.", "orders": ["tuned(beta=20).score", "tuned(beta=1).score", "tuned(beta=0.1).score"]}],
        sweeps={"tuned": list(stages)}, swept={name: {"beta": name[11:-1]} for name in stages},
    ))  # fmt: skip
    lines = places(svg)
    assert len(lines) == 2 and all(len(line) == 3 for line in lines)
    first, middle, last = (x for x, _ in lines[0])
    assert middle - first == pytest.approx(last - middle, abs=0.2), "0.1, 1 and 20 stand at equal distances"
    assert [y for _, y in lines[0]] == sorted(y for _, y in lines[0]), "the score falls as beta grows"
    assert {"0.1", "1", "20", "beta", "score", "– start (mean, range)", "The first. All."} <= set(words(svg))
    assert svg.count('fill-opacity=".12"') == 1, "one picture for both claims"


def test_a_sweep_over_names_is_rows():
    stages = {f"tuned(data={name})": {"score": [1.0, 2.0]} for name in ("clean", "noisy", "none")}
    svg = recipe_picture(found(
        stages, [{"says": "All.", "metric": "tuned(*).score", "above": 0}],
        sweeps={"tuned": list(stages)}, swept={name: {"data": name[11:-1]} for name in stages},
    ))  # fmt: skip
    assert not places(svg) and marks(svg) == (3, 3) and "tuned(data=noisy).score" in words(svg)


NUMBERED = {"best.gold_1": [0.0, 0.1], "best.gold_4": [1.0, 1.2], "best.gold_16": [0.5, 0.4]}
RISES = {"says": "It falls.", "metric": "start.best.gold_16", "baseline": "start.best.gold_4", "by": -0.1}


def test_numbered_details_are_lines_over_the_distance_where_that_is_told():
    kl = {"best.kl_1": [0.0, 0.0], "best.kl_4": [1.0, 1.0], "best.kl_16": [4.0, 4.0]}
    svg = recipe_picture(found({"start": {**NUMBERED, **kl}}, [RISES]))
    (low, middle, high), _ = places(svg)
    assert middle[0] - low[0] == pytest.approx(high[0] - middle[0], abs=0.2), "√0, √1, √4"
    assert middle[1] < high[1] < low[1] and "√KL" in words(svg)


def test_and_over_the_numbers_where_it_is_not():
    svg = recipe_picture(found({"start": NUMBERED}, [RISES]))
    assert {"n", "1", "4", "16"} <= set(words(svg)) and "√KL" not in words(svg)
    assert marks(svg) == (3, 3)


def test_what_is_read_at_a_distance_is_drawn_over_the_distance():
    drawn = {"tuned, seed 3": [[0.0, 0.0], [1.0, 1.0]], "tuned, seed 8": [[0.0, 0.1], [1.0, 0.9]]}
    at = [{"says": "Better.", "x": "kl", "y": "score", "value": 0.5, "lines": drawn}]
    results = found(
        {"start": {"score": [0.2, 0.3], "kl": [0.4, 0.4]}, "tuned": {"score": [1, 1], "kl": [1, 1]}},
        [{"says": "Better.", "metric": "tuned.score", "baseline": "start.score", "by": 0}], at=at,
    )  # fmt: skip
    results["claims"][0]["metric"] = "tuned(*).score − start.score at kl = 0.5"
    svg = recipe_picture(results)
    assert len(places(svg, colour=COLOURS[0])) == 2 and "kl = 0.5" in words(svg) and "– start" in words(svg)


def test_nothing_measured_is_no_picture_and_removes_the_former_one(tmp_path):
    results = found({"a": {"score": [None, None]}}, [{"says": "A.", "metric": "a.score", "above": 0}])
    file = tmp_path / "mine.svg"
    file.write_text("former")
    write_picture(file, results)
    assert recipe_picture(results) is None and not file.exists()


def test_values_that_are_almost_the_same_are_drawn_as_such():
    svg = recipe_picture(found({"a": {"score": [0.9933, 0.99332]}}, [{"says": "A.", "metric": "a.score", "above": 0}]))
    (circle,), (square,) = re.findall(r'<circle cx="([\d.]+)"', svg), re.findall(r'<polygon points="([\d.]+)', svg)
    assert abs(float(circle) - (float(square) + 3)) < 2
    numbers = [word for word in words(svg) if re.fullmatch(r"[\d.]+", word or "")]
    assert len(numbers) == len(set(numbers)) > 1


def test_a_picture_needs_nothing_around_it_and_says_what_it_shows():
    plot = paths("Reward <b>", {"gold & true": [(0.0, 0.0, 0), (1.0, 1.0, 1)]}, "√KL")
    svg = stand_alone([plot, plot, plot], 'Of "gold" & √KL')
    picture = ElementTree.fromstring(svg)
    assert picture.get("aria-label") == 'Of "gold" & √KL'
    box = [float(number) for number in picture.get("viewBox").split()]
    ground = picture.find("{http://www.w3.org/2000/svg}rect")
    assert (ground.get("fill"), float(ground.get("width"))) == ("#fff", box[2])
    # Two beside each other and one below, all within the picture, none over another.
    panels = [[float(one.get(key)) for key in ("x", "y", "width", "height")]
              for one in picture.iter() if one.tag.endswith("svg") and one is not picture]  # fmt: skip
    (x1, y1, w, h), (x2, y2, *_), (x3, y3, *_) = panels
    assert y1 == y2 and x1 + w < x2 and x3 == x1 and y1 + h < y3 and x2 + w < box[2] and y3 + h < box[3]


def test_a_kept_picture_is_small_loads_nothing_and_stands_in_the_table():
    table = (RECIPES / TABLE).read_text(encoding="utf-8")

    def check(file):
        text = file.read_text(encoding="utf-8")
        assert len(ElementTree.fromstring(text).get("aria-label")) > 10
        assert len(text.encode()) < 40_000 and not re.search(r"<script|href=|@import|url\(", text)
        kept = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        heading = (f"{kept['recipe']} at laptop scale: {kept['verdict']}", f"{key(kept['seeds'])}\u2003| mean")
        assert tuple(words(text)[:2]) == heading, "a picture of former results"
        assert f"(results/{file.name})" in table, "type: zoo recipes --table"

    each(PICTURES, check, name=lambda file: file.stem)


def test_every_picture_that_a_page_names_exists_and_is_told_to_those_who_do_not_see_it():
    def check(page):
        shown = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8"))
        for text, target in shown:
            assert ((ROOT / page).parent / target).is_file(), target
            assert len(text) > 10, target
        assert {target.rpartition(".")[2] for _, target in shown} <= {"svg"}

    each(["docs/recipes.md", "docs/laboratory.md"], check)


def test_figures_of_the_recipes_page_are_those_that_were_recorded():
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").partition("## Five experiments")[2]
    parts = page.split("\n### ")[1:]
    assert len(parts) == 5
    for part in parts:
        name = part.partition(":")[0]
        assert f"zoo reproduce {name} --laptop" in part
        if verdict := re.search(r"^\*\*(\w[\w, ]+)\*\*:", part, flags=re.M):
            kept = json.loads((RECIPES / "results" / f"{name}.json").read_text(encoding="utf-8"))
            assert verdict[1].lower() == kept["verdict"] and kept["command"] in part
            means = [shown(claim["mean"]) for claim in kept["claims"] if claim["seeds"]]
            assert [mean for mean in means if mean not in part] == [], name
