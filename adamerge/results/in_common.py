"""Files and settings that experts have in common, and what a merge of them takes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from adamerge.storage.digest import digest_of_path

Value = TypeVar("Value")


def shared(base: Mapping[str, Path], own: Sequence[Mapping[str, Path]], of: Callable[..., str]) -> Mapping[str, Path]:
    """Return files that all experts bring alike, else the base's."""
    return own[0] if own and all(own) and len({of(one) for one in own}) == 1 else base


def tokenizer_of(
    base: Mapping[str, Path], own: Sequence[Mapping[str, Path]], of: Callable[..., str]
) -> Mapping[str, Path]:
    """Return the tokenizer that all experts bring alike, else the base's.

    The first expert's, if all know the same tokens, which are not the base's, and differ in settings (their greatest
    length): templates that all experts bring are written in these tokens.
    """
    tokens = [_without_settings(one) for one in own]
    same = all(tokens) and len({of(one) for one in tokens}) == 1 and of(tokens[0]) != of(_without_settings(base))
    return shared(own[0] if same else base, own, of)


def _without_settings(files: Mapping[str, Path]) -> dict[str, Path]:
    return {name: file for name, file in files.items() if name != "tokenizer_config.json"}


def common_files(own: Sequence[Mapping[str, Path]]) -> dict[str, Path]:
    """Return the files that all experts have alike."""
    first, *rest = own or [{}]
    return {name: file for name, file in first.items() if all(is_alike(name, file, other) for other in rest)}


def is_alike(name: str, file: Path, others: Mapping[str, Path]) -> bool:
    """Return whether a file is among others, with the same content."""
    return name in others and digest_of_path(file) == digest_of_path(others[name])


def agreed(base: Mapping[str, Value], own: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    """Return the base's settings with those on which all experts agree.

    Example:
        >>> agreed({"eos": 2, "top_k": 9}, [{"eos": 4, "top_k": 1, "top_p": 0.5}, {"eos": 4, "top_k": 3}])
        {'eos': 4, 'top_k': 9}
    """
    first, *rest = own or [base]
    every = {key: value for key, value in first.items() if all(key in one and same(value, one[key]) for one in rest)}
    return {**base, **every}


def generation(base: Mapping[str, object], own: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return the settings on which all agree, and the base's as far as any expert has them: they must fit together.

    Example:
        >>> generation({"do_sample": True, "top_k": 9}, [{"do_sample": False}, {"do_sample": False}])
        {'do_sample': False}
    """
    found = agreed(base, own)
    if not own or not all(own):
        return found
    return {key: value for key, value in found.items() if any(key in one for one in own)}


def same(one: object, other: object) -> bool:
    """Return whether two settings are equal; of token ids the order does not count."""
    if isinstance(one, list) and isinstance(other, list):
        return sorted(map(str, one)) == sorted(map(str, other))
    return one == other or one == [other] or [one] == other
