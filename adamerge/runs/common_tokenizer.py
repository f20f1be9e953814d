"""`tokenizer`: one tokenizer for base and experts, before they are compared."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from adamerge.data.common_vocabulary import (
    Vocabulary,
    lost_settings,
    moved_to,
    of_all,
    problems_between,
    read_vocabulary,
    rows_of,
    save_union,
)
from adamerge.data.processor_files import files_of, has_tokenizer
from adamerge.experts.checkpoint import Checkpoint, locate
from adamerge.experts.file_patterns import TOKENIZER
from adamerge.experts.low_rank import Adapted
from adamerge.experts.name_patterns import several
from adamerge.experts.vocabulary_rows import vocabulary_size, with_rows
from adamerge.results.beside import left_behind, read_beside
from adamerge.results.write_beside import copy_module_weights, write_beside
from adamerge.storage.atomic_files import kept_folder, write_text
from adamerge.types import ConfigError, Fact, IncompatibleExpertsError

_OF_TOKENS = ("_token_id", "_token_ids", "_token_index", "suppress_tokens", "bad_words_ids")
"""Endings of settings that are indices of tokens."""


@dataclass(frozen=True)
class _Common:
    """The tokenizer of a merge.

    Attributes:
        vocabulary: Its tokens.
        of: The tokens of each model that has some, by name; the base's under "".
        templates: Chat templates for a base that has none.
        place: Folder for the models' settings.
    """

    vocabulary: Vocabulary
    of: Mapping[str, Vocabulary]
    templates: Mapping[str, str]
    place: Path


def with_common_tokenizer(
    choice: str, base: Checkpoint, experts: Mapping[str, Checkpoint]
) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """Give base and experts the rows and files of one tokenizer.

    Rows of tokens that both know are merged; a row that a model lacks is taken from the models that have it.

    Args:
        choice: "base", "union", a task, or the directory or hub id of a model.
        base: The base.
        experts: Complete experts by task.

    Returns:
        Base and experts with as many rows, and in a folder with the common tokenizer.

    Raises:
        IncompatibleExpertsError: The tokenizers differ by more than added tokens.
        ConfigError: A tokenizer is missing.
    """
    models = {"": base, **experts}
    with_words = {name: one for name, one in models.items() if vocabulary_size(one) is not None}
    if "" not in with_words:
        raise ConfigError(f"{base.source}: tokenizer: expected a model of texts, but config.json has no vocab_size.")
    own = {name: _vocabulary(one, base) for name, one in with_words.items()}
    problems = [line for one in own.values() for line in problems_between(one, own[""])]
    if problems:
        raise IncompatibleExpertsError(*problems)
    kept = kept_folder()
    common = _chosen(choice, base, own, kept / "union")
    templates = next(filter(None, (dict(read_beside(one).templates) for one in experts.values())), {})
    settings = _Common(common, own, templates, kept)
    rows = [rows_of(one, common, own[""]) for one in own.values()]
    found = dict(zip(with_words, with_rows(list(with_words.values()), rows), strict=True))
    numbers = enumerate(found.items())
    placed = {name: _placed(name, number, one, models[name], settings) for number, (name, one) in numbers}
    placed[""] = replace(placed[""], notes=(*placed[""].notes, *_notes(choice, settings, base, experts)))
    return placed.pop(""), {name: placed.get(name, one) for name, one in experts.items()}


def check_adapters(choice: str, common: Checkpoint, base: Checkpoint, adapters: Mapping[str, Checkpoint]) -> None:
    """Check that adapters have no tokens of their own, and that the base's tokens keep their indices under them.

    Args:
        choice: Value of the key `tokenizer`.
        common: The base with the common tokenizer.
        base: The base as it was opened.
        adapters: Adapters by task.

    Raises:
        IncompatibleExpertsError: One line per problem.
    """
    theirs = _vocabulary(base, base)
    moved = moved_to(theirs, _vocabulary(common, common))
    problems: list[str] = []
    for name, one in adapters.items():
        brought = next((folder for folder in one.folders if folder != base.folder and has_tokenizer(folder)), None)
        mine = read_vocabulary(one.source, brought, theirs.size).indices if brought else theirs.indices
        if one.beneath is not None or moved or mine != theirs.indices:
            problems.append(no_rows(name, choice))
    if problems:
        raise IncompatibleExpertsError(*problems)


def no_rows(name: str, choice: str) -> str:
    """Say that an adapter cannot be merged over a base with other tokens, and what to do.

    Args:
        name: Task of the adapter.
        choice: Value of the key `tokenizer`.
    """
    return (
        f"{name}: tokenizer: {choice}: expected an adapter over the base with the base's tokens, found other tokens, "
        "rows of all tokens, or another model below it. Merge the adapter into its model first "
        "(peft: merge_and_unload().save_pretrained(…) with its tokenizer), and give the complete checkpoint."
    )


def _vocabulary(one: Checkpoint, base: Checkpoint) -> Vocabulary:
    """Read the tokens of a model; of one without a tokenizer those of the base, if it has as many rows."""
    size, theirs = vocabulary_size(one), vocabulary_size(base)
    folder = next((folder for folder in one.folders if has_tokenizer(folder)), None)
    assert size is not None
    if folder is None and one is not base and size == theirs:
        folder = next((folder for folder in base.folders if has_tokenizer(folder)), None)
    if folder is None:
        raise ConfigError(
            f"{one.source}: tokenizer: expected a tokenizer beside the weights, found none. vocab_size is {size} here "
            f"and {theirs} in the base. Copy its files there."
        )
    return read_vocabulary(one.source, folder, size, trusted=one.trust_remote_code)


def _chosen(choice: str, base: Checkpoint, own: Mapping[str, Vocabulary], folder: Path) -> Vocabulary:
    every = list(own.values())
    if choice == "union":
        return of_all(every) or save_union(every, folder, trusted=base.trust_remote_code)
    if choice == "base":
        return own[""]
    if choice in own:
        return own[choice]
    place = locate(choice, base.allow_pickle)
    if not has_tokenizer(place):
        raise ConfigError(f"tokenizer: {choice}: expected a tokenizer in this folder, found none. Correct the path.")
    found = read_vocabulary(choice, place, own[""].size, trusted=base.trust_remote_code)
    unknown = sorted(found.indices.keys() - set[str]().union(*(one.indices for one in every)))
    problems = problems_between(found, own[""])
    if unknown:
        problems.append(
            f"tokenizer: {choice}: expected tokens that base or experts have, found {several(unknown)}, for which no "
            "model has a row. Write base or union."
        )
    if problems:
        raise IncompatibleExpertsError(*problems)
    return found


def _placed(name: str, number: int, one: Checkpoint, former: Checkpoint, common: _Common) -> Checkpoint:
    """Write the settings of a model as they are with the common tokenizer, and say where they are."""
    folder = common.place / str(number)
    folder.mkdir()
    own, moved = read_beside(former), moved_to(common.of[name], common.vocabulary)
    templates = own.templates or ({} if name else common.templates)
    beside = replace(own, tokenizer=files_of(common.vocabulary.folder, TOKENIZER), templates=templates)
    write_beside(replace(beside, generation=_renumbered(dict(own.generation), moved)), folder)
    copy_module_weights(beside, folder)
    settings = _resized(cast(dict[str, object], _renumbered(former.settings(), moved)), one, former)
    write_text(folder / "config.json", json.dumps(settings, indent=2) + "\n")
    for part in (one.config, *(getattr(one.config, key, None) for key in one.config.sub_configs)):
        if part is not None:
            for key in [key for key in vars(part) if key.endswith(_OF_TOKENS)]:
                setattr(part, key, _renumbered({key: getattr(part, key)}, moved).get(key))
    notes = [note for note in left_behind(former) if note not in one.notes]
    return replace(one, folder=folder, given=None, read_from=former.folder, notes=(*one.notes, *notes))


def _resized(settings: dict[str, object], one: Checkpoint, former: Checkpoint) -> dict[str, object]:
    """Set the number of tokens wherever the former one is written."""
    new, old = vocabulary_size(one), vocabulary_size(former)
    parts = {k: _resized(cast(dict[str, object], v), one, former) for k, v in settings.items() if isinstance(v, dict)}
    here = {"vocab_size": new} if settings.get("vocab_size") == old else {}
    return {**settings, **parts, **here}


def _renumbered(settings: dict[str, object], moved: Mapping[int, int | None]) -> dict[str, object]:
    """Write the common tokenizer's indices in settings that are indices of tokens; what is gone is left out."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found[key] = _renumbered(cast(dict[str, object], value), moved)
        elif key.endswith(_OF_TOKENS):
            new = _index(value, moved)
            found |= {key: new} if new is not None or value is None else {}
        else:
            found[key] = value
    return found


