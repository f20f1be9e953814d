"""Known words that are similar to a wrong one."""

import difflib
from collections.abc import Collection, Sequence


def nearest(word: str, known: Sequence[str]) -> str:
    """Suggest the most similar known word, as a sentence; empty if none is similar.

    Example:
        >>> nearest("Adamm", ["SGD", "Adam"]), nearest("haed", ["shared", "head"])
        (' Did you mean Adam?', ' Did you mean head?')
    """
    words = {other.lower(): other for other in reversed(known)}  # the first of words that differ in case only
    near = most_similar(word.lower(), words)
    return f" Did you mean {words[near]}?" if near else ""


def most_similar(word: str, known: Collection[str]) -> str | None:
    """Return the most similar known word; None if none is similar.

    Example:
        >>> most_similar("top_kk", ["tol", "top_k"]), most_similar("k", ["top_k"])
        ('top_k', None)
    """
    near = difflib.get_close_matches(word, known, n=9)
    return min(near, key=lambda other: _typing_errors(word, other), default=None)


def same_but_for_typing(word: str, known: Collection[str]) -> str | None:
    """Return the known word that a word is but for a typing error per four letters; None if there is none.

    Example:
        >>> same_but_for_typing("batchsize", ["batch_size"]), same_but_for_typing("mid", ["id"])
        ('batch_size', None)
    """
    near = most_similar(word, known)
    return near if near and 4 * _typing_errors(word, near) <= len(word) else None


def beginning_with(word: str, known: Collection[str]) -> str | None:
    """Return the only known word that begins with a word; None if none does, or several do.

    Example:
        >>> beginning_with("temp", ["temperature", "tail"]), beginning_with("t", ["temperature", "tail"])
        ('temperature', None)
    """
    longer = [other for other in known if other.startswith(word)]
    return longer[0] if len(longer) == 1 else None


def _typing_errors(word: str, other: str) -> int:
    """Count the letters to insert, remove, replace or swap with the next one (optimal string alignment)."""
    former, last = list[int](), list(range(len(other) + 1))
    for i, letter in enumerate(word, start=1):
        row = [i]
        for j, there in enumerate(other, start=1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != there)))
            if i > 1 and j > 1 and (letter, word[i - 2]) == (other[j - 2], there):
                row[j] = min(row[j], former[j - 2] + 1)
        former, last = last, row
    return last[-1]
