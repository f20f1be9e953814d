"""Base class of the modalities: required columns, processor and encoding of one kind of rows."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, TypeAlias, cast

from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_base import ImageProcessingMixin

from adamerge.data.contents import Contents
from adamerge.data.rows import Rows
from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind

Processor: TypeAlias = PreTrainedTokenizerBase | ImageProcessingMixin
"""What encodes texts, or images."""

AnyProcessor: TypeAlias = Processor | ProcessorMixin
"""The same, or a processor of texts and images."""


class Encoded(NamedTuple):
    """The encoded rows of one table.

    Attributes:
        rows: Rows that are combined into batches.
        contents: Hashes of the used columns.
        notes: Messages about the rows for the user.
    """

    rows: Rows
    contents: Contents
    notes: tuple[str, ...] = ()


class Modality(ABC):
    """One kind of rows. To add one, write a class in a new file and add it to `encode.MODALITIES`.

    Attributes:
        main_input: transformers' name of the main input of the models that use such rows.
        loader: transformers' class that loads the processor.
        loads: Name of the processor in messages.
        files: Patterns of its files; if none of a folder's files matches, the folder has no processor.
    """

    main_input: ClassVar[str]
    loader: ClassVar[type[AutoTokenizer] | type[AutoImageProcessor]]
    loads: ClassVar[str]
    files: ClassVar[tuple[str, ...]]

    @abstractmethod
    def fits(self, kind: ModelKind, table: Table) -> bool:
        """Return whether these rows are of this kind, for a model whose main input is `main_input`."""

    @abstractmethod
    def columns(self, table: Table, encoding: Encoding) -> dict[str, str]:
        """Return the names of the used columns by role."""

    def part(self, processor: AnyProcessor) -> Processor:
        """Return the tokenizer or image processor that a processor of texts and images consists of."""
        if not isinstance(processor, ProcessorMixin):
            return processor
        return cast(Processor, getattr(processor, "tokenizer" if self.loads == "tokenizer" else "image_processor"))

    @abstractmethod
    def encode(self, table: Table, expert: Expert, processor: AnyProcessor, encoding: Encoding) -> Encoded:
        """Encode a table that has all `columns` into rows.

        Args:
            table: The rows as they were read.
            expert: The task's expert.
            processor: Its tokenizer or image processor.
            encoding: Which columns to read, the maximum length of a row, and which positions count.

        Returns:
            The rows, hashes of their contents, and notes for the user.

        Raises:
            ConfigError: A row, a label, the processor or the model cannot be used; names it.
        """
