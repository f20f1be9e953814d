"""Signals that end a process are as Ctrl-C, wait while something is tidied up, and leave nothing incomplete."""

import os
import shutil
import signal
import tempfile

import pytest

from adamerge.storage.atomic_files import (
    kept_folder,
    temporary_folder,
    whole_file,
    whole_folder,
    without_kept_folders,
)
from adamerge.storage.exclusive import used_alone
from adamerge.storage.kept import SILENT
from adamerge.storage.resumable import resumable_folder
from adamerge.storage.signals import ENDING, as_ctrl_c, end_at_once, told_when_written, unhurried

NUMBERS = (signal.SIGINT, *ENDING)


@pytest.fixture(autouse=True)
def usual():
    """The handlers of a process that a terminal starts, whatever pytest was started with."""
    former = {number: signal.getsignal(number) for number in NUMBERS}
    for number in NUMBERS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    found = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    assert {number: signal.getsignal(number) for number in NUMBERS} == found
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_waits_until_all_is_tidied_up(number):
    done = []

    def struck_twice():
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        done.append("tidied up")

    with pytest.raises(KeyboardInterrupt), as_ctrl_c(), unhurried():
        struck_twice()
    assert done


@pytest.mark.parametrize("number", NUMBERS)
def test_what_a_library_makes_of_a_signal_is_an_interruption(number):
    def library():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            error = ValueError("could not determine the shape")  # as torch's code in C does
            error.add_note("What was written is in x.")
            raise error from None

    with pytest.raises(KeyboardInterrupt) as stop, as_ctrl_c():
        library()
    assert stop.value.__notes__ == ["What was written is in x."]


def test_other_errors_and_ignored_signals_are_left_alone():
    with pytest.raises(ValueError, match="wrong"), as_ctrl_c():
        raise ValueError("wrong")
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with as_ctrl_c(), unhurried():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_outside_of_commands_ctrl_c_ends_a_process_without_a_report():
    end_at_once()
    with pytest.raises(KeyboardInterrupt), as_ctrl_c():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    signal.signal(signal.SIGINT, signal.default_int_handler)


def write_file(path):
    with whole_file(path) as file:
        file.write(b"words")


def write_folder(path):
    with whole_folder(path) as part:
        (part / "file").write_text("words")


def write_resumable(path):
    with resumable_folder(path, {"key": "a"}) as begun:
        (begun.files / "file").write_text("words")


def use_alone(path):
    with used_alone(path / "inner", "test"):
        pass


def keep(path):
    SILENT(path / "kept", {"key": "a"}, write_folder, lambda file: file.name)


def use_for_a_while(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(path.parent))
        with temporary_folder() as folder:
            (folder / "file.partial").write_text("words")


def use_until_the_end(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(path.parent))
        with without_kept_folders():
            (kept_folder() / "file.partial").write_text("words")


WRITERS = (write_file, write_folder, write_resumable, use_alone, keep, use_for_a_while, use_until_the_end)
CALLS = ("os.open", "os.mkdir", "os.rename", "os.replace", "os.unlink", "os.rmdir", "os.close", "os.fsync",
         "shutil.rmtree")  # fmt: skip


@pytest.mark.parametrize("write", WRITERS)
def test_a_signal_at_any_call_leaves_all_or_nothing(tmp_path, monkeypatch, write):
    """A signal before and after every call that changes a file, one at a time."""
    struck = sum(_struck(tmp_path / f"{place}", monkeypatch, write, place) for place in range(1, 200))
    assert 4 < struck < 199
    left = [path for path in tmp_path.rglob("*") if path.name.endswith(".partial") or path.name == ".lock"]
    assert not left


def _struck(folder, monkeypatch, write, place):
    """Write with a signal at one of the calls; returns whether it came to that."""
    folder.mkdir()
    seen = 0

    def strike():
        nonlocal seen
        seen += 1
        if seen == place:
            os.kill(os.getpid(), ENDING[place % 2])

    with monkeypatch.context() as patch:
        for name in CALLS:
            module, call = {"os": os, "shutil": shutil}[name.split(".")[0]], name.split(".")[1]
            patch.setattr(module, call, _with(strike, getattr(module, call)))
        try:
            with as_ctrl_c():
                write(folder / "a")
        except KeyboardInterrupt:
            return True
    return False


def _with(strike, call):
    def struck(*given, **more):
        strike()
        found = call(*given, **more)
        strike()
        return found

    return struck


def test_a_file_that_appeared_before_an_interruption_is_named(tmp_path):
    def write(path, *, written):
        with told_when_written(path):
            if written:
                path.touch()
            raise KeyboardInterrupt

    def interrupted(path, *, written):
        with pytest.raises(KeyboardInterrupt) as stop:
            write(path, written=written)
        return getattr(stop.value, "__notes__", [])

    assert interrupted(tmp_path / "a", written=False) == []
    assert interrupted(tmp_path / "a", written=True) == [f"{tmp_path / 'a'} is complete."]
    assert interrupted(tmp_path / "a", written=True) == []
