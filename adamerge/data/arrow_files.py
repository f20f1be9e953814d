"""Files of Parquet and of saved datasets that cannot be read, called by their names."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pyarrow as pa

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
        return  # said by `datasets`
    problem = problem_of(file)
    if problem is not None:
        raise ValueError(f"{file.name}: {problem}")
    with readable(file, "rows as datasets saves them"), pa.memory_map(str(file)) as stream:
        for _ in pa.ipc.open_stream(stream):  # what describes each batch is read, its rows are not
            pass
