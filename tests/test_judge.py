"""Judges: worked numbers, both orders, chains of thought, what cannot be judged, and what is asked only once."""

import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from formulas import close, options, tensor
from judge_server import Scripted, longer_is_better

from zoo.contract.registry import load_algorithm
from zoo.data.encoding.template import ChatTemplate
from zoo.errors import ZooError
from zoo.judges.cache import JudgementCache
from zoo.judges.constitution import constitution_id, load_constitution
from zoo.judges.judge import Judge
from zoo.judges.local import LocalModel, choice_logps
from zoo.judges.make import make_judge
from zoo.judges.verdicts import Verdict, as_reward, entropy, expected_grade
from zoo.judges.wording import Question, as_text, load_wording
from zoo.labelling.label import How, label
from zoo.labelling.label_file import LabelFile
from zoo.labelling.pairs import groups_of
from zoo.rewards.reward import Reward
from zoo.testing import stand_ins


@pytest.fixture
def local(tiny_model, tiny_tokenizer):
    return LocalModel("self", lambda: tiny_model, ChatTemplate(tiny_tokenizer), longest_thought=12)


# -- numbers -----------------------------------------------------------------------------------------------------


def test_the_worked_numbers_of_both_orders(vectors):
    case, expected = vectors["rlaif.swap_debias"]["inputs"], vectors["rlaif.swap_debias"]["expected"]
    verdict = Verdict.of(case["logp_tokens_1_2_order_AB"], case["logp_tokens_1_2_order_BA"])
    close(tensor(verdict.first), expected["p_A_order_AB"])
    close(tensor(verdict.second), expected["p_A_order_BA"])
    close(tensor([verdict.p, verdict.turned().p]), expected["soft_label"])
    assert verdict.inconsistent is expected["position_inconsistent"]
    assert (verdict.p > 0.5) == (expected["hard_label"] == "A")


def test_the_same_position_in_both_orders_is_inconsistent():
    assert Verdict.of([0.0, -1.0], [0.0, -1.0]).inconsistent
    assert Verdict.of([-1.0, 0.0], [-1.0, 0.0]).inconsistent
    assert not Verdict.of([0.0, -1.0], [-1.0, 0.0]).inconsistent


@pytest.mark.parametrize(("clamp", "name"), [((0.4, 0.6), "p_A_clamped_40_60"), ((0.2, 0.8), "p_A_clamped_20_80")])
def test_the_worked_numbers_of_multiple_choice(vectors, clamp, name):
    case, expected = vectors["cai.preference_label"]["inputs"], vectors["cai.preference_label"]["expected"]
    order = [case["logp_A"], case["logp_B"]]
    close(tensor(Verdict.of(order, order[::-1]).p), expected["p_A"])
    close(tensor(Verdict.of(order, order[::-1], clamp).p), expected[name])
    clamped = Verdict.of(order, order[::-1], (0.4, 0.6))
    close(tensor([clamped.p, clamped.turned().p]), expected["soft_label_cot"])
    close(tensor(Verdict.of(order[::-1], order, (0.4, 0.6)).p), expected["soft_label_cot"][1])


def test_a_reward_model_learns_from_a_soft_label_as_worked(vectors):
    case, expected = vectors["cai.pm_soft_loss"]["inputs"], vectors["cai.pm_soft_loss"]["expected"]
    rm = load_algorithm("rm")[1]

    def at(margin):
        """The loss and its gradient by r_A."""
        scores = {"chosen": tensor([case["r_B"] + margin]).requires_grad_(), "rejected": tensor([case["r_B"]])}
        batch, models = stand_ins(scores=scores, fields={"p_chosen": tensor([case["p_A"]])})
        loss = rm().loss(batch, models, options(rm)).values.sum()
        return float(loss.detach()), float(torch.autograd.grad(loss, scores["chosen"])[0])

    margin = case["r_A"] - case["r_B"]
    assert at(margin) == pytest.approx((expected["loss"], 1 / (1 + math.exp(-margin)) - case["p_A"]))
    assert at(expected["optimum_margin"])[1] == pytest.approx(0.0, abs=1e-12)


def test_agreement_with_people_as_worked(vectors, tmp_path):
    case = vectors["rlaif.labeler_alignment"]
    soft, human = case["inputs"]["ai_soft"], case["inputs"]["human"]
    rows = [{"row": i, "prompt": "?", "chosen": f"{i}.{h}", "rejected": f"{i}.{1 - h}"} for i, h in enumerate(human)]

    def as_given(text):
        shown = re.search(r"Answer 1:\n(\d)\.(\d)\n\nAnswer 2:\n\d\.(\d)\n", text).groups()
        return [math.log(soft[int(shown[0])][int(answer)]) for answer in shown[1:]]

    kept = LabelFile(tmp_path / "labels.jsonl", {})
    summary = label(groups_of(rows, "preference", 2), Judge(Scripted(as_given)), kept, How())
    assert summary["agreement"] == pytest.approx(case["expected"]["accuracy"])


