"""Rows of texts or pairs of texts, with one class per row or per token."""

from collections.abc import Sequence
from typing import ClassVar, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typing_extensions import override

from adamerge.data.contents import contents
from adamerge.data.end_tokens import with_equal_ends
from adamerge.data.input_columns import (
    BOXES,
    InputColumn,
    input_names,
    missing_inputs,
    needs_boxes,
    tokenized_inputs,
    unread_note,
    with_boxes,
)
from adamerge.data.modality import AnyProcessor, Encoded, Modality
from adamerge.data.number_labels import DOES, METRICS, answers, labels_by_form, metric_of
from adamerge.data.pad_token import pad_token_of
from adamerge.data.pairs import paired
from adamerge.data.questions import Spans, check_metric
from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.data.text_inputs import of_rows, placed, read_columns
from adamerge.data.text_rows import TextRows
from adamerge.data.tokenize import TOKENIZER_FILES, check_padding, token_limit
from adamerge.data.tokens import Tokens, check_ids, check_segments, tokens_of
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind
from adamerge.experts.predicted import output_of


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
    def encode(self, table: Table, expert: Expert, processor: AnyProcessor, encoding: Encoding) -> Encoded:
        tokenizer, kind = cast(PreTrainedTokenizerBase, processor), expert.kind
        used = self.columns(table, encoding)
        names = input_names(table, expert.module, [*used.values(), table.source.label])
        found = contents(table, {**used, **{name: name for name in names}})
        check_padding(table.task, kind, tokenizer)
        limit = token_limit(kind, tokenizer, encoding.max_length)
        tokens, inputs, read = _tokenized(table, expert, tokenizer, limit, names)
        check_ids(table, expert, tokenizer, tokens.ids)
        check_segments(table, expert, tokens.segments)
        kept = [i for i, row in enumerate(tokens.ids) if row]
        if not kept:
            raise table.error("no text has a token, so there is nothing to read. Use other rows.")
        total = len(tokens.ids)
        notes = tokens.all_notes(table, "texts")
        notes += (
            *_dropped(table, total - len(kept), total),
            *read,
            *unread_note(table, expert.module, list(used.values())),
        )
        pad_token, more = pad_token_of(table, expert, tokenizer, tokens.ids)
        known = tokens.segments is not None and "token_type_ids" not in inputs
        rows = TextRows(
            [tokens.ids[i] for i in kept],
            tokenizer,
            per_token=False,
            segments=[tokens.segments[i] for i in kept] if known and tokens.segments else None,
            inputs=of_rows(inputs, kept),
            pad_token=pad_token,
        )
        longest = rows.batch(rows.by_length(range(len(rows)))[:1]).inputs
        per_token, form, outputs = output_of(expert, longest, table.task)
        if not per_token:
            if form == "vectors":
                made = paired(table, expert, tokenizer, encoding, rows, limit)
                own = () if table.source.text_pair else (*notes, *more)  # of pairs each text is tokenised by itself
                return made._replace(contents=found, notes=(*made.notes, *own))
            if form == "spans" and encoding.labeled:
                check_metric(table, kind, encoding, METRICS["spans"], DOES["spans"])
                right = answers(table)
                spans = Spans(rows, [right[i] for i in kept])
                spans.metric = metric_of(table, form)
                return Encoded(spans, found, (*notes, *more))
            labels, about = labels_by_form(table, kind, encoding, form, outputs)
            labels = None if labels is None else [labels[i] for i in kept]
            labeled = rows.with_labels(labels)
            labeled.metric = metric_of(table, form)
            return Encoded(labeled, found, (*notes, *more, *about))
        if encoding.labeled:
            raise table.error(
                f"{kind.architecture} predicts one class per token, and labels of tokens cannot be evaluated. Leave "
                "out this task's evaluation (its calibration can be used), and evaluate the exported checkpoint."
            )
        return Encoded(rows.as_tokens(), found, (*notes, *more))


def _tokenized(
    table: Table, expert: Expert, tokenizer: PreTrainedTokenizerBase, limit: int, names: Sequence[str]
) -> tuple[Tokens, dict[str, InputColumn], tuple[str, ...]]:
    """Tokenise texts, and read the columns that are inputs of the model too; also return how they were read."""
    source, module = table.source, expert.module
    texts, pair = table.texts(source.text), table.texts(source.text_pair) if source.text_pair else None
    inputs: dict[str, InputColumn] = {}
    if needs_boxes(tokenizer):
        encoded = with_boxes(table, tokenizer, limit)
        names = [name for name in names if name != BOXES]
        tokens = Tokens(cast(list[list[int]], encoded["input_ids"]), None, [], ())
        inputs = tokenized_inputs(encoded, tokenizer, module, also=[BOXES])
    else:
        tokens = tokens_of(table, tokenizer, limit, texts, pair)
        if expert.kind.encoder_decoder:
            tokens = with_equal_ends(table, expert, tokenizer, tokens, limit, texts, pair)
        encoded = placed(table, tokenizer, names, limit, texts, pair)
        inputs = tokenized_inputs(encoded, tokenizer, module)
    columns, read = read_columns(table, expert, tokenizer, names, texts, encoded)
    inputs |= columns
    missing = missing_inputs(module, list(inputs))
    if missing:
        read.append(
            f"{table.task}: {expert.kind.architecture} also takes {', '.join(missing)}, which the rows do not have, so "
            "the class fills in its own values. Add columns of these names if the experts were trained with them."
        )
    return tokens, inputs, tuple(read)


def _dropped(table: Table, count: int, total: int) -> tuple[str, ...]:
    return (f"{table.task}: {table.source.path}: {count} of {total} rows are dropped: no token.",) if count else ()
