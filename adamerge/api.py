"""The former Python interface: every old name resolves, with a warning that names its new place."""

import warnings
from importlib import import_module

_MODULES = {
    "": (
        "LBFGSB Box ConfigError CrossEntropy Entropy FrankWolfe HiddenAlignment IncompatibleExpertsError "
        "LogitAlignment ProjectedGradient Simplex SoftFrankWolfe Unbounded load_coefficients"
    ),
    ".calibration.agreement": "hold_out",
    ".calibration.pseudo_answers": "answer",
    ".data.rows": "TensorRows",
    ".data.settings": "Batching DataSource PseudoAnswers",
    ".experts.from_modules": "from_modules",
    ".experts.inspect_weights": "inspect_weights",
    ".experts.name_patterns": "Split",
    ".experts.summary": "describe",
    ".learning.keep_best": "Watching",
    ".learning.learn": "Calibration divide learn",
    ".learning.learned": "Learned",
    ".learning.settings": "Learning",
    ".merging.coefficients": "save_coefficients",
    ".merging.grouping": "block_wise row_blocks task_wise tensor_wise",
    ".merging.merged_model": "MergedModel task_vectors uniform",
    ".results.compare": "compare",
    ".results.export": "export",
    ".results.report": "curve heat_map table",
    ".runs.build_model": "build_model open_experts",
    ".runs.config": "MergeConfig",
    ".runs.model_config": "ModelConfig",
    ".runs.load_rows": "load_data",
}
_HOMES = {name: f"adamerge{module}" for module, names in _MODULES.items() for name in names.split()}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """Resolve an old name; the warning says where it is now."""
    if name not in _HOMES:
        raise AttributeError(f"module 'adamerge.api' has no attribute {name!r}; the interface is now `adamerge`")
    warnings.warn(
        f"adamerge.api.{name} has moved: from {_HOMES[name]} import {name}; for a whole merge: from adamerge import "
        "Expert, Merge",
        FutureWarning,  # one that Python shows by default
        stacklevel=2,
    )
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the old names."""
    return __all__
