"""What the client of the Hugging Face hub raises where the hub, or the network, does not answer as hoped."""

from typing import Final, cast

from huggingface_hub.errors import HfHubHTTPError

from adamerge.storage.regular_files import first_line

HUB_ERRORS: Final = cast(tuple[type[Exception], ...], (*HfHubHTTPError.__bases__, OSError, ValueError))
"""Errors of the hub, of its client, and of the client's library of HTTP, whatever that is at the installed version: a
network that is away is no error of the hub. Impossible names are a ValueError, files that are nowhere an OSError."""


def in_a_line(error: Exception) -> str:
    r"""Return the first line of an error's words, or the name of its class where it has none.

    Example:
        >>> in_a_line(OSError("away\nsince noon")), in_a_line(TimeoutError())
        ('away', 'TimeoutError')
    """
    return first_line(error) or type(error).__name__
