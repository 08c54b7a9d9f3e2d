"""Runs Synapse until it ends or until the process that started it is gone.

Standard input is a pipe whose other end only the starting process holds. When that process dies, however it does,
the pipe ends; then the data directory (first argument) is removed and Synapse with it.
"""

import os
import shutil
import sys
import threading


def watch(data):
    while os.read(0, 4096):
        pass
    shutil.rmtree(data, ignore_errors=True)
    os._exit(0)


data = sys.argv.pop(1)
threading.Thread(target=watch, args=(data,), daemon=True).start()

from synapse.app.homeserver import main  # noqa: E402

main()
