"""What a run's coefficients are factors of: the transform of its task vectors, their centre and what is beside them."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from adamerge.calibration.esm import Esm
from adamerge.calibration.feat_cal import FeatCal
from adamerge.calibration.race import Auto
from adamerge.calibration.regmean import RegMean
from adamerge.transforms import Transform

_WORDS = {"regmean": "RegMean", "auto": "Auto"}
"""Words for classes with their default options."""

_RACE = "auto: "
"""What the name of a centre that a race found begins with."""


class Made(NamedTuple):
    """What is computed of the experts.

    Attributes:
        name: Class; of a centre that a race found, the winner.
        options: Options by dotted key.
        kind: Class whose defaults options have that are not known.
    """

    name: str
    options: Mapping[str, object]
    kind: str

    def option(self, key: str) -> object:
        """Return an option; of a run of another version that lacks it, its default."""
        return self.options.get(key, _defaults(self.kind).get(key))


class Factors(NamedTuple):
    """What coefficients are factors of.

    Attributes:
        transform: Transform of the task vectors; None without one.
        centre: The centre.
        beside: Models beside the experts, by the names of their columns.
    """

    transform: Made | None
    centre: Made
    beside: Mapping[str, Made]


def factors_in(settings: Mapping[str, object], centre: str | None, *, plain: bool) -> Factors:
    """Read from a configuration what its coefficients are factors of.

    Args:
        settings: Configuration as dotted keys.
        centre: Name of the centre, with the winner of a race: auto: Wudi × 0.7; None for that of the configuration,
            where the coefficients, of a former version, do not name it.
        plain: Whether they are factors of untransformed task vectors over the base, whatever the configuration says.

    Example:
        >>> found = factors_in({"task_vectors": "Ties", "centre": "regmean"}, "RegMean", plain=False)
        >>> found.transform.name, found.centre.name, found.centre.option("scale")
        ('Ties', 'RegMean', 0.95)
    """
    if centre is None:
        made = made_by(settings, "centre")
        centre = "base" if made is None else made.name
    if plain:
        return Factors(None, _base(centre), {})
    return Factors(made_by(settings, "task_vectors"), _centre(settings, centre), dict(_beside(settings)))


def made_by(settings: Mapping[str, object], key: str) -> Made | None:
    """Read the class and the options at a key; None where it is null or absent.

    Args:
        settings: Configuration as dotted keys.
        key: The key.

    Example:
        >>> made_by({"centre.class_path": "adamerge.transforms.Ties", "centre.init_args.density": 0.1}, "centre")
        Made(name='Ties', options={'density': 0.1}, kind='Ties')
    """
    below = {name.removeprefix(f"{key}."): value for name, value in settings.items() if name.startswith(f"{key}.")}
    named = settings.get(key, below.pop("class_path", None))
    if named is None:
        return None
    name = _WORDS.get(str(named), _class_in(named))
    options = {name.removeprefix("init_args."): value for name, value in below.items()}
    return Made(name, {name: _class_in(v) if name.endswith("class_path") else v for name, v in options.items()}, name)


def apart(one: Made | None, other: Made | None) -> tuple[str, str] | None:
    """Say in which options, or classes, two differ; None if they are the same.

    Example:
        >>> apart(Made("Ties", {"density": 0.1}, "Ties"), Made("Ties", {}, "Ties"))
        ('Ties with density 0.1', 'Ties with density 0.2')
        >>> apart(Made("Ties", {"density": 0.1}, "Ties"), None)
        ('Ties', 'none')
    """
    if one is None or other is None or one.name != other.name:
        return None if one is other else (_name(one), _name(other))
    keys = [key for key in dict.fromkeys([*one.options, *other.options]) if one.option(key) != other.option(key)]
    return (_with(one, keys), _with(other, keys)) if keys else None


def _name(made: Made | None) -> str:
    return "none" if made is None else made.name


def _with(made: Made, keys: Sequence[str]) -> str:
    return f"{made.name} with {', '.join(f'{key} {made.option(key)}' for key in keys)}"


def _base(name: str) -> Made:
    return Made(name, {}, name)


def _centre(settings: Mapping[str, object], name: str) -> Made:
    """Find the options of the centre; of a race, those of the winner, unless its name has them."""
    if not name.lower().startswith(_RACE):
        made = made_by(settings, "centre")
        return _base(name) if made is None else made._replace(name=name)
    kind = name[len(_RACE) :].partition(" × ")[0]
    raced = [one for one in _contestants(settings) if one.kind == kind]
    return Made(name, raced[0].options if len(raced) == 1 else {}, kind)


def _contestants(settings: Mapping[str, object]) -> Iterator[Made]:
    """Yield the merges that race in a configuration."""
    given = list(_listed(settings, "centre.init_args.merges"))
    if given:
        yield from given
        return
    for one in Auto().contestants:
        name = type(one).__name__
        yield Made(name, {own.name: getattr(one, own.name) for own in fields(one)}, name)  # pyright: ignore


def _listed(settings: Mapping[str, object], key: str) -> Iterator[Made]:
    numbers = {int(found[1]) for name in settings if (found := re.match(rf"{re.escape(key)}\.(\d+)(\.|$)", name))}
    for number in sorted(numbers):
        if (made := made_by(settings, f"{key}.{number}")) is not None:
            yield made


def _beside(settings: Mapping[str, object]) -> Iterator[tuple[str, Made]]:
    """Yield the models beside the experts by the names of their columns, as the configuration numbers them."""
    found: list[Made] = []
    for made in _listed(settings, "beside"):
        if made in found:
            continue
        same = sum(other.name == made.name for other in found)
        found.append(made)
        name = f"{made.name} {same + 1}" if same else made.name
        yield name, made
        yield f"{name} (beside)", made  # where a task has that name


def _class_in(value: object) -> str:
    return str(value).rpartition(".")[2]


def _defaults(name: str) -> dict[str, Any]:
    """Return the default options of a class of ours, by its name; of others nothing is known."""
    found = next((cls for cls in (*_below(Transform), RegMean, Esm, FeatCal) if cls.__name__ == name), None)
    given = inspect.signature(found).parameters.values() if found else ()
    return {own.name: own.default for own in given if own.default is not own.empty}


def _below(kind: type) -> Iterator[type]:
    for cls in kind.__subclasses__():
        yield cls
        yield from _below(cls)
