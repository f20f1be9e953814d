"""A model that two processes share against the same model in memory; what part of the task vectors one reads."""

import pytest
from support.releases import needs_fsdp2
from support.sharded import CHOOSY, CLASSES, compared

pytestmark = needs_fsdp2


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return compared(tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize("name", [*CLASSES, "two heads", CHOOSY])
def test_shards_are_the_whole_model(found, name):
    for one in found:
        gradient, outputs = one[name]
        assert gradient < 1e-5
        assert outputs < 1e-5


@pytest.mark.parametrize("kind", ["Reading", "Wandering", "Changing"])
def test_what_cannot_be_divided_is_refused_in_words(found, kind):
    for one in found:
        assert one[kind].startswith("trainer.strategy: expected a model that ")
        assert one[kind].endswith("Set strategy: ddp.")
