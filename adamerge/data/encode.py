"""Rows of text and images → the inputs of a transformers model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from adamerge.data.images import ImageRows
from adamerge.data.labels import label_indices
from adamerge.data.language import Speech, asked, told
from adamerge.data.rows import DataSource, Rows
from adamerge.data.tables import Contents, Table, contents
from adamerge.data.text import classified
from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.model_kind import classes_by_token, speaks, takes_images
from adamerge.types import ConfigError

Processor: TypeAlias = PreTrainedTokenizerBase | ImageProcessingMixin


class Encoded(NamedTuple):
    """A table as a module takes it.

    Attributes:
        rows: Ready to be made into batches.
        contents: Hashes of the columns that are used.
        notes: What a user should know of them.
    """

    rows: Rows
    contents: Contents
    notes: tuple[str, ...] = ()


def load_processor(checkpoint: Checkpoint, module: nn.Module) -> Processor:
    """The tokenizer or image processor that lies beside a checkpoint, whichever its module takes.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    images = takes_images(module)
    loader, what = (AutoImageProcessor, "image processor") if images else (AutoTokenizer, "tokenizer")
    try:
        processor = loader.from_pretrained(checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code)
        if not images and not _has_vocabulary(checkpoint.folder, processor):  # transformers makes one without words
            raise OSError(f"there is no vocabulary in {checkpoint.folder}")
    except (OSError, ValueError, ImportError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{checkpoint.source}: expected the {what} of {type(module).__name__} beside the weights, but transformers "
            f"cannot load one ({reason}). Copy its files there from the model that was fine-tuned."
        ) from error
    return processor


def lend_padding(processor: Processor, module: nn.Module) -> tuple[str, ...]:
    """Let a language model's tokenizer without a pad token pad with its end-of-text token; returns a note of it.

    Any token would do, since what a language model says of padding never counts. Classifiers may look for it.
    """
    if isinstance(processor, ImageProcessingMixin) or processor.pad_token_id is not None or not speaks(module):
        return ()
    if processor.eos_token is None:
        return ()
    processor.pad_token = processor.eos_token
    return (f"the tokenizer has no pad token: rows are padded with {processor.eos_token}, which never counts.",)


def check_vocabulary(processor: Processor, base: Checkpoint, expert: Checkpoint, task: str) -> None:
    """Refuse an expert whose own tokenizer, if one lies beside it, has other numbers for the base's words.

    Words that it has besides, and reserved places that it gave a name, are no mistake.

    Raises:
        ConfigError: Names the first word.
    """
    here, there = (checkpoint.folder / "tokenizer.json" for checkpoint in (expert, base))
    if isinstance(processor, ImageProcessingMixin) or not (here.exists() and there.exists()):
        return
    if here.read_bytes() == there.read_bytes():
        return
    own, known = (json.loads(file.read_text(encoding="utf-8"))["model"].get("vocab") for file in (here, there))
    if not (isinstance(own, dict) and isinstance(known, dict)):  # a unigram model's list goes by place
        return
    moved = [word for word, index in known.items() if own.get(word, index) != index]
    if moved:
        raise ConfigError(
            f"{task}: {expert.source}: vocabularies differ: {len(moved)} of the base's {len(known)} words have another "
            f"number in the expert's tokenizer.json, {moved[0]!r} for one ({own[moved[0]]} instead of "
            f"{known[moved[0]]}). Experts must be fine-tuned with the base's tokenizer."
        )


