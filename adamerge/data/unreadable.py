"""What to do about a column whose values cannot be read."""

from adamerge.data.records import Records
from adamerge.storage.regular_files import reason_of


def unreadable(data: Records, column: str, error: Exception) -> str:
    """Say why a column cannot be read, and what to do.

    Args:
        data: The rows.
        column: Name of the column.
        error: What pyarrow or `datasets` raised on it.
    """
    if isinstance(error, UnicodeDecodeError):
        return f"the column {column!r} is not text in UTF-8 ({error}). Save the file in UTF-8."
    kind = data.type_of(column)
    typed = f", of type {kind}," if kind else ""
    return (
        f"the column {column!r}{typed} cannot be read ({reason_of(error)}). Correct its values and type, save it as "
        "text, or copy the file again."
    )
