"""Make the local paths of a configuration absolute, so that a run directory can be used from any folder."""

from collections.abc import Mapping

from adamerge.storage.file_names import at_home


def anchor(place: str) -> str:
    """Make an existing path absolute, without resolving symbolic links; return anything else (a hub id) unchanged.

    Example:
        >>> anchor("bert-base-uncased@main")
        'bert-base-uncased@main'
        >>> at_home(anchor(".")) == at_home("").absolute()
        True
    """
    path = at_home(place)
    return str(path.absolute()) if path.exists() else place


def anchored(settings: Mapping[str, object]) -> dict[str, object]:
    """Make every local path in a configuration absolute: of models, rows, loggers and the run directory.

    Args:
        settings: Keys and values as in YAML, every key present.
    """
    base, models, run_dir = (settings[key] for key in ("base_model", "models", "run_dir"))
    assert isinstance(models, list)
    here = {"base_model": anchor(str(base)), "models": [_model(model) for model in models]}
    if isinstance(keep := settings.get("keep"), dict):
        here["keep"] = {**keep, "calibration": _rows(keep["calibration"])}
    tokenizer = settings.get("tokenizer")
    names = {str(model.get("task")) for model in models}  # a task, base or union is no path
    if isinstance(tokenizer, str) and tokenizer not in {"base", "union", *names}:
        here["tokenizer"] = anchor(tokenizer)
    here |= {"trainer": _trainer(trainer)} if isinstance(trainer := settings.get("trainer"), dict) else {}
    return {**settings, **here, "run_dir": str(at_home(str(run_dir)).absolute())}


def _trainer(trainer: Mapping[str, object]) -> dict[str, object]:
    logger = trainer.get("logger")
    each = [_logger(one) for one in logger] if isinstance(logger, list) else _logger(logger)
    return {**trainer, "logger": each} if logger else dict(trainer)


def _logger(logger: object) -> object:
    """Make the place of a logger absolute, unless it is an address."""
    given = logger.get("init_args") if isinstance(logger, dict) else None
    place = given.get("save_dir") if isinstance(given, dict) else None
    if not isinstance(logger, dict) or not isinstance(given, dict) or not isinstance(place, str) or "://" in place:
        return logger
    return {**logger, "init_args": {**given, "save_dir": str(at_home(place).absolute())}}


def _model(model: Mapping[str, object]) -> dict[str, object]:
    rows = {key: _rows(model[key]) for key in ("calibration", "evaluation")}
    places = {key: anchor(str(model[key])) for key in ("model", "adapter") if model.get(key) is not None}
    return {**model, **places, **rows}


def _rows(rows: object) -> object:
    if isinstance(rows, dict):
        return {**rows, "path": anchor(str(rows["path"]))}
    return rows if rows is None else anchor(str(rows))
