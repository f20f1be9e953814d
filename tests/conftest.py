"""Quiet libraries, one thread where that is enough, and no hub."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from families import save_text_family


@pytest.fixture(scope="session")
def text_family(tmp_path_factory):
    """A folder with a tiny base, three experts, their rows and merge.yaml; not to be altered."""
    return save_text_family(tmp_path_factory.mktemp("family"))