def test_a_grade_is_renormalised_over_ten_and_scaled_to_a_reward():
    assert expected_grade([-9.0] * 10) == pytest.approx(5.5)
    assert expected_grade([-math.inf] * 9 + [-3.0]) == pytest.approx(10)
    assert as_reward(torch.tensor([1.0, 5.5, 10.0])).tolist() == [-1.0, 0.0, 1.0]


def test_entropy_of_a_label():
    assert entropy(0.5) == pytest.approx(math.log(2))
    assert entropy(1.0) == entropy(0.0) == 0.0


def test_ways_to_write_a_choice_add_up_and_a_longer_choice_is_taken_out_of_the_shorter():
    ways = [
        (0, (1,), math.log(0.5)),
        (0, (5, 1), math.log(0.1)),
        (1, (1, 0), math.log(0.2)),
        (1, (5, 1, 0), math.log(0.04)),
    ]
    close(tensor(choice_logps(ways)).exp(), [0.36, 0.24])
    far = [(choice, way, logp - 2000) for choice, way, logp in ways]
    close(tensor(choice_logps(far)) + 2000, tensor([0.36, 0.24]).log())


# -- a model of this process -------------------------------------------------------------------------------------


def probability_by_hand(model, tokenizer, prompt_ids, texts):
    """Σ over texts of Π p(token), each token by a forward pass of its own."""
    total = 0.0
    for text in texts:
        ids, p = list(prompt_ids), 1.0
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            p *= float(model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)[token].detach())
            ids.append(token)
        total += p
    return total


def test_a_local_model_is_read_as_by_hand(local, tiny_model, tiny_tokenizer):
    wording = load_wording()
    task = wording.tasks["preference"]

    def by_hand(first, second):
        question = task.ask(prompt="red or blue?", first=first, second=second).text(False)
        ids = ChatTemplate(tiny_tokenizer).prompt_ids([{"role": "user", "content": question}])
        ids += tiny_tokenizer(task.lead, add_special_tokens=False)["input_ids"]
        one, two = (probability_by_hand(tiny_model, tiny_tokenizer, ids, [c, f" {c}"]) for c in "12")
        return one / (one + two)

    found = Judge(local).prefer(["red or blue?"], ["red"], ["blue"])
    expected = (by_hand("red", "blue") + 1 - by_hand("blue", "red")) / 2
    assert found.dtype == torch.float32
    close(found.double(), [expected], relative=1e-5)


def test_ten_in_two_tokens_is_no_one(local, tiny_model, tiny_tokenizer):
    """The tiny tokenizer has a token a byte, so 10 begins with 1."""
    task = load_wording().tasks["rating"]
    question = task.ask(prompt="red?", answer="blue")
    ids = ChatTemplate(tiny_tokenizer).prompt_ids([{"role": "user", "content": question.text(False)}])
    ids += tiny_tokenizer(task.lead, add_special_tokens=False)["input_ids"]
    p = [probability_by_hand(tiny_model, tiny_tokenizer, ids, [c, f" {c}"]) for c in task.choices]
    p[0] -= p[9]
    assert p[9] > 0
    expected = sum(i * one for i, one in enumerate(p, start=1)) / sum(p)
    close(Judge(local).rate(["red?"], ["blue"]).double(), [expected], relative=1e-4)


def test_many_questions_at_once_are_answered_as_one_by_one(local):
    prompts = [f"red {'blue ' * i}?" for i in range(5)]
    a, b = [f"one {i}" for i in range(5)], ["two"] * 5
    local.micro_tokens = 1500
    together = Judge(local).prefer(prompts, a, b)
    alone = torch.cat([Judge(local).prefer(prompts[i : i + 1], a[i : i + 1], b[i : i + 1]) for i in range(5)])
    close(together.double(), alone.double(), relative=1e-5)
    assert len(set(together.tolist())) == 5


def test_swapping_the_answers_turns_the_label(local):
    judge = Judge(local)
    one, other = judge.prefer(["red?"], ["sun"], ["moon here"]), judge.prefer(["red?"], ["moon here"], ["sun"])
    close((one + other).double(), [1.0], relative=1e-6)
    close(judge.prefer(["red?"], ["sun"], ["sun"]).double(), [0.5], relative=1e-6)


