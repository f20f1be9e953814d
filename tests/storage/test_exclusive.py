"""One process uses a folder; the second is told who, where and since when, and a killed one does not keep it."""

import os
import re
import socket
import time

import pytest
from support.folders import hold
from support.processes import FORKS

from adamerge.storage.exclusive import LOCK, used_alone
from adamerge.types import ConfigError


@pytest.fixture
def holder(tmp_path):
    """A process that uses the folder `run`."""
    process = FORKS.Process(target=hold, args=(tmp_path / "run",))
    process.start()
    while not (tmp_path / "run/ready").exists():
        assert process.is_alive()
        time.sleep(0.01)
    yield process
    process.kill()
    process.join(60)


def test_a_second_process_is_told_who_uses_the_folder(holder, tmp_path):
    with pytest.raises(ConfigError) as refused, used_alone(tmp_path / "run", "adamerge evaluate"):
        pass
    message = str(refused.value)
    assert f"process {holder.pid} on {socket.gethostname()} has used it since 2" in message
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d \(adamerge fit\)", message)
    assert (tmp_path / "run/ready").exists()
    holder.kill()
    holder.join(60)
    with used_alone(tmp_path / "run", "adamerge evaluate"):
        assert f'"pid": {os.getpid()}' in (tmp_path / "run" / LOCK).read_text()
    assert os.listdir(tmp_path / "run") == ["ready"]


def test_one_process_cannot_use_a_folder_twice(tmp_path):
    with used_alone(tmp_path, "first"):
        with pytest.raises(ConfigError, match=rf"process {os.getpid()} on .* \(first\)"), used_alone(tmp_path, "x"):
            pass
        assert (tmp_path / LOCK).exists()


def test_folders_that_stay_empty_are_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), used_alone(tmp_path / "a" / "b", "x"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    (tmp_path / "empty").mkdir()
    with used_alone(tmp_path / "empty", "x"):
        pass
    assert os.listdir(tmp_path) == ["empty"]


@pytest.mark.parametrize("found", ["link", "link to nothing", "folder"])
def test_what_lies_in_place_of_the_lock_is_named_and_no_link_is_followed(tmp_path, found):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    if found == "folder":
        (tmp_path / "run" / LOCK).mkdir()
    else:
        (tmp_path / "run" / LOCK).symlink_to(tmp_path / ("precious" if found == "link" else "nowhere"))
    said = rf"run/\.lock: expected the file that locks this folder, found a {found.split()[0]}\. Remove it"
    with pytest.raises(ConfigError, match=said), used_alone(tmp_path / "run", "x"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="already exists, and is a file"), used_alone(tmp_path / "file", "x"):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("adamerge.storage.partial_paths.fcntl.flock", flock)
    said = []
    with used_alone(tmp_path, "x", said.append):
        pass
    assert "no locks" in said[0]
