"""The processor of texts and images in a folder, or why there is none."""

from pathlib import Path

from transformers import AutoProcessor, ProcessorMixin


def load_both(folder: Path | None, *, trusted: bool = False) -> ProcessorMixin | str:
    """Load the processor of texts and images in a folder.

    Args:
        folder: The folder; None if there is none.
        trusted: Whether Python code beside the weights may run.

    Returns:
        The processor, or the reason why there is none, in words.

    Example:
        >>> load_both(None)
        'there is no processor_config.json or preprocessor_config.json'
    """
    if folder is None or not any(folder.glob("*processor_config.json")):
        return "there is no processor_config.json or preprocessor_config.json"
    try:
        found = AutoProcessor.from_pretrained(folder, trust_remote_code=trusted)
    except Exception as error:  # any class may raise anything, for example where torchvision is not installed
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        return f"transformers cannot load it from {folder}: {lines[0].strip()}"
    return found if isinstance(found, ProcessorMixin) else f"{folder} has one of texts alone, or of images alone"
