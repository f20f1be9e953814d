"""What a run notes of itself for its report."""

import pytest
import torch

from adamerge.calibration.agreement import HeldOut
from adamerge.calibration.row_scores import predictions
from adamerge.runs.run_facts import one_of_each_row


@pytest.mark.parametrize(
    ("form", "shape", "one"),
    [
        ("classes", (3, 5), True),
        ("labels", (3, 5), True),
        ("numbers", (3, 2), True),
        ("vectors", (3, 16), True),
        ("spans", (3, 2, 7), False),
        ("classes", (3, 4, 5), False),
    ],
)
def test_rows_with_one_prediction_each_are_counted_whatever_is_predicted(form, shape, one):
    found = predictions(torch.rand(shape), None, form)
    held_out = HeldOut({"news": range(6)}, {"news": [found, found]}, {}, 3)
    assert one_of_each_row(held_out) == ({"news": 6} if one else {})
