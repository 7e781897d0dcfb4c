"""Compare the times of two functions in one process.

The functions alternate, so that changes of the machine's speed affect both; the ratio is the median over the pairs.
"""

import statistics
import time
from collections.abc import Callable


def compare(ours: Callable[[], object], theirs: Callable[[], object], repeats: int = 10) -> tuple[float, float, float]:
    """Run both functions alternately.

    Returns: milliseconds of ours and of theirs (medians), and the median of theirs / ours over the pairs.
    """
    for _ in range(2):  # trace graphs, and let kernels choose their algorithms
        ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    our_time, their_time = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
    return our_time, their_time, statistics.median(b / a for a, b in pairs)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