def encode(
    table: Table,
    module: nn.Module,
    processor: Processor,
    *,
    labeled: bool,
    max_length: int | None = None,
    classes: Sequence[str] | None = None,
    speech: Speech | None = None,
) -> Encoded:
    """Make a table into rows that a module takes.

    Args:
        table: The rows.
        module: The task's module.
        processor: Its tokenizer or image processor.
        labeled: Whether to read the label column; calibration never does.
        max_length: Tokens a row at most; the tokenizer's own limit by default.
        classes: Names of the module's classes, where its configuration does not hold them.
        speech: Of language models, which positions count and whether rows are to be answered first; by default all
            positions of the rows as they are.

    Raises:
        ConfigError: A column is missing, a row or a label is unusable, the tokenizer cannot pad or has no chat
            template, or the module is of a kind that cannot be used.
    """
    table = _with_chats_found(table, module)
    columns = _columns(table.source, module, labeled, answered=speech is not None and speech.answer is not None)
    table.require(list(columns.values()))
    if speech is not None and speech != Speech() and not speaks(module):
        raise ConfigError(
            f"{table.task}: data.positions and data.pseudo_answers are for language models, but "
            f"{type(module).__name__} is none. Leave them out."
        )
    if "image" in columns:
        table = table.with_images(columns["image"])
    found = contents(table, columns)
    if isinstance(processor, ImageProcessingMixin):
        classes_by_token(module, ImageRows(table, processor, None).batch([0]).inputs, table.task)
        labels, notes = _labels(table, module, classes) if labeled else (None, ())
        return Encoded(ImageRows(table, processor, labels), found, notes)
    if processor.pad_token_id is None:
        why = (
            "padding never counts; language models' rows are padded with the end-of-text token, but there is none "
            "either"
            if speaks(module)
            else "for example the end-of-text token; padding never counts"
        )
        raise ConfigError(
            f"{table.task}: the tokenizer has no pad token, and rows of different lengths must be padded. Set one in "
            f"the base's tokenizer_config.json ({why})."
        )
    limit = min(max_length or 10**9, processor.model_max_length, _positions(module))
    if speaks(module):
        rows, notes = _speech(table, module, processor, limit, speech or Speech(), labeled=labeled)
        return Encoded(rows, found, notes)
    one = classified(table.longest(table.source.text), processor, limit).batch([0]).inputs
    if classes_by_token(module, one, table.task):
        if labeled:
            raise table.error(
                f"{type(module).__name__} gives each token a class, and labels of tokens cannot be measured yet. Leave "
                "out this task's evaluation, and measure the exported checkpoint."
            )
        return Encoded(classified(table, processor, limit, by_token=True), found)
    labels, notes = _labels(table, module, classes) if labeled else (None, ())
    return Encoded(classified(table, processor, limit, labels=labels), found, notes)


def _speech(
    table: Table,
    module: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    speech: Speech,
    *,
    labeled: bool,
) -> tuple[Rows, tuple[str, ...]]:
    """A language model's rows, and how many were left out; the model is tried on the longest."""
    if speech.answer is None or labeled:
        rows, notes = told(table, module, tokenizer, limit, speech, labeled=labeled)
        tried = rows
    else:
        rows, notes = asked(table, module, tokenizer, limit, speech)
        tried = rows.answered([[0]] * len(rows))
    longest = tried.by_length(range(len(tried)))[:1]
    classes_by_token(module, tried.batch(longest).inputs, table.task)
    return rows, notes


def _with_chats_found(table: Table, module: nn.Module) -> Table:
    """Of a language model's rows that have no texts, but messages, these are taken."""
    columns = table.data.column_names
    if table.source.messages or table.source.text in columns or "messages" not in columns or not speaks(module):
        return table
    return replace(table, source=replace(table.source, messages="messages"))


def _columns(source: DataSource, module: nn.Module, labeled: bool, answered: bool) -> dict[str, str]:
    """The columns that are used, by what they are for."""
    if takes_images(module):
        used: dict[str, str | None] = {"image": source.image}
    elif not speaks(module):
        used = {"text": source.text, "text_pair": source.text_pair}
    elif source.messages:
        return {"messages": source.messages}
    else:
        used = {"text": source.text, "completion": source.completion if labeled or not answered else None}
    if labeled and not speaks(module):
        used["label"] = source.label
    return {role: column for role, column in used.items() if column}


def _labels(table: Table, module: nn.Module, classes: Sequence[str] | None) -> tuple[list[int], tuple[str, ...]]:
    config = getattr(module, "config", None)
    known: Mapping[str, int] = getattr(config, "label2id", None) or {}
    if classes is not None:
        known = {name: index for index, name in enumerate(classes)}
    count = getattr(module, "num_labels", None) or getattr(config, "num_labels", None) or len(known)
    labels, note = label_indices(table, known, count)
    return labels, (note,) if note else ()


def _has_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    files = {"tokenizer.json", "tokenizer_config.json", *tokenizer.vocab_files_names.values()}
    return any((folder / file).exists() for file in files)


def _positions(module: nn.Module) -> int:
    """The longest row that a module's position embeddings allow, as far as its configuration says."""
    return getattr(getattr(module, "config", None), "max_position_embeddings", None) or 10**9
