"""Files that were opened must still be those on disk, with the same content, when a merge of them is exported."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from adamerge.data.processor_files import is_of_processor
from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.experts import Experts
from adamerge.results.beside import files_beside
from adamerge.storage.digest import Stamp, digest_of_path, finish, stamp_of
from adamerge.types import ConfigError


def check_unchanged(experts: Experts) -> None:
    """Check by size, time and inode that base and experts, and what is exported with them, are as they were opened.

    Raises:
        ConfigError: Names every file that was written, replaced or removed since.
    """
    changed = [
        line
        for label, checkpoint in _opened(experts)
        for line in _named(label, [file for file, stamp in _stamps(checkpoint).items() if stamp_of(file) != stamp])
    ]
    if changed:
        raise ConfigError(
            f"{'; '.join(changed)}: expected the files that were opened, but they were written, replaced or removed "
            "while they were in use, so nothing is exported. Restore them and start again; a run in a run directory "
            "goes on with --ckpt_path last."
        )


def contents_of(experts: Experts) -> dict[Path, str]:
    """Hash the files of base and experts, and what is exported with them; bytes that were read are not read again."""
    checkpoints = [checkpoint for _, checkpoint in _opened(experts)]
    read = {file: digest for one in checkpoints for file, digest in one.tensors.files.items()}
    finish(read.values())
    beside = [file for one in checkpoints for file in _stamps(one) if file not in read and file.is_file()]
    return {**{file: digest_of_path(file) for file in beside}, **{f: digest.hexdigest() for f, digest in read.items()}}


def check_contents(experts: Experts, known: Mapping[Path, str]) -> None:
    """Check by hash what `check_unchanged` checks by time, which can be restored after a change.

    Args:
        experts: Base and experts.
        known: Result of `contents_of` when they were opened.

    Raises:
        ConfigError: Names every file with another content.
    """
    changed = [
        line
        for label, checkpoint in _opened(experts)
        for line in _named(label, [file for file in _stamps(checkpoint) if _content(file) != known.get(file)])
    ]
    if changed:
        raise ConfigError(
            f"{'; '.join(changed)}: expected the content that was learned from, but it is another one now, so nothing "
            "is exported. Restore the files, or learn again."
        )


def _content(file: Path) -> str | None:
    return digest_of_path(file) if file.is_file() else None


def _opened(experts: Experts) -> list[tuple[str, Checkpoint]]:
    """List the checkpoints of base and experts that are on disk, with their names in messages."""
    named = {"base": experts.checkpoint, **{f"expert {task}": one.checkpoint for task, one in experts.tasks.items()}}
    return [(label, checkpoint) for label, checkpoint in named.items() if checkpoint is not None]


def _named(label: str, files: Sequence[Path]) -> Iterator[str]:
    if files:
        yield f"{label} ({', '.join(map(str, files))})"


def _stamps(checkpoint: Checkpoint) -> Mapping[Path, Stamp | None]:
    """Return what is exported from a checkpoint as it was opened; files that are new since have no stamp."""
    then, names = checkpoint.stamps, ("config.json", "adapter_config.json")
    configs = {folder / name for folder in checkpoint.folders for name in names}
    exported = configs | set(files_beside(checkpoint).values()) | {file for file in then if is_of_processor(file.name)}
    weights = {file: digest.stamp for file, digest in checkpoint.tensors.files.items()}
    return {**{file: then.get(file) for file in sorted(exported)}, **weights}
