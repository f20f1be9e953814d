"""The Python interface in one place: what a merge needs, from configuration to export.

Not in `adamerge` itself: there `learn`, `export` and `fit` are modules, and importing it must cost nothing.
"""

from adamerge.agreement import hold_out
from adamerge.answers import answer
from adamerge.callbacks import Watching
from adamerge.coefficients import load_coefficients, save_coefficients
from adamerge.compare import compare
from adamerge.config import MergeConfig, ModelConfig
from adamerge.data import Batching, DataSource, PseudoAnswers, TensorRows
from adamerge.evaluate import uniform
from adamerge.experts import Split, from_modules
from adamerge.export import export
from adamerge.feasible import Box, Simplex, Unbounded
from adamerge.grouping import block_wise, row_blocks, task_wise, tensor_wise
from adamerge.inspection import inspect_weights
from adamerge.job import build_model, describe, open_experts
from adamerge.learn import Calibration, Learned, divide, learn
from adamerge.learning import Learning
from adamerge.merged import MergedModel, task_vectors
from adamerge.objectives import CrossEntropy, Entropy, HiddenAlignment, LogitAlignment
from adamerge.optim import LBFGSB, FrankWolfe, ProjectedGradient, SoftFrankWolfe
from adamerge.reading import load_data
from adamerge.report import curve, heat_map, table
from adamerge.types import ConfigError, IncompatibleExpertsError

__all__ = [
    "LBFGSB",
    "Batching",
    "Box",
    "Calibration",
    "ConfigError",
    "CrossEntropy",
    "DataSource",
    "Entropy",
    "FrankWolfe",
    "HiddenAlignment",
    "IncompatibleExpertsError",
    "Learned",
    "Learning",
    "LogitAlignment",
    "MergeConfig",
    "MergedModel",
    "ModelConfig",
    "ProjectedGradient",
    "PseudoAnswers",
    "Simplex",
    "SoftFrankWolfe",
    "Split",
    "TensorRows",
    "Unbounded",
    "Watching",
    "answer",
    "block_wise",
    "build_model",
    "compare",
    "curve",
    "describe",
    "divide",
    "export",
    "from_modules",
    "heat_map",
    "hold_out",
    "inspect_weights",
    "learn",
    "load_coefficients",
    "load_data",
    "open_experts",
    "row_blocks",
    "save_coefficients",
    "table",
    "task_vectors",
    "task_wise",
    "tensor_wise",
    "uniform",
]