def _index(value: object, moved: Mapping[int, int | None]) -> object:
    if isinstance(value, list):
        every = [_index(one, moved) for one in cast(list[object], value)]
        return [one for one in every if one is not None and one != []]
    return moved.get(value, value) if isinstance(value, int) and not isinstance(value, bool) else value


def _notes(choice: str, common: _Common, base: Checkpoint, experts: Mapping[str, Checkpoint]) -> Iterator[str]:
    """Say which rows are from whom, which tokens are lost, and whose chat template is taken."""
    tokens, theirs = common.vocabulary.indices, common.of[""].indices
    both = len(tokens.keys() & theirs.keys())
    yield Fact(f"tokenizer: {choice}: the merge has {len(tokens)} tokens, {both} of the base.")
    added = [token for token in sorted(tokens, key=lambda token: tokens[token]) if token not in theirs]
    for name, one in common.of.items():
        new = [token for token in added if token in one.indices]
        if new:
            yield Fact(f"{name}: brings the rows of {len(new)} added tokens: {several(new)}.")
        yield from _changed(name or base.source, one, common.vocabulary)
    if common.templates and not read_beside(base).templates:
        giver = next(name for name, one in experts.items() if read_beside(one).templates)
        yield f"{base.source}: has no chat template; the merge gets that of {giver}."


def _changed(name: str, own: Vocabulary, common: Vocabulary) -> Iterator[str]:
    """Say which of a model's tokens are dropped, which get another index, and which settings of its tokenizer count."""
    mine, tokens = own.indices, common.indices
    gone = sorted(mine.keys() - tokens.keys())
    other = sorted(token for token in mine.keys() & tokens.keys() if mine[token] != tokens[token])
    if gone:
        yield f"{name}: {len(gone)} tokens are not in the merge, and their rows are dropped: {several(gone)}."
    if other:
        yield f"{name}: {len(other)} tokens get another index than in its own tokenizer: {several(other)}."
    if lost := lost_settings(own, common):
        yield f"{name}: its texts are read by the tokenizer of the merge, which has other settings: {several(lost)}."


def is_complete(one: Checkpoint) -> bool:
    """Return whether an expert is a complete checkpoint, not an adapter."""
    return not isinstance(one.tensors, Adapted)
