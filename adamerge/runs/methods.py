"""Table of the presets: what each needs, what it learns, its source, and when it wins by our measurements."""

from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from adamerge.runs.presets import DEFAULT, PRESETS


class About(NamedTuple):
    """What to know of a preset.

    Attributes:
        does: What it does.
        source: Its source.
        wins: When it is the one to take, by docs/measured.md.
        accuracy: Of its merge of eight text classifiers in %, from the same file; None if it was not measured there.
    """

    does: str
    source: str
    wins: str = ""
    accuracy: float | None = None

    @property
    def measured(self) -> str:
        """When it wins, and its accuracy."""
        return "; ".join(filter(None, [self.wins, f"{self.accuracy:.1f} %" if self.accuracy else ""]))


_BELOW_WUDI = "wudi is better, as cheap"
"""What is said of methods that need no rows and end below wudi."""

ABOUT = {
    "adamerging": About("minimises the entropy of predictions", "Yang et al., 2024", "to compare with", accuracy=87.26),
    "adamerging++": About(
        "the same on task vectors trimmed by TIES", "Yang et al., 2024", "to compare with", accuracy=87.58
    ),
    "expert_merging": About(
        "matches each expert's predictions, from the base", "Zhang et al., 2025", "no centre wanted", accuracy=88.2
    ),
    "expert_merging++": About(
        "the same from an Iso-C merge, then more coefficients where they matter",
        "Zhang et al., 2025",
        "a fixed number of steps",
        accuracy=89.88,
    ),
    "auto": About(
        "the same from the best of several finished merges, for as many steps as help",
        "this package",
        "unlabeled rows",
        accuracy=90.23,
    ),
    "frank_wolfe": About(
        "selects experts, with a certificate", "Chen et al., 2025", "a pool, some irrelevant", accuracy=87.47
    ),
    "average": About("mean of the experts", "Wortsman et al., 2022", "to compare with", accuracy=85.7),
    "task_arithmetic": About("base + 0.3 · Σ task vectors", "Ilharco et al., 2023", "to compare with", accuracy=86.24),
    "regmean": About(
        "solves each linear layer by least squares", "Jin et al., 2023", "rows, no time to learn", accuracy=88.19
    ),
    "regmean++": About(
        "the same, on what the merged blocks before pass on", "arXiv 2508.03121, 2025", "to compare with"
    ),
    "esm": About("keeps the directions in which experts move outputs", "kiddo127/ESM, 2026", "to compare with"),
    "feat_cal": About("refits task arithmetic to the experts' features", "arXiv 2605.13030, 2026", "to compare with"),
    "ties": About(
        "trims, elects signs, averages those that agree",
        "Yadav et al., 2023",
        _BELOW_WUDI,
        accuracy=86.76,
    ),
    "dare": About("drops entries at random and rescales", "Yu et al., 2024", _BELOW_WUDI, accuracy=86.05),
    "magnitude": About("keeps each expert's largest changes", "Yadav et al., 2023", _BELOW_WUDI, accuracy=87.0),
    "lines": About("scales task vectors with depth", "Wang et al., 2025", _BELOW_WUDI, accuracy=84.75),
    "consensus": About("keeps entries that several experts use", "Wang et al., 2024", _BELOW_WUDI, accuracy=86.35),
    "pcb": About("balances competition between parameters", "Du et al., 2024", _BELOW_WUDI, accuracy=85.88),
    "wudi": About("removes interference between task vectors", "Cheng et al., 2025", "no rows at all", accuracy=89.33),
    "swudi": About(
        "wudi by gradient flow, in the leading directions", "arXiv 2606.07289, 2026", "wudi is as good", accuracy=89.17
    ),
    "aswudi": About(
        "wudi in as many directions as their spectrum says", "arXiv 2606.07289, 2026", "wudi is as good", accuracy=89.25
    ),
    "act_mat": About(
        "regmean, with task vectors in place of rows",
        "arXiv 2604.01329, 2026",
        "wudi is better",
        accuracy=57.98,
    ),
    "dc_merge": About(
        "gives each task's directions equal energy",
        "arXiv 2603.06242, 2026",
        _BELOW_WUDI,
        accuracy=86.14,
    ),
    "isotropic": About(
        "one update with equal singular values", "Marczak et al., 2025", "no rows, little time", accuracy=88.25
    ),
    "task_singular_vectors": About(
        "decorrelates singular vectors of the experts",
        "Gargiulo et al., 2025",
        _BELOW_WUDI,
        accuracy=88.19,
    ),
    "doge": About(
        "fits updates outside of the shared subspace",
        "Wei et al., 2025",
        _BELOW_WUDI,
        accuracy=88.15,
    ),
    "fisher": About(
        "averages weighted by Fisher information", "Matena and Raffel, 2022", "regmean is better", accuracy=84.52
    ),
}
"""The presets in words; tests hold it to `PRESETS`."""


def needs(method: str) -> str:
    """Say which rows a preset needs.

    Example:
        >>> needs("ties"), needs("regmean"), needs("adamerging")
        ('no rows', 'unlabeled rows', 'unlabeled rows')
    """
    preset = PRESETS[method]
    looks = preset["centre"] not in (None, "Isotropic") or preset["task_vectors"] == "Fisher"
    return "unlabeled rows" if looks or preset["trainer.max_steps"] != 0 else "no rows"


def learns(method: str) -> str:
    """Say what a preset learns.

    Example:
        >>> learns("ties"), learns("adamerging")
        ('nothing', 'a coefficient per tensor, 500 steps')
    """
    preset = PRESETS[method]
    if preset["trainer.max_steps"] == 0:
        return "nothing"
    finer = ", then per block of rows" if preset["chunks"] else ""
    return f"a coefficient per {preset['grouping']}{finer}, {preset['trainer.max_steps']} steps"


def methods_table() -> Table:
    """Make the table."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("method", no_wrap=True)  # a name is copied as it stands
    for head in ("what it does (source)", "needs; learns", "take it if you have; accuracy"):
        table.add_column(head)
    for method in PRESETS:
        about, learned = ABOUT[method], learns(method)
        name = f"{method} (default)" if method == DEFAULT else method
        given = needs(method) if learned == "nothing" else f"{needs(method)}; {learned}"
        table.add_row(name, f"{about.does} ({about.source})", given, about.measured)
    return table


def print_methods(console: Console) -> None:
    """Print the table."""
    console.print(methods_table())
    console.print(
        "Accuracy: of the merge of eight text classifiers by seed 0; they have 91.1 % themselves (auto: from rows that "
        "they were not trained on). Others were not measured (docs/measured.md).\n"
        "adamerge fit merge.yaml --method NAME; every key that you write overrides the method's.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
