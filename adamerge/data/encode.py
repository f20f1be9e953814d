"""Tables → encoded rows; the model and the columns select the modality."""

from collections.abc import Mapping

from adamerge.data.chats import Chat, chat_column
from adamerge.data.chats_of_processors import unlike_processor
from adamerge.data.contents import tensor_contents
from adamerge.data.images import Images
from adamerge.data.in_memory import RowsLike, tensor_rows
from adamerge.data.language import Language
from adamerge.data.language_rows import awaits_answers
from adamerge.data.media import held_by
from adamerge.data.modality import AnyProcessor, Encoded, Modality
from adamerge.data.number_columns import unread_columns
from adamerge.data.number_labels import METRICS
from adamerge.data.pictured import Pictured, is_pictured
from adamerge.data.questions import NORMALISE
from adamerge.data.settings import Encoding, EvaluationSource
from adamerge.data.tables import Table
from adamerge.data.text import Text
from adamerge.data.text_inputs import refuse_chats
from adamerge.data.unprinted import argument_columns
from adamerge.data.unread_images import check_images
from adamerge.data.unread_texts import unread_texts
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind
from adamerge.experts.predicted import form_of
from adamerge.types import ConfigError

MODALITIES: tuple[Modality, ...] = (Images(), Chat(), Language(), Text())
"""All modalities; the first that fits is used."""


def encode(table: Table, expert: Expert, processor: AnyProcessor, encoding: Encoding) -> Encoded:
    """Encode a table into rows that an expert's model takes.

    Args:
        table: The rows.
        expert: The task's expert.
        processor: Its tokenizer or image processor, or what consists of both.
        encoding: Which columns to read, the maximum length of a row, and which positions count.

    Returns:
        The rows, hashes of their contents, and notes for the user.

    Raises:
        ConfigError: A column is missing, a row or a label is invalid, the tokenizer cannot pad or has no chat template,
            or the model cannot be used.
    """
    modality = Pictured() if is_pictured(table, expert, processor) else _modality(expert.kind, table)
    columns = modality.columns(table, encoding)
    if isinstance(modality, Text):
        refuse_chats(table, expert.kind)
    table.require(list(columns.values()))
    names = expert.kind.class_names if encoding.classes is None else dict(enumerate(encoding.classes))
    doubt = table.doubt and table.doubt.problem(names, expert.kind.num_classes or len(names))
    if doubt:
        raise table.error(doubt)
    if encoding.for_language_models and not expert.kind.language_model:
        raise ConfigError(
            f"{table.task}: data.positions and data.pseudo_answers need a language model, but "
            f"{expert.kind.architecture} is not one. Remove both keys, or leave out this task's calibration."
        )
    notes = () if isinstance(modality, Images | Pictured) else check_images(table, expert, chat_column(table))
    used = processor if isinstance(modality, Pictured) else modality.part(processor)
    found = modality.encode(table, expert, used, encoding)
    notes += unread_texts(table, columns, expert.kind, _told(table, expert.kind, columns, used, encoding))
    if isinstance(modality, Chat):
        notes += unlike_processor(table, columns["messages"], processor)
    return found._replace(notes=(*table.reading_notes(columns), *notes, *found.notes))


def _told(
    table: Table, kind: ModelKind, columns: Mapping[str, str], processor: AnyProcessor, encoding: Encoding
) -> set[str]:
    """Return the columns that are read besides the used ones, or that other notes speak of."""
    source = table.source
    told = {source.image} if kind.language_model else set[str]()
    if awaits_answers(encoding) and source.completion:
        told.add(source.completion)
    if "messages" in columns:
        told |= {*argument_columns(table, getattr(processor, "chat_template", None))}
    if isinstance(source, EvaluationSource) and encoding.labeled:
        told |= {NORMALISE, *([source.choices] if isinstance(source.choices, str) else [])}
    return told if encoding.labeled else {*told, source.label}


def encode_tensors(source: RowsLike, expert: Expert, *, labeled: bool) -> Encoded:
    """Use rows that are tensors and hash their contents.

    Args:
        source: The tensors; see `tensor_rows`.
        expert: The task's expert.
        labeled: Whether labels are required.

    Returns:
        The rows and hashes of their contents.

    Raises:
        ConfigError: The tensors do not fit together, the model cannot be run on them, or required labels are missing.
    """
    rows = tensor_rows(source, expert)
    whole = [rows.batch([i]) for i in range(len(rows))]
    if labeled and any(row.labels is None for row in whole):
        raise ConfigError(
            f"{expert.name}: expected rows with labels, found rows without labels. Use dicts of tensors with the key "
            "labels, or a TensorDataset of inputs and labels."
        )
    if labeled and not expert.kind.language_model and rows.metric is None:
        form = form_of(expert, rows.batch([0]).inputs)
        if form in ("vectors", "spans"):
            raise ConfigError(
                f"{expert.name}: expected a model of classes, labels or numbers, because rows of tensors are measured, "
                f"but {expert.kind.architecture} predicts {form}. Leave out its evaluation; calibration can be used."
            )
        rows.metric = METRICS[form][0]
    return Encoded(rows, tensor_contents(whole), unread_columns(source, expert))


def _modality(kind: ModelKind, table: Table) -> Modality:
    return next(modality for modality in modalities_of(kind) if modality.fits(kind, table))


def modalities_of(kind: ModelKind) -> list[Modality]:
    """List the modalities of a model's main input; all of them load the same processor.

    Raises:
        ConfigError: No modality encodes it.
    """
    found = [modality for modality in MODALITIES if modality.main_input == kind.main_input]
    if not found:
        known = ", ".join(dict.fromkeys(modality.main_input for modality in MODALITIES))
        raise ConfigError(
            f"{kind.architecture}: expected a model whose main input is one of {known}, but its main input is "
            f"{kind.main_input}{held_by(kind.main_input)}, for which rows cannot be encoded. Leave out its calibration "
            "and evaluation, and use a data-free method; classifiers also learn from rows of tensors (in Python)."
        )
    return found
