"""Print to any terminal: characters that its encoding lacks are spelled in ASCII."""

import codecs
import io
import sys
import unicodedata
from contextlib import suppress

_SPELLED = {"×": "x", "…": "...", "‖": "||", "−": "-", "→": "->", "Σ": "sum", "∂": "d", "·": "*", "≤": "<=", "≥": ">="}
"""ASCII for characters that do not decompose into it."""

_HANDLER = "adamerge.spelled"


def spelled(text: str) -> str:
    r"""Spell a text in ASCII.

    Example:
        >>> spelled("3 × 2 …"), spelled("é²"), spelled("中")
        ('3 x 2 ...', 'e2', '\\u4e2d')
    """
    return "".join(_SPELLED.get(character) or _letter(character) for character in text)


def print_anything() -> None:
    """Let stdout and stderr spell what their encoding lacks, instead of raising an error."""
    codecs.register_error(_HANDLER, _handle)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # another file was put under a stream that was in use
                stream.reconfigure(errors=_HANDLER)


def _letter(character: str) -> str:
    """Decompose a character, or write its number."""
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or character.encode("ascii", "backslashreplace").decode()


def _handle(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return spelled(error.object[error.start : error.end]), error.end
