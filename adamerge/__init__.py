"""Learn from unlabeled data how much of each fine-tuned expert to merge into one model.

In Python, after `adamerge demo` has made a base and four experts::

    from adamerge import Expert, Merge

    tasks = ("upright", "rotated", "inverted", "occluded")
    experts = [Expert(f"demo/models/{task}", calibration=f"demo/data/{task}/calibration") for task in tasks]
    result = Merge("demo/models/base", experts).learn()  # any key of the YAML as a keyword; the same presets
    result.export("merged")
    print(result.best_step, result.coefficients.shape)  # (groups, columns: experts, base, finished merges)

The names below are the Python interface. They are imported on first use, so `import adamerge` alone costs nothing.
"""

TYPE_CHECKING = (
    False  # not from typing: `python -m adamerge` imports nothing while the current directory is on sys.path
)

if TYPE_CHECKING:
    from adamerge.merge import Expert as Expert
    from adamerge.merge import Merge as Merge
    from adamerge.merging.coefficients import load_coefficients as load_coefficients
    from adamerge.objectives import CrossEntropy as CrossEntropy
    from adamerge.objectives import Entropy as Entropy
    from adamerge.objectives import HiddenAlignment as HiddenAlignment
    from adamerge.objectives import LogitAlignment as LogitAlignment
    from adamerge.optim import LBFGSB as LBFGSB
    from adamerge.optim import FrankWolfe as FrankWolfe
    from adamerge.optim import ProjectedGradient as ProjectedGradient
    from adamerge.optim import SoftFrankWolfe as SoftFrankWolfe
    from adamerge.optim.feasible_sets import Box as Box
    from adamerge.optim.feasible_sets import Simplex as Simplex
    from adamerge.optim.feasible_sets import Unbounded as Unbounded
    from adamerge.result import Result as Result
    from adamerge.types import ConfigError as ConfigError
    from adamerge.types import IncompatibleExpertsError as IncompatibleExpertsError

    __version__: str

_MODULES = {
    "merge": ("Expert", "Merge"),
    "merging.coefficients": ("load_coefficients",),
    "objectives": ("CrossEntropy", "Entropy", "HiddenAlignment", "LogitAlignment"),
    "optim": ("LBFGSB", "FrankWolfe", "ProjectedGradient", "SoftFrankWolfe"),
    "optim.feasible_sets": ("Box", "Simplex", "Unbounded"),
    "result": ("Result",),
    "types": ("ConfigError", "IncompatibleExpertsError"),
}
_HOMES = {name: f"adamerge.{module}" for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:
    __all__ = sorted(_HOMES)

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used."""
        if name == "__version__":
            from importlib.metadata import version

            return version("adamerge")
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module 'adamerge' has no attribute {name!r}; public names: {', '.join(__all__)}")
        return globals().setdefault(name, getattr(import_module(_HOMES[name]), name))

    def __dir__() -> list[str]:
        """List the public names and what is loaded already."""
        return sorted({*globals(), *__all__, "__version__"})
