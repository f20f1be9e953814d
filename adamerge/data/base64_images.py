"""Images in base64, as `data:` addresses."""

import base64
import binascii


def decoded(value: object) -> object:
    r"""Return the bytes of an image that is a `data:` address; other values, and damaged ones, as they are.

    Example:
        >>> decoded("data:image/png;base64,AAEC")
        {'bytes': b'\x00\x01\x02', 'path': None}
    """
    if not isinstance(value, str) or not value.startswith("data:"):
        return value
    try:
        return {"bytes": base64.b64decode(value.partition(",")[2], validate=True), "path": None}
    except binascii.Error:
        return value
