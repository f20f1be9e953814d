"""Rows of texts or pairs of texts, with one class per row or per token."""

from collections.abc import Sequence
from typing import ClassVar, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typing_extensions import override

from adamerge.data.contents import contents
from adamerge.data.input_columns import (
    BOXES,
    check_words,
    input_names,
    missing_inputs,
    needs_boxes,
    read_input,
    tokenized_inputs,
    with_boxes,
)
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
        used = self.columns(table, encoding)
        names = input_names(table, expert.module, [*used.values(), table.source.label])
        found = contents(table, {**used, **{name: name for name in names}})
        check_padding(table.task, kind, tokenizer)
        limit = token_limit(kind, tokenizer, encoding.max_length)
        rows, read = _tokenized(table, expert, tokenizer, limit, names)
        longest = rows.by_length(range(len(rows)))[:1]
        if not classes_by_token(expert.module, kind, rows.batch(longest).inputs, table.task):
            labels, notes = labels_of(table, kind, encoding)
            return Encoded(rows.with_labels(labels), found, (*notes, *read))
        if encoding.labeled:
            raise table.error(
                f"{kind.architecture} predicts one class per token, and labels of tokens cannot be evaluated. Leave "
                "out this task's evaluation (its calibration can be used), and evaluate the exported checkpoint."
            )
        return Encoded(rows.as_tokens(), found, read)


def _tokenized(
    table: Table, expert: Expert, tokenizer: PreTrainedTokenizerBase, limit: int, names: Sequence[str]
) -> tuple[TextRows, tuple[str, ...]]:
    """Tokenise texts, and read the columns that are inputs of the model too; also return how they were read."""
    source, module = table.source, expert.module
    texts = table.texts(source.text)
    pair = table.texts(source.text_pair) if source.text_pair else None
    read: list[str] = []
    if needs_boxes(tokenizer):
        encoded = with_boxes(table, texts, tokenizer, limit)
        names = [name for name in names if name != BOXES]
        inputs = tokenized_inputs(encoded, tokenizer, module, also=[BOXES])
    else:
        check_words(table, names, tokenizer)
        places = {"return_offsets_mapping": bool(names), "return_special_tokens_mask": bool(names)}
        encoded = tokenizer(texts, pair, truncation=True, max_length=limit, **places)  # pyright: ignore
        inputs = tokenized_inputs(encoded, tokenizer, module)
    for name in names:
        inputs[name], how = read_input(table, name, texts, encoded, tokenizer)
        read.append(f"{table.task}: the column {name!r} is an input of {expert.kind.architecture}: {how}.")
    segments = encoded.get("token_type_ids") if "token_type_ids" in tokenizer.model_input_names else None
    segments = None if "token_type_ids" in inputs else segments
    missing = missing_inputs(module, list(inputs))
    if missing:
        read.append(
            f"{table.task}: {expert.kind.architecture} also takes {', '.join(missing)}, which the rows do not have, so "
            "the class fills in its own values. Add columns of these names if the experts were trained with them."
        )
    rows = TextRows(encoded["input_ids"], tokenizer, per_token=False, segments=segments, inputs=inputs)
    return rows, tuple(read)
