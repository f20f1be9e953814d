"""Files of Parquet and of saved datasets that cannot be read, or not as a whole, called by their names."""

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from adamerge.storage.regular_files import problem_of, read_json, reason_of


@contextmanager
def readable(file: Path, what: str) -> Iterator[None]:
    """Name a file in what pyarrow raises on it inside the block.

    Args:
        file: The file.
        what: What it is expected to be.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{file.name}: expected {what}, but it cannot be read ({reason_of(error)}). Copy or download it again, or "
            "write it anew."
        ) from error


def count_parquet(file: Path) -> int:
    """Count the rows of a Parquet file by what its end says.

    The end tells places from the start of the file, so that of joined files it would tell rows of the first as its own.

    Raises:
        ValueError: It cannot be read, or is several files, one after another.
    """
    with readable(file, "a Parquet file"):
        found = pq.read_metadata(file)
        last = found.row_group(found.num_row_groups - 1) if found.num_row_groups else None
        parts = [last.column(place) for place in range(last.num_columns)] if last is not None else []
        ends = [_start(part) + part.total_compressed_size for part in parts]
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            footer = len(content) - found.serialized_size - 2 * len(_MAGIC)
            joint = content.find(_MAGIC * 2, max(ends, default=len(_MAGIC)), footer)
    if joint >= 0:
        raise ValueError(
            f"{file.name}: expected one Parquet file, found another one that ends at byte {joint + len(_MAGIC)}, as "
            f"where files were joined, and rows of the first would be read as those of the last. {_JOINED}"
        )
    return int(found.num_rows)


def _start(part: pq.ColumnChunkMetaData) -> int:
    """Return where a column begins; some writers put 0 for a dictionary that is not there."""
    return int(min(part.data_page_offset, part.dictionary_page_offset or part.data_page_offset))


_MAGIC = b"PAR1"
"""First and last bytes of a Parquet file."""

_JOINED = "Save the files apart in one folder, or join their rows with the library that wrote them."


def check_saved_files(folder: Path) -> None:
    """Check what describes a saved dataset, and the files that it lists, before `datasets` opens them.

    Raises:
        ValueError: One is damaged, or something else than it should be; names it.
    """
    parts = [folder]
    if (folder / "dataset_dict.json").exists():
        splits = _keys(folder / "dataset_dict.json", "splits")
        parts = [folder / str(split) for split in splits]
    for part in parts:
        _keys(part / "dataset_info.json")
        for listed in _keys(part / "state.json", "_data_files"):
            name = listed.get("filename") if isinstance(listed, dict) else None
            if not isinstance(name, str):
                raise ValueError(f"{part.name}/state.json: expected names of files in _data_files. {_ADVICE}")
            _check_stream(part / name)


_ADVICE = "Copy or download it again, or save the rows again with save_to_disk."


def _keys(file: Path, key: str = "") -> Sequence[object]:
    """Return the list that a file of keys and values has under a key; nothing of a file that is not there."""
    if not file.exists() and not file.is_symlink():
        return ()
    found = read_json(file, advice=_ADVICE)
    if not isinstance(found, dict):
        raise ValueError(f"{file}: expected keys and values, found something else. {_ADVICE}")
    inner = cast(dict[str, object], found).get(key, []) if key else []
    if not isinstance(inner, list) or (key and key not in found):
        raise ValueError(f"{file}: expected a list under {key!r}, found something else. {_ADVICE}")
    return cast(list[object], inner)


def _check_stream(file: Path) -> None:
    if not file.exists():
        return  # `datasets` reports it
    problem = problem_of(file)
    if problem is not None:
        raise ValueError(f"{file.name}: {problem}")
    with readable(file, "rows as datasets saves them"), pa.memory_map(str(file)) as stream:
        for _ in pa.ipc.open_stream(stream):  # what describes each batch is read, its rows are not
            pass
        rest = stream.size() - stream.tell()
    if rest:
        raise ValueError(
            f"{file.name}: expected the end of the file after its rows, found {rest} bytes, as where files are joined, "
            f"and rows in them would be lost. {_JOINED}"
        )
