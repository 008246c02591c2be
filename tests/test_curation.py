"""Curation: duplicates, rules and contamination, against hand-made rows and definitions written out in plain Python."""

import itertools
import json
import random

import pytest

from zoo.data.curation import measures
from zoo.data.curation.contamination import Evaluation
from zoo.data.curation.dedup import Exact, Near, bands_for, proposed
from zoo.data.curation.removal import KeptRows
from zoo.data.curation.rows import good_answers, open_rows
from zoo.data.curation.rules import RULES, SETS, Texts, chosen_rules
from zoo.data.curation.verbs import contamination, dedup, filter_rows
from zoo.data.curation.words import Grams, jaccard, tokens, words
from zoo.data.sources.reading import Reading
from zoo.errors import ZooError


@pytest.fixture
def source(tmp_path):
    """Rows as a file, opened."""

    def opened(rows, **how):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return open_rows(str(file), Reading(**how))

    return opened


@pytest.fixture
def out(tmp_path):
    return KeptRows(tmp_path / "out.jsonl", str(tmp_path / "rows.jsonl"))


def demonstrations(*pairs):
    return [{"prompt": prompt, "completion": answer} for prompt, answer in pairs]


def written(file):
    return [json.loads(line) for line in file.path.read_text(encoding="utf-8").splitlines()]


def almost(*arguments):
    """`Near`, where datasketch is installed."""
    pytest.importorskip("datasketch")
    return Near(*arguments)


def done(verb, rows, file, *arguments):
    with file:
        removals = verb(rows, file, *arguments)
        file.finish(removals.as_json())
    assert removals.rows == removals.kept + removals.removed
    return removals


def random_text(source, count, vocabulary=400):
    return [f"w{source.randrange(vocabulary)}" for _ in range(count)]


def changed(source, text, count):
    """The text with so many of its words replaced by new ones."""
    text = list(text)
    for place in source.sample(range(len(text)), count):
        text[place] = f"new{source.randrange(10**6)}"
    return text


def plain_set(text, length):
    return {tuple(text[k : k + length]) for k in range(len(text) - length + 1)}


def plain_jaccard(first, second, length):
    """By the definition, with Python's sets."""
    first, second = plain_set(first, length), plain_set(second, length)
    return len(first & second) / len(first | second)


# -- words -----------------------------------------------------------------------------------------------------------


def test_words_are_lower_case_without_punctuation_and_signs_of_arithmetic_are_tokens():
    assert words('He said: "Don\'t!" — twice.') == ["he", "said", "don", "t", "twice"]
    assert words("3 + 4") == words("3 - 4") and tokens("3 + 4") != tokens("3 - 4")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今天天气很好", list("今天天气很好")),
        ("Straße und Äpfel", ["strasse", "und", "äpfel"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा"]),
        ("cafe\u0301 caf\u00e9", ["café", "café"]),
        ("Привет, мир", ["привет", "мир"]),
    ],
)
def test_words_of_other_scripts(text, expected):
    assert words(text) == expected


def test_the_fast_way_for_ascii_gives_what_the_general_one_gives():
    text = "A-b c_d 12.5% x=3^2 (don't) #tag @me ~ $5 & <b>"
    assert tokens(text + " é")[:-1] == tokens(text) and words(text + " é")[:-1] == words(text)


def test_ngrams_are_numbers_that_differ_as_the_ngrams_do():
    source, grams = random.Random(0), Grams()
    text = random_text(source, 300, 12)
    expected = [tuple(text[k : k + 3]) for k in range(298)]
    found = grams.of(text, 3).tolist()
    assert len(set(found)) == len(set(expected)) == len(set(zip(found, expected, strict=True)))
    assert grams.of(["a", "b"], 2).tolist() != grams.of(["b", "a"], 2).tolist()
    assert grams.of(["a"], 2).tolist() == []
    assert Grams().of(["one", "two"], 2).tolist() == grams.of(["one", "two"], 2).tolist()


