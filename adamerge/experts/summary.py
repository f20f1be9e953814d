"""Summary of the experts: parameters that are merged, kept and dropped."""

from collections.abc import Sequence
from itertools import takewhile

from adamerge.experts.experts import Experts
from adamerge.experts.teacher import described


def describe(experts: Experts) -> list[str]:
    """Describe which parameters are merged, kept per task or from the base, and dropped.

    Args:
        experts: The base and its experts.

    Returns:
        Lines of text.
    """
    total = sum(experts.base.shape(name).numel() for name in experts.shared)
    lines = [f"merged: {len(experts.shared)} parameters, {total / 1e6:.1f} M numbers"]
    lines += [f"head of {name}: {_brief(e.whole_head)}" for name, e in experts.tasks.items() if e.head]
    if experts.kept:
        lines.append(f"kept from the base: {_brief(experts.kept)}")
    if experts.left_out:
        lines.append(f"only in the base, so not used: {_brief(experts.left_out)}")
    if experts.teacher is not None:
        lines.append(f"keep: {described(experts.teacher)}")
    lines += [f"note: {note}" for note in experts.notes]
    return [*lines, *(f"warning: {warning}" for warning in experts.warnings)]


def _brief(names: Sequence[str], few: int = 8) -> str:
    """Join names; replace many names under one module by their count, because a tower has hundreds.

    Example:
        >>> _brief(["logit_scale", *(f"text.layers.0.{part}" for part in "abc")], few=2)
        'logit_scale, text.layers.0.* (3)'
    """
    shown: list[str] = []
    for top in dict.fromkeys(name.partition(".")[0] for name in names):
        inside = [name for name in names if name.partition(".")[0] == top]
        places = zip(*(name.split(".")[:-1] for name in inside), strict=False)  # the first parts, the second parts, …
        common = ".".join(words[0] for words in takewhile(lambda words: len(set(words)) == 1, places))
        shown += [f"{common}.* ({len(inside)})"] if len(inside) > few else inside
    return ", ".join(shown)