def test_a_chain_of_thought_is_greedy_and_stands_before_the_choice(local, tiny_model, tiny_tokenizer):
    verdict = Judge(local).compare(["red?"], ["sun"], ["moon"], chain_of_thought=True)[0]
    task = load_wording().tasks["preference"]
    question = task.ask(prompt="red?", first="sun", second="moon")
    ids = ChatTemplate(tiny_tokenizer).prompt_ids([{"role": "user", "content": question.text(True)}])
    written = list(ids)
    for _ in range(12):
        written.append(int(tiny_model(torch.tensor([written])).logits[0, -1].argmax()))
        if written[-1] == tiny_tokenizer.eos_token_id:
            break
    thoughts = tiny_tokenizer.decode(written[len(ids) :], skip_special_tokens=True).strip()
    assert verdict.thoughts[0] == thoughts
    assert task.think in question.text(True) and task.decide not in question.text(True)
    opening = Question(question.body, task, thoughts).opening
    assert opening == f"{thoughts}\n\n{task.lead}"
    ids += tiny_tokenizer(opening, add_special_tokens=False)["input_ids"]
    one, two = (probability_by_hand(tiny_model, tiny_tokenizer, ids, [c, f" {c}"]) for c in "12")
    close(tensor(verdict.first), one / (one + two), relative=1e-5)


def test_a_chain_of_thought_can_be_clamped(local):
    judge = Judge(local)
    free = judge.prefer(["red?", "blue?"], ["sun", "one"], ["moon", "two"], chain_of_thought=True)
    held = judge.prefer(["red?", "blue?"], ["sun", "one"], ["moon", "two"], chain_of_thought=True, clamp=(0.49, 0.51))
    close(held.double(), free.clamp(0.49, 0.51).double())
    with pytest.raises(ZooError, match="around a half"):
        judge.prefer(["red?"], ["sun"], ["moon"], clamp=(0.6, 0.8))


def test_what_cannot_be_asked_is_missing_and_counted(local):
    judge = Judge(local)
    found = judge.prefer(["red?", "red?", "long " * 900], ["<|im_end|>", "sun", "sun"], ["moon"] * 3)
    assert found.isnan().tolist() == [True, False, True]
    summary = judge.statistics.summary()
    assert (summary["pairs"], summary["unusable"]) == (1, 2)
    assert summary["unusable_reasons"] == {"control tokens in a text": 1, "longer than the judge's context": 1}
    assert judge.rate(["red?"], ["<|im_end|>"]).isnan().all()


def test_a_model_may_be_asked_without_a_chat_template(tiny_model, tiny_tokenizer):
    raw = LocalModel("self", lambda: tiny_model, ChatTemplate(tiny_tokenizer, "none"))
    assert 0 < float(Judge(raw).prefer(["red?"], ["sun"], ["moon"])) < 1


def test_the_policy_with_its_adapters_off_is_the_judge(tiny_folder, tiny_tokenizer, local):
    from zoo.models.loading import add_lora, load_model
    from zoo.models.names import resolve_model

    policy = add_lora(load_model(resolve_model(str(tiny_folder)), torch.float32), 4, 8.0, 0.0, "all-linear")
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.3)
    judge = make_judge("self", policy, ChatTemplate(tiny_tokenizer), borrow=policy.disable_adapter)
    found, expected = (one.prefer(["red?"], ["sun"], ["moon"]) for one in (judge, Judge(local)))
    close(found.double(), expected.double(), relative=1e-5)
    assert (
        make_judge("self", policy, ChatTemplate(tiny_tokenizer)).prefer(["red?"], ["sun"], ["moon"]) - found
    ).abs() > 1e-4


def test_a_folder_is_a_judge_as_the_policy_is(tiny_folder, local):
    judge = make_judge(str(tiny_folder), say=lambda text: None)
    close(
        judge.prefer(["red?"], ["sun"], ["moon"]).double(),
        Judge(local).prefer(["red?"], ["sun"], ["moon"]).double(),
        relative=1e-5,
    )
    assert judge.name == "tiny"
    with pytest.raises(ZooError, match="no policy"):
        make_judge("self")


# -- what is asked -----------------------------------------------------------------------------------------------


def test_statistics_count_ties_positions_and_entropy():
    judge = Judge(Scripted(lambda text: (0.0, -9.0) if "sun" in text else (0.0, 0.0)))
    judge.prefer(["a", "b"], ["sun", "one"], ["moon", "two"])
    summary = judge.statistics.summary()
    assert (summary["position_inconsistent"], summary["ties"]) == (0.5, 1.0)
    assert summary["entropy"] == pytest.approx(math.log(2))
    assert sum(summary["histogram"][4:6]) == 2


