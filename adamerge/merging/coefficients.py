"""Write and read learned coefficients as one small safetensors file."""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple, cast

import torch

from adamerge.merging.grouping import Grouping
from adamerge.storage.file_names import at_home
from adamerge.storage.open_safetensors import open_safetensors
from adamerge.storage.own_files import check_form, own_file
from adamerge.storage.write_safetensors import write_safetensors
from adamerge.types import Coefficients, ConfigError

COEFFICIENTS = "coefficients.safetensors"
"""Name of the file in a run, and in its first stage."""


class Table(NamedTuple):
    """Content of a coefficients file.

    Attributes:
        coefficients: fp32, (G, K).
        grouping: Names of the groups, and their parameters.
        experts: Names of the columns.
        centre: Name of the model that the weighted task vectors are added to; None in files that do not name it.
        plain: Whether they belong to untransformed task vectors over the base, whatever the run learned on.
    """

    coefficients: Coefficients
    grouping: Grouping
    experts: tuple[str, ...]
    centre: str | None = None
    plain: bool = False

    def by_group(self) -> dict[str, Coefficients]:
        """Return every group's coefficients, (K,)."""
        return dict(zip(self.grouping.groups, self.coefficients, strict=True))

    def by_parameter(self) -> dict[str, Coefficients]:
        """Return every parameter's mean over its rows' coefficients, (K,)."""
        return {name: self.coefficients[rows].mean(0) for name, rows in self.grouping.rows.items()}


def save_coefficients(
    path: Path,
    coefficients: Coefficients,
    grouping: Grouping,
    experts: Sequence[str],
    *,
    centre: str | None = None,
    plain: bool = False,
) -> None:
    """Write a float32 tensor `coefficients` (G, K); the metadata holds names as JSON.

    `groups` and `experts` are lists of names; `parameters` maps each parameter to the index of its group, or to a list
    with an index for each of its rows; `centre` names what the weighted task vectors are added to; `plain` is there if
    a run exports untransformed task vectors over the base although it learned on others.
    """
    rows = {name: index.numpy().tolist() for name, index in grouping.rows.items()}
    metadata = {
        "groups": json.dumps(grouping.groups),
        "experts": json.dumps(list(experts)),
        "parameters": json.dumps({name: index[0] if len(index) == 1 else index for name, index in rows.items()}),
    }
    if centre is not None:
        metadata["centre"] = json.dumps(centre)
    if plain:
        metadata["plain"] = "true"
    write_safetensors(path, {"coefficients": coefficients.detach().float().cpu()}, metadata)


def load_coefficients(path: str | Path) -> Table:
    """Read what `save_coefficients` wrote.

    Raises:
        ConfigError: There is no such file, or it has other content.

    Example:
        >>> import tempfile
        >>> from adamerge.merging.grouping import tensor_wise
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_coefficients(Path(folder) / "c.safetensors", torch.tensor([[0.5]]), tensor_wise(["w"]), ["news"])
        ...     found = load_coefficients(Path(folder) / "c.safetensors")
        >>> found.coefficients, found.grouping.groups, found.experts
        (tensor([[0.5000]]), ('w',), ('news',))
    """
    if not isinstance(path, str | PathLike) or not str(path):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"path: expected a path of coefficients, found {path!r}.")
    place = at_home(path)
    with own_file(place, "the coefficients of a finished run", "Restore the file, or learn again in another run_dir."):
        file = open_safetensors(place)
        metadata, coefficients = file.metadata() or {}, file.get_tensor("coefficients")
        groups, experts, parameters = (json.loads(metadata[key]) for key in ("groups", "experts", "parameters"))
        centre = json.loads(metadata.get("centre", "null"))
        check_form(parameters, {})
        rows = {name: torch.tensor(index).reshape(-1) for name, index in parameters.items()}
        table = Table(
            coefficients, Grouping(tuple(groups), rows), tuple(experts), centre, metadata.get("plain") == "true"
        )
        _check(table)
    return table


def _check(table: Table) -> None:
    """Check that names are texts, and that a finite number stands for every group and expert.

    Raises:
        ValueError: Something else was found.
    """
    groups, coefficients = table.grouping.groups, table.coefficients
    if not all(isinstance(name, str) for name in cast(list[object], [*groups, *table.experts, table.centre or ""])):
        raise ValueError("names of groups, experts and centre are texts")
    if coefficients.dtype != torch.float32 or coefficients.shape != (len(groups), len(table.experts)):
        found = f"{coefficients.dtype} {tuple(coefficients.shape)}"
        raise ValueError(f"expected torch.float32 {(len(groups), len(table.experts))} by its names, found {found}")
    if not coefficients.isfinite().all():
        raise ValueError("a coefficient is not finite")
    for name, rows in table.grouping.rows.items():
        if rows.dtype != torch.int64 or not len(rows) or not (0 <= rows.min() and rows.max() < len(groups)):
            raise ValueError(f"{name}: expected indices of {len(groups)} groups")
