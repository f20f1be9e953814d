"""Whether a run directory may be written to: it is free, or its run may go on, and the disk has room."""

import shutil
from pathlib import Path

import yaml

from adamerge.experts.experts import Experts
from adamerge.learning.learn import LAST
from adamerge.merging.task_vectors import resident_bytes
from adamerge.runs.config import MergeConfig
from adamerge.runs.read_config import read_config
from adamerge.runs.save_config import settings
from adamerge.types import ConfigError

MAY_DIFFER = {"run_dir", "trainer.max_steps", "trainer.max_time", "trainer.enable_progress_bar"}
"""What a run that is resumed need not have in common with its first part; a cosine is laid out over max_steps."""


def check_run_dir(run_dir: Path, resolved: str, resume: bool) -> None:
    """Refuse an existing directory, unless its run is resumed with the same configuration.

    Raises:
        ConfigError: The directory exists; or there is no run in it to be resumed, or another one.
    """
    former = run_dir / "config.yaml"
    if not resume:
        if run_dir.is_file() or any(not file.name.endswith(".partial") for file in run_dir.glob("*")):
            raise ConfigError(
                f"{run_dir}: exists already. Choose another --run_dir, or go on with its run by --ckpt_path {LAST[:4]}."
            )
        return
    if not former.exists():
        raise ConfigError(f"{run_dir}: there is no run to resume (no config.yaml in it).")
    then, now = _flat(settings(read_config(former, tell=lambda note: None))), _flat(yaml.safe_load(resolved))
    may_differ = MAY_DIFFER - ({"trainer.max_steps"} if now.get("lr_scheduler") == "cosine" else set())
    differing = [
        f"{key} (was {then.get(key)}, is {now.get(key)})"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key) and key not in may_differ and not key.startswith("written")
    ]
    if differing:
        raise ConfigError(
            f"{run_dir}: the configuration differs from the run to be resumed: {'; '.join(differing[:5])}. "
            "Resume with the same settings, or start anew in another run_dir."
        )


def check_space(config: MergeConfig, experts: Experts, run_dir: Path) -> None:
    """Refuse before learning what could not be written: the checkpoint, a centre and task vectors that are stored.

    Raises:
        ConfigError: The disk has too little room.
    """
    size = sum(shape.numel() * dtype.itemsize for shape, dtype in experts.base.headers.values())
    shapes = {name: experts.base.shape(name) for name in experts.shared}
    if config.centre is not None:
        size += resident_bytes(shapes, 1)
    if config.task_vectors is not None:
        size += resident_bytes(shapes, len(config.task_vectors.experts(tuple(experts.tasks))))
    if any(transform.fisher for transform in config.transforms.values()):  # the information is kept until they are made
        size += resident_bytes(shapes, len(experts.tasks))
    place = next(folder for folder in (run_dir.absolute(), *run_dir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < 1.2 * size:
        raise ConfigError(
            f"{run_dir}: the disk is full: what will be written needs about {size / 1e6:.0f} MB and "
            f"{free / 1e6:.0f} MB are free at {place}."
        )


def _flat(value: object, key: str = "") -> dict[str, object]:
    """Nested settings by dotted key."""
    if not isinstance(value, dict | list) or not value:
        return {key: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for name, inner in items for k, v in _flat(inner, f"{key}.{name}" if key else str(name)).items()}
