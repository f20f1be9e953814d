"""Answers as texts: what makes no difference between two of them, their words, and which choice one names."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

_ALONE = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Scripts without spaces between words, as the names of their characters begin; each character counts as a word."""

_WORDLIKE = ("L", "M", "N", "S")
"""Categories of characters that words and numbers consist of: letters, their marks, digits, symbols."""


def _without_punctuation(text: str) -> str:
    """Replace punctuation marks by spaces; those of a number (-5, 3.5) are part of it."""
    return " ".join("".join(" " if _mark(*two) else two[0] for two in pairwise(f"{text} ")).split())


def _mark(one: str, after: str) -> bool:
    return unicodedata.category(one)[0] == "P" and not (one in "-.," and after.isdecimal())


_STEPS: Mapping[str, Callable[[str], str]] = {
    "case": str.casefold,
    "punctuation": _without_punctuation,
    "strip": str.strip,
}


def normalised(text: str, how: Sequence[str]) -> str:
    """Remove from an answer what makes no difference.

    Characters are composed first (NFC), so that two spellings of one letter are equal.

    Args:
        text: The answer.
        how: strip (white space around it), case, punctuation (a punctuation mark is a space, spaces are one space).

    Example:
        >>> normalised(" Cancel  transfer. ", ["strip", "case", "punctuation"]), normalised(" A. ", ["strip"])
        ('cancel transfer', 'A.')
    """
    text = unicodedata.normalize("NFC", text)
    for step, change in _STEPS.items():
        text = change(text) if step in how else text
    return unicodedata.normalize("NFC", text)


def words(text: str) -> list[str]:
    """Divide a text of any script into words, in lower case, without punctuation.

    torchmetrics' own words are runs of a-z and 0-9, so that a text in another script has none and scores 0.

    Example:
        >>> words("The Café, 2 €"), words("今天天气"), words("नमस्ते दुनिया")
        (['the', 'café', '2', '€'], ['今', '天', '天', '气'], ['नमस्ते', 'दुनिया'])
    """
    folded = unicodedata.normalize("NFC", text.casefold())
    return "".join(f" {one} " if _alone(one) else one if _wordlike(one) else " " for one in folded).split()


def _wordlike(one: str) -> bool:
    return unicodedata.category(one)[0] in _WORDLIKE


def _alone(one: str) -> bool:
    return unicodedata.category(one) == "Lo" and unicodedata.name(one, "").startswith(_ALONE)


def named(answer: str, choices: Sequence[str], how: Sequence[str]) -> int | None:
    """Find the choice that an answer names first; of two that begin at one place, the longer one.

    A choice counts where it is not part of a longer word.

    Args:
        answer: The answer.
        choices: The choices.
        how: As for `normalised`.

    Returns:
        Its index, or None if the answer names no choice.

    Example:
        >>> named("It is a card payment.", ["card", "card payment", "cash"], ["strip"])
        1
        >>> named("scorecard", ["card", "cash"], ["strip"])
    """
    text = normalised(answer, how)
    spelled = [normalised(choice, how) for choice in choices]
    found = [(place, -len(one), i) for i, one in enumerate(spelled) if (place := _place(text, one)) is not None]
    return min(found)[2] if found else None


def _place(text: str, choice: str) -> int | None:
    """Find where a choice stands in a text as a word of its own."""
    place = text.find(choice) if choice else -1
    while place >= 0:
        end = place + len(choice)
        if not (_joined(text[place - 1 : place], choice[0]) or _joined(choice[-1], text[end : end + 1])):
            return place
        place = text.find(choice, place + 1)
    return None


def _joined(one: str, next_one: str) -> bool:
    """Return whether two neighbouring characters belong to one word; scripts without spaces do not tell."""
    return all(bool(c) and unicodedata.category(c)[0] in "LMN" and not _alone(c) for c in (one, next_one))
