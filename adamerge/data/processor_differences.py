"""How two tokenizers or image processors differ, and cache keys of processors."""

import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from transformers import AddedToken, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_base import ImageProcessingMixin

from adamerge.data.modality import AnyProcessor, Processor
from adamerge.storage.digest import digest_of_json
from adamerge.storage.regular_files import read_json

_MOST = 8
"""Number of differences that are listed; the rest is counted."""

_UNUSED = ("_type", "processor_class", "_processor_class", "auto_map", "name_or_path")
"""Ends of the keys of an image processor that do not change its pixels."""


def differences(own: Processor, base: Processor) -> list[str]:
    """List how an expert's processor differs from the base's.

    Args:
        own: The expert's tokenizer or image processor.
        base: The base's.

    Returns:
        One phrase per difference; empty if both encode alike.
    """
    mine, theirs = properties(own), properties(base)
    found = vocabulary_differences(own, base)
    for key in dict.fromkeys([*mine, *theirs]):
        if mine.get(key) != theirs.get(key):
            found.append(f"{key} {short(mine.get(key))} (base: {short(theirs.get(key))})")
    rest = len(found) - _MOST
    return found if rest <= 0 else [*found[:_MOST], f"and {rest} more"]


def digest_of_processor(processor: AnyProcessor) -> str:
    """Hash everything that a processor's encoding depends on."""
    if isinstance(processor, ProcessorMixin):
        parts = [getattr(processor, name) for name in processor.get_attributes()]
        known = [part for part in parts if isinstance(part, PreTrainedTokenizerBase | ImageProcessingMixin)]
        return digest_of_json([*map(digest_of_processor, known), str(processor.to_dict()), processor.chat_template])
    tokenizer = processor if isinstance(processor, PreTrainedTokenizerBase) else None
    words = [tokenizer.get_vocab(), _ways(tokenizer), _backend(tokenizer, "model")] if tokenizer else []
    return digest_of_json([properties(processor), *words])


def properties(processor: Processor) -> dict[str, object]:
    """Return the settings of a processor that its encoding depends on, without the vocabulary, by dotted key."""
    if not isinstance(processor, PreTrainedTokenizerBase):
        flat = dict(_flat(json.loads(processor.to_json_string()), ""))
        return {key: value for key, value in flat.items() if not key.endswith(_UNUSED)}
    parts = {part: _backend(processor, part) for part in ("normalizer", "pre_tokenizer", "post_processor")}
    own = {
        "special tokens": {key: str(token) for key, token in processor.special_tokens_map.items()},
        "chat_template": processor.chat_template,
        "model_max_length": processor.model_max_length,
        "truncation_side": processor.truncation_side,
        "token_type_ids": "token_type_ids" in processor.model_input_names,
        "split_special_tokens": processor.split_special_tokens,
        "model": _settings(_backend(processor, "model")),
        "options": {} if processor.is_fast else _options(processor.init_kwargs),
    }
    return dict(_flat({**parts, **own}, ""))


def _settings(model: object) -> object:
    """Return the settings of a tokenizer's model; its merges and scores, of which there are many, as a hash."""
    if not isinstance(model, dict):
        return None
    found = {key: value for key, value in cast(Mapping[str, object], model).items() if key != "vocab"}
    scores = model["vocab"] if isinstance(model.get("vocab"), list) else None
    many = {"merges": model.get("merges"), "scores": scores}
    return found | {key: digest_of_json(value)[:8] for key, value in many.items() if value}


def _options(given: Mapping[str, object]) -> Mapping[str, object]:
    """Return the options of a tokenizer that is written in Python, without files and what is listed by itself."""
    plain = {key: value for key, value in given.items() if value is None or isinstance(value, bool | int | float | str)}
    return {key: value for key, value in plain.items() if not key.endswith(("_file", "_token", *_UNUSED, "_length"))}


def token_ways(added: Iterable[AddedToken]) -> dict[str, list[bool]]:
    """Return how each added token is found in a text: alone, with spaces, before or after the normaliser.

    Args:
        added: Added tokens of a tokenizer.
    """
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {token.content: [bool(getattr(token, flag)) for flag in flags] for token in added}


def _ways(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[bool]]:
    return token_ways(tokenizer.added_tokens_decoder.values())


def vocabulary_differences(own: Processor, base: Processor) -> list[str]:
    """Count the tokens that only one of two tokenizers has, and those with another index."""
    if not (isinstance(own, PreTrainedTokenizerBase) and isinstance(base, PreTrainedTokenizerBase)):
        return []
    mine, theirs = own.get_vocab(), base.get_vocab()
    ways, before = _ways(own), _ways(base)
    counts = {
        "tokens that the base's lacks": [word for word in mine if word not in theirs],
        "tokens less than the base's": [word for word in theirs if word not in mine],
        "tokens with another index": moved(mine, theirs),
        "tokens that are found in a text in another way": [
            word for word in ways | before if word in mine and word in theirs and ways.get(word) != before.get(word)
        ],
    }
    return [f"{len(words)} {what} (such as {words[0]!r})" for what, words in counts.items() if words]


def moved(mine: Mapping[str, int], theirs: Mapping[str, int]) -> list[str]:
    """List the words of both vocabularies whose index differs.

    Example:
        >>> moved({"a": 0, "b": 2, "d": 1}, {"a": 0, "b": 1, "c": 2})
        ['b']
    """
    return [word for word, index in theirs.items() if mine.get(word, index) != index]


def key_notes(folder: Path | None, processor: Processor) -> list[str]:
    """List keys of tokenizer_config.json that the loaded tokenizer does not follow.

    transformers 5 ignores add_bos_token and add_eos_token where there is a tokenizer.json, whose post-processor
    decides; transformers 4 followed them.

    Args:
        folder: Folder of the tokenizer.
        processor: The tokenizer as it was loaded.
    """
    if folder is None or not isinstance(processor, PreTrainedTokenizerBase):
        return []
    file = folder / "tokenizer_config.json"
    keys = read_json(file) if file.exists() else None
    if not isinstance(keys, dict):
        return []
    ids = cast(Sequence[int], processor("a")["input_ids"])
    found: list[str] = []
    for key, name, place in (("add_bos_token", "bos_token", 0), ("add_eos_token", "eos_token", -1)):
        token = getattr(processor, f"{name}_id")
        adds = bool(ids) and token is not None and ids[place] == token
        if isinstance(keys.get(key), bool) and token is not None and keys[key] != adds:
            does = "adds" if adds else "does not add"
            found.append(
                f"tokenizer_config.json says {key}: {str(keys[key]).lower()}, but the tokenizer {does} "
                f"{getattr(processor, name)}: its post-processor (tokenizer.json) decides, as in transformers 5. "
                "Correct one of the two if the model was trained otherwise."
            )
    return found


def _backend(tokenizer: PreTrainedTokenizerBase, part: str) -> object:
    """Return a part of a fast tokenizer's pipeline as a JSON value; its type if it cannot be written as JSON."""
    found = getattr(getattr(tokenizer, "backend_tokenizer", None), part, None)
    if found is None:
        return None
    try:
        return json.loads(found.__getstate__())
    except Exception:  # a part that is written in Python
        return type(found).__name__


def _flat(value: object, key: str) -> Iterator[tuple[str, object]]:
    """Yield the leaves of a JSON value by dotted key."""
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        yield key, value
        return
    for inner, part in pairs:
        yield from _flat(part, f"{key}.{inner}" if key else str(inner))


def short(value: object) -> str:
    """Write a setting in a few words."""
    return "none" if value is None else reprlib.repr(value)