def test_an_unusable_order_makes_the_pair_unusable():
    judge = Judge(Scripted(lambda text: "too odd" if "Answer 1:\nmoon" in text else (0.0, -1.0)))
    assert judge.prefer(["a"], ["sun"], ["moon"]).isnan().all()
    assert judge.statistics.summary()["unusable_reasons"] == {"too odd": 1}


def test_a_principle_makes_it_a_multiple_choice():
    asked = Scripted(lambda text: (0.0, -1.0))
    principles = load_constitution()[:2]
    Judge(asked).prefer(["a", "b"], ["sun", "one"], ["moon", "two"], principle=principles)
    assert sorted(sum(one.comparison in text for text in asked.asked) for one in principles) == [2, 2]
    assert all("(A) " in text and "(B) " in text for text in asked.asked)


def test_nothing_is_asked_twice(tmp_path):
    asked = Scripted(longer_is_better)
    first = Judge(asked, cache=JudgementCache(tmp_path, "judge")).prefer(["a", "a"], ["sun", "sun"], ["a b", "a b"])
    assert sum(asked.asked.values()) == 2
    judge = Judge(asked, cache=JudgementCache(tmp_path, "judge"))
    assert judge.prefer(["a"], ["sun"], ["a b"]).tolist() == first.tolist()[:1]
    # The other way round the same two questions are asked.
    assert judge.prefer(["a"], ["a b"], ["sun"]).tolist() == pytest.approx([1 - float(first[0])])
    assert sum(asked.asked.values()) == 2
    judge.prefer(["a"], ["sun"], ["a c"])
    judge.prefer(["a"], ["sun"], ["a b"], chain_of_thought=True)
    assert sum(asked.asked.values()) == 6


def test_what_was_said_before_an_error_is_kept(tmp_path):
    class Breaks(Scripted):
        def respond(self, questions, thinking):
            for number, response in super().respond(questions, thinking):
                if number == 3 and sum(self.asked.values()) == 4:
                    raise ZooError("gone", "wait")
                yield number, response

    asked = Breaks(longer_is_better)
    pairs = (["a", "b"], ["sun", "one"], ["moon here", "two"])
    with pytest.raises(ZooError, match="gone"):
        Judge(asked, cache=JudgementCache(tmp_path, "judge")).prefer(*pairs)
    assert not Judge(asked, cache=JudgementCache(tmp_path, "judge")).prefer(*pairs).isnan().any()
    assert sorted(asked.asked.values()) == [1, 1, 1, 2]


@pytest.mark.parametrize("fails", [False, True])
def test_processes_share_the_questions_out_and_hear_all_answers(monkeypatch, fails):
    """Two threads stand for two processes, a barrier for the gathering."""
    here, barrier, shelf = threading.local(), threading.Barrier(2), {}

    def gathered(mine):
        shelf[here.rank] = mine
        barrier.wait(timeout=10)
        found = [shelf[0], shelf[1]]
        barrier.wait(timeout=10)
        return found

    monkeypatch.setattr("zoo.judges.judge.my_place", lambda: (here.rank, 2))
    monkeypatch.setattr("zoo.judges.judge.gathered", gathered)

    class Gone(Scripted):
        def respond(self, questions, thinking):
            raise ZooError("gone")

    asked = [Scripted(longer_is_better), Gone(None) if fails else Scripted(longer_is_better)]
    pairs = ([f"a {i}" for i in range(5)], ["sun"] * 5, ["moon here"] * 5)

    def process(rank):
        here.rank = rank
        try:
            return Judge(asked[rank]).prefer(*pairs).tolist()
        except ZooError as error:
            return error.message

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(process, [0, 1]))
    if fails:
        assert found == ["gone", "gone"]
    else:
        monkeypatch.undo()
        assert found == [Judge(Scripted(longer_is_better)).prefer(*pairs).tolist()] * 2
        assert [sum(one.asked.values()) for one in asked] == [5, 5]


def test_prompts_are_texts_messages_or_encoded_records():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "red?"}]
    assert as_text("red? ") == as_text([messages[1]]) == as_text({"row": 3, "record": {"prompt": "red?"}}) == "red?"
    assert as_text(messages) == "System: Be brief.\n\nUser: red?"


# -- files -------------------------------------------------------------------------------------------------------


