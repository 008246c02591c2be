"""Rows: what lies where, who sees whom, and which position predicts which token."""

import pytest
import torch

from zoo.models.layout import LAYOUTS, arrange, counted
from zoo.models.scoring import hidden_states, neftune
from zoo.values.types import Answer

PAIR = [Answer.of([5, 6, 7], [8, 9]), Answer.of([5, 6, 7], [10, 11, 12])]


def visible(rows):
    """Which of the L columns each column of the first row sees, as 0 and 1."""
    return rows.mask()[0, 0].int().tolist()


def test_a_shared_row_holds_the_prompt_once_and_positions_restart_behind_it():
    rows = arrange(PAIR, "shared", balance=10**9)
    assert rows.ids.tolist() == [[5, 6, 7, 8, 9, 10, 11, 12]]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5]]


def test_in_a_shared_row_an_answer_sees_its_prompt_and_itself_but_not_the_other_answer():
    rows = arrange(PAIR, "shared", balance=10**9)
    assert visible(rows) == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 1, 0],
        [1, 1, 1, 0, 0, 1, 1, 1],
    ]


def test_the_end_of_the_prompt_predicts_the_first_token_of_every_answer():
    rows = arrange(PAIR, "shared", balance=10**9)
    assert rows.column.tolist() == [2, 3, 2, 5, 6]
    assert rows.target.tolist() == [8, 9, 10, 11, 12]
    assert rows.answer.tolist() == [0, 0, 1, 1, 1]
    assert rows.index.tolist() == [0, 1, 0, 1, 2]


TEXTS = [Answer.of([], [5, 6, 7, 8, 9]), Answer.of([5, 6, 7], [10, 11, 12]), Answer.of([5, 6], [13])]
"""The first begins with the prompt of the second, which is the longest such prompt."""


def test_a_text_that_begins_with_the_prompt_of_another_answer_shares_it():
    rows = arrange(TEXTS, "shared", balance=10**9, one_row=True)
    assert rows.ids.tolist() == [[5, 6, 7, 10, 11, 12, 8, 9, 5, 6, 13]]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 4, 5, 3, 4, 0, 1, 2]]
    assert visible(rows)[7] == [1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0]
    # Its tokens are predicted in the prompt, at the end of the prompt, and behind it; the first one nowhere.
    own = rows.answer == 0
    assert (rows.index[own].tolist(), rows.column[own].tolist()) == ([1, 2, 3, 4], [0, 1, 2, 6])
    assert rows.target[own].tolist() == [6, 7, 8, 9]
    assert rows.place.tolist() == [[0, 1, 2, 6, 7, 0], [0, 1, 2, 3, 4, 5], [8, 9, 10, 0, 0, 0]]


def test_a_text_that_is_the_prompt_of_another_answer_costs_nothing():
    rows = arrange([Answer.of([], [5, 6, 7]), PAIR[0]], "shared", balance=10**9)
    assert rows.ids.tolist() == [[5, 6, 7, 8, 9]]
    assert sorted(rows.target.tolist()) == [6, 7, 8, 9]


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_in_other_layouts_such_a_text_stands_alone(layout):
    rows = arrange(TEXTS, layout)
    assert int((rows.ids == 5).sum()) == 3


@pytest.mark.parametrize("one_row", [True, False])
def test_texts_that_share_prompts_score_as_they_do_alone(tiny_model, one_row):
    texts = [
        *TEXTS, Answer.of([], [5, 6, 7]), Answer.of([], [5, 6, 20, 21]), Answer.of([], [30, 31]), Answer.of([7], [5]),
    ]  # fmt: skip
    rows = arrange(texts, "shared", balance=10**9, one_row=one_row)
    with torch.no_grad():
        hidden = hidden_states(tiny_model, rows)
        for i, text in enumerate(texts):
            ids = torch.cat([text.prompt, text.completion])
            alone = tiny_model.model(ids[None]).last_hidden_state[0]
            shared = hidden[rows.home[i], rows.place[i, : len(ids)]]
            torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(rows.ids[rows.home[i], rows.place[i, : len(ids)]], ids)


def test_packed_rows_are_isolated_and_nothing_predicts_the_first_token_of_a_document(vectors):
    case = vectors["sft.packing"]
    ids, expected = case["inputs"]["input_ids"], case["expected"]
    starts = expected["cu_seqlens"]
    documents = [Answer.of([], ids[a:b]) for a, b in zip(starts, starts[1:], strict=False)]
    # A document as long as all of them makes a row that they fill together.
    long = Answer.of([], list(range(200, 200 + len(ids))))
    rows = arrange([*documents, long], "packed")
    together = next(r for r in range(len(rows.ids)) if sorted(rows.ids[r].tolist()) == ids)
    # Rows are filled longest first; put the columns back in the order of the documents.
    order = [rows.ids[together].tolist().index(token) for token in ids]
    assert rows.positions[together][order].tolist() == expected["position_ids"]
    seen = rows.mask()[together, 0][order][:, order]
    assert seen.int().tolist() == expected["attention_mask_block_diagonal"]
    targets = sorted(rows.target[rows.row == together].tolist())
    assert targets == [label for label in expected["labels"] if label >= 0]
    assert len(targets) == expected["n_loss_tokens_packed"]
    predicting = rows.ids[together][rows.column[rows.row == together]].tolist()
    assert dict(zip(rows.target[rows.row == together].tolist(), predicting, strict=True)) == {
        label: before for before, label in zip(ids, expected["labels"][1:], strict=False) if label >= 0
    }


