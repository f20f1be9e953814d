"""What one kind of rows needs: its columns, its processor, and how its rows are encoded."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, TypeAlias

from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from adamerge.data.contents import Contents
from adamerge.data.rows import Rows
from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind

Processor: TypeAlias = PreTrainedTokenizerBase | ImageProcessingMixin


class Encoded(NamedTuple):
    """A table as a model takes it.

    Attributes:
        rows: Ready to be made into batches.
        contents: Hashes of the columns that are used.
        notes: What a user should know of them.
    """

    rows: Rows
    contents: Contents
    notes: tuple[str, ...] = ()


class Modality(ABC):
    """One kind of rows. To add one, write a class in a file of its own and name it in `encode.MODALITIES`.

    Attributes:
        main_input: Which models take such rows: transformers' name of their main input.
        loader: transformers' class that loads what encodes the rows.
        loads: What the loader loads, in words.
    """

    main_input: ClassVar[str]
    loader: ClassVar[type[AutoTokenizer] | type[AutoImageProcessor]]
    loads: ClassVar[str]

    @abstractmethod
    def fits(self, kind: ModelKind, table: Table) -> bool:
        """Whether these rows are of this kind, for a model that takes `main_input`."""

    @abstractmethod
    def columns(self, table: Table, encoding: Encoding) -> dict[str, str]:
        """Name the columns that are used, by their role."""

    @abstractmethod
    def encode(self, table: Table, expert: Expert, processor: Processor, encoding: Encoding) -> Encoded:
        """Encode a table that has all `columns` into rows, which pad themselves together into batches.

        Raises:
            ConfigError: A row, a label, the processor or the model cannot be used; names it.
        """
