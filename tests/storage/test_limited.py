"""Calls in a child process: beyond a limit of time or memory they end, and this process is told which."""

import os
import signal
import threading

import pytest

from adamerge.storage.limited import beyond_limits

SMALL = 2**26


def endless():
    while True:
        pass


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: None, ""),
        (lambda: int("a"), ""),
        (lambda: bytes(2 * SMALL), "0.062 GB of memory"),
        (lambda: os.abort(), "0.062 GB of memory"),
        (endless, "1 s"),
    ],
)
def test_a_limit_is_told(call, said, capfd):
    assert beyond_limits(call, 1, SMALL) == said
    assert not "".join(capfd.readouterr())


def test_what_a_call_changes_is_its_own():
    changed = []
    assert beyond_limits(lambda: changed.append(1), 1, SMALL) == ""
    assert not changed


def test_an_interruption_ends_the_child(monkeypatch):
    children, fork = [], os.fork
    monkeypatch.setattr(os, "fork", lambda: children.append(fork()) or children[-1])
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            beyond_limits(signal.pause, 100, SMALL)
    finally:
        signal.signal(signal.SIGINT, former)
    with pytest.raises(ChildProcessError):
        os.waitpid(children[0], os.WNOHANG)
