"""Import large libraries without the search for garbage, which imports leave none of."""

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Generator[None]:
    """Pause the search for garbage during a block of imports.

    Example:
        >>> with quick_imports():
        ...     gc.isenabled()
        False
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
