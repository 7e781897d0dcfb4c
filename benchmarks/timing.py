"""Timing two pieces of work against each other in one process.

The two sides alternate, so that a machine that gets slower or busy does so for both, and the ratio is taken pair by
pair.
"""

import statistics
import time
from collections.abc import Callable


def compare(ours: Callable[[], object], theirs: Callable[[], object], repeats: int = 10) -> tuple[float, float, float]:
    """Runs both in turn, each to its end.

    Returns: milliseconds of ours and of theirs (medians), and the median of theirs / ours over the pairs.
    """
    for _ in range(2):  # graphs are traced, and kernels choose their plans
        ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    mine, other = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
    return mine, other, statistics.median(b / a for a, b in pairs)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
