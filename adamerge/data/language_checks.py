"""What rows of language models can be used for: answers of the experts, learning, perplexity."""

from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.experts.model_kind import ModelKind


def awaits_answers(encoding: Encoding) -> bool:
    """Return whether the expert answers the rows before learning; labels are never replaced by answers."""
    return encoding.answer_tokens is not None and not encoding.labeled


def prompt_limit(table: Table, kind: ModelKind, encoding: Encoding, limit: int) -> int:
    """Compute the maximum number of tokens per prompt: a decoder-only model also needs room for the answer.

    Args:
        table: Names task and file in the error.
        kind: The kind of the model.
        encoding: Contains the maximum number of tokens per answer.
        limit: Maximum number of tokens per row.

    Returns:
        The maximum, at least 1.

    Raises:
        ConfigError: The model cannot generate, or no room is left.
    """
    answer = encoding.answer_tokens or 0
    if kind.predicts == "masked token":
        raise table.error(
            f"data.pseudo_answers needs a model that generates, but {kind.architecture} cannot generate. Remove "
            "data.pseudo_answers, or leave out this task's calibration."
        )
    room = limit if kind.encoder_decoder else limit - answer
    if room < 1:
        raise table.error(
            f"answers of {answer} tokens (data.pseudo_answers.max_new_tokens) leave no room for a prompt in rows of "
            f"{limit} tokens (data.max_length). Lower max_new_tokens, or raise max_length if the model allows it."
        )
    return room


def check_measured(table: Table, kind: ModelKind, encoding: Encoding, *, completed: bool) -> None:
    """Reject rows without a position that counts, or whose perplexity is meaningless.

    Args:
        table: The rows.
        kind: The kind of their model.
        encoding: Which positions count, and whether perplexity is measured.
        completed: Whether the rows have completions.

    Raises:
        ConfigError: Names what to use instead.
    """
    if encoding.labeled and kind.predicts == "masked token":
        raise table.error(
            f"{kind.architecture} predicts masked tokens from both sides; perplexity of the next token, the metric of "
            "language models, is meaningless for it. Leave out this task's evaluation; its calibration can be used."
        )
    if encoding.labeled and kind.encoder_decoder and not table.source.completion:
        raise table.error(
            f"expected a column of completions (key completion of the evaluation), because the perplexity of "
            f"{kind.architecture} is measured on them, but none is configured. Name it, or leave out this task's "
            "evaluation."
        )
    if encoding.positions == "completion" and not completed:
        raise table.error(
            "expected a column of completions, because only completions count (data.positions: completion), but none "
            "is configured. Name it (key completion), use chat messages (key messages), or let the experts generate "
            "the answers (data.pseudo_answers)."
        )
