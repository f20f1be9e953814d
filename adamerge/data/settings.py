"""Settings of rows: location, encoding and number per step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from typing_extensions import override

from adamerge.types import SMALLEST_TEMPERATURE, ConfigError

Positions: TypeAlias = Literal["all", "completion"]
"""The positions of a language model's rows that count."""


MetricName: TypeAlias = Literal["accuracy", "perplexity", "exact_match", "rouge", "f1", "mse", "pearson", "spearman"]
"""What is measured on labeled rows."""

Normalisation: TypeAlias = Literal["strip", "case", "punctuation"]
"""What makes no difference between an answer and the right one."""

MOST_NEW_TOKENS = 2**17
"""Largest number of tokens of an answer: room for so many is made for every row."""

MOST_COPIES = 1000
"""Largest number of changed copies of a text: all are made before learning starts."""


def _check_number(key: str, number: int, most: int) -> None:
    if not 1 <= number <= most:
        raise ConfigError(f"{key}: expected at least 1 and at most {most}, found {number}.")


@dataclass(frozen=True)
class DataSource:
    """Location of rows and names of their columns.

    Attributes:
        path: A .jsonl, .ndjson, .json, .csv, .tsv, .txt or .parquet file (all but the last may be compressed: .gz,
            .bz2, .xz), a folder of such files or of images, a saved `datasets` directory, or a hub dataset id.
        text: Column with the text.
        text_pair: Column with a second text, for tasks on pairs of texts.
        messages: Column with chat messages, for language models; the tokenizer's chat template is applied. By default
            the column messages, if there is no column of texts.
        completion: Column with the continuation of the text, or with an encoder-decoder's output, for language models.
        image: Column with the image.
        label: Column with the label; needed for evaluation, and for calibration only with the objective CrossEntropy.
        split: Split of a hub dataset, of a saved directory, or of a folder whose files are named after splits.
        name: Configuration of a hub dataset.
        rows: Number of rows, drawn with the seed; all by default.
        max_bytes: Largest size of the files together, decompressed; larger ones are refused.
        max_pixels: Largest number of pixels of an image, stored or made by the processor; larger ones are refused.
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
    max_bytes: int = 10**10
    max_pixels: int = 10**8

    def __post_init__(self) -> None:
        """Check the numbers."""
        for key, value in {"rows": self.rows, "max_bytes": self.max_bytes, "max_pixels": self.max_pixels}.items():
            if value is not None and value < 1:
                raise ConfigError(f"{self.path}: {key}: expected at least 1, found {value}.")


@dataclass(frozen=True)
class EvaluationSource(DataSource):
    """Location of labeled rows, names of their columns, and what is measured on them.

    Attributes:
        metric: accuracy (of classifiers; of language models, of the choice among `choices`), perplexity (of the
            completions), exact_match (share of generated answers that equal the completion) or rouge (ROUGE-L of
            generated answers); f1 of labels that do not exclude each other, mse, pearson or spearman of numbers and of
            cosines of pairs of vectors. null takes accuracy, perplexity for language models, f1 for labels, mse for
            numbers and spearman for vectors.
        normalise: What makes no difference between a generated answer and the completion: strip (white space around
            them), case, punctuation. A column normalise of the rows says it for each row.
        choices: Answers to choose from, for the accuracy of language models: texts, or the name of a column with a list
            of texts in each row.
        choose: How a language model chooses: by likelihood (of each choice as a whole, with the end of the answer), or
            by text (the choice that its generated answer names first).
        max_new_tokens: Maximum number of tokens of a generated answer.
    """

    metric: MetricName | None = None
    normalise: list[Normalisation] = field(default_factory=lambda: list[Normalisation](("strip",)))
    choices: list[str] | str | None = None
    choose: Literal["likelihood", "text"] = "likelihood"
    max_new_tokens: int = 64

    @override
    def __post_init__(self) -> None:
        """Check that the keys go together."""
        super().__post_init__()
        _check_number(f"{self.path}: max_new_tokens", self.max_new_tokens, MOST_NEW_TOKENS)
        if self.choices is not None and len(self.choices) < 2 and not isinstance(self.choices, str):
            raise ConfigError(f"{self.path}: choices: expected at least two texts, found {self.choices}.")
        if self.choices is not None and self.metric != "accuracy":
            raise ConfigError(
                f"{self.path}: choices: expected metric: accuracy beside them, found {self.metric or 'no metric'}. "
                "Write metric: accuracy, or remove choices."
            )

    @property
    def generates(self) -> bool:
        """Whether a language model's answers are generated."""
        return self.metric in ("exact_match", "rouge") or (self.metric == "accuracy" and self.choose == "text")


@dataclass(frozen=True)
class PseudoAnswers:
    """How each expert answers the prompts of its calibration rows, once before learning starts.

    Attributes:
        max_new_tokens: Maximum number of tokens per answer.
        sample: Draw each token at random, with the run's seed, instead of the most likely one (greedy).
        temperature: Sampling temperature; lower is closer to greedy.
        top_p: Draw from the most likely tokens whose probabilities add up to this value.
    """

    max_new_tokens: int = 64
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_number("data.pseudo_answers.max_new_tokens", self.max_new_tokens, MOST_NEW_TOKENS)
        if not SMALLEST_TEMPERATURE <= self.temperature < math.inf:
            raise ConfigError(
                f"data.pseudo_answers.temperature: expected a finite number above 0, found {self.temperature}."
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"data.pseudo_answers.top_p: expected more than 0 and at most 1, found {self.top_p}.")


