"""Normalized text, and the units that are segmented one by one."""

import re

# Normalization: runs of the white space listed become one space, and both ends are stripped.
# Nothing else changes (no case folding, no NFKC). U+2581 stands for a space in pieces, so it counts as one.
SPACE = "▁"
WHITE_SPACE = " \t\n\x0b\x0c\r" + SPACE
# Text is segmented unit by unit: words (with the space before them) are cut at these marks, so that "dog" and
# "dog." share one. Explicit classes only: RE2 (in the graph) and `re` disagree about \w, \s and \p.
PUNCTUATION = r"!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~" + "¡¿«»‘’‚“”„…–—"
UNIT = f"{SPACE}?[{PUNCTUATION}]+|{SPACE}?[^{SPACE}{PUNCTUATION}]+"


def normalize(text: str) -> str:
    """-> the text that `detokenize(tokenize(text))` returns."""
    return re.sub(f"[{WHITE_SPACE}]+", " ", text).strip(" ")


def units(text: str) -> list[str]:
    """Split text into the units that are segmented separately: "A dog." -> ["▁A", "▁dog", "."]."""
    words = normalize(text)
    return re.findall(UNIT, SPACE + words.replace(" ", SPACE)) if words else []
