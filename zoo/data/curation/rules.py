"""Rules: named limits on the measures of a text, and the sets of rules that papers have used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from zoo.data.curation import measures as m
from zoo.data.curation.rows import fields_of, good_answers
from zoo.data.kinds import Record
from zoo.errors import ZooError, nearest
from zoo.options import spelling

GOPHER = "Gopher, arXiv:2112.11446, appendix A"
C4 = "C4, arXiv:1910.10683, section 2.2"
ALPACA = "AlpacaDataCleaned"
OWN = "own"


@dataclass(frozen=True)
class Limits:
    """The options of a rule: `words(least=5, most=400, on=prompt)`."""

    least: float | None = None
    most: float | None = None
    on: Literal["answer", "prompt", "everything"] = "answer"
    keep: float | None = None
    """For perplexity: the share of rows to keep, those with the lowest values."""


@dataclass(frozen=True)
class Rule:
    """A rule removes a row if one of its texts measures less than `least` or more than `most`.

    limits.on: the answers to be learned, the prompt, or every text of the row.
    """

    name: str
    measure: m.Measure | None
    help: str
    limits: Limits
    source: str = OWN

    def broken(self, texts: Texts) -> tuple[str, str] | None:
        """(the reason, the text) if the rule is broken."""
        for text in texts.of(self.limits.on):
            value = self.measure(text) if self.measure is not None else None
            if value is not None and (why := self.why(value)):
                return why, text.text
        return None

    def why(self, value: float) -> str:
        """`words 3, less than 5`; empty if the value is within the limits."""
        least, most = self.limits.least, self.limits.most
        if least is not None and value < least:
            return f"{self.name} {value:.4g}, less than {least:g}"
        return f"{self.name} {value:.4g}, more than {most:.6g}" if most is not None and value > most else ""

    def within(self, values: Sequence[float]) -> Rule:
        """The rule with the upper limit that keeps the wanted share of these values."""
        if self.limits.keep is None or not values:
            return self
        highest = sorted(values)[max(1, round(self.limits.keep * len(values))) - 1]
        most = highest if self.limits.most is None else min(highest, self.limits.most)
        return replace(self, limits=replace(self.limits, most=most))


class Texts:
    """The texts of a record, split into words once for all rules."""

    def __init__(self, record: Record, kind: str):
        fields = fields_of(record, kind)
        prompt = fields.get("prompt", "")
        self._all = {name: m.Text(text, "" if name == "prompt" else prompt) for name, text in fields.items()}
        self._good = good_answers(record, kind)

    def of(self, part: str) -> list[m.Text]:
        """The texts that a rule on this part measures."""
        if part == "everything":
            return list(self._all.values())
        names = self._good if part == "answer" else {"prompt"}
        return [text for name, text in self._all.items() if name in names]


PERPLEXITY = "perplexity"


def _rules() -> Iterator[Rule]:
    def gopher(name: str, measure: m.Measure, help: str, least: float | None = None, most: float | None = None) -> Rule:
        return Rule(name, measure, help, Limits(least, most), GOPHER)

    def c4(name: str, measure: m.Measure, help: str, least: float | None = None, most: float | None = None) -> Rule:
        return Rule(name, measure, help, Limits(least, most), C4)

    yield gopher("words", m.word_count, "Words in a text.", 50, 100_000)
    yield gopher("word_length", m.word_length, "Mean length of a word in characters.", 3, 10)
    yield gopher("hashes", m.hashes_and_ellipses, "The signs # and … per word.", most=0.1)
    yield gopher("bullets", m.bullets, "Share of lines that begin with a bullet or number.", most=0.9)
    yield gopher("ellipses", m.ellipses, "Share of lines that end with an ellipsis.", most=0.3)
    yield gopher("letters", m.words_with_letters, "Share of words with a letter.", least=0.8)
    yield gopher(
        "stop_words", m.stop_words, "How many of these words occur: the be to of and that have with. English.", least=2
    )
    yield gopher("repeated_lines", m.repeated("lines"), "Share of lines that repeat an earlier one.", most=0.3)
    yield gopher("repeated_line_characters", m.repeated("lines", True), "The same by characters.", most=0.2)
    yield gopher(
        "repeated_paragraphs", m.repeated("paragraphs"), "Share of paragraphs that repeat an earlier one.", most=0.3
    )
    yield gopher("repeated_paragraph_characters", m.repeated("paragraphs", True), "The same by characters.", most=0.2)
    for length, most in ((2, 0.2), (3, 0.18), (4, 0.16)):
        help = f"Share of characters in the most frequent sequence of {length} words."
        yield gopher(f"top_{length}gram", m.top_gram(length), help, most=most)
    for length, most in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)):
        help = f"Share of characters in sequences of {length} words that repeat an earlier one."
        yield gopher(f"repeated_{length}grams", m.repeated_grams(length), help, most=most)
    yield c4("sentences", m.sentence_count, "Sentences in a text.", least=5)
    yield c4("unfinished_lines", m.unfinished_lines, "Share of lines that do not end in . ! ? or a quote.", most=0.5)
    yield c4("short_lines", m.short_lines, "Share of lines of fewer than 3 words.", most=0.5)
    yield c4("lorem_ipsum", m.lorem_ipsum, "The words lorem ipsum.", most=0)
    yield c4("javascript", m.javascript, "The word JavaScript.", most=0)
    yield c4("curly_brackets", m.curly_brackets, "Curly brackets: code.", most=0)
    yield c4("policies", m.policies, "Words of cookie and privacy notices. English.", most=0)
    prompt = Limits(most=0, on="prompt")
    yield Rule("no_answer", m.no_answer, "N/A or <nooutput> instead of an answer.", Limits(most=0), ALPACA)
    yield Rule("no_input", m.no_input, "<noinput> or N/A in a prompt.", prompt, ALPACA)
    yield Rule("links", m.links, "Links in a prompt: the model cannot open them.", prompt, ALPACA)
    yield Rule("pictures", m.pictures, "A prompt that mentions an attached picture. English.", prompt, ALPACA)
    yield Rule("escapes", m.escapes, "Escape sequences in the text: \\n, \\u00e9.", Limits(most=0), ALPACA)
    everything = Limits(most=0, on="everything")
    yield Rule("control", m.control_characters, "Control characters.", everything, ALPACA)
    yield Rule("damage", m.damage, "Replacement characters, and é decoded as Ã©.", everything)
    yield Rule("echo", m.echo, "An answer that begins with its prompt.", Limits(most=0))
    yield Rule("open_fences", m.open_fences, "A block of code that is not closed.", Limits(most=0))
    yield Rule("symbols", m.symbol_share, "Share of characters that are neither letters nor digits.", Limits(most=0.6))
    yield Rule("run", m.longest_run, "Longest run of one letter, digit, ! or ?.", Limits(most=30))
    yield Rule(
        "compression", m.compression, "Size after zlib over size before: low if a text repeats itself.", Limits(0.1)
    )
    yield Rule(PERPLEXITY, None, "Perplexity under --model, of an answer after its prompt or of a text.", Limits())


RULES: dict[str, Rule] = {rule.name: rule for rule in _rules()}
_CHAT = (
    "no_answer,no_input,control,damage,echo,open_fences,symbols,run,compression,repeated_paragraphs,repeated_10grams"
)
SETS: dict[str, tuple[str, ...]] = {
    "chat": tuple(_CHAT.split(",")),
    "gopher": tuple(rule.name for rule in RULES.values() if rule.source == GOPHER),
    "c4": tuple(rule.name for rule in RULES.values() if rule.source == C4),
    "alpaca": tuple(rule.name for rule in RULES.values() if rule.source == ALPACA),
}
DEFAULT = "chat"
"""Rules that suit short answers, code and any language."""


def chosen_rules(text: str) -> dict[str, Rule]:
    """The rules that a text such as `chat,links,-echo,words(least=20)` names, in that order.

    A set stands for its rules; `-name` removes a rule or a set; a text that begins with `-` starts from the default
    set. Raises ZooError for unknown names, options and values.
    """
    parts = spelling.split(text)
    if not parts:
        raise ZooError(f"--rules '{text}' names no rule.", "Write for example --rules 'chat,links,words(least=20)'.")
    if parts[0].startswith("-"):
        parts = [DEFAULT, *parts]
    rules: dict[str, Rule] = {}
    for part in parts:
        if part.startswith("-"):
            for name in _named(part[1:].strip()):
                rules.pop(name, None)
            continue
        name, options = spelling.parse(part, "rule", "words(least=20)")
        names = _named(name)
        if options and name in SETS:
            raise ZooError(f"The set of rules '{name}' takes no options.", f"It is: {', '.join(SETS[name])}.")
        rules |= {name: _changed(RULES[name], options) for name in names}
    if not rules:
        raise ZooError(f"--rules '{text}' leaves no rule.", f"The sets are: {', '.join(SETS)}.")
    return rules


def _named(name: str) -> tuple[str, ...]:
    if name in SETS:
        return SETS[name]
    if name in RULES:
        return (name,)
    raise ZooError(
        f"There is no rule or set of rules '{name}'.{nearest(name, [*SETS, *RULES])}",
        "`zoo data filter --list` shows them all.",
    )


def _changed(rule: Rule, options: Mapping[str, str]) -> Rule:
    changes: dict[str, Any] = spelling.bind(Limits, options, f"rule '{rule.name}'", fixed=0)
    limits = replace(rule.limits, **changes)
    least, most, keep = limits.least, limits.most, limits.keep
    if any(not math.isfinite(limit) for limit in (least, most, keep) if limit is not None):
        raise ZooError(f"A limit of the rule '{rule.name}' is not a finite number.", f"Write {rule.name}(most=100).")
    if keep is not None and (rule.name != PERPLEXITY or not 0 < keep <= 1):
        raise ZooError(
            f"The rule '{rule.name}' cannot keep={keep:g}.",
            f"Only {PERPLEXITY} takes it, as a share: {PERPLEXITY}(keep=0.9).",
        )
    if rule.name == PERPLEXITY and limits.on != "answer":
        raise ZooError("The rule 'perplexity' measures answers only.", "Leave out its option 'on'.")
    if least is None and most is None and keep is None:
        raise ZooError(f"The rule '{rule.name}' has no limit.", f"Give one, for example {rule.name}(most=100).")
    if least is not None and most is not None and least > most:
        raise ZooError(
            f"The rule '{rule.name}' has the limits least={least:g} and most={most:g}, which no text can meet.",
            f"Give only one of them: {rule.name}(least={least:g}, most=none).",
        )
    return replace(rule, limits=limits)
