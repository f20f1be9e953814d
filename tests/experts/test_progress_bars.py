"""Our progress bars, on terminals and elsewhere."""

import io

import pytest
from rich.console import Console

from adamerge.experts.progress_bars import bars_on_terminals


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_drawn_on_a_terminal_alone(terminal):
    said = io.StringIO()
    with bars_on_terminals(Console(file=said, force_terminal=terminal, width=80)) as progress:
        assert [*progress.track(range(3), description="counting")] == [0, 1, 2]
    assert ("counting" in said.getvalue()) is terminal
    assert (said.getvalue() == "") is not terminal
