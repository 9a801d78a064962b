"""A statement's words and marks, as the engine's tokenizer tells them apart: comments are none of them."""

from __future__ import annotations

from typing import NamedTuple

import duckdb


class Word(NamedTuple):
    """A word or mark of a statement: its text, and where it begins and ends in the statement's UTF-8."""

    text: str
    start: int
    end: int

    @property
    def upper(self) -> str:
        """As keywords are compared; quoted names never are like one."""
        return self.text.upper()


def read_words(text: str) -> list[Word]:
    """All of the statement, without comments and the semicolons that end it."""
    raw = text.encode()
    tokens = duckdb.tokenize(text)
    ends = [start for start, _ in tokens[1:]] + [len(raw)]
    words = []
    for (start, kind), end in zip(tokens, ends, strict=True):
        if kind != duckdb.token_type.comment:
            word = raw[start:end].rstrip()
            words.append(Word(word.decode(errors="replace"), start, start + len(word)))
    while words and words[-1].text == ";":
        words.pop()
    return words


def unquoted(word: str) -> str:
    """What a name or a text stands for."""
    for quote in "'\"":
        if len(word) >= 2 and word[0] == word[-1] == quote:
            return word[1:-1].replace(quote * 2, quote)
    return word