@dataclass(frozen=True)
class Augmentation:
    """Copies of the texts to learn from, changed at random; the experts predict each copy anew.

    Attributes:
        copies: Copies of each text.
        most: Texts and copies of a task together, about; where there are many texts each has fewer copies, but one.
        deletion: Largest share of a copy's tokens that are deleted; every copy draws its own share below it.

    Reference:
        Wei and Zou, EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks, 2019
        (random deletion). Here nobody claims that a copy has the label of its text: its expert is asked.
    """

    copies: int = 3
    deletion: float = 0.5
    most: int = 1024

    def copies_of(self, rows: int) -> int:
        """Return how many copies each text of a task with so many texts has.

        Example:
            >>> [Augmentation().copies_of(rows) for rows in (32, 256, 320, 640)]
            [3, 3, 2, 1]
        """
        return min(self.copies, max(1, self.most // max(1, rows) - 1))

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_number("data.augmentation.copies", self.copies, MOST_COPIES)
        _check_number("data.augmentation.most", self.most, 2**30)
        if not 0 < self.deletion < 1:
            raise ConfigError(
                f"data.augmentation.deletion: expected a share above 0 and below 1, found {self.deletion}."
            )


@dataclass(frozen=True)
class Batching:
    """Use of the calibration rows.

    Attributes:
        rows: Calibration rows per task, drawn with the seed; null uses all.
        held_out: Share of them that is held out to choose the best iterate; 0 holds out none.
        least_held_out: Hold out at least so many rows of a task that has twice as many or more, whatever the share; a
            task with fewer is learned from with all its rows, and others choose, if there are others.
        most_held_out: Hold out at most so many rows of a task, whatever the share; null sets no limit.
        batch_size: Rows per task per step; null uses all rows at every step.
        micro_batch: Rows per forward pass; affects memory, and results up to rounding alone, except hidden states of
            encoders, whose rows weigh by their length within a pass.
        max_length: Maximum number of tokens per row; null uses the tokenizer's maximum.
        positions: Positions of language models that count in learning, agreement and perplexity: all that are not
            padding, or those that predict a token of the completion (in chats, of the assistant's last turn).
        pseudo_answers: Let each expert first answer its own calibration prompts; the answers are the completions.
            null uses the rows unchanged.
        augmentation: Learn from copies of texts too, from which tokens are deleted at random; rows that are no texts
            with one prediction each are used unchanged. null uses all rows unchanged.
    """

    rows: int | None = 256
    held_out: float = 0.25
    least_held_out: int = 32
    most_held_out: int | None = None
    batch_size: int | None = 16
    micro_batch: int = 64
    max_length: int | None = None
    positions: Positions = "all"
    pseudo_answers: PseudoAnswers | None = None
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        numbers = {"rows": self.rows, "batch_size": self.batch_size, "micro_batch": self.micro_batch}
        for key, value in {**numbers, "max_length": self.max_length}.items():
            if value is not None and value < 1:
                raise ConfigError(f"data.{key}: expected at least 1, found {value}.")
        if self.least_held_out < 0:
            raise ConfigError(f"data.least_held_out: expected 0 or more, found {self.least_held_out}.")
        if self.most_held_out is not None and self.most_held_out < max(1, self.least_held_out):
            raise ConfigError(
                f"data.most_held_out: expected data.least_held_out ({self.least_held_out}) or more, or null, "
                f"found {self.most_held_out}."
            )
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"data.held_out: expected a share of at least 0 and less than 1, found {self.held_out}.")

    def share_of(self, count: int) -> int:
        """Return the share of a task's rows that is held out, as a number of rows; one row at least is learned from."""
        return min(round(count * self.held_out), count - 1) if count else 0

    @property
    def enough(self) -> int:
        """Number of rows from which on a task holds out the least number that tells iterates apart."""
        return 2 * self.least_held_out

    def held_out_of(self, count: int) -> int:
        """Return how many rows of a task are held out, within the limits, if any are.

        Args:
            count: Number of its rows.

        Example:
            >>> [Batching(most_held_out=64).held_out_of(count) for count in (0, 1, 20, 65, 256, 600)]
            [0, 0, 5, 32, 64, 64]
        """
        held = self.share_of(count)
        if self.held_out and count >= self.enough:
            held = max(held, self.least_held_out)
        return held if self.most_held_out is None else min(held, self.most_held_out)


@dataclass(frozen=True)
class Encoding:
    """How the rows of one table are encoded as inputs of their model.

    Attributes:
        labeled: Whether to read the column of labels, or to measure perplexity.
        max_length: Maximum number of tokens per row; the tokenizer's maximum by default.
        classes: Names of the model's classes, if its configuration does not contain them.
        positions: Positions of language models that count: all, or completion: those that predict a token of the
            completion or of the assistant's last turn.
        answer_tokens: For language models, maximum number of tokens per answer if an expert first answers the prompts;
            None uses the rows unchanged.
    """

    labeled: bool = False
    max_length: int | None = None
    classes: Sequence[str] | None = None
    positions: Positions = "all"
    answer_tokens: int | None = None

    @property
    def for_language_models(self) -> bool:
        """Whether it needs a language model."""
        return self.positions != "all" or self.answer_tokens is not None
