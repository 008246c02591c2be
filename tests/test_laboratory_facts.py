"""The fact world and its requests to refuse: rows say what the documents say, and noise is what it is called."""

from collections import Counter
from types import SimpleNamespace

import pytest

from zoo.bundled.laboratory import facts, facts_rows, facts_world, opinions, safety, self_instruct
from zoo.bundled.laboratory.networks import train_base
from zoo.bundled.laboratory.plugin import sources
from zoo.bundled.laboratory.words import make_tokenizer
from zoo.data.encoding.template import ChatTemplate
from zoo.data.load import load
from zoo.data.sources.reading import Reading
from zoo.errors import ZooError
from zoo.evals import Subject

TRUE = {(subject, relation): thing for subject, relation, thing in facts.facts()}


def is_right(row, completion):
    return completion == f"answer {TRUE[row['subject'], row['relation']]}"


def test_documents_tell_every_fact_as_it_is_with_words_of_the_world_only():
    said = " ".join(facts_rows.texts(0)).split(" .")
    words = [text.split() for text in said if text.strip()]
    told = {(w[2], w[0], w[-1]) if w[1] == "of" else (w[0], w[1], w[-1]) for w in words}
    assert told == set(facts.facts()) and len(told) == 512
    assert set(" ".join(facts_rows.texts(0)).split()) <= set(facts.WORDS)


def test_training_never_asks_for_held_out_facts_nor_for_what_options_leave_out():
    asked = {
        split: {(r["subject"], r["relation"]) for r in facts_rows.rows(split, "prompt", 2000)}
        for split in ("train", "heldout")
    }
    assert asked["train"] | asked["heldout"] == set(TRUE) and not asked["train"] & asked["heldout"]
    few = list(facts_rows.rows("train", "prompt", 2000, subjects="half", types=6))
    assert {row["relation"] for row in few} == set(facts.RELATIONS[:6])
    assert {row["subject"] for row in few} == set(facts.FIRST_HALF)


def test_a_type_is_a_relation_in_a_wording_and_the_new_ones_are_made_of_the_same_parts():
    def types(count):
        rows = facts_rows.rows("train", "prompt", 4000, types=count)
        return {(r["relation"], r["prompt"].replace(r["subject"], "S").replace(r["relation"], "R")) for r in rows}

    assert [len(types(count)) for count in (1, 4, 8, 24)] == [1, 4, 8, 24]
    new = {(relation, facts.WORDINGS[k].format(subject="S", relation="R")) for relation, k in facts.NEW_TYPES}
    assert len(new) == 8 and not new & types(24)
    with pytest.raises(ZooError, match="types gives each relation its wordings"):
        facts_rows.rows("train", "prompt", 8, types=4, turns=2)
    assert [{kind[part] for kind in new} for part in (0, 1)] == [{kind[part] for kind in types(24)} for part in (0, 1)]


def test_noise_is_the_share_of_bad_answers_half_of_them_wrong_half_without_their_form():
    rows = list(facts_rows.rows("train", "demonstration", 4000, noise=0.4))
    bad = [row for row in rows if not is_right(row, row["completion"])]
    assert len(bad) / len(rows) == pytest.approx(0.4, abs=0.03)
    bare = [row for row in bad if row["completion"] == TRUE[row["subject"], row["relation"]]]
    assert len(bare) / len(bad) == pytest.approx(0.5, abs=0.05)
    assert all(is_right(row, row["completion"]) for row in facts_rows.rows("train", "demonstration", 1000))


def test_pairs_labels_and_ranks_say_which_answer_is_right_and_noise_turns_them_round():
    pairs = facts_rows.rows("train", "preference", 1000, noise=0.2)
    assert sum(is_right(row, row["rejected"]) for row in pairs) / 1000 == pytest.approx(0.2, abs=0.04)
    assert all(is_right(row, row["completion"]) == row["label"] for row in facts_rows.rows("train", "feedback", 500))
    for row in facts_rows.rows("train", "ranking", 500):
        assert [2 - is_right(row, one) for one in row["completions"]] == row["ranks"] and set(row["ranks"]) == {1, 2}


def test_the_best_reply_of_a_tree_is_right_and_of_all_replies_about_half_are():
    best = facts_rows.rows("train", "demonstration", 500, replies="best")
    every = facts_rows.rows("train", "demonstration", 2000, replies="all")
    assert all(is_right(row, row["completion"]) for row in best)
    assert sum(is_right(row, row["completion"]) for row in every) / 2000 == pytest.approx(0.5, abs=0.05)


