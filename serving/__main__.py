"""The model server: `python -m serving --models_dir=models --port=8500 --rest_api_port=8501`."""

import os
import sys
from contextlib import suppress

from serving.server.process import main

status = main(sys.argv[1:])
for stream in (sys.stdout, sys.stderr):
    with suppress(OSError):  # the disk may be full
        stream.flush()
# Threads that load or run a model cannot be interrupted; so the process exits without waiting for them.
os._exit(status)
