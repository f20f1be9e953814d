"""Rows of images and text for vision-language models: chats, of which the last answer counts."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import datasets
import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, ProcessorMixin
from typing_extensions import override

from adamerge.data.chats import chat_column
from adamerge.data.contents import Contents, hash_of
from adamerge.data.made_sizes import check_made, within_memory
from adamerge.data.media import media_columns, media_in_chats, media_in_columns, reads
from adamerge.data.modality import AnyProcessor, Encoded, Modality
from adamerge.data.odd_turns import odd_turns
from adamerge.data.pictured_chats import images_of, pictured_chats
from adamerge.data.pixels import Stored, check_scale, converted, storage_notes, stored_as
from adamerge.data.questions import check_metric
from adamerge.data.rendered import rejection
from adamerge.data.rows import Padded, Rows
from adamerge.data.sample_scale import decode
from adamerge.data.settings import Encoding
from adamerge.data.sharegpt import form_notes
from adamerge.data.tables import Table
from adamerge.data.text_rows import next_tokens, predicting
from adamerge.data.tokenize import TOKENIZER_FILES, token_limit
from adamerge.data.unprinted import unprinted_notes
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind, classes_by_token, takes
from adamerge.types import Fact, quoted

_MODE = "RGB"
"""Mode of images as processors of images and text take them."""

Chat = Sequence[Mapping[str, object]]


def is_pictured(table: Table, expert: Expert, processor: object) -> bool:
    """Return whether rows hold images that their model reads, and there is a processor for them."""
    if not expert.kind.language_model or not isinstance(processor, ProcessorMixin):
        return False
    columns = {name: kind for name, kind in media_columns(table).items() if reads(expert.own_module, kind)}
    kinds = {found.kind for found in media_in_chats(table, chat_column(table))}
    kinds |= {found.kind for found in media_in_columns(table, columns)}
    return kinds == {"image"} and reads(expert.own_module, "image")


class Pictured(Modality):
    """Chats with images for decoders that read both; the assistant's last turn is the completion."""

    main_input: ClassVar = "input_ids"
    loader: ClassVar = AutoTokenizer
    loads: ClassVar = "tokenizer"
    files: ClassVar = TOKENIZER_FILES

    @override
    def fits(self, kind: ModelKind, table: Table) -> bool:
        return False  # chosen by `is_pictured`, which needs the model and its processor

    @override
    def columns(self, table: Table, encoding: Encoding) -> dict[str, str]:
        column = chat_column(table)
        if column in table.columns and (table.source.messages or table.source.text not in table.columns):
            return {"messages": column}
        return {"text": table.source.text, **({"completion": c} if (c := table.source.completion) else {})}

    @override
    def encode(self, table: Table, expert: Expert, processor: AnyProcessor, encoding: Encoding) -> Encoded:
        if encoding.answer_tokens is not None and not encoding.labeled:
            raise table.error(
                "data.pseudo_answers cannot be made for rows with images yet. Remove the key, and give rows with "
                "answers."
            )
        check_metric(
            table, expert.kind, encoding, ["perplexity"], "reads images, and answers to them are not generated yet"
        )
        whole = cast(ProcessorMixin, processor)
        if not whole.chat_template:
            raise table.error(
                f"{type(whole).__name__} has no chat template, by which a row's images, texts and answer become the "
                "input of the model. Put one beside it (chat_template.jinja), with the form that the model was "
                "trained on, use rows of text alone, or leave out this task's calibration and evaluation."
            )
        check_made(table, whole)
        chats = pictured_chats(table)
        found, about = _looked(table, chats)
        rows = PicturedRows(table, whole, chats, expert)
        limit = token_limit(expert.kind, whole.tokenizer, encoding.max_length)  # pyright: ignore[reportAttributeAccessIssue]
        kept = [i for i in range(len(chats)) if rows.length(i)[0] <= limit and rows.counted(i)]
        if not kept:
            raise table.error(
                f"no row has an answer within {limit} tokens, images included. Raise data.max_length or use other rows."
            )
        notes = (
            *_notes(table, chats, len(chats) - len(kept), limit),
            *about,
            *(form_notes(table, column) if (column := self.columns(table, encoding).get("messages")) else ()),
            *odd_turns(table, chats, encoding, answered=False),
            *unprinted_notes(table, whole, chats, chats),
        )
        rows = rows.only(kept)
        classes_by_token(expert.module, expert.kind, rows.batch([0]).inputs, table.task)
        return Encoded(rows, found, notes)


