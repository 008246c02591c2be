"""What `zoo data` prints: examples with their trained tokens, lengths, counts and the preflight."""

import io
import json
from collections import Counter

import pytest
from tiny_runs import cli, write_rows

from zoo.data.display import LONGEST, Histogram, Line, Piece, TokenText, pieces_of, shortened
from zoo.data.encoding.encode import encode
from zoo.data.encoding.template import ChatTemplate
from zoo.data.load import load
from zoo.data.preview import as_json, histogram, preview
from zoo.data.report import Report
from zoo.terminal import Console


@pytest.fixture
def template(tiny_tokenizer):
    return ChatTemplate(tiny_tokenizer)


@pytest.fixture
def loaded(tmp_path, template):
    """Rows as the command gets them: written to a file, loaded, encoded."""

    def make(rows, kind, **options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        data = load(str(path), kind)
        return encode(data.records, kind, template, **options), data.report, template

    return make


def printed(parts, width=80, encoding="utf-8", **options):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, legacy_windows=False, **options)
    for part in parts:
        console.print(part)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


QUESTION = {"prompt": "Two and two?", "completion": "Four."}
PAIR = {"prompt": "Two and two?", "chosen": "It is four.", "rejected": "Five."}
CONVERSATION = {
    "messages": [
        {"role": "user", "content": "Two and two?"},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "And one?"},
        {"role": "assistant", "content": "Five."},
    ]
}


# -- examples ----------------------------------------------------------------------------------------------------


def test_trained_tokens_are_marked_where_there_is_no_colour(loaded):
    text = printed(preview(*loaded([QUESTION], "demonstration")))
    assert "<|im_start|>user↵\nTwo and two?<|im_end|>↵\n<|im_start|>assistant↵\n" in text
    assert "⟦Four.<|im_end|>⟧" in text
    assert "Trained tokens are between ⟦ and ⟧." in text
    assert "\x1b" not in text


def test_trained_tokens_are_green_on_a_terminal_with_colour(loaded):
    text = printed(preview(*loaded([QUESTION], "demonstration")), force_terminal=True, color_system="standard")
    assert "\x1b[32mFour.\x1b[0m" in text
    assert "\x1b[32mTwo" not in text
    assert "⟦" not in text


@pytest.mark.parametrize("options", [{"no_color": True, "color_system": "standard"}, {"color_system": None}])
def test_a_terminal_without_colour_gets_marks(loaded, options):
    text = printed(preview(*loaded([QUESTION], "demonstration")), force_terminal=True, **options)
    assert "⟦Four." in text


def test_marks_and_signs_are_ascii_where_the_console_has_nothing_else(loaded):
    row = {"prompt": "Zwei – ☃?", "completion": "Vier\n…"}
    text = printed(preview(*loaded([row], "demonstration")), encoding="ascii")
    assert "[[Vier\\n\n...<|im_end|>]]" in text
    assert "Zwei - \\u2603?" in text
    assert "#" in text


def test_both_answers_of_a_pair_are_shown_and_their_prompt_once(loaded):
    text = printed(preview(*loaded([PAIR], "preference")))
    assert text.count("Two and two?") == 1
    assert "⟦It is four.<|im_end|>⟧" in text
    assert "⟦Five.<|im_end|>⟧" in text
    assert text.index("chosen, 12 tokens, 12 trained") < text.index("rejected, 6 tokens, 6 trained")


def test_labels_ranks_and_cuts_are_told(loaded):
    rows = [{"prompt": "Hi", "completion": "Ho", "label": True}, {"prompt": "Hi", "completion": "No", "label": False}]
    text = printed(preview(*loaded(rows, "feedback")))
    assert "completion (desirable)" in text and "completion (undesirable)" in text
    ranking = {"prompt": "Hi", "completions": ["Ho", "No"], "ranks": [2, 1]}
    text = printed(preview(*loaded([ranking], "ranking")))
    assert text.index("answer of rank 2") < text.index("⟦Ho") < text.index("answer of rank 1") < text.index("⟦No")
    long = {"prompt": "Hi", "completion": "Ho" * 50}
    text = printed(preview(*loaded([long], "demonstration", max_length=60, long_rows="cut")))
    assert "trained, cut" in text


