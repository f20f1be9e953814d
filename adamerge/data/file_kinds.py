"""What files hold by their endings: images, sound or video; and how rows of sound and video are refused."""

import mimetypes
from collections.abc import Sequence
from pathlib import Path

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

_ENDINGS = {
    "audio": frozenset(".wav .flac .mp3 .ogg .oga .opus .m4a .aac .aif .aiff .aifc .amr .au .caf .w64 .wma".split()),
    "video": frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ogv .wmv .flv .3gp".split()),
}
"""Endings of sound and video: `mimetypes` knows some from files of the system alone, `datasets` has .mpg of images."""

WORDS = {"audio": "sound", "video": "video", "image": "images"}
"""What messages call each kind."""


def kind_of_file(name: str) -> str | None:
    """Return image, audio or video by the ending of a file's name or address; None if it is another file.

    Example:
        >>> [kind_of_file(name) for name in ("a.PNG", "https://a.org/b.flac", "c.mpg", "d.csv")]
        ['image', 'audio', 'video', None]
    """
    ending = Path(name).suffix.lower()
    known = next((kind for kind, endings in _ENDINGS.items() if ending in endings), None)
    if known is None and ending in ImageFolder.EXTENSIONS:
        return "image"
    kind = known or (mimetypes.guess_type(name)[0] or "").partition("/")[0]
    return kind if kind in WORDS else None


def refusal_of(files: Sequence[Path]) -> str | None:
    """Say that rows cannot be encoded from sound or video, and what can be done; None if no file holds such.

    Args:
        files: Files in place of rows.
    """
    kinds = {file: kind_of_file(file.name) for file in files}
    found = [file for file in files if kinds[file] in _ENDINGS]
    if not found:
        return None
    words = " and ".join(WORDS[kind] for kind in _ENDINGS if kind in kinds.values())
    count = "1 file" if len(found) == 1 else f"{len(found)} files"
    return (
        f"expected rows of texts or images, found {count} of {words}, such as {found[0].name}: {words} cannot be "
        "encoded yet. Leave out this task's calibration and evaluation and use a data-free method, or give, in Python, "
        "rows of tensors as the model's own processor makes them."
    )
