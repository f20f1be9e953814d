"""Build a configuration from YAML, the command line or Python, over the preset of its method."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

from adamerge.runs.base_of_adapters import with_base_of_adapters
from adamerge.runs.build_settings import make
from adamerge.runs.clashes import clashes
from adamerge.runs.config import MergeConfig
from adamerge.runs.config_errors import Findings, Mistake
from adamerge.runs.construct import INVALID
from adamerge.runs.layers import DECIDED, nested, overlay, together, without
from adamerge.runs.presets import DEFAULT, PRESETS
from adamerge.runs.read_yaml import Document, Key, read_yaml_file
from adamerge.runs.saved import Layer, split_record
from adamerge.runs.similar_words import nearest
from adamerge.runs.warm_start import with_earlier_run
from adamerge.types import quoted

Tell: TypeAlias = Callable[[str], object]
"""Function that prints a note."""


Use: TypeAlias = Literal["keep", "plan", "learn"]
"""What a configuration is read for: to use a finished run; to print it; to learn, on the devices of this machine."""

PLACEHOLDERS: Mapping[str, object] = {"base_model": "base", "models": [{"model": "first"}, {"model": "second"}]}
"""Values of keys that every configuration needs, so that others can be judged where these are missing."""


def tell_stderr(note: str) -> None:
    """Print a note to stderr."""
    print(f"note: {note}", file=sys.stderr)


def merge_config(
    written: Mapping[str, object], tell: Tell = tell_stderr, *, allow_code: bool = False, use: Use = "plan"
) -> MergeConfig:
    """Build a configuration from written settings; all other keys get the method's values.

    Args:
        written: Keys as in YAML, nested or dotted; values as in YAML, or objects: Entropy(), Box(),
            partial(Adam, lr=0.01), ModelConfig(...), a Path.
        tell: Called with a note per setting that is written in the form of an earlier version.
        allow_code: Import classes outside torch, Lightning and this package that are named by import path.
        use: What the configuration is read for.

    Raises:
        ConfigError: Lists every mistake, one per line.

    Example:
        >>> config = merge_config({"base_model": "base", "models": [{"model": "news"}], "method": "ties"})
        >>> config.task_vectors, config.trainer.max_steps, config.written
        (Ties(density=0.2, scope='global', reduce='mean'), 0, ('base_model', 'models', 'method'))
    """
    return merge_layers([Document(dict(written))], tell, allow_code=allow_code, use=use)


def read_config(file: Path, tell: Tell = tell_stderr, *, allow_code: bool = False, use: Use = "keep") -> MergeConfig:
    """Read a configuration from a YAML file.

    Args:
        file: YAML file.
        tell: Called with a note per setting that is written in the form of an earlier version.
        allow_code: Whether the file may name code: classes outside torch, Lightning and this package, or code beside
            weights.
        use: What the configuration is read for.

    Raises:
        ConfigError: There is no such file, or it has mistakes; lists every mistake, one per line.
    """
    return merge_layers([read_yaml_file(file)], tell, allow_code=allow_code, use=use)


def merge_layers(
    layers: Sequence[Document], tell: Tell = tell_stderr, *, allow_code: bool = False, use: Use = "plan"
) -> MergeConfig:
    """Build a configuration from files and options; later ones override earlier ones.

    Args:
        layers: Files and options.
        tell: Called with a note per setting that is written in the form of an earlier version.
        allow_code: Whether files may name code: classes outside torch, Lightning and this package, or code beside
            weights.
        use: What the configuration is read for.

    Raises:
        ConfigError: Lists every mistake, one per line.
    """
    findings = _findings(layers, allow_code)
    method, given = _given(layers, findings, allow_code)
    if use == "keep":
        given = without(given, ("trainer", "logger"))  # nothing is logged, and its package may not be installed here
    config = make(MergeConfig, _over_preset(method, given), (), findings)
    if use != "keep":
        _judge(config, method, given, findings, here=use == "learn")
    findings.raise_mistakes()
    assert config is not INVALID
    assert isinstance(config, MergeConfig)
    for note in findings.notes:
        tell(note)
    return config


def without_mistakes(layers: Sequence[Document], *, allow_code: bool = False) -> MergeConfig | None:
    """Build a configuration of the settings that are right, so that what they name can be checked.

    A setting with a mistake is left out as a whole (all of `trainer`, one key of an item of `models`), and so gets the
    method's value.

    Args:
        layers: Files and options.
        allow_code: As in `merge_layers`.

    Returns:
        The configuration; None if it cannot do without what is wrong, or if other mistakes appear without it.
    """
    findings = _findings(layers, allow_code)
    method, given = _given(layers, findings, allow_code)
    config = make(MergeConfig, _over_preset(method, given), (), findings)
    _judge(config, method, given, findings, here=True)
    return _of_the_rest(method, given, findings)


def _of_the_rest(method: str, given: Mapping[str, object], findings: Findings) -> MergeConfig | None:
    """Build a configuration without the settings that are wrong; None if there is none."""
    for key in {_dispensable(key) for mistake in findings.mistakes for key in (mistake.key, *mistake.others)}:
        given = without(given, key)
    again = Findings(allow_code=findings.allow_code)
    config = make(MergeConfig, _over_preset(method, given), (), again)
    return config if isinstance(config, MergeConfig) and not again.mistakes else None


def _judge(config: object, method: str, given: Mapping[str, object], findings: Findings, *, here: bool) -> None:
    """Add settings that exclude each other; those that are wrong by themselves are judged with nothing."""
    wrong = {str(mistake.key[0]) for mistake in findings.mistakes if mistake.key}
    if not isinstance(config, MergeConfig):
        missing = {key: value for key, value in PLACEHOLDERS.items() if not given.get(key)}
        wrong |= missing.keys()
        config = _of_the_rest(method, {**given, **missing}, findings)
    if config is not None:
        for keys, problem in list(clashes(config, here=here, wrong=wrong)):
            findings.refuse_together([tuple(key.split(".")) for key in keys], problem)


def _dispensable(key: Key) -> Key:
    return key[:3] if key[:1] == ("models",) else key[:1]


def _over_preset(method: str, given: Mapping[str, object]) -> dict[str, object]:
    return overlay(nested(Document(PRESETS[method])).content, given, preset=True)


def _given(layers: Sequence[Document], findings: Findings, allow_code: bool) -> tuple[str, dict[str, object]]:
    """Return the method, and all settings that are not left to it; adds mistakes of the layers as a whole."""
    parts = [split_record(nested(layer)) for layer in layers]
    method = _method(parts, findings)
    _check_permissions(parts, findings)
    for layer, part in zip(layers, parts, strict=True):
        _check_record(layer, findings)
        _check_switch(part, method, findings)
    kept = [_today(part.for_method(method), findings) for part in parts]
    content = with_base_of_adapters(together(kept).content, findings)
    named = ["base_model"] if "base_model" in content else []  # by adapters, where nobody wrote it
    written = tuple(dict.fromkeys([*(key for part in parts for key in part.written), *named]))
    return method, {**with_earlier_run(content), "method": method, "written": written, "allow_code": allow_code}


def _findings(layers: Sequence[Document], allow_code: bool) -> Findings:
    """Start the findings with the keys that are written twice."""
    places = together([nested(layer) for layer in layers]).places
    mistakes = [Mistake(key, message) for layer in layers for key, message in layer.repeated]
    files = [layer.file for layer in layers if layer.file]
    return Findings(places, mistakes, files=files, allow_code=allow_code, whole=MergeConfig)


def _method(layers: Sequence[Layer], findings: Findings) -> str:
    """Return the last method that is named; the default if none is named, or if it is unknown."""
    contents = [layer.document.content for layer in layers]
    null = ("method",) in findings.places  # where it is written; in Python None chooses nothing
    named = [
        content["method"] for content in contents if "method" in content and (null or content["method"] is not None)
    ]
    method = str(named[-1]) if named else DEFAULT
    if method in PRESETS:
        return method
    near = nearest(method, [*PRESETS])
    findings.refuse(("method",), f"expected one of {', '.join(PRESETS)}, found {quoted(named[-1])}.{near}")
    return DEFAULT


def _check_permissions(layers: Sequence[Layer], findings: Findings) -> None:
    """Refuse permissions to run code that a file gives itself; the command line and Python may give them."""
    if any("allow_code" in layer.document.content for layer in layers):
        findings.refuse(("allow_code",), "a configuration cannot allow this itself; give --allow_code to the command.")
    trusting = [layer for layer in layers if "trust_remote_code" in layer.document.content][-1:]
    for layer in trusting:
        granted = findings.allow_code or not _is_file(layer)
        if layer.document.content["trust_remote_code"] is True and not granted:
            findings.refuse(
                ("trust_remote_code",),
                "expected false, found true in a file: it would run Python code that comes with a checkpoint. If you "
                "trust that code, allow it by --allow_code (in Python: allow_code=True).",
            )


def _check_record(layer: Document, findings: Findings) -> None:
    """Refuse a list of written keys, or saved settings, of another form than a run records."""
    written = layer.content.get("written", [])
    if not isinstance(written, list | tuple) or not all(isinstance(key, str) for key in written):
        findings.refuse(
            ("written",),
            f"expected the list of keys that a run recorded, found {quoted(written)}; remove both records.",
        )
    saved = layer.content.get("saved", {})
    if not isinstance(saved, Mapping):
        findings.refuse(
            ("saved",),
            f"expected the settings that a run recorded, found {quoted(saved)}; remove it: it changes nothing.",
        )


def _is_file(layer: Layer) -> bool:
    """Return whether a layer is a file, or the content of a saved one, rather than what the user wrote just now."""
    return bool(layer.document.file) or layer.recorded or layer.document.content.keys() >= SAVED


def _check_switch(layer: Layer, method: str, findings: Findings) -> None:
    """Refuse another method over a configuration of version 0.1.0, which does not record what the user wrote."""
    content = layer.document.content
    own = str(content.get("method", method))
    if own != method and not layer.recorded and content.keys() >= SAVED:
        findings.refuse(
            ("method",),
            f"expected {own}, found {method}: the saved configuration sets every key that a method sets, so another "
            f"method would change only its name. Delete the keys of {own} from it, or use the file that the run "
            "started from.",
        )


ADDED: Mapping[str, object] = {"beside": []}
"""Keys that configurations of former versions lack, with the values that those meant."""

SAVED = DECIDED - ADDED.keys()
"""Keys that every saved configuration has."""

FORMER: Mapping[str, Mapping[str, object]] = {
    "watch": {"guard": False, "average": 0.0},
    "data": {"least_held_out": 0, "most_held_out": None, "augmentation": None},
}
"""Values with which a configuration means what it meant when it was saved, before these keys were there."""


def _today(layer: Layer, findings: Findings) -> Document:
    """Convert a saved configuration: keys that it lacks were off, and 0.1.0 called an objective's factor weight."""
    document = _with_former(layer.document)
    content = document.content
    models = content.get("models")
    if layer.recorded or not content.keys() >= SAVED or not isinstance(models, list):
        return document
    if any(_saved_model(model) for model in models):
        findings.notes.append(f"{findings.where(('models',))}the key weight of each model is now called loss_weight.")
    renamed = [_renamed(model) if _saved_model(model) else model for model in models]
    return replace(document, content={**content, "models": renamed})


def _with_former(document: Document) -> Document:
    content = document.content
    if not content.keys() >= {*SAVED, *FORMER, "run_dir"}:  # not saved, or reduced to what the user wrote
        return document
    given = {key: {**FORMER[key], **own} for key in FORMER if isinstance(own := content[key], Mapping)}
    return replace(document, content={**ADDED, **content, **given})


def _saved_model(model: object) -> bool:
    return isinstance(model, Mapping) and {"weight", "task", "zero_shot"} <= model.keys()


def _renamed(model: Mapping[str, object]) -> dict[str, object]:
    return {"loss_weight" if key == "weight" else key: value for key, value in model.items()}
