"""Lists of tokens: in one array, or tokenized when they are read."""

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np


class TokenLists:
    """N lists of ids, which `read` returns, and their lengths int [N]."""

    def __init__(self, read: Callable[[np.ndarray], Sequence[np.ndarray]], lengths: np.ndarray):
        """read: indices int [B] -> the ids of these lists."""
        self.read, self.lengths = read, lengths

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Self:
        """-> the lists in one array."""
        return cls.of_array(np.array([i for ids in lists for i in ids], np.int32), [len(ids) for ids in lists])

    @classmethod
    def of_array(cls, ids: np.ndarray, lengths: Sequence[int] | np.ndarray) -> Self:
        """ids int32: those of all lists, one after the other; lengths: of each list."""
        lengths = np.asarray(lengths, np.int64)
        ends = np.cumsum(lengths)
        bounds = np.stack([ends - lengths, ends], axis=1)
        return cls(lambda indices: [ids[start:end] for start, end in bounds[indices]], lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, indices: np.ndarray, before: Sequence[int] = (), after: Sequence[int] = ()) -> "TokenLists":
        """-> some of the lists, with ids added before and after each."""
        first, last = np.array(before, np.int32), np.array(after, np.int32)

        def read(chosen: np.ndarray) -> list[np.ndarray]:
            return [np.concatenate([first, ids, last]) for ids in self.read(indices[chosen])]

        return TokenLists(read, self.lengths[indices] + len(before) + len(after))