def test_every_turn_of_a_conversation_is_marked_as_it_is_trained(loaded):
    text = printed(preview(*loaded([CONVERSATION], "demonstration")))
    assert "⟦Four.<|im_end|>⟧↵\n<|im_start|>user↵\nAnd one?<|im_end|>↵" in text
    assert "⟦Five.<|im_end|>⟧" in text
    assert "12 tokens are trained if every turn is" in " ".join(text.split())
    assert text.count("And one?") == 1


def test_prompts_alone_are_shown_without_a_legend(loaded):
    text = printed(preview(*loaded([{"prompt": "Two and two?"}], "prompt")))
    assert "Two and two?" in text
    assert "Trained tokens" not in text
    assert "Tokens of the prompt" in text


def test_plain_text_shows_that_its_first_token_is_not_trained(loaded):
    text = printed(preview(*loaded([{"text": "Once upon"}], "text")))
    assert "O⟦nce upon<|im_end|>⟧" in text
    assert "prompt" not in text.split("Example 1")[1].split("Tokens of")[0]


def test_as_many_examples_as_asked_for_each_with_its_row(loaded):
    rows = [{"prompt": f"Number {k}?", "completion": "Yes."} for k in range(5)]
    shown = loaded(rows, "demonstration")
    text = printed(preview(*shown, examples=2), width=300)
    assert "Example 2 of 2: " in text and "rows.jsonl:2\n" in text
    assert "Number 1?" in text and "Number 2?" not in text
    assert "Example" not in printed(preview(*shown, examples=0))


def test_text_of_the_data_is_neither_markup_nor_a_control_code(loaded):
    row = {"prompt": "[bold red]Hi[/bold red] \x1b[31mred\x1b[0m\x07 \u202e", "completion": "[/] [link=x]\r\tHo"}
    for options in ({}, {"force_terminal": True, "color_system": "standard"}):
        text = printed(preview(*loaded([row], "demonstration")), **options)
        assert "[bold red]Hi[/bold red]" in text
        assert "\\x1b[31mred\\x1b[0m\\x07 \\u202e" in text
        assert "[/] [link=x]\\r→" in text
        assert not set("\x07\u202e\r\t") & set(text)
        assert "\x1b[31m" not in text


def test_letters_that_belong_together_stay_together():
    family = "👩\u200d👩\u200d👧"
    assert family in printed([Line(family)])


def test_text_of_the_data_in_a_reason_is_neither(loaded):
    rows = [QUESTION, {"prompt": "Hi", "completion": "Ho <|im_end|>"}]
    encoded, report, template = loaded(rows, "demonstration")
    report.notes.append("Column \x1b[2J[red]")
    text = printed(preview(encoded, report, template), force_terminal=True, color_system="standard")
    assert "Column \\x1b[2J[red]" in text


def test_no_line_is_wider_than_the_console_and_nothing_is_lost(loaded):
    row = {"prompt": "Why? " * 30, "completion": "Because" * 30}
    text = printed(preview(*loaded([row], "demonstration")), width=40)
    assert max(map(len, text.splitlines())) <= 40
    assert text.replace("\n", "").count("Because") == 30


def test_of_long_texts_the_middle_is_left_out_and_counted():
    pieces = [Piece("a" * 5000, False, False), Piece("b" * 5000, True, False), Piece("<end>", True, True)]
    short = shortened(pieces, 300)
    assert "".join(piece.text for piece in short).startswith("a" * 200 + " [… 9,705 characters left out …] ")
    assert short[-1] == pieces[-1] and short[-2] == Piece("b" * 95, True, False)
    assert shortened(pieces[2:], 300) == pieces[2:]
    assert len(printed([TokenText(pieces)])) < 2 * LONGEST


