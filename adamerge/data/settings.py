"""Settings of rows: where they are, how they are encoded, and how many a step takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from adamerge.types import ConfigError

Positions: TypeAlias = Literal["all", "completion"]
"""Which positions of a language model's rows count."""


@dataclass(frozen=True)
class DataSource:
    """Where rows are and what their columns are called.

    Attributes:
        path: A .jsonl, .json, .csv, .tsv, .parquet or .txt file, a folder of images, a saved `datasets` directory, or
            a hub dataset id.
        text: Column with the text.
        text_pair: Column with a second text, for tasks on pairs.
        messages: Column with chat messages, for language models; the tokenizer's chat template is applied. By default
            a column called messages where there is no column of texts.
        completion: Column with what follows the text, or what an encoder-decoder answers to it, for language models.
        image: Column with the image.
        label: Column with the label; needed for evaluation, and in calibration by the objective CrossEntropy alone.
        split: Of a hub dataset or a saved directory.
        name: Configuration of a hub dataset.
        rows: Take this many rows, drawn with the seed; all by default.
    """

    path: str
    text: str = "text"
    text_pair: str | None = None
    messages: str | None = None
    completion: str | None = None
    image: str = "image"
    label: str = "label"
    split: str = "train"
    name: str | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        if self.rows is not None and self.rows < 1:
            raise ConfigError(f"{self.path}: expected at least 1 under rows, got {self.rows}.")


@dataclass(frozen=True)
class PseudoAnswers:
    """How each expert answers the prompts of its calibration rows, once, before learning starts.

    Attributes:
        max_new_tokens: Tokens per answer at most.
        sample: Draw each token at random, with the run's seed, rather than take the likeliest (greedy).
        temperature: Of drawing; lower is nearer to greedy.
        top_p: Draw from the likeliest tokens that together have this probability.
    """

    max_new_tokens: int = 64
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.max_new_tokens < 1:
            raise ConfigError(f"data.pseudo_answers.max_new_tokens: expected at least 1, got {self.max_new_tokens}.")
        if not self.temperature > 0:
            raise ConfigError(f"data.pseudo_answers.temperature: expected more than 0, got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"data.pseudo_answers.top_p: expected more than 0 and at most 1, got {self.top_p}.")


@dataclass(frozen=True)
class Batching:
    """How calibration rows are used.

    Attributes:
        rows: Calibration rows per task, drawn with the seed; null takes all.
        held_out: Share of them that is watched and not learned from; 0 watches nothing.
        batch_size: Rows per task per step; null takes all rows at every step.
        micro_batch: Rows per forward pass; affects memory, not results.
        max_length: Tokens per row at most; null leaves it to the tokenizer.
        positions: Of language models, which positions count in learning, agreement and perplexity: all that are not
            padding, or those that predict a token of the completion (of chats, of the assistant's last turn).
        pseudo_answers: Let each expert first answer its own calibration prompts; the answers are the completions.
            null takes the rows as they are.
    """

    rows: int | None = 256
    held_out: float = 0.25
    batch_size: int | None = 16
    micro_batch: int = 64
    max_length: int | None = None
    positions: Positions = "all"
    pseudo_answers: PseudoAnswers | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        numbers = {"rows": self.rows, "batch_size": self.batch_size, "micro_batch": self.micro_batch}
        for key, value in {**numbers, "max_length": self.max_length}.items():
            if value is not None and value < 1:
                raise ConfigError(f"data.{key}: expected at least 1, got {value}.")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"data.held_out: expected a share from 0 up to but not 1, got {self.held_out}.")


@dataclass(frozen=True)
class Encoding:
    """How the rows of one table become the inputs of their model.

    Attributes:
        labeled: Whether to read the label column, or to measure perplexity.
        max_length: Tokens per row at most; the tokenizer's own limit by default.
        classes: Names of the model's classes, where its configuration does not hold them.
        positions: Of language models, all, or completion: those that predict a token of the completion, or of the
            assistant's last turn.
        answer_tokens: Of language models, tokens per answer at most where an expert answers the prompts first; None
            takes the rows as they are.
    """

    labeled: bool = False
    max_length: int | None = None
    classes: Sequence[str] | None = None
    positions: Positions = "all"
    answer_tokens: int | None = None

    @property
    def for_language_models(self) -> bool:
        """Whether it asks for what only language models can do."""
        return self.positions != "all" or self.answer_tokens is not None
