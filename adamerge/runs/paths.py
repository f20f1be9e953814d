"""Local paths of a configuration as absolute ones, so that a run directory can be used from anywhere."""

from collections.abc import Mapping
from pathlib import Path


def anchor(place: str) -> str:
    """An existing path as an absolute one, symbolic links kept; whatever else (a hub id) as it is.

    Example:
        >>> anchor("bert-base-uncased@main")
        'bert-base-uncased@main'
        >>> Path(anchor(".")) == Path.cwd()
        True
    """
    path = Path(place).expanduser()
    return str(path.absolute()) if path.exists() else place


def anchored(settings: Mapping[str, object]) -> dict[str, object]:
    """A configuration's keys and values with every local path absolute: of the models, of their rows, of the run.

    Args:
        settings: As YAML gives them, every key present.
    """
    base, models, run_dir = (settings[key] for key in ("base_model", "models", "run_dir"))
    assert isinstance(models, list)
    here = {"base_model": anchor(str(base)), "models": [_model(model) for model in models]}
    return {**settings, **here, "run_dir": str(Path(str(run_dir)).expanduser().absolute())}


def _model(model: Mapping[str, object]) -> dict[str, object]:
    rows = {key: _rows(model[key]) for key in ("calibration", "evaluation")}
    return {**model, "model": anchor(str(model["model"])), **rows}


def _rows(rows: object) -> object:
    if isinstance(rows, dict):
        return {**rows, "path": anchor(str(rows["path"]))}
    return rows if rows is None else anchor(str(rows))
