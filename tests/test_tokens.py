"""Text to ids that can be cut: a prompt has the same ids alone and before an answer, on any tokenizer."""

import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from zoo.data.encoding import segments
from zoo.data.encoding.segments import Segments
from zoo.data.encoding.template import ChatTemplate
from zoo.data.encoding.tokens import TextTokenizer

CORPUS = ["the answer is four and the question was two", "what is the sum of two and two ?", "user assistant\n\n"] * 20
SPECIALS = ["<s>", "</s>", "<|turn|>"]


def byte_level():
    """GPT-like: a space belongs to the word behind it, and offsets leave it out."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def spaced(scheme):
    """SentencePiece-like: a space is put before the first word, or before every stretch of text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    letters = sorted({letter for line in CORPUS for letter in line} - {" "})
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", *SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=letters,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", additional_special_tokens=["<|turn|>"]
    )


def prepended():
    """Llama-like: the space is put there before the text is taken apart, and the model sees no words."""
    fast = spaced("never")
    fast.backend_tokenizer.pre_tokenizer = None
    fast.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return fast


def words():
    """BERT-like: lower case, and `##` before what continues a word."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(show_progress=False, vocab_size=300, special_tokens=["<unk>", *SPECIALS])
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


TOKENIZERS = {"byte-level": byte_level, "first": lambda: spaced("first"), "always": lambda: spaced("always")}


@pytest.fixture(params=sorted(TOKENIZERS), scope="module")
def tokens(request):
    return TextTokenizer(TOKENIZERS[request.param]())


# Prompt and answer; the cut is after a special token, a line break, a word, in a word, before or after a space.
PARTS = [
    ("what is the sum<|turn|>", "four"),
    ("<|turn|>user\nwhat<|turn|>assistant\n", "the answer is four"),
    ("assistant\n", "\n\nfour"),
    ("the question", " was two"),
    ("the answ", "er is four"),
    ("the answer is ", "four"),
    ("", "the answer"),
    ("the sum is ü", "é and two"),
]


@pytest.mark.parametrize(("prompt", "answer"), PARTS)
def test_the_ids_of_a_prompt_do_not_depend_on_what_follows(tokens, prompt, answer):
    cut = tokens.cut([prompt + answer], [[len(prompt), len(prompt + answer)]])[0]
    assert cut.ids[: cut.positions[0]] == tokens.ids([prompt])[0]
    assert cut.positions[1] == len(cut.ids)


@pytest.mark.parametrize(("prompt", "answer"), PARTS)
def test_the_parts_say_what_the_text_said(tokens, prompt, answer):
    cut = tokens.cut([prompt + answer], [[len(prompt), len(prompt + answer)]])[0]
    decoded = tokens.tokenizer.decode(cut.ids, skip_special_tokens=False)
    assert decoded.removeprefix("<s>").replace(" ", "") == (prompt + answer).replace(" ", "")


def test_text_is_tokenised_as_a_whole_where_the_cut_allows_it(tokens):
    text = "<|turn|>user\nwhat is two<|turn|>assistant\nthe answer<|turn|>"
    cut = text.index("the answer")
    whole = tokens.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = tokens.cut([text], [[cut, len(text)]])[0].ids
    assert ids[-len(whole) :] == whole


def test_a_token_across_the_cut_is_split_and_brings_no_space(tokens):
    ids, (start,) = tokens.cut(["the answer"], [[len("the answ")]])[0]
    assert "".join(tokens.tokenizer.convert_ids_to_tokens(ids[start:])) == "er"


def test_places_inside_the_answer_are_found(tokens):
    text = "<|turn|>the answer is four<|turn|>what was<|turn|>two"
    places = [8, text.index("what"), text.index("<|turn|>two"), len(text)]
    ids, positions = tokens.cut([text], [places])[0]
    pieces = [
        tokens.tokenizer.decode(ids[a:b]).replace(" ", "") for a, b in zip(positions, positions[1:], strict=False)
    ]
    assert pieces == ["theanswerisfour<|turn|>", "whatwas", "<|turn|>two"]


def test_bos_is_put_first_where_the_tokenizer_wants_it_and_never_twice():
    tokens = TextTokenizer(spaced("first"))
    bos = tokens.tokenizer.bos_token_id
    for text in ("the answer", "<s>the answer"):
        (ids,) = tokens.ids([text])
        assert ids[0] == bos and ids.count(bos) == 1
        cut = tokens.cut([text + " is four"], [[len(text)]])[0]
        assert cut.ids[: cut.positions[0]] == ids


def test_a_tokenizer_that_wants_no_bos_gets_none():
    assert byte_level().bos_token_id not in TextTokenizer(byte_level()).ids(["the answer"])[0]


def test_a_tokenizer_without_offsets_is_cut_by_parts(tokens, monkeypatch):
    text, places = "<|turn|>what<|turn|>the answer is four", [len("<|turn|>what<|turn|>")]
    fast = tokens.cut([text], [places])[0]
    monkeypatch.setattr(TextTokenizer, "_cut_whole", lambda self, texts, *others: [None] * len(texts))
    parts = tokens.cut([text], [places])[0]
    assert parts.positions == fast.positions
    assert tokens.tokenizer.decode(parts.ids[parts.positions[0] :]).strip() == "the answer is four"


IN_SEGMENTS = {**TOKENIZERS, "never": lambda: spaced("never"), "prepended": prepended, "words": words}
PIECES = [
    "the", "answer", " is", "four", " ", "  ", "\n", "\n\n", "\t", "é", "日本", "🙂", "x=1", "?", "▁", "Und", "\u3000",
    "</s>", "<|turn|>", "<|turn|>", "<|turn|>user\n", "<|turn|>assistant\n",
]  # fmt: skip


@pytest.mark.parametrize("name", IN_SEGMENTS)
def test_texts_in_segments_are_the_whole_texts(name):
    """Ids, and where texts can be cut, are equal to those of a tokenizer that takes nothing apart."""
    source = random.Random(name)
    tokenizer = IN_SEGMENTS[name]()
    fast, plain = TextTokenizer(tokenizer), TextTokenizer(tokenizer)
    plain.segments = Segments(plain.tokenizer, split=False)
    assert fast.segments.cutting and not plain.segments.cutting
    texts = ["".join(source.choices(PIECES, k=source.randint(0, 30))) for _ in range(300)]
    cuts = [sorted({source.randint(0, len(text)) for _ in range(source.randint(1, 5))}) for text in texts]
    assert fast.ids(texts) == plain.ids(texts) == [plain.ids([text])[0] for text in texts]
    assert fast.cut(texts, cuts) == plain.cut(texts, cuts)


def test_what_stands_in_many_texts_is_tokenised_once(monkeypatch):
    tokens, read = TextTokenizer(byte_level()), []
    monkeypatch.setattr(segments, "ids_of", lambda tokenizer, texts: read.extend(texts) or [[1]] * len(texts))
    tokens.cut(["a<|turn|>b<|turn|>c", "a<|turn|>b<|turn|>d"], [[18], [18]])
    assert sorted(read) == ["a", "a", "b", "b", "c", "d"]


def test_a_token_that_takes_the_space_beside_it_leaves_texts_whole():
    fast = byte_level()
    fast.add_tokens([AddedToken("<|end|>", rstrip=True, normalized=False, special=True)], special_tokens=True)
    assert not Segments(fast).cutting
    assert Segments(fast).ids(["a<|end|> a"]) == [fast("a<|end|> a", add_special_tokens=False)["input_ids"]]


def test_what_a_call_left_in_the_tokenizer_changes_nothing():
    fast = byte_level()
    fast.pad_token = fast.eos_token
    before = TextTokenizer(fast).ids(["the answer is four", "two"])
    fast(["the answer is four", "two"], padding=True, truncation=True, max_length=2)
    assert TextTokenizer(fast).ids(["the answer is four", "two"]) == before


def test_special_tokens_written_out_are_found(tokens):
    assert tokens.special_in("two </s> four") == "</s>"
    assert tokens.special_in("two < /s> four") is None


# -- tokens that take the white space beside them --------------------------------------------------------------------

PHI = (
    "{% for turn in messages %}{{ '<|' ~ turn.role ~ '|>\n' ~ turn.content ~ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
INST = (
    "{% for turn in messages %}{% if turn.role == 'user' %}{{ '[INST] ' ~ turn.content ~ ' [/INST]' }}"
    "{% else %}{{ ' ' ~ turn.content ~ '<|end|>' }}{% endif %}{% endfor %}"
)
SPOKEN = [
    {"role": role, "content": text}
    for role, text in (("user", "one?"), ("assistant", "yes."), ("user", "two?"), ("assistant", "no."))
]


@pytest.mark.parametrize("make", [byte_level, lambda: spaced("always"), lambda: spaced("first"), prepended])
@pytest.mark.parametrize("side", [{}, {"rstrip": True}, {"lstrip": True}, {"rstrip": True, "lstrip": True}], ids=str)
@pytest.mark.parametrize("source", [PHI, INST], ids=["phi", "inst"])
def test_trained_ids_are_those_of_the_prompts_that_are_asked(make, side, source):
    tokenizer = make()
    tokens = [
        AddedToken(f"<|{name}|>", special=True, normalized=False, **side) for name in ("user", "assistant", "end")
    ]
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.chat_template = source
    template = ChatTemplate(tokenizer)
    trained = template.conversation(SPOKEN)
    ids, end = [*trained.prompt.tolist(), *trained.completion.tolist()], tokenizer.convert_tokens_to_ids("<|end|>")
    for turns in (SPOKEN[:1], SPOKEN[:3]):
        asked = template.prompt_ids(turns)
        assert ids[: len(asked)] == asked
    learned = trained.completion[trained.mask].tolist()
    assert learned.count(end) == 2 and learned[-1] == end
    assert "".join(tokenizer.decode([number for number in learned if number != end]).split()) == "yes.no."