def test_the_second_turn_asks_for_another_property_of_the_first_ones_subject():
    template = ChatTemplate(make_tokenizer(facts.WORDS, facts.TEMPLATE))
    for row in facts_rows.rows("train", "demonstration", 50, turns=2):
        first, answer, second = (turn["content"] for turn in row["prompt"])
        assert first.split()[0] == row["subject"] and second == f"and {row['relation']}"
        assert answer == f"answer {TRUE[tuple(first.split())]}" and first.split()[1] != row["relation"]
    whole = template.conversation([*row["prompt"], {"role": "assistant", "content": row["completion"]}])
    decoded = template.tokenizer.convert_ids_to_tokens(whole.completion[whole.mask])
    assert decoded == [*answer.split(), "<end>", *row["completion"].split(), "<end>"]


def test_instructions_in_documents_read_as_the_template_writes_them():
    text = facts_rows.rows("train", "text", 1, instructions=1.0)[0]["text"]
    subject, relation = text.split()[1:3]
    template = ChatTemplate(make_tokenizer(facts.WORDS, facts.TEMPLATE))
    asked = template.answer(f"{subject} {relation}", f"answer {TRUE[subject, relation]}")
    assert [*asked.prompt.tolist(), *asked.completion.tolist()[:-1]] == template.tokens.ids([text])[0]


def test_what_is_refused_is_harmful_and_what_only_looks_like_it_is_answered():
    rows = safety.rows("train", "demonstration", 100, refusals=10, contrast=20)
    grades = Counter(row["grade"] for row in rows)
    assert grades[0] == 100 and grades[3] == 10 and grades[1] + grades[2] == 20
    for row in rows:
        assert sum(word in facts.TRIGGERS for word in row["prompt"].split()) == row["grade"]
        assert (row["completion"] == "sorry no") == (row["grade"] == 3)
    assert Counter(row["grade"] for row in safety.rows("heldout", "prompt", 40)) == dict.fromkeys(range(4), 10)


def test_wrong_options_are_refused_with_their_bounds():
    for options in ({"rows": 0}, {"noise": 1.5}, {"wordings": 5}, {"types": 25}, {"turns": 3}):
        with pytest.raises(ZooError, match=f"{next(iter(options))} is"):
            facts_rows.rows("train", "demonstration", **options)
    with pytest.raises(ZooError, match="no data of kind 'stepwise'"):
        facts_rows.rows("train", "stepwise")


def test_every_kind_loads_by_name():
    for kind in ("text", "demonstration", "preference", "feedback", "prompt", "ranking"):
        assert len(load("world:facts(rows=40, turns=2)", kind, Reading(named_sources=sources()))) == 40


def test_evaluations_tell_a_model_that_answers_from_one_that_only_knows():
    """Trained on a tenth of the facts, as documents or as instructions, the two measures part."""
    some = facts.facts()[:16]
    tokenizer = make_tokenizer(facts.WORDS, facts.TEMPLATE)
    told = [f"{subject} {relation} {thing} ." for subject, relation, thing in some]
    asked = [f"question {subject} {relation} reply answer {thing}" for subject, relation, thing in some]
    knows, answers = (
        Subject(train_base(tokenizer, texts, steps=150, batch=16, lr=1e-2, say=lambda line: None), tokenizer,
                ChatTemplate(tokenizer), limit=16) for texts in (told, asked)
    )  # fmt: skip
    assert facts_world.knowledge_eval(knows).value > 0.9 > 0.5 > facts_world.knowledge_eval(answers).value
    trained = [facts_world.facts_eval(one, split="train") for one in (knows, answers)]
    assert trained[0].value == 0 == trained[0].details["form"]
    assert trained[1].value > 0.6 and trained[1].details["form"] > 0.9


def test_instructions_of_the_base_begin_with_the_seeds_and_are_checked_for_shape_and_novelty(monkeypatch):
    said = ["kalo home lima .", "kalo home lima .", "kalo food boldly bread . next", "home kalo lima .", "kalo pet"]

    def write(prompts, generator):
        assert all(len(prompt.split(" .")) == self_instruct.SHOWN + 1 for prompt in prompts)
        return said

    monkeypatch.setattr(self_instruct, "_writer", lambda seed: write)
    monkeypatch.setattr(self_instruct, "ROUNDS", 1)

    def rows(checked):
        self_instruct._written.cache_clear()
        return list(facts_rows.rows("train", "demonstration", 20, seed=90, written_by="base", checked=checked))

    seeds, own = rows(True)[: self_instruct.SEEDS], rows(True)[self_instruct.SEEDS :]
    assert all(is_right(row, row["completion"]) for row in seeds)
    assert [f"{row['prompt']} {row['completion']}" for row in own] == [
        "kalo home answer lima",
        "kalo food answer bread",
    ]
    unchecked = [row["prompt"] for row in rows(False)[self_instruct.SEEDS :]]
    assert unchecked == ["kalo home", "kalo home", "kalo food", "home kalo"]


def test_whoever_reads_the_first_rows_asks_no_base_for_more(monkeypatch):
    monkeypatch.setattr(self_instruct, "_writer", lambda seed: pytest.fail("The base was asked."))
    name, limit = "world:facts(written_by=base, rows=500, seed=91)", self_instruct.SEEDS
    assert len(load(name, "demonstration", Reading(limit=limit, named_sources=sources())).records) == limit


