"""Build a configuration from YAML, the command line or Python, over the preset of its method."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from adamerge.runs.build_settings import INVALID, make
from adamerge.runs.class_names import nearest
from adamerge.runs.config import MergeConfig
from adamerge.runs.config_errors import Findings
from adamerge.runs.layers import DECIDED, leaves, nested, only, overlay, together
from adamerge.runs.presets import DEFAULT, PRESETS
from adamerge.runs.read_yaml import Document, read_yaml_file

Tell: TypeAlias = Callable[[str], object]
"""Function that prints a note."""


def tell_stderr(note: str) -> None:
    """Print a note to stderr."""
    print(f"note: {note}", file=sys.stderr)


def merge_config(written: Mapping[str, object], tell: Tell = tell_stderr) -> MergeConfig:
    """Build a configuration from written settings; all other keys get the method's values.

    Args:
        written: Keys as in YAML, nested or dotted; values as in YAML, or objects: Entropy(), Box(),
            partial(Adam, lr=0.01), ModelConfig(...), a Path.
        tell: Called with a note per setting that is written in the form of an earlier version.

    Raises:
        ConfigError: Lists every mistake, one per line.

    Example:
        >>> config = merge_config({"base_model": "base", "models": [{"model": "news"}], "method": "ties"})
        >>> config.task_vectors, config.trainer.max_steps, config.written
        (Ties(density=0.2, scope='global', reduce='mean'), 0, ('base_model', 'models', 'method'))
    """
    return merge_layers([Document(dict(written))], tell)


def read_config(file: Path, tell: Tell = tell_stderr) -> MergeConfig:
    """Read a configuration from a YAML file.

    Args:
        file: YAML file.
        tell: Called with a note per setting that is written in the form of an earlier version.

    Raises:
        ConfigError: There is no such file, or it has mistakes; lists every mistake, one per line.
    """
    return merge_layers([read_yaml_file(file)], tell)


def merge_layers(layers: Sequence[Document], tell: Tell = tell_stderr) -> MergeConfig:
    """Build a configuration from files and options; later ones override earlier ones.

    Args:
        layers: Files and options.
        tell: Called with a note per setting that is written in the form of an earlier version.

    Raises:
        ConfigError: Lists every mistake, one per line.
    """
    layers = [nested(layer) for layer in layers]
    findings = Findings(together(layers).places)
    method = _method(layers, findings)
    layers = [_for_method(layer, method, findings) for layer in layers]
    content = together([Document(_today(layer.content, findings)) for layer in layers]).content
    given = {**content, "method": method, "written": _written(layers)}
    preset = nested(Document(PRESETS[method])).content
    config = make(MergeConfig, overlay(preset, given, preset=True), (), findings)
    findings.raise_mistakes()
    assert config is not INVALID
    assert isinstance(config, MergeConfig)
    for note in findings.notes:
        tell(note)
    return config


def _method(layers: Sequence[Document], findings: Findings) -> str:
    """Return the last method that is named; the default if none is named, or if it is unknown."""
    named = [str(layer.content["method"]) for layer in layers if layer.content.get("method") is not None]
    method = named[-1] if named else DEFAULT
    if method in PRESETS:
        return method
    near = nearest(method, [*PRESETS])
    findings.refuse(("method",), f"expected one of {', '.join(PRESETS)}, found {method!r}.{near}")
    return DEFAULT


def _for_method(layer: Document, method: str, findings: Findings) -> Document:
    """Reduce a saved configuration of another method to the keys that the user wrote; return other layers as is."""
    own = str(layer.content.get("method", method))
    if own == method:
        return layer
    written = layer.content.get("written")
    if isinstance(written, list):
        return Document(only(layer.content, [str(key) for key in written]) | {"written": written}, layer.places)
    if layer.content.keys() >= DECIDED:
        findings.refuse(
            ("method",),
            f"expected {own}, found {method}: the saved configuration sets every key that a method sets, so another "
            f"method would change only its name. Delete the keys of {own} from it, or use the file that the run "
            "started from.",
        )
    return layer


def _written(layers: Sequence[Document]) -> tuple[str, ...]:
    """List the keys that the user wrote, as a saved configuration records them or as they are in the layer."""
    keys: dict[str, None] = {}
    for layer in layers:
        recorded = layer.content.get("written")
        own = [str(key) for key in recorded] if isinstance(recorded, list) else leaves(layer.content)
        keys |= dict.fromkeys(own)
    return tuple(key for key in keys if key)


def _today(content: Mapping[str, object], findings: Findings) -> dict[str, object]:
    """Convert a configuration that version 0.1.0 saved: it called an objective's factor weight."""
    saved, models = content.keys() >= DECIDED and "written" not in content, content.get("models")
    if not saved or not isinstance(models, list):
        return dict(content)
    if any(_saved_model(model) for model in models):
        findings.notes.append(f"{findings.where(('models',))}the key weight of each model is now called loss_weight.")
    return {**content, "models": [_renamed(model) if _saved_model(model) else model for model in models]}


def _saved_model(model: object) -> bool:
    return isinstance(model, Mapping) and {"weight", "task", "zero_shot"} <= model.keys()


def _renamed(model: Mapping[str, object]) -> dict[str, object]:
    return {"loss_weight" if key == "weight" else key: value for key, value in model.items()}