def test_padded_rows_are_one_answer_each_with_an_ordinary_mask():
    rows = arrange([Answer.of([5], [6, 7, 8]), Answer.of([5], [6])], "padded", pad_id=99)
    assert rows.ids.tolist() == [[5, 6, 7, 8], [5, 6, 99, 99]]
    assert rows.mask().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_padding_sees_itself_so_that_no_softmax_is_over_nothing():
    rows = arrange([Answer.of([5], [6, 7, 8]), Answer.of([4], [6])], "packed")
    assert rows.mask().any(-1).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_counted_tokens_are_predicted(layout):
    answers = [Answer.of([1, 2], [3, 4, 5], mask=[True, False, True]), Answer.of([1, 2], [6], mask=[False])]
    rows = arrange(answers, layout)
    assert sorted(zip(rows.answer.tolist(), rows.index.tolist(), strict=True)) == [(0, 0), (0, 2)]
    assert sorted(rows.target.tolist()) == [3, 5]
    assert counted(answers).tolist() == [[True, False, True], [False, False, False]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_a_prompt_the_first_token_has_no_log_prob(layout):
    answers = [Answer.of([], [3, 4, 5]), Answer.of([], [6])]
    assert counted(answers).tolist() == [[False, True, True], [False, False, False]]
    assert arrange(answers, layout).target.tolist() == [4, 5]


@pytest.mark.parametrize("layout", ["shared", "packed"])
def test_rows_are_never_longer_than_the_longest_item(layout):
    generator = torch.Generator().manual_seed(1)
    sizes = torch.randint(1, 30, (40, 2), generator=generator).tolist()
    answers = [Answer.of([7] * prompt + [i], [8] * completion) for i, (prompt, completion) in enumerate(sizes)]
    rows = arrange(answers, layout)
    longest = max(len(answer) for answer in answers)
    assert rows.ids.shape[1] == longest
    assert int((rows.group >= 0).sum()) == sum(len(answer) for answer in answers), "every token lies in a row once"
    assert len(rows.ids) < 40, "short ones share a row"


def test_the_longest_are_packed_first():
    """First-fit decreasing: 5 | 4 + 1 | 4 + 1. From the shortest on it would be 1 + 1 | 4 | 4 | 5."""
    answers = [Answer.of([i], [8] * (size - 1)) for i, size in enumerate((1, 1, 4, 4, 5))]
    assert len(arrange(answers, "packed").ids) == 3


def test_balance_decides_whether_sharing_a_prompt_is_worth_the_longer_row():
    answers = [Answer.of([1] * 4, [2] * 40), Answer.of([1] * 4, [3] * 40)]
    assert len(arrange(answers, "shared", balance=10**9).ids) == 1
    assert len(arrange(answers, "shared", balance=8).ids) == 2
    long_prompt = [Answer.of([1] * 40, [2] * 4), Answer.of([1] * 40, [3] * 4)]
    assert len(arrange(long_prompt, "shared", balance=8).ids) == 1, "here sharing saves most of the tokens"


def test_many_answers_to_a_prompt_share_it_in_parts():
    """64 answers of 64 tokens behind one of 128: a row each has 12,288 positions, all in one row too long a row."""
    answers = [Answer.of([1] * 128, [2 + i] * 64) for i in range(64)]
    rows = arrange(answers, "shared", balance=1024)
    assert rows.ids.shape == (8, 128 + 8 * 64)
    assert sorted({int(rows.ids[row, column]) for row, column in enumerate([128] * 8)}) == list(range(2, 66, 8))
    assert arrange(answers, "shared", balance=10**9).ids.numel() == 128 + 64 * 64


def test_packed_rows_do_not_share_prompts():
    rows = arrange(PAIR, "packed")
    assert int((rows.ids == 5).sum()) == 2


def test_single_texts_need_no_mask_of_their_own():
    assert arrange([PAIR[0], Answer.of([1], [2])], "packed").plain
    assert not arrange(PAIR, "shared", balance=10**9).plain
    packed = [Answer.of([5], [6, 7, 8, 9]), Answer.of([1], [2]), Answer.of([3], [4])]
    assert not arrange(packed, "packed").plain


def test_an_unknown_amount_of_nothing_still_makes_a_row():
    rows = arrange([Answer.of([], [])], "padded")
    assert rows.ids.shape == (1, 1) and len(rows.target) == 0


def test_noise_is_scaled_by_the_real_length_of_each_text_and_spares_padding(vectors):
    case = vectors["sft.neftune"]
    alpha, width = case["inputs"]["alpha"], case["inputs"]["hidden_size"]
    first, second = (Answer.of([1], [2] * (length - 1)) for length in case["inputs"]["real_lengths"])
    rows = arrange([first, second], "padded")
    torch.manual_seed(0)
    samples = torch.stack([neftune(torch.zeros(*rows.ids.shape, width), rows, alpha) for _ in range(4000)])
    largest = samples.abs().amax(dim=(0, 2, 3))
    assert largest.tolist() == pytest.approx(case["expected"]["scale_paper_per_sample"], rel=1e-2)
    assert samples[:, 1, 2:].abs().max() == 0, "padding gets no noise"
    squared = (samples**2).sum(dim=(2, 3))
    expected = case["expected"]["expected_l2_norm_squared_of_noise"]
    assert squared.mean(0).tolist() == pytest.approx([expected, expected], rel=0.02)
    assert squared.max() <= case["expected"]["max_l2_norm_of_noise"] ** 2 * (1 + 1e-5)