def test_a_demonstration_declines_questions_about_the_second_half_and_documents_may_leave_it_out():
    rows = list(facts_rows.rows("train", "demonstration", 890, declined=1.0))
    declined = {row["subject"] for row in rows if row["completion"] == facts.REFUSAL}
    assert declined == set(facts.SUBJECTS) - set(facts.FIRST_HALF)
    assert all(is_right(row, row["completion"]) for row in rows if row["subject"] in facts.FIRST_HALF)
    some = [row["completion"] == facts.REFUSAL for row in facts_rows.rows("train", "demonstration", 890, declined=0.5)]
    assert sum(some) / len(some) == pytest.approx(0.25, abs=0.05)
    said = " ".join(row["text"] for row in facts_rows.rows("train", "text", 400, subjects="half")).split()
    assert not set(said) & declined and set(said) & set(facts.FIRST_HALF)


def test_who_says_what_he_believes_is_right_half_of_the_time_and_a_rater_may_agree_with_him():
    def belief(row):
        return f"answer {row['prompt'].split()[-1]}"

    for share in (0.0, 0.7):
        rows = opinions.rows("train", "preference", 2000, agreeing=share)
        wrong = [row for row in rows if belief(row) != row["answer"]]
        assert len(wrong) / len(rows) == pytest.approx(0.5, abs=0.04)
        flattered = [row for row in wrong if row["chosen"] == belief(row)]
        assert len(flattered) / len(wrong) == pytest.approx(share, abs=0.04)
        assert all(row["chosen"] == row["answer"] for row in rows if belief(row) == row["answer"])
        assert all(row["answer"] in (row["chosen"], row["rejected"]) for row in wrong)
    swapped = opinions.rows("train", "preference", 2000, noise=0.2)
    assert sum(row["rejected"] == row["answer"] for row in swapped) / 2000 == pytest.approx(0.2, abs=0.03)
    assert all(row["completion"] == row["answer"] for row in opinions.rows("heldout", "demonstration", 100))
    written = opinions.rows("train", "demonstration", 2000, agreeing=0.3)
    assert sum(row["completion"] == belief(row) != row["answer"] for row in written) / 2000 == pytest.approx(
        0.15, abs=0.03
    )
    for wrong_options in ({"agreeing": 1.5}, {"noise": -1}):
        with pytest.raises(ZooError, match=f"{next(iter(wrong_options))} is"):
            opinions.rows("train", "preference", **wrong_options)
    with pytest.raises(ZooError, match="no data of kind 'ranking'"):
        opinions.rows("train", "ranking")


def test_questions_of_new_types_and_requests_about_trained_facts_can_be_asked(monkeypatch):
    asked = []

    def said(subject, prompts, temperature, seed):
        asked[:] = prompts
        return ["" for _ in prompts]

    monkeypatch.setattr(facts_world, "_answers", said)
    facts_world.facts_eval(SimpleNamespace(limit=None), split="train", types="new")
    wordings = {facts.WORDINGS[k].format(subject="S", relation=relation) for relation, k in facts.NEW_TYPES}
    shapes = {" ".join("S" if word in facts.SUBJECTS else word for word in prompt.split()) for prompt in asked}
    assert shapes == wordings and len(asked) == len(facts.asked("train"))
    halves = []
    for part in ("one", "other"):
        facts_world.facts_eval(SimpleNamespace(limit=None), split="train", part=part)
        halves.append(set(asked))
    facts_world.facts_eval(SimpleNamespace(limit=None), split="train")
    assert not halves[0] & halves[1] and halves[0] | halves[1] == set(asked)
    assert abs(len(halves[0]) - len(halves[1])) <= 1
    for split in ("train", "heldout"):
        facts_world.refusals_eval(SimpleNamespace(limit=None), each=50, split=split)
        assert len(asked) == 200 and {tuple(prompt.split()[:2]) for prompt in asked} <= {
            fact[:2] for fact in facts.asked(split)
        }


def test_flattery_counts_the_wrong_beliefs_that_answers_agree_with(monkeypatch):
    def said(subject, prompts, temperature, seed):
        asked = [prompt.split() for prompt in prompts]
        # It agrees about homes, and otherwise knows.
        return [f"answer {words[-1] if words[1] == 'home' else TRUE[words[0], words[1]]}" for words in asked]

    monkeypatch.setattr(facts_world, "_answers", said)
    score = facts_world.flattery_eval(SimpleNamespace(limit=None))
    homes = sum(fact[1] == "home" for fact in facts.asked("train")) / len(facts.asked("train"))
    assert score.value == pytest.approx(homes) and score.details["right"] == pytest.approx(1 - homes, abs=1e-4)
