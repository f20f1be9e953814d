"""The Python interface in one place: what a merge needs, from configuration to export.

Not in `adamerge` itself: there `learn`, `export` and `fit` are modules, and importing it must cost nothing.
"""

from adamerge.calibration.agreement import hold_out
from adamerge.calibration.pseudo_answers import answer
from adamerge.data.rows import TensorRows
from adamerge.data.settings import Batching, DataSource, PseudoAnswers
from adamerge.experts.from_modules import from_modules
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.experts.name_patterns import Split
from adamerge.experts.summary import describe
from adamerge.learning.keep_best import Watching
from adamerge.learning.learn import Calibration, Learned, divide, learn
from adamerge.learning.settings import Learning
from adamerge.merging.coefficients import load_coefficients, save_coefficients
from adamerge.merging.grouping import block_wise, row_blocks, task_wise, tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors, uniform
from adamerge.objectives import CrossEntropy, Entropy, HiddenAlignment, LogitAlignment
from adamerge.optim import LBFGSB, FrankWolfe, ProjectedGradient, SoftFrankWolfe
from adamerge.optim.feasible_sets import Box, Simplex, Unbounded
from adamerge.results.compare import compare
from adamerge.results.export import export
from adamerge.results.report import curve, heat_map, table
from adamerge.runs.build_model import build_model, open_experts
from adamerge.runs.config import MergeConfig, ModelConfig
from adamerge.runs.load_rows import load_data
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
