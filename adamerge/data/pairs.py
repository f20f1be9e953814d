"""Texts and pairs of texts for models that predict a vector of each text."""

from transformers import PreTrainedTokenizerBase

from adamerge.data.contents import Contents
from adamerge.data.modality import Encoded
from adamerge.data.number_labels import DOES, METRICS, metric_of, numbers
from adamerge.data.questions import Pairs, check_metric
from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.data.text_rows import TextRows
from adamerge.data.tokens import check_ids, tokens_of
from adamerge.experts.experts import Expert
from adamerge.types import Fact


def paired(
    table: Table, expert: Expert, tokenizer: PreTrainedTokenizerBase, encoding: Encoding, rows: TextRows, limit: int
) -> Encoded:
    """Make rows for a model of vectors: each text by itself, both texts of a pair too.

    Args:
        table: The rows as they were read.
        expert: The task's expert.
        tokenizer: Its tokenizer.
        encoding: Whether the rows are measured.
        rows: The rows, if they are single texts.
        limit: Maximum number of tokens per text.

    Returns:
        The rows without contents, and notes on how vectors are made.

    Raises:
        ConfigError: Rows that are measured are no pairs, or a score is no number.
    """
    source, notes = table.source, (Fact(f"{table.task}: {_how(expert)}"),)
    if encoding.labeled and not source.text_pair:
        raise table.error(
            f"expected pairs of texts (keys text and text_pair) with a score each (key label), because "
            f"{expert.kind.architecture} {DOES['vectors']}, but no text_pair is configured. Name it, or leave out this "
            "task's evaluation."
        )
    if not source.text_pair:
        return Encoded(rows, Contents({}), notes)
    notes = (*notes, f"{table.task}: the texts of a pair are rows of their own.")
    ids, segments = list[list[int]](), list[list[int]]()
    for column in (source.text, source.text_pair):
        tokens = tokens_of(table, tokenizer, limit, table.texts(column), what=f"texts in {column!r}")
        check_ids(table, expert, tokenizer, tokens.ids)
        ids, segments = [*ids, *tokens.ids], [*segments, *(tokens.segments or ())]
        notes = (*notes, *tokens.all_notes(table, f"texts in {column!r}"))
    every = TextRows(ids, tokenizer, per_token=False, segments=segments or None)
    if not encoding.labeled:
        return Encoded(every, Contents({}), notes)
    check_metric(table, expert.kind, encoding, METRICS["vectors"], DOES["vectors"])
    pairs = Pairs(every, [score for (score,) in numbers(table, 1)])
    pairs.metric = metric_of(table, "vectors")
    return Encoded(pairs, Contents({}), notes)


def _how(expert: Expert) -> str:
    if expert.pooling:
        return f"vectors are pooled by {' and '.join(expert.pooling)}, as its module of sentence-transformers says."
    return "vectors are the mean over tokens, because no module of sentence-transformers names a known way to pool."
