"""Rows of texts or pairs of texts, with one class per row or per token."""

from typing import ClassVar, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typing_extensions import override

from adamerge.data.contents import contents
from adamerge.data.end_tokens import with_equal_ends
from adamerge.data.labels import labels_of
from adamerge.data.modality import Encoded, Modality, Processor
from adamerge.data.pad_token import pad_token_of
from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.data.text_rows import TextRows
from adamerge.data.tokenize import TOKENIZER_FILES, check_padding, token_limit
from adamerge.data.tokens import Tokens, check_ids, tokens_of
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind, classes_by_token


class Text(Modality):
    """One or two texts per row, for classifiers of texts and tokens."""

    main_input: ClassVar = "input_ids"
    loader: ClassVar = AutoTokenizer
    loads: ClassVar = "tokenizer"
    files: ClassVar = TOKENIZER_FILES

    @override
    def fits(self, kind: ModelKind, table: Table) -> bool:
        return not kind.language_model

    @override
    def columns(self, table: Table, encoding: Encoding) -> dict[str, str]:
        source = table.source
        pair = {"text_pair": source.text_pair} if source.text_pair else {}
        return {"text": source.text, **pair, **({"label": source.label} if encoding.labeled else {})}

    @override
    def encode(self, table: Table, expert: Expert, processor: Processor, encoding: Encoding) -> Encoded:
        tokenizer, kind = cast(PreTrainedTokenizerBase, processor), expert.kind
        found = contents(table, self.columns(table, encoding))
        check_padding(table.task, kind, tokenizer)
        limit = token_limit(kind, tokenizer, encoding.max_length)
        tokens = _tokenized(table, expert, tokenizer, limit)
        check_ids(table, expert, tokenizer, tokens.ids)
        kept = [i for i, row in enumerate(tokens.ids) if row]
        if not kept:
            raise table.error("no text has a token, so there is nothing to read. Use other rows.")
        total = len(tokens.ids)
        notes = tokens.all_notes(table, "texts")
        notes += _dropped(table, total - len(kept), total)
        pad_token, more = pad_token_of(table, expert, tokenizer, tokens.ids)
        segments = None if tokens.segments is None else [tokens.segments[i] for i in kept]
        rows = TextRows(
            [tokens.ids[i] for i in kept], tokenizer, per_token=False, segments=segments, pad_token=pad_token
        )
        longest = rows.by_length(range(len(rows)))[:1]
        if not classes_by_token(expert.module, kind, rows.batch(longest).inputs, table.task):
            labels, about = labels_of(table, kind, encoding)
            labels = None if labels is None else [labels[i] for i in kept]
            return Encoded(rows.with_labels(labels), found, (*notes, *more, *about))
        if encoding.labeled:
            raise table.error(
                f"{kind.architecture} predicts one class per token, and labels of tokens cannot be evaluated. Leave "
                "out this task's evaluation (its calibration can be used), and evaluate the exported checkpoint."
            )
        return Encoded(rows.as_tokens(), found, notes)


def _tokenized(table: Table, expert: Expert, tokenizer: PreTrainedTokenizerBase, limit: int) -> Tokens:
    source = table.source
    texts, pair = table.texts(source.text), table.texts(source.text_pair) if source.text_pair else None
    tokens = tokens_of(table, tokenizer, limit, texts, pair)
    if expert.kind.encoder_decoder:
        return with_equal_ends(table, expert, tokenizer, tokens, limit, texts, pair)
    return tokens


def _dropped(table: Table, count: int, total: int) -> tuple[str, ...]:
    return (f"{table.task}: {table.source.path}: {count} of {total} rows are dropped: no token.",) if count else ()
