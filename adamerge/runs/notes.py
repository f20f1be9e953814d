"""What a user should know of a run before it begins; `check`, `fit` and Python say the same."""

import re
from collections.abc import Mapping, Sequence

from adamerge.data.rows import Rows
from adamerge.experts.experts import Experts
from adamerge.runs.all_transforms import choices, transforms_of
from adamerge.runs.auto_centre import race_notes
from adamerge.runs.choose_memory import whole_experts
from adamerge.runs.components import component_notes
from adamerge.runs.config import MergeConfig
from adamerge.runs.learning_settings import augmentation_notes, learning_notes, row_notes
from adamerge.runs.load_rows import Data
from adamerge.transforms.stored import largest_stack
from adamerge.types import Fact

_VARIABLE = re.compile(r"\$(\w|\{)")
"""Where a shell would replace a variable."""


def notes_of(config: MergeConfig, experts: Experts, names: Sequence[str], data: Data) -> list[str]:
    """List all notes on rows, settings and transforms that are given before anything is computed.

    Args:
        config: Configuration.
        experts: Base and experts.
        names: Parameters to merge.
        data: Rows per task, with notes on them.
    """
    return [
        *data.notes,
        *_place_notes(config),
        *learning_notes(config, names),
        *row_notes(config, data.calibration),
        *augmentation_notes(config, data.calibration),
        *component_notes(config, experts, names),
        *transform_notes(config, experts, names),
        *race_notes(config, experts, names, data.calibration),
        *_generation_notes(config, experts, names, data.calibration),
    ]


def _place_notes(config: MergeConfig) -> list[str]:
    """Say that a variable of the shell in run_dir is none in a configuration."""
    if not _VARIABLE.search(config.run_dir):
        return []
    return [
        f"warning: run_dir: {config.run_dir}: variables are not replaced in a configuration, so a folder of this very "
        "name is made; write the path out, or give --run_dir on the command line"
    ]


def transform_notes(config: MergeConfig, experts: Experts, names: Sequence[str]) -> list[Fact]:
    """Say which transforms are applied to what, and the largest stack of tensors that they hold."""
    if not names:
        return []
    shapes = {name: experts.base.shape(name) for name in names}
    size = largest_stack(shapes, len(experts.tasks), config.work_dtype)
    used = {key: list(dict.fromkeys(one.title for one in transforms_of(own))) for key, own in choices(config)}
    return [Fact(f"{key}: {', '.join(own)}, one tensor at a time; {size}") for key, own in used.items() if own]


def _generation_notes(
    config: MergeConfig, experts: Experts, names: Sequence[str], rows: Mapping[str, Rows]
) -> list[Fact]:
    return [Fact(line) for line in whole_experts(config, experts, names, rows)]