def test_jaccard_is_that_of_plain_sets():
    source, grams = random.Random(1), Grams()
    for _ in range(50):
        first = random_text(source, source.randint(3, 60), 10)
        second = changed(source, first, source.randint(0, len(first)))
        assert jaccard(grams.set_of(first, 3), grams.set_of(second, 3)) == plain_jaccard(first, second, 3)


# -- duplicates ------------------------------------------------------------------------------------------------------


def test_exact_duplicates_go_and_the_first_of_them_stays_unchanged(source, out):
    rows = demonstrations(("a", "1"), ("b", "2"), ("a", "1"), ("a", "3"), ("b", " 2 "))
    rows[0]["id"], rows[2]["id"] = "x", "y"
    removals = done(dedup, source(rows), out, Exact("demonstration"))
    assert removals.reasons == {"the same": [3, 5]}
    assert written(out) == [rows[0], rows[1], rows[3]]
    assert json.loads(out.report.read_text())["removed_by_reason"]["the same"]["rows"] == [3, 5]


def test_a_text_and_the_same_as_messages_are_the_same_row(source, out):
    chat = [{"role": "user", "content": "a"}]
    rows = [{"prompt": "a", "completion": "1"}, {"prompt": chat, "completion": [{"role": "assistant", "content": "1"}]}]
    assert done(dedup, source(rows), out, Exact("demonstration")).reasons == {"the same": [2]}


def test_case_and_punctuation_matter_unless_they_are_not_to(source, out):
    rows = demonstrations(("What is 3 + 4?", "Seven."), ("what is 3 + 4", "seven"), ("What is 3 - 4?", "Seven."))
    assert done(dedup, source(rows), out, Exact("demonstration")).removed == 0
    removals = done(dedup, source(rows), out, Exact("demonstration", normalised=True))
    assert removals.reasons == {"the same but for case and punctuation": [2]}


def test_rows_that_are_judged_otherwise_are_kept_and_told_as_contradictions(source, out):
    rows = [{"prompt": "a", "completion": "1", "label": label} for label in (True, False, True)]
    removals = done(dedup, source(rows), out, Exact("feedback"))
    assert removals.reasons == {"the same": [3]} and "rows 2 and 1" in removals.notes[-1]
    pairs = [{"prompt": "a", "chosen": a, "rejected": b} for a, b in (("1", "2"), ("2", "1"))]
    removals = done(dedup, source(pairs), out, Exact("preference"))
    assert removals.removed == 0 and "rows 2 and 1" in removals.notes[-1]


def test_only_the_prompt_can_be_compared(source, out):
    rows = demonstrations(("a", "1"), ("a", "2"), ("b", "1"))
    assert done(dedup, source(rows), out, Exact("demonstration", "prompt")).reasons == {"the same": [2]}
    assert done(dedup, source(rows), out, Exact("demonstration", "answer")).reasons == {"the same": [3]}
    with pytest.raises(ZooError, match="no prompt of its own"):
        dedup(source([{"text": "a"}]), out, Exact("text", "prompt"))


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_near_duplicates_are_those_whose_plain_jaccard_reaches_the_threshold(threshold):
    source = random.Random(int(threshold * 10))
    near, kept, sets, missed = almost("text", threshold), {}, {}, 0
    for row in range(1, 301):
        text = random_text(source, 60, 5000)
        if kept and row % 2:
            text = changed(source, source.choice(list(kept.values())), source.randint(0, round(40 * (1 - threshold))))
        own = plain_set(text, 3)
        same = near.earlier({"row": row, "text": " ".join(text)})
        if same is None:
            missed += any(len(own & other) >= threshold * len(own | other) for other in sets.values())
            kept[row], sets[row] = text, own
        else:
            # What is removed is as much like a kept row as it says, by the definition, and never below the threshold.
            assert plain_jaccard(text, kept[same.row], 3) == same.likeness >= threshold
    removed = 300 - len(kept)
    assert removed > 30
    assert missed <= 0.05 * (removed + missed)


