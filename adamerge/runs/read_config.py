"""The one way to a configuration: from YAML, the command line or Python, over the preset of its method."""

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
"""What prints a note."""


def tell_stderr(note: str) -> None:
    """Print a note beside the results."""
    print(f"note: {note}", file=sys.stderr)


def merge_config(written: Mapping[str, object], tell: Tell = tell_stderr) -> MergeConfig:
    """Make a configuration of what was written; everything else is the method's.

    Args:
        written: Keys as YAML has them, nested or dotted; values as YAML has them, or objects: Entropy(), Box(),
            partial(Adam, lr=0.01), ModelConfig(...), a Path.
        tell: Called with a note for each thing that is written otherwise today.

    Raises:
        ConfigError: With every mistake, a line each.

    Example:
        >>> config = merge_config({"base_model": "base", "models": [{"model": "news"}], "method": "ties"})
        >>> config.task_vectors, config.trainer.max_steps, config.written
        (Ties(density=0.2, scope='global', reduce='mean'), 0, ('base_model', 'models', 'method'))
    """
    return merge_layers([Document(dict(written))], tell)


def read_config(file: Path, tell: Tell = tell_stderr) -> MergeConfig:
    """Read a configuration from a YAML file.

    Raises:
        ConfigError: There is no such file, or with every mistake in it, a line each.
    """
    return merge_layers([read_yaml_file(file)], tell)


def merge_layers(layers: Sequence[Document], tell: Tell = tell_stderr) -> MergeConfig:
    """Make a configuration of files and options, of which later ones overrule earlier ones.

    Raises:
        ConfigError: With every mistake, a line each.
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
    """The method that was asked for last; the default in place of an unknown one."""
    named = [str(layer.content["method"]) for layer in layers if layer.content.get("method") is not None]
    method = named[-1] if named else DEFAULT
    if method in PRESETS:
        return method
    near = nearest(method, [*PRESETS])
    findings.refuse(("method",), f"expected one of {', '.join(PRESETS)}, found {method!r}.{near}")
    return DEFAULT


def _for_method(layer: Document, method: str, findings: Findings) -> Document:
    """What counts of a layer: of a saved configuration of another method only what the user wrote."""
    own = str(layer.content.get("method", method))
    if own == method:
        return layer
    written = layer.content.get("written")
    if isinstance(written, list):
        return Document(only(layer.content, [str(key) for key in written]) | {"written": written}, layer.places)
    if layer.content.keys() >= DECIDED:
        findings.refuse(
            ("method",),
            f"expected {own}, found {method}: the configuration below it has every key that a method decides, so "
            f"another method would change nothing but the label. Delete the keys of {own} from it, or take the file "
            "that the run began from.",
        )
    return layer


def _written(layers: Sequence[Document]) -> tuple[str, ...]:
    """Keys that the user wrote, as recorded by a saved configuration or as they stand."""
    keys: dict[str, None] = {}
    for layer in layers:
        recorded = layer.content.get("written")
        own = [str(key) for key in recorded] if isinstance(recorded, list) else leaves(layer.content)
        keys |= dict.fromkeys(own)
    return tuple(key for key in keys if key)


def _today(content: Mapping[str, object], findings: Findings) -> dict[str, object]:
    """A configuration that version 0.1.0 saved, in today's words: the factor of an objective was called weight."""
    saved, models = content.keys() >= DECIDED and "written" not in content, content.get("models")
    if not saved or not isinstance(models, list):
        return dict(content)
    if any(_saved_model(model) for model in models):
        findings.notes.append(f"{findings.where(('models',))}the key weight of each is called loss_weight today.")
    return {**content, "models": [_renamed(model) if _saved_model(model) else model for model in models]}


def _saved_model(model: object) -> bool:
    return isinstance(model, Mapping) and {"weight", "task", "zero_shot"} <= model.keys()


def _renamed(model: Mapping[str, object]) -> dict[str, object]:
    return {"loss_weight" if key == "weight" else key: value for key, value in model.items()}
