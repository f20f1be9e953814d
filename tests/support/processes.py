"""The command in processes of its own, which can be struck by signals; importing takes place once."""

import atexit
import multiprocessing
import os
import pkgutil
import signal
import socket
import sys
from contextlib import ExitStack
from typing import NamedTuple

from support.stand_ins import FEW, OF_RUNS, UNASKED, nothing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["support.loaded_ahead"])


class Strike(NamedTuple):
    """A signal that a process sends itself when it calls a public function or method, named by its full path.

    Where `cut` names a file, the file is cut off instead, to 4096 bytes.
    """

    function: str
    number: int = signal.SIGKILL
    call: int = 1
    times: int = 1
    cut: str = ""


def start(arguments, folder, output, strike=None):
    """Start a command in a folder; `output` is a file or the name of a terminal."""
    process = FORKS.Process(target=_command, args=(list(arguments), str(folder), str(output), strike))
    process.start()
    return process


def run_together(commands, folder, count=2, strikes=None):
    """Run commands, one after another, each in several processes as torchrun starts them.

    Returns:
        The exit code of each process, which ends at the first command that fails; they write to 0.txt, 1.txt, ….
    """
    ports = free_ports(len(commands))
    started = []
    for rank in range(count):
        variables = [launched(rank, count, port) for port in ports]
        arguments = (commands, variables, str(folder), f"{rank}.txt", (strikes or {}).get(rank))
        started.append(FORKS.Process(target=_commands, args=arguments))
        started[-1].start()
    for process in started:
        process.join(120)
    return [process.exitcode for process in started]


def run(arguments, folder, output, strike=None):
    """Run a command to its end; returns its exit code, which is minus the signal's number if one ended it."""
    process = start(arguments, folder, output, strike)
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def run_script(script, folder, output):
    """Run a Python script to its end; returns its exit code."""
    process = FORKS.Process(target=_script, args=(script, str(folder), str(output)))
    process.start()
    process.join(120)
    return process.exitcode


def launched(rank, count, port):
    """The variables that torchrun gives a process."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
    words = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
    return {key: str(value) for key, value in (numbers | words).items()}


def free_ports(count):
    """Ports that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _commands(commands, variables, folder, output, strike):
    for arguments, own in zip(commands, variables, strict=True):
        os.environ.update(own)
        try:
            _command(arguments, folder, output, strike)
        except SystemExit as end:
            if end.code:
                raise


def _command(arguments, folder, output, strike):
    # A process started with `&` from a script ignores SIGINT, and so do its children, pytest's among them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _write_to(output, folder)
    os.fsync = nothing
    if strike:
        arm(strike)
    from adamerge.cli import main
    from adamerge.runs import fit

    for name, stand_in in OF_RUNS.items():
        setattr(fit, name, stand_in)
    for path, stand_in in (FEW, UNASKED):
        module, _, name = path.rpartition(".")
        setattr(pkgutil.resolve_name(module), name, stand_in)
    sys.exit(main(arguments))


def _write_to(output, folder):
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _script(script, folder, output):
    _write_to(output, folder)
    try:
        exec(compile(script, "script", "exec"), {})
    finally:
        atexit._run_exitfuncs()  # as an interpreter does that ends, but for a process of multiprocessing


def arm(strike):
    """Let this process send itself a signal."""
    assert "._" not in strike.function, "strike at a public name, which outlives a change of what is behind it"
    path, _, name = strike.function.rpartition(".")
    module = pkgutil.resolve_name(path)
    original = getattr(module, name)
    calls = 0

    def struck(*args, **kwargs):
        nonlocal calls
        calls += 1
        for _ in range(strike.times if calls == strike.call else 0):
            os.truncate(strike.cut, 4096) if strike.cut else os.kill(os.getpid(), strike.number)
        return original(*args, **kwargs)

    setattr(module, name, struck)
