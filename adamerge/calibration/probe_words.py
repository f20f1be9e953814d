"""Messages about models whose answers depend on the other rows of a batch."""

from collections.abc import Iterator, Sequence

from adamerge.data.padding import Padding

FINITE = (
    "Expected finite logits: correct config.json (rope_theta, rope_scaling and other factors, eps of norms), its "
    "tokenizer's or processor's settings, columns of the rows that are inputs of the model, or the weights; adamerge "
    "check --deep looks for numbers that are not finite."
)

ALONE = (
    "Correct what the message names (a column of the rows that is an input of the model, a setting in config.json), or "
    "leave out this task's calibration and evaluation and use a data-free method."
)

AGAIN = (
    "Expected a model whose passes leave nothing behind: attributes, buffers and random states are restored after "
    "each, but class attributes, global variables, closures and iterators are not. Keep what changes in attributes or "
    "buffers, or leave out this task's calibration and evaluation and use a data-free method."
)


def notes(name: str, padding: Padding, changed: Sequence[str], *, reads_mask: bool, random: bool) -> Iterator[str]:
    """Describe everything that is not as a user would expect."""
    if padding.length is not None:
        why = "cannot be run on short rows" if reads_mask else "takes no attention mask, so padding counts"
        yield (
            f"{name} {why}: every row is padded to {padding.length} tokens, alone or not. Set data.max_length to the "
            "length that the experts were trained with."
        )
    elif padding.share == "equal":
        yield f"{name} answers a padded row otherwise: rows of one length share a forward pass, without padding."
    elif padding.share == "none":
        yield f"{name} answers a row otherwise beside other rows: every row has a forward pass of its own."
    elif padding.side == "left":
        yield f"{name} answers a row padded on the right otherwise: rows are padded on the left."
    changed = own_changes(changed)
    if changed:
        more = f" and {len(changed) - 2} more" if len(changed) > 2 else ""
        yield (
            f"{name} changes itself in a forward pass ({', '.join(changed[:2])}{more}): every pass starts from the "
            "model as it was loaded."
        )
    if random:
        yield f"{name} draws random numbers in a forward pass: every pass draws the same ones."


def own_changes(changed: Sequence[str]) -> list[str]:
    """Leave out what transformers installs in a class at its first pass, to return hidden states.

    Example:
        >>> own_changes(["a._forward_hooks.0", "a._output_capturing_hooks_installed", "b.calls"])
        ['b.calls']
        >>> own_changes(["a._forward_hooks.0"])
        ['a._forward_hooks.0']
    """
    installed = any(name.endswith("_output_capturing_hooks_installed") for name in changed)
    return [name for name in changed if not (installed and "_hooks" in name)]


def unknown(architecture: str, error: Exception) -> str:
    """Say that a model could not be asked, and why."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"{architecture} could not be asked whether its answer to a row depends on the rows beside it ({reason}): "
        "every row has a forward pass of its own."
    )
