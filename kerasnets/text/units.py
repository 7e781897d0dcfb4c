"""Normalized text, and the units that are segmented one by one."""

import re

# Normalization: runs of the white space listed become one space, none is left at either end.
# Nothing else changes (no case folding, no NFKC). U+2581 is how pieces write a space, so it counts as one.
SPACE = "▁"
WHITE_SPACE = " \t\n\x0b\x0c\r" + SPACE
# Text is segmented unit by unit: words (with the space before them) are cut at these marks, so that "dog" and
# "dog." share one. Explicit classes only: RE2 (in the graph) and `re` disagree about \w, \s and \p.
MARKS = r"!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~" + "¡¿«»‘’‚“”„…–—"
UNIT = f"{SPACE}?[{MARKS}]+|{SPACE}?[^{SPACE}{MARKS}]+"


def normalize(text: str) -> str:
    """The text that `detokenize(tokenize(text))` gives back."""
    return re.sub(f"[{WHITE_SPACE}]+", " ", text).strip(" ")


def units(text: str) -> list[str]:
    """The pieces of text that are segmented on their own: "A dog." -> ["▁A", "▁dog", "."]."""
    words = normalize(text)
    return re.findall(UNIT, SPACE + words.replace(" ", SPACE)) if words else []
