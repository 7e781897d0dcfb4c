"""Normalized text, and the units that are segmented one by one."""

import re

# Normalization: a run of the white space below becomes one space, and both ends are stripped.
# Nothing else changes (no case folding, no NFKC). U+2581 stands for a space in pieces, so it counts as one.
SPACE = "▁"
WHITE_SPACE = " \t\n\x0b\x0c\r" + SPACE
# Text is segmented unit by unit: words (with the space before them) are split at punctuation, so that "dog" and
# "dog." share one. Explicit classes only: RE2 (in the graph) and `re` disagree about \w, \s and \p.
PUNCTUATION = r"!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~" + "¡¿«»‘’‚“”„…–—"
UNIT_PATTERN = f"{SPACE}?[{PUNCTUATION}]+|{SPACE}?[^{SPACE}{PUNCTUATION}]+"


def normalize(text: str) -> str:
    """-> the text that `detokenize(tokenize(text))` returns."""
    return re.sub(f"[{WHITE_SPACE}]+", " ", text).strip(" ")


def units(text: str) -> list[str]:
    """Split text into the units that are segmented separately: "A dog." -> ["▁A", "▁dog", "."]."""
    words = normalize(text)
    return re.findall(UNIT_PATTERN, SPACE + words.replace(" ", SPACE)) if words else []
