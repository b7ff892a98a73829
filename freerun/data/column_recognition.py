"""Recognition of features in a column of a TSV file, measured on the first lines.

Features are a closed inventory that every line draws from, so almost no token of such a column occurs only once. Other
columns recur, too, and differ in other ways: scores, counts and dates are numbers; lemmas in a table of forms begin
like their forms; words, phonemes and actions occur twice in a field. Tokens between spaces are usually words, so whole
fields have to recur as well, and so do fields of one token.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from freerun.data.features import likely_separator

__all__ = ["FeatureColumn"]

# Measured on the five inflection sets of 2016, from 100 to 10,000 lines: at most 1.2 % of the features occur once.
# Words, sentences, phonemes and commands of 11 other sets fail at least one condition from 20 lines on.
_MAX_RARE: Final = 0.05
_MAX_DISTINCT_FIELDS: Final = 0.5
_MAX_RESEMBLING: Final = 0.5
_MAX_REPEATING: Final = 0.05
# In a few lines, chance decides whether a feature occurs twice; separators other than spaces are evidence themselves.
_FREE_RARE: Final = 2
_FREE_RARE_IF_SEPARATED: Final = 12
_MIN_RECURRENCE: Final = 2.0
_MIN_RECURRENCE_IF_SEPARATED: Final = 1.25
_NUMBER: Final = re.compile(r"[-+]?\d[\d.,:/%eT+-]*")


@dataclass(frozen=True, kw_only=True)
class FeatureColumn:
    """Statistics of a column, read as one of features.

    Attributes:
        lines: number of lines; fields: how many of them have a feature.
        distinct_fields: number of distinct sets of features.
        repeating: number of lines with a feature twice.
        tokens: number of features on all lines.
        distinct: number of distinct features.
        rare: how many of them occur once.
        numbers: how many of them are numbers, dates or times.
        resembling: number of lines on which another column begins with the same two letters.
        is_separated: most fields have several features, without spaces.
        is_spaced: fields have several features only between spaces.
    """

    lines: int
    fields: int
    distinct_fields: int
    repeating: int
    tokens: int
    distinct: int
    rare: int
    numbers: int
    resembling: int
    is_separated: bool
    is_spaced: bool

    @classmethod
    def measure(cls, column: Sequence[str], others: Sequence[Sequence[str]]) -> FeatureColumn:
        """Measure ``column``; ``others`` are the other columns of the same lines."""
        separator = likely_separator(column)
        rows = [[part.strip() for part in text.split(separator) if part.strip()] for text in column]
        rows = [row for row in rows if row]
        counts = Counter(token for row in rows for token in row)
        several = sum(len(row) > 1 for row in rows)
        return cls(
            lines=len(column),
            fields=len(rows),
            distinct_fields=len({frozenset(row) for row in rows}),
            repeating=sum(len(set(row)) < len(row) for row in rows),
            tokens=counts.total(),
            distinct=len(counts),
            rare=sum(count == 1 for count in counts.values()),
            numbers=sum(_NUMBER.fullmatch(token) is not None for token in counts),
            resembling=sum(map(_begin_alike, zip(column, *others, strict=True))),
            is_separated=2 * several >= len(rows) and not any(len(token.split()) > 1 for token in counts),
            is_spaced=separator == " " or not several,
        )

    def objection(self) -> str:
        """Return why the column does not look like features, as the end of a sentence; "" if it does."""
        if not self.fields:
            return "is empty"
        if self.distinct_fields == 1 and self.fields == self.lines:
            return "has the same value on every line"
        if 2 * self.numbers > self.distinct:
            return f"consists of numbers ({self.numbers:,} of {self.distinct:,} different values)"
        if self._is_open():
            return (
                f"has {self.distinct:,} different values on {self.fields:,} lines, and {self.rare:,} of them occur once"
            )
        if self.repeating > _MAX_REPEATING * self.fields:
            return f"repeats a word in {self.repeating:,} of {self.fields:,} lines"
        if self.is_spaced and self.distinct_fields > _MAX_DISTINCT_FIELDS * self.fields:
            return f"has {self.distinct_fields:,} different texts on {self.fields:,} lines"
        if self.resembling > _MAX_RESEMBLING * self.fields:
            return f"begins like another column on {self.resembling:,} of {self.fields:,} lines"
        return ""

    def _is_open(self) -> bool:
        """Return True if other lines would have many other values."""
        evident = self.is_separated and not self.is_spaced
        free = _FREE_RARE_IF_SEPARATED if evident else _FREE_RARE
        recurrence = _MIN_RECURRENCE_IF_SEPARATED if evident else _MIN_RECURRENCE
        return self.tokens < recurrence * self.distinct or self.rare > free + _MAX_RARE * self.tokens


def _begin_alike(fields: Sequence[str]) -> bool:
    """Return True if the first field begins with the same two letters as one of the others."""
    beginning, *others = (field.strip().casefold()[:2] for field in fields)
    return len(beginning) == 2 and beginning in others
