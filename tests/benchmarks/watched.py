"""Anonymous memory of processes (RssAnon), sampled from outside; ru_maxrss would count the page cache."""

import time
from multiprocessing.process import BaseProcess
from pathlib import Path


def anonymous(pid: int | None) -> int:
    """Anonymous memory of a process in kB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def peak_of(process: BaseProcess) -> float:
    """Start a process and wait for its end; returns its peak in MB."""
    process.start()
    highest = 0
    while process.is_alive():
        highest = max(highest, anonymous(process.pid))
        time.sleep(0.005)
    process.join()
    assert process.exitcode == 0
    return highest / 1024