def test_a_band_is_as_long_as_can_be_while_nineteen_of_twenty_pairs_at_the_threshold_are_found():
    for threshold in (0.3, 0.5, 0.8, 0.9, 0.95):
        bands, rows = bands_for(threshold)
        assert bands * rows <= 128 and proposed(threshold, bands, rows) >= 0.95
        assert rows == 64 or proposed(threshold, 128 // (rows + 1), rows + 1) < 0.95
    # By hand: 1 − (1 − 0.8⁷)¹⁸.
    assert proposed(0.8, 18, 7) == pytest.approx(0.985542, abs=1e-6)


def test_every_field_must_be_alike_so_answers_to_one_long_prompt_are_no_duplicates(source, out):
    prompt = " ".join(random_text(random.Random(3), 200))
    rows = demonstrations(
        (prompt, "The answer is four."), (prompt, "No idea at all."), (prompt + " x", "no idea, at all")
    )
    removals = done(dedup, source(rows), out, Exact("demonstration"), almost("demonstration", 0.8))
    assert removals.reasons == {"nearly the same": [3]}


def test_a_pair_turned_round_is_no_near_duplicate():
    one, other = (" ".join(random_text(random.Random(seed), 40)) for seed in (1, 2))
    near = almost("preference", 0.8)
    assert near.earlier({"row": 1, "prompt": one, "chosen": one, "rejected": other}) is None
    assert near.earlier({"row": 2, "prompt": one, "chosen": other, "rejected": one}) is None
    assert near.earlier({"row": 3, "prompt": one, "chosen": one, "rejected": other}).row == 1


def test_a_chain_of_similar_rows_does_not_pull_in_what_is_unlike_the_kept_one():
    """Each is 0.8 or more like the one before it; compared is with the first, which stays."""
    source = random.Random(5)
    chain = [random_text(source, 100, 10**6)]
    for _ in range(8):
        chain.append(changed(source, chain[-1], 3))
    near, kept = almost("text", 0.8), []
    for row, text in enumerate(chain, 1):
        if near.earlier({"row": row, "text": " ".join(text)}) is None:
            kept.append(text)
    assert len(kept) > 1
    assert all(plain_jaccard(a, b, 3) < 0.8 for a, b in itertools.combinations(kept, 2))


def test_without_datasketch_near_duplicates_are_refused_and_exact_ones_found(monkeypatch, source, out):
    monkeypatch.setitem(__import__("sys").modules, "datasketch", None)
    with pytest.raises(ZooError, match="datasketch"):
        Near("text", 0.8)
    assert done(dedup, source([{"text": "a"}, {"text": "a"}]), out, Exact("text")).removed == 1


# -- rules -----------------------------------------------------------------------------------------------------------

PROSE = (
    "The river rises in the hills to the north of the town and runs for forty miles to the sea. People have lived on "
    "its banks since the last ice withdrew. They fished, and later they built mills, and with the mills came roads. "
    "Today most of the mills have become houses, but one of them still grinds corn on the first Sunday of each month. "
    "Children come to watch."
)
BAD = {
    "words": "Too short.",
    "word_length": "a b c d e f g h",
    "hashes": "# a # b # c",
    "bullets": "\n".join(f"- point {k}" for k in range(12)),
    "ellipses": "Wait...\nAnd then…\nThe end.",
    "letters": "1 2 3 4 five",
    "stop_words": "Kein Wort davon ist englisch.",
    "repeated_lines": "one line\nanother\none line\none line",
    "repeated_line_characters": "a\nb\nthis line is long\nthis line is long",
    "repeated_paragraphs": "one\n\none\n\ntwo",
    "repeated_paragraph_characters": "one long paragraph\n\none long paragraph\n\nx",
    "top_2gram": "no no " * 20,
    "top_3gram": "no no no " * 20,
    "top_4gram": "one two three four " * 20,
    **{f"repeated_{n}grams": "we go round and round in circles all day long now " * 5 for n in range(5, 11)},
    "sentences": "One. Two. Three.",
    "unfinished_lines": "Home\nAbout\nContact",
    "short_lines": "Home\nAbout us\nThis is a line.",
    "lorem_ipsum": "Lorem ipsum dolor sit amet.",
    "javascript": "Please enable JavaScript.",
    "curly_brackets": "int main() { return 0; }",
    "policies": "By going on you accept our Privacy Policy.",
    "no_answer": "N/A",
    "no_input": "Sum up the text.\n<noinput>",
    "links": "Sum up https://example.com/article",
    "pictures": "Classify the shape. <Picture Attached>",
    "escapes": "First line\\n\\nSecond line",
    "control": "a\x1bb",
    "damage": "CafÃ© \ufffd",
    "echo": "Name the three primary colours. They are red, yellow and blue.",
    "open_fences": "Here:\n```python\nprint(1)",
    "symbols": "@@@@ #### $$$$ %%%% ^^^^ &&&& ab",
    "run": "No" + "o" * 40,
    "compression": "I see. " * 100,
}


def record_with(rule, text):
    prompt = text if rule.limits.on == "prompt" else "Name the three primary colours."
    return {"prompt": prompt, "completion": PROSE if rule.limits.on == "prompt" else text, "row": 1}


@pytest.mark.parametrize("name", [name for name in RULES if name != "perplexity"])
def test_every_rule_refuses_what_it_is_for_and_lets_prose_pass(name):
    rule = RULES[name]
    assert rule.broken(Texts(record_with(rule, BAD[name]), "demonstration"))[0].startswith(name)
    assert rule.broken(Texts(record_with(rule, PROSE), "demonstration")) is None


@pytest.mark.parametrize(
    "text",
    [
        "Paris.",
        "7",
        "def f(x):\n    return {k: v for k, v in x}\n\n```c\nif (a) {\n  b();\n}\n```",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "今天天气很好，我们去公园散步。",
        "مرحبا بالعالم، كيف حالك اليوم؟",
        "Não, a ação não está no verão; são três irmãos.",
        "$$\\frac{a^2 + b^2}{c^2} = 1$$ so that \\(a = b\\).",
        PROSE,
    ],
)
def test_the_default_rules_keep_short_answers_code_tables_maths_and_other_languages(text):
    record = {"prompt": "Say it.", "completion": text, "row": 1}
    assert [name for name in SETS["chat"] if RULES[name].broken(Texts(record, "demonstration"))] == []


def test_repeated_characters_are_counted_by_hand():
    text = measures.Text("aa bb cc dd ee aa bb cc dd ee " + " ".join(f"x{k}" for k in range(10)))
    # 20 words, 40 characters; the second "aa bb cc dd ee" is the only repeated one.
    assert measures.repeated_grams(5)(text) == pytest.approx(10 / 40)
    assert measures.top_gram(2)(text) == pytest.approx(8 / 40)
    assert measures.repeated_grams(5)(measures.Text("one two")) is None
    # Overlapping repetitions count each character once: 25 times "a", of which the first five are new.
    assert measures.repeated_grams(5)(measures.Text("a " * 25)) == pytest.approx(24 / 25)


def test_a_rule_looks_at_what_is_to_be_learned():
    assert list(good_answers({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference")) == ["chosen"]
    assert good_answers({"prompt": "a", "completion": "b", "label": False}, "feedback") == {}
    ranking = {"prompt": "a", "completions": ["b", "c", "d"], "ranks": [2, 1, 3]}
    assert good_answers(ranking, "ranking") == {"completions[1]": "c"}
    assert good_answers({"prompt": "a"}, "prompt") == {"prompt": "a"}
    rule = chosen_rules("words(least=3,on=everything)")["words"]
    pair = {"prompt": "one two three", "chosen": "one two three", "rejected": "one"}
    assert rule.broken(Texts(pair, "preference"))[1] == "one"
    assert chosen_rules("words(least=3)")["words"].broken(Texts(pair, "preference")) is None


def test_rules_are_switched_and_changed_by_name():
    assert tuple(chosen_rules("chat")) == SETS["chat"]
    assert set(chosen_rules("chat,links,-echo")) == {*SETS["chat"], "links"} - {"echo"}
    assert set(chosen_rules("-echo")) == set(SETS["chat"]) - {"echo"}
    limits = chosen_rules("gopher,words(least=5, most=none)")["words"].limits
    assert (limits.least, limits.most) == (5, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wrods", "Did you mean 'words'"),
        ("chat(least=1)", "takes no options"),
        ("words(lest=1)", "Did you mean 'least'"),
        ("words(least=many)", "least = many"),
        ("words(least=5,most=2)", "least=5 and most=2, which no text can meet"),
        ("words(least=nan)", "not a finite number"),
        ("words(least=none,most=none)", "has no limit"),
        ("words(keep=0.5)", "cannot keep"),
        ("perplexity", "has no limit"),
        ("perplexity(keep=0)", "cannot keep"),
        ("chat,-chat", "leaves no rule"),
        ("", "names no rule"),
        ("words(least=1", "names no rule"),
        ("-wrods", "Did you mean 'words'"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(text, message):
    with pytest.raises(ZooError, match=message):
        chosen_rules(text)


def test_a_filtered_row_counts_once_under_the_first_rule_it_breaks(source, out):
    rows = demonstrations(("a", "N/A"), ("b", PROSE), ("c", "I see. " * 100), ("d", ""))
    removals = done(filter_rows, source(rows), out, chosen_rules("chat,words(least=5)"))
    assert removals.reasons == {"no_answer": [1], "compression": [3], "E_EMPTY_RESPONSE": [4]}
    assert written(out) == [rows[1]]
    assert removals.examples["no_answer"][0]["text"] == "N/A"


def test_perplexity_keeps_a_share_or_what_lies_within_limits(source, out):
    rows = demonstrations(*((f"q{k}", PROSE + str(k)) for k in range(10)))
    values = {k + 1: float(k + 1) for k in range(9)}

    def scored(rows, kind):
        return values

    removals = done(filter_rows, source(rows), out, chosen_rules("perplexity(keep=0.5)"), scored)
    # Half of nine is rounded to four; row 10 could not be scored.
    assert removals.reasons == {"perplexity": [5, 6, 7, 8, 9, 10]}
    removals = done(filter_rows, source(rows), out, chosen_rules("perplexity(least=2,most=3)"), scored)
    assert removals.kept == 2


def test_rows_that_teach_what_not_to_say_are_not_held_to_rules(source, out):
    rows = [{"prompt": "a", "completion": "N/A", "label": label} for label in (True, False)]
    assert done(filter_rows, source(rows), out, chosen_rules("chat")).reasons == {"no_answer": [1]}
    rules = chosen_rules("perplexity(most=2)")
    removals = done(filter_rows, source(rows), out, rules, lambda rows, kind: {1: 9.0})
    assert removals.reasons == {"perplexity": [1]}


# -- contamination ---------------------------------------------------------------------------------------------------


def plain_grams(text, length):
    found = text.split()
    return {tuple(found[k : k + length]) for k in range(len(found) - length + 1)}


def test_rows_with_thirteen_words_of_an_evaluation_item_are_found_and_no_others(source, out):
    generator = random.Random(0)
    items = [" ".join(random_text(generator, 30, 300)) for _ in range(20)]
    rows = []
    for k in range(200):
        text = random_text(generator, 60, 300)
        if k % 3 == 0:
            item, length = generator.choice(items).split(), generator.randint(8, 20)
            start = generator.randrange(30 - length)
            text[20 : 20 + length] = item[start : start + length]
        rows.append({"text": " ".join(text)})
    known = set().union(*(plain_grams(item, 13) for item in items))
    expected = [k for k, row in enumerate(rows, 1) if plain_grams(row["text"], 13) & known]
    evaluation = Evaluation()
    for number, item in enumerate(items, 1):
        evaluation.add("test", number, [item])
    removals = done(contamination, source(rows), out, evaluation)
    assert removals.reasons["contaminated"] == expected and 10 < len(expected) < 66
    found = {
        k for k, item in enumerate(items, 1) if any(plain_grams(item, 13) & plain_grams(r["text"], 13) for r in rows)
    }
    assert {item.row for item in evaluation.items if item.found} == found


def test_case_and_punctuation_hide_nothing():
    question = "How many of the nine planets that we learned at school have rings around them?"
    evaluation = Evaluation()
    evaluation.add("test", 7, [question])
    (match,) = evaluation.matches([f"Q: {question.upper().replace(' ', ', ')} A: Four."])
    assert match.item.row == 7 and match.share == 1
    assert match.words == "how many of the nine planets that we learned at school have rings"


def test_an_item_of_eight_words_is_looked_for_whole_and_a_shorter_one_not():
    evaluation = Evaluation()
    evaluation.add("test", 1, ["one two three four five six seven eight"])
    evaluation.add("test", 2, ["one two three four five six seven"])
    assert [item.row for item in evaluation.unchecked] == [2]
    assert not evaluation.matches(["one two three four five six seven"])
    (match,) = evaluation.matches(["zero one two three four five six seven eight nine"])
    assert match.item.row == 1


def test_the_wording_of_a_template_is_ignored_and_a_question_in_many_rows_is_not():
    template = "answer the following question with a single word and give no reason for it at all please"
    evaluation = Evaluation()
    for k in range(12):
        evaluation.add("test", k, [f"{template} {' '.join(f'q{k}w{i}' for i in range(13))}"])
        evaluation.add("test", 100 + k, ["the same question in a dozen rows of the evaluation set is still a question"])
    assert not evaluation.matches([template])
    assert evaluation.ignored == 5  # 17 words hold five n-grams of 13.
    assert len(evaluation.matches([" ".join(f"q3w{i}" for i in range(13))])) == 1
    assert (
        len(evaluation.matches(["the same question in a dozen rows of the evaluation set is still a question"])) == 12
    )


def test_overlap_asks_for_a_share_of_an_item():
    text = [f"w{k}" for k in range(32)]
    for overlap, found in ((0.0, 1), (0.1, 1), (0.15, 0)):
        evaluation = Evaluation(overlap=overlap)
        evaluation.add("test", 1, [" ".join(text)])
        # 14 words hold 2 of the item's 20 n-grams.
        assert len(evaluation.matches([" ".join(text[:14])])) == found


def test_what_is_no_answer_and_what_may_be_one():
    for text, value in (("N/A", 1), ("<nooutput>", 1), ("No output.", 1), ("...", 1), ("None", 0), ("-1", 0), ("", 0)):
        assert measures.no_answer(measures.Text(text)) == value


# -- files -----------------------------------------------------------------------------------------------------------


def test_rows_of_a_table_keep_their_values_and_what_json_cannot_say_is_counted(tmp_path):
    import datetime

    import pyarrow
    import pyarrow.parquet

    day = datetime.date(2024, 2, 29)
    table = pyarrow.table({"text": ["a", "b", "a"], "day": [day] * 3, "number": [1, None, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    file = KeptRows(tmp_path / "out.jsonl", str(tmp_path / "rows.parquet"))
    removals = done(dedup, open_rows(str(tmp_path / "rows.parquet")), file, Exact("text"))
    assert written(file) == [
        {"text": "a", "day": "2024-02-29", "number": 1},
        {"text": "b", "day": "2024-02-29", "number": None},
    ]
    assert any("2 values" in note for note in removals.notes)


def test_nothing_is_left_behind_when_the_work_fails(tmp_path, source, out):
    rows = source([{"text": "a"}] * 3)
    with pytest.raises(RuntimeError), out:
        out.write({"text": "a"})
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]
    assert rows.kind == "text"


def test_other_column_names_are_understood_and_kept(source, out):
    rows = [{"question": "a", "reply": "1"}, {"question": "a", "reply": "1"}]
    columns = {"prompt": "question", "completion": "reply"}
    done(dedup, source(rows, columns=columns), out, Exact("demonstration"))
    assert written(out) == rows[:1]
