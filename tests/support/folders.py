"""What other processes do with folders; they import it from here, however pytest was started."""

import os
import signal
import time

from adamerge.storage.atomic_files import whole_file, whole_folder
from adamerge.storage.exclusive import used_alone

WRITERS = {"file": whole_file, "folder": whole_folder}


def hold(folder):
    """Use a folder alone until the process is killed."""
    with used_alone(folder, "adamerge fit"):
        (folder / "ready").touch()
        time.sleep(60)


def die_while_writing(kind, path):
    """Be killed while a file or folder is half-written."""
    with WRITERS[kind](path):
        os.kill(os.getpid(), signal.SIGKILL)
