"""An export is uploaded with all that a fresh `from_pretrained` needs, and a refusal leaves it on disk."""

import shutil
from types import SimpleNamespace

import pytest
import transformers
from huggingface_hub.errors import HfHubHTTPError
from rich.console import Console

from adamerge.runs.push import check_repository, push
from adamerge.types import ConfigError


class Hub:
    """A stand-in for the hub: a folder per repository."""

    def __init__(self, folder, refusal=None):
        self.folder, self.refusal, self.created = folder, refusal, []

    def create_repo(self, name, *, private, exist_ok):
        if self.refusal:
            raise self.refusal
        self.created.append((name, private, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.folder / repo_id)
        return SimpleNamespace(repo_url=f"https://hub/{repo_id}")


def test_a_fresh_model_loads_from_what_was_uploaded(finished, tmp_path):
    hub = Hub(tmp_path)
    push(finished / "run/merged", "org/merge", private=True, console=Console(quiet=True), api=hub)
    assert hub.created == [("org/merge", True, True)]
    for task in ("mood", "topic", "speed"):
        place = tmp_path / "org/merge"
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            place, subfolder=task, output_loading_info=True
        )
        assert not info["missing_keys"]
        assert model.config.architectures == ["BertForSequenceClassification"]
        assert transformers.AutoTokenizer.from_pretrained(place, subfolder=task)("good").input_ids
    assert (tmp_path / "org/merge/README.md").is_file()


def test_a_refusal_says_how_to_upload_later(finished, tmp_path):
    hub = Hub(tmp_path, OSError("you are not logged in\nmore"))
    with pytest.raises(ConfigError, match=r"org/merge: .* \(you are not logged in\).*hf upload org/merge"):
        push(finished / "run/merged", "org/merge", private=False, console=Console(quiet=True), api=hub)
    assert (finished / "run/merged/README.md").is_file()


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (HfHubHTTPError.__bases__[0]("[Errno 111] Connection refused"), r"\(\[Errno 111\] Connection refused\)"),
        (OSError(), r"\(OSError\)"),
        (ValueError("  \n"), r"\(ValueError\)"),
    ],
)
def test_a_network_that_is_away_is_a_refusal_too(tmp_path, refusal, reason):
    """The hub's client lets errors of its HTTP library through, and some have no words."""
    with pytest.raises(ConfigError, match=f"org/merge: the hub did not take the upload {reason}"):
        push(tmp_path, "org/merge", private=False, console=Console(quiet=True), api=Hub(tmp_path, refusal))


@pytest.mark.parametrize("name", ["merge", "a/b/c", "org/", "org/na me", "/tmp/x", ""])
def test_names_of_repositories(name):
    with pytest.raises(ConfigError, match="push_to_hub: expected ORG/NAME"):
        check_repository(name)
