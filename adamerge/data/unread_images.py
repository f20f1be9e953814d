"""Images, sound and video in the rows of language models that cannot be encoded, which are refused by row."""

from adamerge.data.load_both import load_both
from adamerge.data.media import described, media_columns, media_in_chats, media_in_columns, reads
from adamerge.data.tables import Table
from adamerge.experts.experts import Expert


def check_images(table: Table, expert: Expert, messages: str) -> tuple[str, ...]:
    """Refuse rows whose images a model of texts and images would not get; note a column of images that no model reads.

    Args:
        table: The rows.
        expert: The task's expert, whose main input is text.
        messages: Name of the column of chat messages, which may hold images too.

    Returns:
        Notes for the user.

    Raises:
        ConfigError: Rows hold images; names row, column and, where it is missing, the file.
    """
    columns = media_columns(table)
    read = {column: kind for column, kind in columns.items() if reads(expert.own_module, kind)}
    seen = [*media_in_chats(table, messages), *media_in_columns(table, read)]
    if seen:
        found = next((medium for medium in seen if medium.kind != "image"), seen[0])  # images could be encoded
        able = found.kind == "image" and reads(expert.own_module, "image")
        why = (
            f"its images need a processor, and {load_both(expert.folder)}"
            if able
            else f"rows of {found.kind} beside text cannot be encoded yet"
        )
        also = "Copy the processor's files beside the expert's weights, install what it needs, or r" if able else "R"
        raise table.error(
            f"{table.place(found.row)} has {described(found.value)} in the column {found.column!r}, but {why}; "
            f"{expert.kind.architecture} would learn from the text alone. {also}emove the column or the parts if that "
            "is meant, leave out this task's calibration and evaluation, or use rows of tensors."
        )
    ignored = ", ".join(repr(column) for column in columns if column not in read)
    if ignored and expert.kind.language_model:
        return (f"{table.task}: {table.source.path}: {expert.kind.architecture} does not read the column {ignored}.",)
    return ()
