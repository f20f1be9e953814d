"""Names of tasks: what they may be called."""

import pytest

from adamerge.runs.build_model import check_names
from adamerge.types import ConfigError


@pytest.mark.parametrize("name", ["base", "expert", "average", "learned", "metric", "news[1]", "a.b", "Mean", "*"])
def test_names_that_collide_with_nothing_are_accepted(name):
    check_names([name, "other"])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["mean"], "another name than 'mean', which is the mean over tasks in all results; set the key task"),
        (["a/b"], "a name that can be the name of a folder, found 'a/b'"),
        ([".."], "a name that can be the name of a folder, found '..'"),
        ([""], "found ''"),
        (["a", "a"], "found a twice"),
        ([], "expected at least one expert"),
    ],
)
def test_names_that_cannot_be_used_are_refused(names, words):
    with pytest.raises(ConfigError, match=words):
        check_names(names)
