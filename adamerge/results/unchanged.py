"""Files that were opened must still be those on disk when a merge of them is exported."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from adamerge.data.processor_files import is_of_processor
from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.experts import Experts
from adamerge.results.beside import files_beside
from adamerge.storage.digest import Stamp, stamp_of
from adamerge.types import ConfigError


def check_unchanged(experts: Experts) -> None:
    """Check by size, time and inode that base and experts, and what is exported with them, are as they were opened.

    Raises:
        ConfigError: Names every file that was written, replaced or removed since.
    """
    opened = {"base": experts.checkpoint, **{f"expert {task}": one.checkpoint for task, one in experts.tasks.items()}}
    changed = [line for label, checkpoint in opened.items() if checkpoint for line in _changes(label, checkpoint)]
    if changed:
        raise ConfigError(
            f"{'; '.join(changed)}: expected the files that were opened, but they were written, replaced or removed "
            "while they were in use, so nothing is exported. Restore them and start again; a run in a run directory "
            "goes on with --ckpt_path last."
        )


def _changes(label: str, checkpoint: Checkpoint) -> Iterator[str]:
    found = [str(file) for file, stamp in _stamps(checkpoint).items() if stamp_of(file) != stamp]
    if found:
        yield f"{label} ({', '.join(found)})"


def _stamps(checkpoint: Checkpoint) -> Mapping[Path, Stamp | None]:
    """Return what is exported from a checkpoint as it was opened; files that are new since have no stamp."""
    then, names = checkpoint.stamps, ("config.json", "adapter_config.json")
    configs = {folder / name for folder in checkpoint.folders for name in names}
    exported = configs | set(files_beside(checkpoint).values()) | {file for file in then if is_of_processor(file.name)}
    weights = {file: digest.stamp for file, digest in checkpoint.tensors.files.items()}
    return {**{file: then.get(file) for file in sorted(exported)}, **weights}
