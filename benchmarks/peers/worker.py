"""A peer's side of `benchmarks.decoding`: a process of its own, which works when it is told to.

It reads one JSON object a line from standard input, the name of a setting, and answers with one: seconds, tokens and
what came out. Runs in the peer's environment and imports nothing of kerasnets.
"""

import json
import sys
import time
from collections.abc import Callable


def serve(settings: dict[str, Callable[[], list]]) -> None:
    """settings: name -> function that does the work and returns its outputs, one a sentence."""
    print(json.dumps({"settings": list(settings)}), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        outputs = settings[json.loads(line)]()
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "outputs": outputs}), flush=True)
