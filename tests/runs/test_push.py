"""An export is uploaded with all that a fresh `from_pretrained` needs, and a refusal leaves it on disk."""

import shutil
from types import SimpleNamespace

import pytest
import transformers
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from rich.console import Console
from support.families import TASKS

from adamerge.runs.push import check_repository, push, repositories
from adamerge.types import ConfigError


class Hub:
    """A stand-in for the hub: a folder per repository."""

    def __init__(self, folder, refusal=None, public=()):
        self.folder, self.refusal, self.created, self.public = folder, refusal, [], public

    def repo_info(self, name):
        if name in self.public:
            return SimpleNamespace(private=False)
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)  # as without a response of any library

    def create_repo(self, name, *, private, exist_ok):
        if self.refusal:
            raise self.refusal
        self.created.append((name, private, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.folder / repo_id)
        return SimpleNamespace(repo_url=f"https://hub/{repo_id}")


def test_a_fresh_model_loads_from_what_was_uploaded(finished, tmp_path):
    hub = Hub(tmp_path)
    push(finished / "run/merged", {"": "org/merge"}, private=True, console=Console(quiet=True), api=hub)
    assert hub.created == [("org/merge", True, True)]
    for task in TASKS:
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
        push(finished / "run/merged", {"": "org/merge"}, private=False, console=Console(quiet=True), api=hub)
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
        push(tmp_path, {"": "org/merge"}, private=False, console=Console(quiet=True), api=Hub(tmp_path, refusal))


@pytest.mark.parametrize("name", ["merge", "a/b/c", "org/", "org/na me", "/tmp/x", ""])
def test_names_of_repositories(name):
    with pytest.raises(ConfigError, match="push_to_hub: expected ORG/NAME"):
        check_repository(name)


def test_each_task_is_a_repository_of_its_own(finished, tmp_path):
    hub = Hub(tmp_path)
    names = repositories("org/merge", TASKS, each=True)
    push(finished / "run/merged", names, private=False, console=Console(quiet=True), api=hub)
    assert [name for name, *_ in hub.created] == [f"org/merge-{task}" for task in TASKS]
    for task in TASKS:
        place = tmp_path / f"org/merge-{task}"
        _, info = transformers.AutoModelForSequenceClassification.from_pretrained(place, output_loading_info=True)
        assert not info["missing_keys"]
        assert "without `subfolder`" in (place / "README.md").read_text().replace("\n", " ")


def test_a_public_repository_gets_nothing_that_was_to_be_private(tmp_path):
    hub, names = Hub(tmp_path / "hub", public=["org/merge"]), {"": "org/merge"}
    with pytest.raises(ConfigError, match=r"private repository or none, found a public one.*--private"):
        push(tmp_path, names, private=True, console=Console(quiet=True), api=hub)
    assert (hub.created, (tmp_path / "hub").exists()) == ([], False)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError("gone")])
def test_what_was_not_uploaded_is_listed(tmp_path, stop):
    """Of several repositories those that are left, private as was asked."""
    hub, names = Hub(tmp_path / "hub"), {"a": "org/m-a", "b c": "org/m-b"}
    for own in names:
        (tmp_path / own).mkdir()
    first = hub.upload_folder
    hub.upload_folder = lambda **given: first(**given) if given["repo_id"] == "org/m-a" else throw(stop)
    with pytest.raises((KeyboardInterrupt, ConfigError)) as raised:
        push(tmp_path, names, private=True, console=Console(quiet=True), api=hub)
    assert str(raised.value).endswith(f"hf upload org/m-b '{tmp_path}/b c' --private")


def throw(error):
    raise error


def test_one_model_for_all_tasks_has_no_folders_to_upload(tmp_path):
    with pytest.raises(ConfigError, match="one model does every task"):
        push(tmp_path, {"news": "org/m-news"}, private=False, console=Console(quiet=True), api=Hub(tmp_path))


def test_names_of_tasks_must_be_names_of_repositories():
    with pytest.raises(ConfigError, match=r"found 'org/m-a\|b'"):
        repositories("org/m", ["a|b"], each=True)


@pytest.mark.parametrize("option", ["private", "each_task"])
def test_options_of_an_upload_without_one(finished, main, tmp_path, option):
    code, _, complaint = main("export", str(finished / "run"), str(tmp_path / "out"), f"--{option}")
    assert (code, (tmp_path / "out").exists()) == (2, False)
    assert "add --push_to_hub ORG/NAME" in complaint