class PicturedRows(Rows):
    """Chats with images, rendered and processed per batch; the tokens of the last answer count.

    Args:
        table: Names rows in errors.
        processor: Renders chats, and makes inputs of them.
        chats: Messages with lists of parts; images as the rows hold them.
        expert: Its class says which inputs it takes.
    """

    def __init__(self, table: Table, processor: ProcessorMixin, chats: Sequence[Chat], expert: Expert) -> None:
        self._table, self._processor, self._chats, self._expert = table, processor, chats, expert
        processor.tokenizer.padding_side = "right"  # pyright: ignore[reportAttributeAccessIssue]
        self._numbers: Sequence[int] = range(len(chats))
        self._spans = [self._span(row) for row in range(len(chats))]

    def __len__(self) -> int:
        return len(self._numbers)

    def only(self, rows: Sequence[int]) -> "PicturedRows":
        """Return some of the rows."""
        chosen = self.under(self.padding)
        chosen._numbers = [self._numbers[row] for row in rows]
        return chosen

    def counted(self, index: int) -> int:
        """Return the number of tokens of a row's answer."""
        start, length = self._spans[self._numbers[index]]
        return length - start

    @override
    def length(self, index: int) -> tuple[int, ...]:
        return (self._spans[self._numbers[index]][1],)

    @override
    def padded(self, indices: Sequence[int]) -> Padded:
        numbers = [self._numbers[index] for index in indices]
        inputs = self._encoded([self._chats[number] for number in numbers], numbers[0])
        ids = inputs["input_ids"]
        present = inputs.get("attention_mask", torch.ones_like(ids)).bool()
        counted = predicting(present, [self._spans[number][0] for number in numbers])
        return Padded(inputs, counted, next_tokens(ids, counted, present))

    def _span(self, row: int) -> tuple[int, int]:
        """Return where the answer of a row starts, and the row's length, in tokens."""
        chat = self._chats[row]
        whole = self._encoded([chat], row)["input_ids"][0].tolist()
        prompt = self._encoded([chat[:-1]], row, answer_next=True)["input_ids"][0].tolist()
        pairs = enumerate(zip(whole, prompt, strict=False))
        return next((i for i, (one, two) in pairs if one != two), min(len(prompt), len(whole))), len(whole)

    def _encoded(self, chats: Sequence[Chat], row: int, *, answer_next: bool = False) -> dict[str, Tensor]:
        messages = [[_with_pictures(self._table, row, message) for message in chat] for chat in chats]
        place = self._table.place(row)
        with within_memory(self._table, place):
            try:
                found = self._processor.apply_chat_template(
                    messages,  # pyright: ignore[reportArgumentType]
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                    padding=True,
                    add_generation_prompt=answer_next,
                )
            except (TemplateError, ValueError, TypeError, KeyError, IndexError) as error:
                raise self._table.error(rejection("processor", error, place)) from error
        module = self._expert.own_module
        items = cast(Mapping[str, object], found).items()
        return {name: t for name, t in items if isinstance(t, Tensor) and takes(module, name)}


def _with_pictures(table: Table, row: int, message: Mapping[str, object]) -> dict[str, object]:
    parts = cast(list[dict[str, object]], message["content"])
    shown = [{**p, "image": _decoded(table, row, p["image"])} if p["type"] == "image" else p for p in parts]
    return {**message, "content": shown}


def _decoded(table: Table, row: int, value: object) -> Image.Image:
    return converted(_opened(table, row, value), _MODE)


def _opened(table: Table, row: int, value: object) -> Image.Image:
    """Decode an image of a row.

    Raises:
        ConfigError: It cannot be read; names its row and file.
    """
    if isinstance(value, str) and "://" in value:
        raise table.error(
            f"{table.place(row)} has an image at an address ({value[:80]}), and addresses are not opened. Download "
            "images first, and write their paths."
        )
    try:
        stored = cast(dict[str, object], datasets.Image().encode_example(value))  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise table.error(
            f"{table.place(row)}: expected an image or the path of one, found {quoted(value)}. Correct or remove the "
            "row."
        ) from error
    with table.decoding(row, stored):
        image = decode(stored)
        check_scale(table, row, stored, image)
        return image


def _looked(table: Table, chats: Sequence[Chat]) -> tuple[Contents, tuple[str, ...]]:
    """Hash every row, and count the images that are not read as they are stored; each is decoded once."""
    hashes, stored = list[bytes](), list[tuple[int, Stored]]()
    for row, chat in enumerate(chats):
        opened = [_opened(table, row, image) for image in images_of(chat)]
        hashes.append(_hash(chat, [converted(image, _MODE) for image in opened]))
        stored += [(row, stored_as(image)) for image in opened]
    return Contents({"chat": hashes}), storage_notes(table, stored, _MODE)


def _hash(chat: Chat, pictures: Sequence[Image.Image]) -> bytes:
    shown = [
        {
            **m,
            "content": [p["text"] if p["type"] == "text" else "" for p in cast(list[dict[str, object]], m["content"])],
        }
        for m in chat
    ]
    return hash_of(shown, pictures)


def _notes(table: Table, chats: Sequence[Chat], dropped: int, limit: int) -> tuple[str, ...]:
    place, images = f"{table.task}: {table.source.path}", sum(len(list(images_of(chat))) for chat in chats)
    said: list[str] = [Fact(f"{place}: {images} images in {len(chats)} rows; the tokens of the last answer count.")]
    if dropped:
        said.append(
            f"{place}: {dropped} of {len(chats)} rows are dropped: longer than {limit} tokens with their images, or "
            "without an answer (see data.max_length)."
        )
    return tuple(said)