def test_braces_in_an_answer_are_left_alone():
    task = load_wording().tasks["preference"]
    body = task.ask(prompt="{second}", first="{prompt}", second="{x}").body
    assert "asked for:\n{second}" in body or "asked:\n{second}" in body
    assert "Answer 1:\n{prompt}" in body and "Answer 2:\n{x}" in body


def test_a_file_replaces_some_of_the_texts(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text('preference:\n  lead: "Preferred Summary="\n')
    shipped, mine = load_wording(), load_wording(file)
    assert mine.tasks["preference"].lead == "Preferred Summary="
    assert mine.tasks["preference"].question == shipped.tasks["preference"].question
    assert mine.id.startswith("mine-") and mine.id != shipped.id


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preferences:\n  lead: x\n", "Did you mean 'preference'"),
        ("preference:\n  leed: x\n", "Did you mean 'lead'"),
        ("preference:\n  choices: [1, 2]\n", "must be texts"),
        ('rating:\n  choices: ["1"]\n', "10 different"),
        ('preference:\n  question: "{prompt} {first}"\n', "second"),
    ],
)
def test_a_mistake_in_a_file_of_texts_is_named(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ZooError, match=message):
        load_wording(file)


def test_the_shipped_constitution_is_whole():
    principles = load_constitution()
    assert len(principles) >= 12 and len({one.id for one in principles}) == len(principles)
    assert "no_empty_refusal" in [one.id for one in principles]
    assert constitution_id(principles) != constitution_id(principles[1:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: []\n", "no list of principles"),
        ("principles:\n  - id: a\n    critique_request: b\n", "principle 1 has no text under 'revision_request'"),
        ("principles:\n  - id: a\n    critiqe_request: b\n", "Did you mean 'critique_request'"),
    ],
)
def test_a_mistake_in_a_constitution_is_named(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ZooError, match=message):
        load_constitution(file)
    with pytest.raises(ZooError, match="Did you mean 'default'"):
        load_constitution("defaults")


PAGE = (Path(__file__).parent.parent / "docs" / "judges.md").read_text(encoding="utf-8")


def example(name):
    return re.search(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```", PAGE, flags=re.DOTALL)[1]


def test_the_examples_of_the_page_work(tmp_path, monkeypatch, tiny_folder, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "wording.yaml"):
        (tmp_path / name).write_text(example(name))
    assert [one.id for one in load_constitution("mine.yaml")] == ["plain_words"]
    assert load_wording("wording.yaml").id.startswith("brief-")
    (tmp_path / "my-model").symlink_to(tiny_folder)
    exec(compile(example("judge.py"), "judge.py", "exec"), {})
    preference, by_principle, inconsistent = map(float, capsys.readouterr().out.split())
    assert 0 < preference < 1 and 0 < by_principle < 1 and inconsistent in (0, 0.5, 1)


# -- as a reward -------------------------------------------------------------------------------------------------


def test_a_judge_is_a_reward_between_minus_one_and_one(tiny_folder, local):
    text = f"0.5*judge(model={tiny_folder}) + 0*length"
    reward = Reward(text, {}, precision="32-true", say=lambda text: None)
    records = [{"prompt": "red?"}, {"prompt": "red?"}]
    found = reward.score(["blue", "<|im_end|>"], records)
    grade = float(Judge(local).rate(["red?"], ["blue"]))
    assert found == [pytest.approx(0.5 * (2 * (grade - 1) / 9 - 1), abs=1e-5), None]


def test_a_judge_of_its_own_is_kept_rounded_where_the_arithmetic_is(tiny_folder, local):
    judge = make_judge(str(tiny_folder), precision="bf16-mixed", say=lambda text: None)
    assert {one.dtype for one in judge.respondent.model.parameters()} == {torch.float32, torch.bfloat16}
    close(judge.prefer(["red?"], ["sun"], ["moon"]), Judge(local).prefer(["red?"], ["sun"], ["moon"]), relative=0.1)
    assert not judge.prefer(["red?"], ["sun"], ["moon"], chain_of_thought=True).isnan().any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("judge(modle=x)", "Did you mean 'model'"),
        ("judge(model=self)", "no policy"),
        ("judge(model=./nowhere)", "no model at"),
        ("judge(chain_of_thought=maybe)", "must be yes or no"),
        ("judge(model=https://host/v1)", "names no model"),
        ("jugde", "Did you mean 'judge'"),
    ],
)
def test_a_mistake_in_the_reward_is_pointed_at(text, message):
    with pytest.raises(ZooError, match=message) as caught:
        Reward(text, {}, say=lambda text: None)
    assert "character 1" in caught.value.message and "\n  ^" in caught.value.message
