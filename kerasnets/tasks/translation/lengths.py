"""Scores of translations by the length of their source, and the worst translations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_BINS = 10
WIDTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of a bin, in subwords
WORST = 20


def length_bins(lengths: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Group sentences by their length in subwords: -> the lengths of each bin ("6 to 10") and the indices of its
    sentences, shortest first.

    Bins are equally wide, as narrow as at most MOST_BINS allow; those without sentences are left out.
    """
    longest = max(lengths, default=0)
    width = next((width for width in WIDTHS if longest <= MOST_BINS * width), max(longest, 1))
    bins = np.maximum(np.asarray(lengths, int) - 1, 0) // width
    names = [f"{n * width + 1} to {(n + 1) * width}" if width > 1 else str(n + 1) for n in range(MOST_BINS)]
    return [(names[n], np.flatnonzero(bins == n).tolist()) for n in np.unique(bins)]


def score_lengths(
    lengths: Sequence[int], translations: Mapping[str, Sequence[str]], references: Sequence[str]
) -> list[dict[str, Any]]:
    """-> for each bin of source lengths the number of its sentences and their chrF.

    Args: translations: by the prefix of their metric ("", "beam_").
    """
    from sacrebleu.metrics import CHRF

    results = []
    for name, indices in length_bins(lengths):
        scores = {
            f"{prefix}chrf": CHRF().corpus_score([texts[n] for n in indices], [[references[n] for n in indices]]).score
            for prefix, texts in translations.items()
        }
        results.append({"length": name, "sentences": len(indices)} | scores)
    return results


def worst_translations(
    sources: Sequence[str], references: Sequence[str], translations: Sequence[str]
) -> list[dict[str, Any]]:
    """-> the translations with the lowest chrF."""
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    scores = [
        metric.sentence_score(translation, [reference]).score
        for translation, reference in zip(translations, references, strict=True)
    ]
    return [
        {
            "chrf": round(scores[n], 2),
            "source": sources[n],
            "reference": references[n],
            "translation": translations[n],
        }
        for n in np.argsort(scores, kind="stable")[:WORST]
    ]
