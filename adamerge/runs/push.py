"""Upload an export to the hub: all files of all tasks, in one repository."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from rich.console import Console

from adamerge.storage.hub_errors import HUB_ERRORS, in_a_line
from adamerge.types import ConfigError


def check_repository(name: str) -> None:
    """Refuse a name that the hub cannot have, before anything is exported.

    Raises:
        ConfigError: The name is not ORG/NAME.

    Example:
        >>> check_repository("me/merge")
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"push_to_hub: expected ORG/NAME, found {name!r} ({error}).") from error
    if name.count("/") != 1:
        raise ConfigError(f"push_to_hub: expected ORG/NAME, found {name!r}.")


def push(folder: Path, name: str, *, private: bool, console: Console, api: HfApi | None = None) -> None:
    """Upload an exported folder; a repository that exists gets a further commit.

    Args:
        folder: The export.
        name: ORG/NAME.
        private: Whether a new repository is private; one that exists stays as it is.
        console: Prints the address.
        api: Client of the hub; by default that of the user's login.

    Raises:
        ConfigError: Nobody is logged in, or the hub refuses the upload; the export on disk stays.
    """
    check_repository(name)
    api = api or HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Merged with adamerge")
    except HUB_ERRORS as error:
        raise ConfigError(
            f"push_to_hub: {name}: the hub did not take the upload ({in_a_line(error)}). {folder} is complete; log in "
            f"with `hf auth login`, then upload it: hf upload {name} {folder}"
        ) from error
    console.print(f"uploaded: {done.repo_url if hasattr(done, 'repo_url') else name}", markup=False, soft_wrap=True)
