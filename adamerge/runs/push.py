"""Upload an export to the hub: all files of all tasks in one repository, or a repository per task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
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


def repositories(name: str, tasks: Sequence[str], *, each: bool) -> dict[str, str]:
    """Name the repositories of an export by the folder that goes into each; "" is the whole export.

    Args:
        name: ORG/NAME.
        tasks: Names of the tasks.
        each: Whether every task has a repository of its own.

    Raises:
        ConfigError: The hub cannot have one of the names.

    Example:
        >>> repositories("me/merge", ["news"], each=True), repositories("me/merge", ["news"], each=False)
        ({'news': 'me/merge-news'}, {'': 'me/merge'})
    """
    named = {task: f"{name}-{task}" for task in tasks} if each else {"": name}
    for own in (name, *named.values()):
        check_repository(own)
    return named


def push(folder: Path, names: Mapping[str, str], *, private: bool, console: Console, api: HfApi | None = None) -> None:
    """Upload an export; a repository that exists gets a further commit, unless it is public and must not be.

    Args:
        folder: The export.
        names: Repositories as `repositories` names them.
        private: Whether the repositories are private.
        console: Prints the addresses.
        api: Client of the hub; by default that of the user's login.

    Raises:
        ConfigError: Nobody is logged in, the hub refuses the upload, or the repository is public and was to be private;
            the export on disk stays.
        KeyboardInterrupt: The upload was interrupted; says how to go on with it.
    """
    api = api or HfApi()
    commands = {name: _command(name, folder / own, private=private) for own, name in names.items()}
    for own, name in names.items():
        later = " && ".join(commands.values())
        if not (folder / own).is_dir():
            raise ConfigError(
                f"push_to_hub: {name}: {folder} has no folder {own}, because one model does every task; upload that: "
                f"{_command('ORG/NAME', folder, private=private)}"
            )
        _upload(folder / own, name, later, private=private, console=console, api=api)
        del commands[name]


def _command(name: str, folder: Path, *, private: bool) -> str:
    return f"hf upload {name} {quote(str(folder))}{' --private' * private}"


def _upload(folder: Path, name: str, later: str, *, private: bool, console: Console, api: HfApi) -> None:
    try:
        if private and _is_public(api, name):
            raise ConfigError(
                f"push_to_hub: {name}: expected a private repository or none, found a public one. {folder} is complete "
                f"and was not uploaded; make that repository private in its settings, then: {later}"
            )
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Merged with adamerge")
    except ConfigError:
        raise
    except HUB_ERRORS as error:
        raise ConfigError(
            f"push_to_hub: {name}: the hub did not take the upload ({in_a_line(error)}). {folder} is complete; log in "
            f"with `hf auth login`, then upload it: {later}"
        ) from error
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"{folder} is complete, its upload is not; go on with: {later}") from stop
    console.print(f"uploaded: {done.repo_url if hasattr(done, 'repo_url') else name}", markup=False, soft_wrap=True)


def _is_public(api: HfApi, name: str) -> bool:
    """Return whether a repository exists that everybody can read."""
    try:
        return not api.repo_info(name).private
    except RepositoryNotFoundError:
        return False
