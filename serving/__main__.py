"""The model server: `python -m serving --models_dir=models --port=8500 --rest_api_port=8501`."""

import os
import sys

from serving.server import main

status = main(sys.argv[1:])
sys.stdout.flush()
sys.stderr.flush()
# Threads that load or run a model cannot be interrupted; the process is not to wait for them.
os._exit(status)