def test_a_token_is_shown_as_it_reads_in_its_place():
    """A tokenizer that takes off the space of the first word must not take it off in the middle."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"▁two": 0, "▁four": 1, "<unk>": 2}, unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    template = ChatTemplate(tokenizer, "none")
    assert pieces_of(template, [0, 1], [False, True]) == [Piece("two", False, False), Piece(" four", True, False)]
    assert pieces_of(template, [1], [True], before=[0]) == [Piece(" four", True, False)]
    encoded = encode([{"row": 1, "prompt": "two", "completion": " four"}], "demonstration", template)
    assert "⟦ four</s>⟧" in printed(preview(encoded, Report("rows"), template))


def test_half_of_a_letter_at_a_cut_is_shown_as_such(template):
    snowman = template.tokenizer("☃")["input_ids"]
    assert len(snowman) == 3
    pieces = pieces_of(template, snowman, [False, True, True])
    assert len(pieces) == 2
    assert "�" in printed([TokenText(pieces)])


# -- numbers -----------------------------------------------------------------------------------------------------


def test_bins_have_round_borders_and_hold_every_value():
    assert histogram({}) == []
    assert histogram(Counter([7, 7])) == [(7, 7, 2)]
    assert histogram(Counter([1, 12, 19, 95])) == [
        (0, 19, 3), (20, 39, 0), (40, 59, 0), (60, 79, 0), (80, 99, 1)
    ]  # fmt: skip
    for values in ([3, 1000], [512] * 3 + [513], list(range(200)), [10**6, 1]):
        bins = histogram(Counter(values))
        assert sum(count for _, _, count in bins) == len(values)
        assert len(bins) <= 8


def test_empty_bins_in_a_row_are_one_line():
    lines = printed([Histogram([(0, 9, 2), (10, 19, 0), (20, 29, 0), (30, 39, 1), (40, 49, 0), (50, 59, 3)])])
    bars = [line.strip().rpartition(" ")[2] if "█" in line else line.strip() for line in lines.splitlines()]
    assert bars == ["2", "…", "1", "…", "3"]


def test_few_values_far_out_do_not_flatten_the_rest():
    bins = histogram(Counter([*range(1000), 10**6]))
    assert bins[-1] == (800, None, 201)
    assert len(bins) == 5


def test_the_longest_bar_fits_and_no_row_is_hidden(loaded):
    rows = [{"prompt": f"Row {k}", "completion": "word " * (1 + 30 * (k == 0))} for k in range(60)]
    text = printed(preview(*loaded(rows, "demonstration"), examples=0), width=40)
    bars = [line for line in text.splitlines() if "█" in line]
    assert len(bars) == 2
    assert all(len(line) <= 40 for line in bars)
    assert bars[0].endswith(" 59") and bars[1].endswith("█ 1")


# -- what became of the rows ---------------------------------------------------------------------------------------


def test_dropped_rows_are_counted_by_reason_with_the_first_in_full(loaded):
    rows = [QUESTION] * 100 + [{"prompt": "Hi", "completion": ""}] + [{"prompt": "Hi", "completion": "a<|im_end|>"}] * 2
    text = printed(preview(*loaded(rows, "demonstration")), width=200)
    assert "103 rows read, 102 kept, 1 dropped" in text
    assert "1 dropped: E_EMPTY_RESPONSE" in text and "(row 101)" in text
    assert "rows.jsonl:101 [E_EMPTY_RESPONSE] completion: is empty" in text
    assert "2 dropped: E_SPECIAL_TOKEN" in text and "(row 102, 103)" in text
    assert "rows.jsonl:102 [E_SPECIAL_TOKEN]" in text and "rows.jsonl:103 [E_SPECIAL_TOKEN]" not in text


def test_when_no_row_is_left_only_the_reasons_are_shown(loaded):
    text = printed(preview(*loaded([QUESTION], "demonstration", max_length=5)))
    assert "1 dropped: E_TOO_LONG" in text
    assert "Example" not in text and "Tokens of" not in text


def test_the_preflight_comes_last_and_a_warning_stands_out(loaded, tiny_tokenizer):
    encoded, report, template = loaded([QUESTION], "demonstration")
    assert printed(preview(encoded, report, template)).rstrip().endswith("and it is trained.")
    endless = ChatTemplate(tiny_tokenizer, "{% for turn in messages %}{{ turn.content }}\n{% endfor %}")
    text = printed(preview(encoded, report, endless), force_terminal=True, color_system="standard")
    assert "\x1b[33mWarning: " in text


def test_the_balance_of_labels_is_said_once_unless_encoding_changed_it(loaded):
    rows = [{"prompt": "Hi", "completion": text, "label": text == "Ho"} for text in ("Ho", "No", "No" * 50)]
    assert printed(preview(*loaded(rows, "feedback"))).count("1 desirable, 2 undesirable") == 1
    text = printed(preview(*loaded(rows, "feedback", max_length=60)))
    assert "1 desirable, 2 undesirable" in text and "1 desirable, 1 undesirable" in text


def test_the_share_of_pairs_whose_chosen_answer_is_longer_is_told_in_tokens(loaded):
    rows = [PAIR, {**PAIR, "rejected": "It is much more than that."}, {**PAIR, "rejected": "It is five."}]
    text = " ".join(printed(preview(*loaded(rows, "preference"))).split())
    assert "longer in 33% of the pairs and shorter in 33%; the median difference is +0" in text


# -- JSON --------------------------------------------------------------------------------------------------------


def test_json_has_the_same_facts(loaded):
    facts = as_json(*loaded([PAIR, {"prompt": "Hi", "chosen": "Ho", "rejected": "A<|im_end|>"}], "preference"))
    assert facts == json.loads(json.dumps(facts))
    assert facts["kind"] == "preference"
    assert facts["reading"]["rows"] == 2
    assert facts["encoding"]["kept"] == 1
    assert facts["encoding"]["dropped_by_reason"]["E_SPECIAL_TOKEN"] == {"count": 1, "rows": [2]}
    assert facts["chosen_longer"] == 1.0
    assert sum(entry["count"] for entry in facts["lengths"]) == 2
    assert facts["end_of_turn"] == "<|im_end|>"
    assert facts["preflight"].startswith("The model learns to stop")
    (example,) = facts["examples"]
    assert example["row"] == 1
    assert [text["title"].split(",")[0] for text in example["texts"]] == ["prompt", "chosen", "rejected"]
    assert example["texts"][1]["pieces"] == [
        {"text": "It is four.", "trained": True},
        {"text": "<|im_end|>", "trained": True},
    ]


def test_json_counts_labels(loaded):
    facts = as_json(*loaded([{"prompt": "Hi", "completion": "Ho", "label": True}], "feedback"), examples=0)
    assert facts["labels"] == {"desirable": 1, "undesirable": 0}
    assert facts["examples"] == []


def test_a_line_of_any_text_prints_on_any_console():
    for encoding in ("ascii", "latin-1", "utf-8"):
        assert printed([Line("a – b … ☃ \x00")], encoding=encoding).startswith("a ")


# -- the command on a mixture ------------------------------------------------------------------------------------


def test_each_part_of_a_mixture_is_shown_as_it_is_read(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "chats.jsonl", [CONVERSATION] * 4)
    write_rows(tmp_path / "maths.jsonl", [{"q": "Two and two?", "a": "Four."}] * 4)
    mixture = "0.7*chats.jsonl(limit=3) + 0.3*maths.jsonl(columns='prompt=q,completion=a', name=sums)"
    status, out, _ = cli("data", mixture, "--for", "sft", "--model", tiny_folder, "--examples", 1)
    first, second = out.split("Part sums:")
    assert status == 0 and first.startswith("Part chats:") and "Example 1 of 1: chats.jsonl:1" in first
    assert "Example 1 of 1: maths.jsonl:1" in second and "Four." in second


def test_a_mistake_in_any_part_of_a_mixture_is_told_before_the_first_is_shown(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "chats.jsonl", [CONVERSATION] * 4)
    status, out, err = cli("data", "chats.jsonl + nowhere.jsonl", "--for", "sft", "--model", tiny_folder)
    assert status == 2 and "no file, folder or data source 'nowhere.jsonl'" in err and "Part" not in out
