"""Tables → rows of the modality that the model and the columns ask for."""

from adamerge.data.chats import Chat
from adamerge.data.contents import tensor_contents
from adamerge.data.images import Images
from adamerge.data.in_memory import RowsLike, tensor_rows
from adamerge.data.language import Language
from adamerge.data.modality import Encoded, Modality, Processor
from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.data.text import Text
from adamerge.data.tokenize import has_vocabulary
from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind
from adamerge.types import ConfigError

MODALITIES: tuple[Modality, ...] = (Images(), Chat(), Language(), Text())
"""All kinds of rows; the first that fits is taken."""


def load_processor(checkpoint: Checkpoint, kind: ModelKind) -> Processor:
    """Load the tokenizer or image processor that was saved with a checkpoint, whichever its model needs.

    Raises:
        ConfigError: There is none, it cannot be read, or no modality is known for the model's input.
    """
    modality = _of_input(kind)[0]
    try:
        processor = modality.loader.from_pretrained(checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code)
        if not has_vocabulary(checkpoint.folder, processor):
            raise OSError(f"there is no vocabulary in {checkpoint.folder}")
    except (OSError, ValueError, ImportError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{checkpoint.source}: expected the {modality.loads} of {kind.architecture} beside the weights, but "
            f"transformers cannot load one ({reason}). Copy its files there from the model that was fine-tuned."
        ) from error
    return processor


def encode(table: Table, expert: Expert, processor: Processor, encoding: Encoding) -> Encoded:
    """Encode a table into rows that an expert's model takes.

    Args:
        table: The rows.
        expert: The task's.
        processor: Its tokenizer or image processor.
        encoding: What to read, how long rows may be, and which positions count.

    Raises:
        ConfigError: A column is missing, a row or a label cannot be used, the tokenizer cannot pad or has no chat
            template, or the model is of a kind that cannot be used.
    """
    modality = _modality(expert.kind, table)
    table.require(list(modality.columns(table, encoding).values()))
    if encoding.for_language_models and not expert.kind.language_model:
        raise ConfigError(
            f"{table.task}: data.positions and data.pseudo_answers are for language models, but "
            f"{expert.kind.architecture} is none. Leave them out."
        )
    return modality.encode(table, expert, processor, encoding)


def encode_tensors(source: RowsLike, expert: Expert, *, labeled: bool) -> Encoded:
    """Take rows that are tensors already; their contents are hashed as they are.

    Raises:
        ConfigError: They do not fit together, the model cannot be run on them, or labels are asked for that are not
            there.
    """
    rows = tensor_rows(source, expert)
    whole = [rows.batch([i]) for i in range(len(rows))]
    if labeled and any(row.labels is None for row in whole):
        raise ConfigError(
            f"{expert.name}: expected rows with labels, but they have none. Give dicts of tensors with the key labels, "
            "or a TensorDataset of inputs and labels."
        )
    return Encoded(rows, tensor_contents(whole))


def _modality(kind: ModelKind, table: Table) -> Modality:
    return next(modality for modality in _of_input(kind) if modality.fits(kind, table))


def _of_input(kind: ModelKind) -> list[Modality]:
    """Modalities of a model's main input.

    Raises:
        ConfigError: There is none.
    """
    found = [modality for modality in MODALITIES if modality.main_input == kind.main_input]
    if not found:
        known = ", ".join(dict.fromkeys(modality.main_input for modality in MODALITIES))
        raise ConfigError(
            f"{kind.architecture}: expected a model whose main input is one of {known}, but its main input is "
            f"{kind.main_input}, for which rows cannot be encoded yet. Merge it without calibration and evaluation "
            "rows, by a method that needs none."
        )
    return found
