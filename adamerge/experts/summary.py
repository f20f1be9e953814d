"""Experts in words: which parameters are merged, which stay whose own, which are dropped."""

from collections.abc import Sequence
from itertools import takewhile

from adamerge.experts.experts import Experts


def describe(experts: Experts) -> list[str]:
    """The split of parameters in words: what is merged, what stays whose own, what is left out."""
    total = sum(experts.base.shape(name).numel() for name in experts.shared)
    lines = [f"merged: {len(experts.shared)} parameters, {total / 1e6:.1f} M numbers"]
    lines += [f"head of {name}: {_brief(e.whole_head)}" for name, e in experts.tasks.items() if e.head]
    if experts.kept:
        lines.append(f"kept from the base: {_brief(experts.kept)}")
    if experts.left_out:
        lines.append(f"only the base has, so left out: {_brief(experts.left_out)}")
    return [*lines, *(f"warning: {warning}" for warning in experts.warnings)]


def _brief(names: Sequence[str], few: int = 8) -> str:
    """Names, of which many under one module are given by their number: a tower that is kept has hundreds.

    Example:
        >>> _brief(["logit_scale", *(f"text.layers.0.{part}" for part in "abc")], few=2)
        'logit_scale, text.layers.0.* (3)'
    """
    said: list[str] = []
    for top in dict.fromkeys(name.partition(".")[0] for name in names):
        inside = [name for name in names if name.partition(".")[0] == top]
        places = zip(*(name.split(".")[:-1] for name in inside), strict=False)  # what stands first, second, …
        common = ".".join(words[0] for words in takewhile(lambda words: len(set(words)) == 1, places))
        said += [f"{common}.* ({len(inside)})"] if len(inside) > few else inside
    return ", ".join(said)
