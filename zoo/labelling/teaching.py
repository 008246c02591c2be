"""`zoo label --teacher`: demonstrations with a teacher's log-probs beside them, for distillation without the teacher.

Prompts without an answer are answered by the teacher.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo.data.encoding.encode import encode
from zoo.data.kinds import Record
from zoo.data.load import DataSet
from zoo.data.teacher_logps import COLUMN, arrays_of, column_of
from zoo.errors import ZooError
from zoo.evals import Subject
from zoo.evals.subject import load_subject
from zoo.labelling.drawing import Drawer
from zoo.labelling.label_file import LabelFile
from zoo.labelling.options import LabelOptions
from zoo.labelling.pairs import CHUNK, Cut, Group
from zoo.libraries.architecture import longest_text
from zoo.models.comparing import top_logps
from zoo.models.precision import autocast
from zoo.models.reference import Reference
from zoo.models.vocabulary import size_of
from zoo.numbers import amount
from zoo.rollout.engine import Sampling

Say = Callable[[str], None]
KINDS = ("demonstration", "prompt")
LONGEST = 1 << 20
"""Most tokens of a row for a teacher that has no limit of its own."""
CUT = "answers that --max-new-tokens cut"
"""Why they are left out."""


def teach(
    options: LabelOptions, data: DataSet, out: Path, runs: str, say: Say,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the rows with the teacher's log-probs to `out`, after those that it has; returns the summary.

    Raises ZooError if no row could be labelled.
    """
    assert options.teacher is not None
    subject = load_subject(options.teacher, runs, say, head="lm", args=options.template_args)
    sampling = Sampling(max_new_tokens=options.max_new_tokens, temperature=options.temperature)
    file = LabelFile(out, _settings(options, data, sampling))
    before = f"; {len(file.rows):,} are there already" if file.rows else ""
    words = size_of(subject.template.tokenizer)
    top_k = min(options.top_k, words - 1)
    if words <= options.top_k:
        say(f"--top-k {options.top_k} is too many for the teacher's {words:,} words: all but the last are listed.")
    count = amount(len(data.records), "row")
    say(f"{count} for the teacher {options.teacher}, {amount(top_k, 'word')} a token{before}.")
    draw = Drawer(subject.model, subject.template, subject.precision, sampling)
    done, left_out = file.done, Counter[str]()
    for start in range(0, len(data.records), CHUNK):
        chunk = [dict(record) for record in data.records[start : start + CHUNK]]
        if data.kind == "prompt":
            chunk = _answered(chunk, options, draw, done, left_out)
        rows = [row for row in chunk if (row["row"], row.get("pair", 0)) not in done]
        if not rows:
            continue
        file.append(list(_labelled(rows, subject, top_k, left_out)))
        if progress is not None:
            progress(min(start + CHUNK, len(data.records)), len(data.records))
    if not file.rows:
        file.discard()
        reasons = "; ".join(f"{count:,} {code}" for code, count in left_out.items()) or "there are no rows"
        hint = "Raise --max-new-tokens." if CUT in left_out else f"`zoo data {options.data}` shows the rows."
        raise ZooError(f"No row could be labelled: {reasons}.", hint)
    summary = summary_of(file.rows, left_out)
    file.finish(summary)
    return summary


def _settings(options: LabelOptions, data: DataSet, sampling: Sampling) -> dict[str, Any]:
    """What the rows of a file depend on."""
    written = {"samples": options.samples, "sampling": repr(sampling), "seed": options.seed,
               "keep_cut": options.keep_cut}  # fmt: skip
    return {
        "data": data.fingerprint, "kind": data.kind, "teacher": options.teacher, "top_k": options.top_k,
        **(written if data.kind == "prompt" else {}),
    }  # fmt: skip


def _answered(
    records: Sequence[Record], options: LabelOptions, draw: Drawer, done: set[tuple[int, int]], left_out: Counter[str]
) -> list[Record]:
    """The teacher's answers to prompts as demonstrations, numbered by `pair`; none where all are done.

    Answers without an end are left out and counted, or a student would learn to stop there. The answers depend on the
    seed and on all of these records, so a job that goes on after a stop draws the same ones.
    """
    if all((record["row"], number) in done for record in records for number in range(options.samples)):
        return []
    groups = [Group(record["row"], record["prompt"], draw=options.samples, rest=record) for record in records]
    answers = draw(groups, options.seed * 1_000_003 + groups[0].row)
    lost = () if options.keep_cut else (Cut,)
    left_out.update(CUT for texts in answers for text in texts or () if isinstance(text, lost))
    return [
        {**group.rest, "completion": text, "pair": number}
        for group, texts in zip(groups, answers, strict=True)
        for number, text in enumerate(texts or ())
        if text and not isinstance(text, lost)
    ]


def _labelled(rows: Sequence[Record], subject: Subject, words: int, left_out: Counter[str]) -> Iterator[Record]:
    """The rows that the teacher can read, with its log-probs; `left_out` counts the problems of the others."""
    longest = longest_text(subject.model) or LONGEST
    numbered = [{**row, "row": place} for place, row in enumerate(rows)]
    encoded = encode(numbered, "demonstration", subject.template, max_length=longest)
    left_out.update(problem.code for problem in encoded.report.problems if problem.code.startswith("E_"))
    answers = [record["completion"] for record in encoded]
    if not answers:
        return
    teacher = Reference(lambda: subject.model, "padded", None)
    with autocast(subject.precision, next(subject.model.parameters()).device):
        top = top_logps(teacher, answers, words, size_of(subject.template.tokenizer))
    for record, answer, ids, logps in zip(encoded, answers, top.ids, top.logps, strict=True):
        row = {name: value for name, value in rows[record["row"]].items() if name not in ("row", "pair")}
        numbers = {"source_row": rows[record["row"]]["row"], "pair": rows[record["row"]].get("pair", 0)}
        yield {**row, COLUMN: column_of(answer, ids, logps), **numbers}


def summary_of(rows: Sequence[Record], left_out: Counter[str]) -> dict[str, Any]:
    """The numbers of rows and tokens, and the mean probability of the words that are not listed."""
    tokens, rest = 0, 0.0
    for row in rows:
        arrays = arrays_of(row[COLUMN], row["source_row"])
        count = len(arrays["tokens"])
        tokens += count
        rest += float(arrays["logps"].view(count, -1)[:, -1].exp().sum())
    return {"rows": len(rows), "tokens": tokens, "rest": rest / max(1, tokens), "left_out": dict(left_out)}
