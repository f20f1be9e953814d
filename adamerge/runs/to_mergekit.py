"""Write a learned merge as a configuration of mergekit that gives the same weights."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from rich.console import Console

from adamerge.experts.experts import Experts
from adamerge.experts.match_names import match
from adamerge.merging.coefficients import Table
from adamerge.merging.rounding import rounding_of
from adamerge.results.backbone import usual_dtype
from adamerge.runs.config import MergeConfig
from adamerge.runs.export_choice import as_exported
from adamerge.runs.open_recipe import open_recipe
from adamerge.runs.paths import anchor
from adamerge.runs.unchanged_sources import open_unchanged
from adamerge.storage.atomic_files import write_named
from adamerge.storage.file_names import is_there
from adamerge.types import ConfigError

HEAD = """\
# A merge learned by adamerge, for mergekit (0.1.5 or newer): mergekit-yaml {file} OUT
# Filters are parts of names, and the first one that matches counts: longer names stand first. All other tensors have
# weight 0, which leaves the base. mergekit rounds to nearest.
"""


def write_mergekit(run: Path, file: Path, console: Console, *, allow_code: bool = False) -> None:
    """Write the coefficients of a finished run as a mergekit configuration.

    Args:
        run: Run directory, or its recipe.json.
        file: The YAML file; must not exist.
        console: Prints the path and how to run mergekit.
        allow_code: Whether the run's configuration may name code.

    Raises:
        ConfigError: The run is not finished, its models changed since, mergekit cannot express its merge, or the file
            exists.
    """
    if file.exists():
        raise ConfigError(f"{file}: exists already; choose another file for the configuration of mergekit.")
    recipe = open_recipe(run, allow_code=allow_code)
    config = as_exported(recipe.config, recipe.learned)
    experts = open_unchanged(config, recipe.file)
    if problems := list(_obstacles(config, recipe.learned, experts)):
        raise ConfigError(
            f"{run}: mergekit cannot give the same weights: {'; '.join(problems)}. Export the checkpoint instead: "
            f"adamerge export {run} FOLDER"
        )
    content = mergekit_settings(config, recipe.learned, experts)
    write_named(file, HEAD.format(file=file.name) + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    for line in (f"{file}", f"run it with: mergekit-yaml {file} FOLDER"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _obstacles(config: MergeConfig, learned: Table, experts: Experts) -> Iterator[str]:
    """List what mergekit has no words for."""
    if config.centre is not None:
        yield f"the centre is {config.centre_name}, not the base (centre: null)"
    if config.task_vectors is not None:
        yield f"task vectors are transformed by {type(config.task_vectors).__name__} (task_vectors: null)"
    if config.models_beside:
        yield f"{', '.join(config.models_beside)} have coefficients beside the experts (beside: [])"
    if any(len(rows) > 1 for rows in learned.grouping.rows.values()):
        yield "rows of one tensor have coefficients of their own (chunks: null)"
    heads = [task for task, expert in experts.tasks.items() if expert.head]
    if heads:
        yield f"{', '.join(heads)} keep heads of their own, which mergekit would average"
    adapters = [task for task, expert in experts.tasks.items() if expert.checkpoint and expert.checkpoint.adapter]
    if adapters:
        yield f"{', '.join(adapters)} are adapters"
    if config.tokenizer == "union":
        yield "mergekit's union of tokenizers puts added tokens in another order (tokenizer: base, or a model's)"
    if config.rounding != "nearest":
        yield f"numbers are rounded {config.rounding}"


def mergekit_settings(config: MergeConfig, learned: Table, experts: Experts) -> dict[str, object]:
    """Build the content of a mergekit configuration: task arithmetic with one weight per tensor and expert.

    Args:
        config: Configuration of the run.
        learned: Its coefficients, one per tensor and expert.
        experts: Base and experts.
    """
    names = _on_disk(experts, list(learned.grouping.rows))
    rows = {names[name]: int(index[0]) for name, index in learned.grouping.rows.items()}
    table = learned.coefficients.double().tolist()
    dtype = config.written_dtype
    columns = dict(zip(learned.experts, range(len(learned.experts)), strict=True))
    models = [
        {
            "model": reference(anchor(model.model)),
            "parameters": {"weight": weights({name: table[row][columns[model.name]] for name, row in rows.items()})},
        }
        for model in config.models
    ]
    return {
        "merge_method": "task_arithmetic",
        "base_model": reference(anchor(config.base_model)),
        "models": models,
        **_tokenizer(config),
        "parameters": {"normalize": False, "lambda": 1.0},
        "dtype": "float32",
        "out_dtype": str(usual_dtype(experts, rounding_of(experts, dtype).dtypes)).removeprefix("torch."),
    }


def _tokenizer(config: MergeConfig) -> dict[str, object]:
    """Name the tokenizer by which mergekit gives all models the same rows; nothing where they have them."""
    if config.tokenizer is None:
        return {}
    of_task = {model.name: model.model for model in config.models}
    source = config.tokenizer
    return {"tokenizer": {"source": source if source == "base" else reference(anchor(of_task.get(source, source)))}}


def reference(place: str) -> object:
    """Write a model as mergekit reads it: of a word, `+` begins an adapter and `@` a revision, also in a path.

    Args:
        place: A path, or a hub id (`id` or `id@revision`).

    Example:
        >>> reference("org/base@v1"), reference("/experts/a")
        ('org/base@v1', '/experts/a')
    """
    plain = not is_there(place) or {"+", "@"}.isdisjoint(place)
    return place if plain else {"model": {"path": place}}


def weights(by_tensor: Mapping[str, float]) -> list[dict[str, object]]:
    """Write one weight per tensor as mergekit's filters.

    Example:
        >>> weights({"a.w": 0.5, "b.a.w": 0.25})
        [{'filter': 'b.a.w', 'value': 0.25}, {'filter': 'a.w', 'value': 0.5}, {'value': 0.0}]
    """
    longest_first = sorted(by_tensor, key=lambda name: (-len(name), name))
    return [*({"filter": name, "value": by_tensor[name]} for name in longest_first), {"value": 0.0}]


def _on_disk(experts: Experts, names: Sequence[str]) -> dict[str, str]:
    """Find the name in the base's files of each parameter.

    Raises:
        ConfigError: A parameter is made of several tensors of the files.
    """
    assert experts.checkpoint is not None
    found = match(experts.checkpoint, next(iter(experts.tasks.values())).own_module).names
    several = [name for name in names if not isinstance(found[name], str)]
    if several:
        raise ConfigError(
            f"{several[0]}: expected one tensor in the files of {experts.checkpoint.source}, found it made of several; "
            "mergekit merges the tensors of the files. Export the checkpoint instead: adamerge export RUN FOLDER"
        )
    return {name: str(found[name]) for name in names}
