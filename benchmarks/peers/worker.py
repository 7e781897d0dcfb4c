"""The worker process of a library in `benchmarks.decoding`, which works on request.

It reads lines from standard input, each the name of a setting in JSON, and answers each with a JSON object: seconds and
outputs. It runs in the library's environment and imports nothing of kerasnets.
"""

import json
import sys
import time
from collections.abc import Callable


def serve(settings: dict[str, Callable[[], list]]) -> None:
    """Run settings on request. Args: settings: name -> function that returns the outputs, one per sentence."""
    print(json.dumps({"settings": list(settings)}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        outputs = settings[json.loads(line)]()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "outputs": outputs}), flush=True)
