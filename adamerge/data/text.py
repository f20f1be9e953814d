"""Rows of texts or pairs of texts, with one class per row or per token."""

from typing import ClassVar, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typing_extensions import override

from adamerge.data.contents import contents
from adamerge.data.labels import labels_of
from adamerge.data.modality import Encoded, Modality, Processor
from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.data.text_rows import TextRows
from adamerge.data.tokenize import check_padding, token_limit
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind, classes_by_token


class Text(Modality):
    """One or two texts per row, for classifiers of texts and tokens."""

    main_input: ClassVar = "input_ids"
    loader: ClassVar = AutoTokenizer
    loads: ClassVar = "tokenizer"

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
        rows = _tokenized(table, tokenizer, limit)
        longest = rows.by_length(range(len(rows)))[:1]
        if not classes_by_token(expert.module, kind, rows.batch(longest).inputs, table.task):
            labels, notes = labels_of(table, kind, encoding)
            return Encoded(rows.with_labels(labels), found, notes)
        if encoding.labeled:
            raise table.error(
                f"{kind.architecture} predicts one class per token, and labels of tokens cannot be evaluated. Leave "
                "out this task's evaluation (its calibration can be used), and evaluate the exported checkpoint."
            )
        return Encoded(rows.as_tokens(), found)


def _tokenized(table: Table, tokenizer: PreTrainedTokenizerBase, limit: int) -> TextRows:
    source = table.source
    pair = table.texts(source.text_pair) if source.text_pair else None
    encoded = tokenizer(table.texts(source.text), pair, truncation=True, max_length=limit)
    segments = encoded.get("token_type_ids") if "token_type_ids" in tokenizer.model_input_names else None
    return TextRows(encoded["input_ids"], tokenizer, per_token=False, segments=segments)
