"""Lines of text files: compression, encoding, and errors that name the line."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

COMPRESSED: dict[str, Callable[[Path], object]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""Functions that open compressed files, by ending."""

_PIECE = 2**20
"""Bytes that are decompressed at a time."""

_STREAMS: dict[str, Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]] = {
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}
"""Decompressors of one stream, for files whose readers stop without an error at a later stream that begins damaged."""

_COMPRESSIONS = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"\x28\xb5\x2f\xfd": ".zst", b"PK\3\4": ".zip"}
"""First bytes of compressed files."""

_MARK = "\ufeff"
"""A byte order mark, as a character."""

_TURNED = "\ufffe"
"""The same read in the other byte order; no text in UTF-16 or UTF-32 holds it."""

_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def format_ending(path: Path) -> str:
    """Return the ending that names the format: in lower case, without the one of the compression.

    Example:
        >>> format_ending(Path("rows.JSONL.gz"))
        '.jsonl'
    """
    ending = path.suffix.lower()
    return Path(path.stem).suffix.lower() if ending in COMPRESSED else ending


def lines(path: Path, seen: Counter[str] | None = None) -> Iterator[str]:
    r"""Yield the lines of a text file with their endings; \n, \r\n and \r end a line.

    A byte order mark that begins a later line is left out: there another file was joined to the one before.

    Args:
        path: A file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; .gz, .bz2 and .xz are decompressed.
        seen: Counts such marks.

    Raises:
        ValueError: The file is not such text, or its compressed data are damaged; names the line.
    """
    number = 0
    try:
        encoding = _encoding(path)
        with _open(path) as binary, io.TextIOWrapper(binary, encoding=encoding, newline="") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise ValueError(
                        f"line {number}: expected text, found a null byte. Save the file as text in UTF-8 (UTF-16 "
                        "needs a byte order mark)."
                    )
                if _TURNED in line and encoding in _BOMS.values():
                    raise ValueError(
                        f"line {number}: expected one byte order, found the mark of the other one: files in two "
                        "encodings were joined. Save each in UTF-8 before joining them."
                    )
                if seen is not None:
                    seen["joined"] += line.startswith(_MARK)
                yield line.removeprefix(_MARK)
    except UnicodeDecodeError as error:
        raise ValueError(_undecodable(path, error, number)) from error
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the file system's, not the decompressor's
            raise
        raise ValueError(
            f"the compressed file is damaged or incomplete after line {number} ({error}). Copy it again."
        ) from error


def check_size(files: Sequence[Path], largest: int | None) -> None:
    """Check the size of files, compressed ones decompressed, without more than a piece of them in memory.

    Raises:
        ValueError: They are larger together.
    """
    size = 0
    for file in files if largest is not None else ():
        for piece in _sizes(file):
            size += piece
            if largest is not None and size > largest:
                raise ValueError(
                    f"expected at most {largest} bytes, decompressed, found more (up to {file.name}). Raise max_bytes "
                    "of these rows if that is right."
                )


def _sizes(file: Path) -> Iterator[int]:
    if file.suffix.lower() not in COMPRESSED:
        yield file.stat().st_size
        return
    try:
        with file.open("rb") if file.suffix.lower() in _STREAMS else _open(file) as content:
            yield from map(len, _pieces(content, file))
    except (EOFError, OSError, zlib.error, lzma.LZMAError):
        return  # damaged; the reader of its lines reports it


def _pieces(content: BinaryIO, file: Path) -> Iterator[bytes]:
    """Yield the decompressed content of a file piece by piece.

    Raises:
        ValueError: What follows a stream of it is none.
    """
    make = _STREAMS.get(file.suffix.lower())
    if make is None:
        yield from iter(lambda: content.read(_PIECE), b"")
        return
    stream, later = make(), False
    while rest := _rest(stream, content):
        if stream.eof:
            stream, later = make(), True
        try:
            yield stream.decompress(rest, _PIECE)
            while not (stream.needs_input or stream.eof):
                yield stream.decompress(b"", _PIECE)
        except (OSError, lzma.LZMAError) as error:
            if not later:
                raise
            raise ValueError(
                f"{file.name}: expected nothing, or more compressed data, after the first compressed data, found "
                f"others ({error}), and rows behind them would be lost. Copy or compress it again."
            ) from error


def _rest(stream: bz2.BZ2Decompressor | lzma.LZMADecompressor, content: BinaryIO) -> bytes:
    """Return what is to be decompressed next; zeros between streams, which xz may write, are left out."""
    rest = stream.unused_data.lstrip(b"\0")
    while not rest and (read := content.read(_PIECE)):
        rest = read.lstrip(b"\0") if stream.eof else read
    return rest


def _open(path: Path) -> BinaryIO:
    opened = COMPRESSED[path.suffix.lower()](path) if path.suffix.lower() in COMPRESSED else path.open("rb")
    return cast(BinaryIO, opened)


def _encoding(path: Path) -> str:
    with _open(path) as file:
        start = file.read(4)
    return next((name for mark, name in _BOMS.items() if start.startswith(mark)), "utf-8-sig")


def _undecodable(path: Path, error: UnicodeDecodeError, before: int) -> str:
    """Describe the first line that is not text in the file's encoding."""
    if error.encoding.lower().startswith("utf-8"):
        with _open(path) as file:
            start = file.read(6)
            packed = next((ending for mark, ending in _COMPRESSIONS.items() if start.startswith(mark)), None)
            if packed is not None:
                return f"expected text, found compressed data ({packed}) under this name. Decompress it, or name it so."
            _ = file.seek(0)
            for number, line in enumerate(file, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as place:
                    return (
                        f"line {number}: expected text in UTF-8, found the byte 0x{line[place.start]:02x} at position "
                        f"{place.start + 1}. Save the file in UTF-8."
                    )
    return f"after line {before}: expected text in {error.encoding} ({error.reason}). Save the file in UTF-8."
