"""Duplicates: rows whose texts are the same, and rows whose texts share most of their word n-grams.

Near duplicates are found by MinHash and locality-sensitive hashing (Broder 1997; Lee et al. 2022, arXiv:2107.06499, for
training data), with the library datasketch. Hashing only proposes pairs: each is then compared by the exact Jaccard
similarity of its n-grams. So no pair below the threshold is removed, and hashing misses only a small
share of the pairs just above it (`Near.found`). A row is compared with kept rows only, and the first of two similar
rows is kept. So every removed row has a kept row that is similar enough; otherwise the last row of a chain of similar
rows might have none.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import numpy

from zoo.data.curation.rows import content_of, fields_of, verdict_of
from zoo.data.curation.words import Grams, jaccard, tokens
from zoo.data.kinds import Record
from zoo.errors import ZooError
from zoo.libraries.extras import installed_by

PERMUTATIONS = 128
FOUND = 0.95
"""Least probability that a pair right at the threshold is proposed."""


class Same(NamedTuple):
    """The earlier row that a row is similar to, and the similarity (1 for the same texts)."""

    row: int
    likeness: float


class Exact:
    """Finds rows with the same texts in the same roles. It keeps one 16-byte digest of each row.

    part: what is compared; normalised: ignore case, white space and punctuation.
    """

    def __init__(self, kind: str, part: str = "everything", normalised: bool = False):
        self.kind, self.part, self.normalised = kind, part, normalised
        self.contradictions: list[tuple[int, int]] = []
        """(row, earlier row) with the same texts but different judgements; both are kept."""
        self._seen: dict[bytes, dict[str, int]] = {}

    def earlier(self, record: Record) -> Same | None:
        """The earlier row with these texts; remembers this row if there is none."""
        verdict = verdict_of(record) if self.part == "everything" else ""
        content = self._content(record)
        same_texts = self._seen.setdefault(_digest(content), {})
        if verdict in same_texts:
            return Same(same_texts[verdict], 1.0)
        against = next(iter(same_texts.values()), None) or self._turned(content)
        if against is not None:
            self.contradictions.append((record["row"], against))
        same_texts[verdict] = record["row"]
        return None

    def _content(self, record: Record) -> dict[str, Any]:
        if not self.normalised:
            return content_of(record, self.kind, self.part)
        return {name: " ".join(tokens(text)) for name, text in fields_of(record, self.kind, self.part).items()}

    def _turned(self, content: dict[str, Any]) -> int | None:
        """The earlier pair in which this pair's rejected answer is the chosen one."""
        if self.kind != "preference" or self.part != "everything":
            return None
        turned = {**content, "chosen": content["rejected"], "rejected": content["chosen"]}
        return next(iter(self._seen.get(_digest(turned), {}).values()), None)


def _digest(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class Near:
    """Finds rows whose every field has a Jaccard similarity of at least `threshold` with that field of an earlier row.

    Each field is compared by itself: one long prompt with two different short answers makes no duplicates. length: n.
    Memory is 8 bytes for each n-gram of a kept row, and the index of datasketch. Raises ZooError without datasketch.
    """

    def __init__(self, kind: str, threshold: float, part: str = "everything", length: int = 3):
        if not 0 < threshold <= 1:
            raise ZooError(f"A similarity of {threshold:g} is not a share above 0.", "Give --near a number like 0.8.")
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError:
            raise ZooError(
                "Near duplicates are found with the package datasketch, which is not installed.",
                f"{installed_by('datasketch', 'curation')}. Exact duplicates are found without it.",
            ) from None
        self.kind, self.part, self.threshold, self.length = kind, part, threshold, length
        bands, rows = bands_for(threshold)
        self.found = proposed(threshold, bands, rows)
        """The probability that a pair right at the threshold is proposed."""
        self._grams = Grams()
        self._kept: dict[int, tuple[str, dict[str, Any]]] = {}
        self._empty = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=(bands, rows))

    def earlier(self, record: Record) -> Same | None:
        """The most similar earlier kept row, if it is similar enough; remembers this row if there is none."""
        verdict = verdict_of(record) if self.part == "everything" else ""
        sets = self.sets(record)
        sketch = self._empty.copy()
        sketch.update_batch(_tagged(sets))
        best: Same | None = None
        for row in sorted(self._index.query(sketch)):
            their_verdict, theirs = self._kept[row]
            if their_verdict != verdict or theirs.keys() != sets.keys():
                continue
            likeness = min(jaccard(sets[name], theirs[name]) for name in sets)
            if likeness >= self.threshold and (best is None or likeness > best.likeness):
                best = Same(row, likeness)
        if best is None:
            self._kept[record["row"]] = (verdict, sets)
            self._index.insert(record["row"], sketch, check_duplication=False)
        return best

    def sets(self, record: Record) -> dict[str, Any]:
        """The n-grams of every field, as sorted numbers."""
        fields = fields_of(record, self.kind, self.part)
        return {name: self._grams.set_of(tokens(text), self.length) for name, text in fields.items()}


def _tagged(sets: dict[str, Any]) -> list[int]:
    """All n-grams as one set of 32-bit numbers, in which the same words in another field get another number.

    If every field reaches the threshold, so does this set: its similarity lies between theirs.
    """
    tags = [numpy.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())) for name in sets]
    tagged = [(numbers ^ tag) >> numpy.uint64(32) for tag, numbers in zip(tags, sets.values(), strict=True)]
    return numpy.concatenate(tagged).tolist()


def bands_for(threshold: float) -> tuple[int, int]:
    """(bands, rows of a band): the longest band, so the fewest false alarms, that still finds FOUND of the pairs."""
    best = 1
    for rows in range(2, PERMUTATIONS // 2 + 1):
        if proposed(threshold, PERMUTATIONS // rows, rows) >= FOUND:
            best = rows
    return PERMUTATIONS // best, best


def proposed(likeness: float, bands: int, rows: int) -> float:
    """Probability that two sets of this Jaccard similarity share a band: 1 − (1 − sʳ)ᵇ."""
    return 1 - (1 - likeness**rows) ** bands
