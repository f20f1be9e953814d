"""Links in a folder, and whether they lead out of it."""

from pathlib import Path


def inside(folder: Path, file: Path) -> bool:
    """Return whether a file is in a folder once links are followed.

    Snapshots in the Hugging Face cache are folders of links, at any depth, to the `blobs` beside them, which count as
    inside.

    Args:
        folder: The folder; it may itself be reached by a link.
        file: A path in it.
    """
    place, target = folder.resolve(), file.resolve()
    blobs = [one.parent / "blobs" for one in place.parents if one.name == "snapshots"]
    return any(target.is_relative_to(one) for one in (place, *blobs))
