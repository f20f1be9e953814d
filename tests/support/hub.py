"""A hub that notes what is uploaded to it."""

from pathlib import Path
from types import SimpleNamespace


def hub(uploaded):
    """A class in the place of HfApi, whose repositories are private; `uploaded` gets what is asked of it."""

    class Hub:
        def repo_info(self, name):
            return SimpleNamespace(private=True)

        def create_repo(self, name, **options):
            uploaded["repository"] = (name, options)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            files = Path(folder_path).rglob("*.*")
            uploaded["files"] = sorted(path.relative_to(folder_path).as_posix() for path in files)

    return Hub
