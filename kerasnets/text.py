"""Text to ids and back: characters for generation, subwords for translation.

All that a model needs at serving time is made of core TensorFlow string and lookup operations: the same
functions run in tf.data and in an exported graph, with nothing to import. Each has a twin in plain Python
that says what the right answer is; tests compare the two.

    B batch, T time (characters or subwords); strings are UTF-8.
"""

import collections
import functools
import io
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import tensorflow as tf

REPLACEMENT = "\ufffd"  # what stands for a character that cannot be shown: Unicode's own choice


class CharacterVocabulary(tf.Module):
    """Characters and their ids: id 0 is any character not listed, the others count from 1 in the given order.

    A character is one Unicode code point. `characters[id]` is the character; `characters[0]` is U+FFFD.
    """

    def __init__(self, characters: Sequence[str]):
        super().__init__(name="characters")
        listed = list(characters)
        wrong = [c for c in listed if len(c) != 1 or c == REPLACEMENT or listed.count(c) > 1]
        if wrong:
            raise ValueError(f"a vocabulary lists single characters, each once, no U+FFFD; got {wrong[:5]}")
        self.characters = (REPLACEMENT, *listed)
        self.size = len(self.characters)
        points = np.array([ord(c) for c in listed], np.int32)
        order = np.argsort(points)
        # Sorted code points and their ids; the sentinel keeps every search inside the table.
        self._points = np.append(points[order], np.int32(0x110000))
        self._ids = np.append(order + 1, 0).astype(np.int32)

    @classmethod
    def build(cls, text: str, minimum_count: int = 1) -> Self:
        """The characters that occur at least `minimum_count` times in `text`, sorted by code point."""
        counts = collections.Counter(text)
        return cls(sorted(c for c, n in counts.items() if n >= minimum_count and c != REPLACEMENT))

    def save(self, path: str | Path) -> None:
        """Write one readable JSON file."""
        document = {"format": "characters 1", "characters": list(self.characters[1:])}
        Path(path).write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        return cls(_read(path, "characters 1")["characters"])

    def encode(self, text: tf.Tensor) -> tf.RaggedTensor | tf.Tensor:
        """text string [B] -> int32 ragged [B, None]; a scalar gives a plain [T]."""
        points = tf.strings.unicode_decode(text, "UTF-8", errors="replace")
        return tf.ragged.map_flat_values(self._find, points)

    def _find(self, points: tf.Tensor) -> tf.Tensor:
        place = tf.searchsorted(self._points, points)
        found = tf.equal(tf.gather(self._points, place), points)
        return tf.where(found, tf.gather(self._ids, place), 0)

    def decode(self, ids: tf.Tensor) -> tf.Tensor:
        """ids int32 [B, T] -> string [B]; id 0 shows as U+FFFD."""
        return tf.strings.reduce_join(self.pieces(ids), axis=-1)

    def pieces(self, ids: tf.Tensor) -> tf.Tensor:
        """ids int32 -> the character of each, string, same shape."""
        return tf.gather(tf.constant(list(self.characters)), ids)

    def encode_python(self, text: str) -> np.ndarray:
        """text -> int32 [T], without TensorFlow: fast for a whole corpus."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int32)
        place = np.searchsorted(self._points, points)
        return np.where(self._points[place] == points, self._ids[place], 0).astype(np.int32)


# --- Subwords. Normalization: runs of the white space listed become one space, none is left at either end.
# Nothing else changes (no case folding, no NFKC). U+2581 is how pieces write a space, so it counts as one.
SPACE = "▁"
WHITE_SPACE = " \t\n\x0b\x0c\r" + SPACE
# Text is segmented unit by unit: words (with the space before them) are cut at these marks, so that "dog" and
# "dog." share one. Explicit classes only: RE2 (in the graph) and `re` disagree about \w, \s and \p.
MARKS = r"!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~" + "¡¿«»‘’‚“”„…–—"
UNIT = f"{SPACE}?[{MARKS}]+|{SPACE}?[^{SPACE}{MARKS}]+"
# Longer units are cut into chunks of this many characters, which bounds the work that any text can ask for.
CHUNK = 64
BLOCK = 256  # chunks that are segmented together: a character takes kilobytes until its chunk has its pieces
# Scores are integers in 1/10,000 nat: sums are exact in any order, so graph and Python cannot disagree.
NAT = 10_000
BYTE_SCORE = -10_000 * NAT  # so far below any piece that bytes spell only what no piece covers
NEVER = -(1 << 50)
PAD, START, END, FIRST_BYTE, FIRST_PIECE = 0, 1, 2, 3, 259


def normalize(text: str) -> str:
    """The text that `detokenize(tokenize(text))` gives back."""
    return re.sub(f"[{WHITE_SPACE}]+", " ", text).strip(" ")


def units(text: str) -> list[str]:
    """The pieces of text that are segmented on their own: "A dog." -> ["▁A", "▁dog", "."]."""
    words = normalize(text)
    return re.findall(UNIT, SPACE + words.replace(" ", SPACE)) if words else []


class Unigram:
    """A unigram language model of subwords (Kudo 2018) in plain Python: right by definition, no TensorFlow.

    Ids: 0 padding, 1 start, 2 end, 3..258 the bytes, from 259 on the pieces. A unit is cut into the pieces
    with the greatest sum of scores; the longer last piece wins a tie. Bytes spell what no piece covers.
    """

    def __init__(self, pieces: Sequence[tuple[str, float]]):
        """pieces: (text, score in nats); ValueError when they cannot be told apart or are too long."""
        self.pieces = tuple((piece, score) for piece, score in pieces)
        symbols = ("<pad>", "<start>", "<end>", *(f"<0x{byte:02X}>" for byte in range(256)))
        self.names = (*symbols, *(p for p, _ in pieces))
        self.ids = {name: i for i, name in enumerate(self.names)}
        self.raw = (b"", b"", b"", *(bytes([b]) for b in range(256)), *(p.encode() for p, _ in pieces))
        self.scores = {p: round(score * NAT) for p, score in pieces}
        self.longest = max((len(p) for p in self.scores), default=1)
        if len(self.ids) != len(self.names) or not all(0 < len(p) < CHUNK for p in self.scores):
            raise ValueError(f"pieces must be distinct and of 1 to {CHUNK - 1} characters")
        if not all(BYTE_SCORE < score <= 0 for score in self.scores.values()):
            raise ValueError(f"scores must be above {BYTE_SCORE / NAT:,.0f} and at most 0")

    def tokenize(self, text: str) -> list[int]:
        return [i for unit in units(text) for i in self.segment(unit)]

    def detokenize(self, ids: Iterable[int]) -> str:
        raw = b"".join(self.raw[i] for i in itertools.takewhile(lambda i: i != END, ids))
        return normalize(raw.decode("utf-8", "replace"))

    def segment(self, unit: str) -> list[int]:
        """One unit -> ids, chunk by chunk."""
        return [i for at in range(0, len(unit), CHUNK) for i in self._viterbi(unit[at : at + CHUNK])]

    def _viterbi(self, text: str) -> list[int]:
        """best[j]: greatest sum of scores of pieces that spell text[:j]; start[j]: where the last begins."""
        best, start = [0], [0]
        for end in range(1, len(text) + 1):
            begins = range(max(0, end - self.longest), end)
            score, negative = max((best[b] + self._score(text[b:end]), -b) for b in begins)
            best.append(score)
            start.append(-negative)
        ids: list[int] = []
        end = len(text)
        while end > 0:
            ids[:0] = self._spell(text[start[end] : end])
            end = start[end]
        return ids

    def _score(self, text: str) -> int:
        return self.scores.get(text, BYTE_SCORE if len(text) == 1 else NEVER)

    def _spell(self, text: str) -> list[int]:
        return [self.ids[text]] if text in self.scores else [FIRST_BYTE + b for b in text.encode()]


class SubwordVocabulary(tf.Module):
    """`Unigram` as a graph, with a cache: the remembered segmentations of known units, one lookup for each.

    The cache changes no answer: it covers almost all of ordinary text, and Viterbi runs for the rest only.
    """

    PAD, START, END = PAD, START, END

    def __init__(self, pieces: Sequence[tuple[str, float]], words: Mapping[str, Sequence[str]] | None = None):
        """pieces: (text, score in nats); words: unit -> the pieces of its segmentation."""
        super().__init__(name="subwords")
        self.model = model = Unigram(pieces)
        self.size = len(model.names)
        # Six low bits stay free for a length: one maximum then gives score and choice together (see _choose).
        scores = [NEVER, *model.scores.values()]
        # A unit holds no space, so " " is never found; it stands for "not here", and no table is empty.
        self.words = MappingProxyType(dict(words or {}))  # no plain dict: tf.Module would track every entry
        spellings = {" ": (), **self.words}
        rows = [[model.ids[p] for p in spelled] for spelled in spellings.values()]
        with tf.device("CPU:0"):  # strings live there; captured once, however many functions use them
            self._names, self._raw = tf.constant(model.names), tf.constant(model.raw)
            self._scores = tf.constant(np.array(scores, np.int64) * CHUNK)
            ids = np.array([i for row in rows for i in row], np.int32)
            self._spellings = tf.RaggedTensor.from_row_lengths(ids, np.array([len(row) for row in rows]))
        self._row = _table(list(spellings), default=0)
        self._piece = _table([" ", *model.scores], default=0)  # 1.. are the pieces in their order

    @classmethod
    def train(cls, lines: Iterable[str], size: int, words: int = 60_000) -> Self:
        """Learn `size` subwords, or as many as `lines` give; deterministic. ValueError: too small a size."""
        cut = [units(line) for line in lines]
        pieces = _train_pieces(cut, size)
        model = Unigram(pieces)
        common = collections.Counter(unit for line in cut for unit in line).most_common(words)
        return cls(pieces, {unit: [model.names[i] for i in model.segment(unit)] for unit, _ in common})

    def save(self, path: str | Path) -> None:
        """Write one readable JSON file: a line for each piece and its score, a line for each cached word."""
        quote = functools.partial(json.dumps, ensure_ascii=False)
        pieces = ",\n".join(f"  [{quote(p)}, {score}]" for p, score in self.model.pieces)
        words = ",\n".join(f"  {quote(word)}: {quote(' '.join(row))}" for word, row in self.words.items())
        document = f'{{"format": "subwords 1",\n "pieces": [\n{pieces}\n ],\n "words": {{\n{words}\n }}}}\n'
        Path(path).write_text(document, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        document = _read(path, "subwords 1")
        return cls(document["pieces"], {word: spelled.split(" ") for word, spelled in document["words"].items()})

    def tokenize_python(self, text: str) -> list[int]:
        """What `tokenize` gives, in plain Python."""
        return self.model.tokenize(text)

    def detokenize_python(self, ids: Iterable[int]) -> str:
        """What `detokenize` gives, in plain Python."""
        return self.model.detokenize(ids)

    def tokenize(self, text: tf.Tensor) -> tf.RaggedTensor:
        """text string [B], valid UTF-8 -> int32 ragged [B, None], without start and end."""
        parts = _units(text)  # string ragged [B, None]
        row = self._row.lookup(parts.flat_values)
        known = tf.gather(self._spellings, row)  # [units, None]; nothing for a unit outside the cache
        rest = self._segment(parts.flat_values, tf.equal(row, 0))  # [units, None]; nothing for the cached
        return parts.with_flat_values(tf.concat([known, rest], axis=1)).merge_dims(1, 2)

    def detokenize(self, ids: tf.Tensor) -> tf.Tensor:
        """ids int32 [B, T] -> string [B]: up to the first end; bytes that are no UTF-8 become U+FFFD."""
        ended = tf.cumsum(tf.cast(tf.equal(ids, END), tf.int32), axis=1) > 0
        raw = tf.gather(self._raw, tf.where(ended, PAD, ids))
        text = tf.strings.unicode_transcode(tf.strings.reduce_join(raw, axis=1), "UTF-8", "UTF-8")
        return _normalize(text)

    def pieces(self, ids: tf.Tensor) -> tf.Tensor:
        """ids int32 -> what a person reads of each ("▁dog", "<0xC3>", "<end>"), string, same shape."""
        return tf.gather(self._names, ids)

    def _segment(self, parts: tf.Tensor, wanted: tf.Tensor) -> tf.RaggedTensor:
        """Segment the units `parts` [U] that are `wanted` bool [U] by Viterbi -> int32 ragged [U, None]."""
        index = tf.where(wanted)[:, 0]
        # A space, which no unit contains, goes behind each full chunk.
        chunks = tf.strings.split(tf.strings.regex_replace(tf.gather(parts, index), f"(?s).{{{CHUNK}}}", r"\0 "))
        begins = tf.range(0, tf.size(chunks.flat_values, tf.int64), BLOCK)
        blocks = tf.RaggedTensor.from_row_starts(chunks.flat_values, begins, validate=False)
        spec = tf.RaggedTensorSpec([None, None], tf.int32, 1, tf.int64)
        ids = tf.map_fn(self._segment_chunks, blocks, fn_output_signature=spec, parallel_iterations=1)
        ids = chunks.with_flat_values(ids.merge_dims(0, 1)).merge_dims(1, 2)  # [wanted units, None]
        count = tf.scatter_nd(index[:, tf.newaxis], ids.row_lengths(), [tf.size(wanted, tf.int64)])
        return tf.RaggedTensor.from_row_lengths(ids.flat_values, count, validate=False)

    def _segment_chunks(self, chunks: tf.Tensor) -> tf.RaggedTensor:
        """chunks string [K] of at most CHUNK characters -> int32 ragged [K, None]. C: the characters of all, one after
        the other; P: their pieces, by their last characters."""
        chars, starts = tf.strings.unicode_split_with_offsets(chunks, "UTF-8")
        chunk, place = chars.value_rowids(), tf.ragged.range(chars.row_lengths()).flat_values
        found, scores = self._candidates(tf.gather(chunks, chunk), chars.flat_values, starts.flat_values, place)
        length = _choose(chars.with_flat_values(scores))
        last = _on_best_path(length, chars.row_starts())  # the last character of each piece
        piece = tf.gather_nd(found, tf.stack([last, tf.gather(length, last) - 1], axis=1))
        ids, owner = _spell_bytes(piece, tf.gather(chars.flat_values, last), tf.gather(chunk, last))
        return tf.RaggedTensor.from_value_rowids(ids, owner, nrows=tf.size(chunks, tf.int64), validate=False)

    def _candidates(
        self, chunk: tf.Tensor, char: tf.Tensor, start: tf.Tensor, place: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Pieces that end at each character (from 1; 0: none) int32 [C, longest] and their scores int64; column
        l-1: of l characters. chunk, char: string [C]; start: the char's first byte; place: in its chunk."""
        end = start + tf.cast(tf.strings.length(char), tf.int64)
        lengths = tf.range(1, self.model.longest + 1, dtype=tf.int64)[tf.newaxis]
        fits = lengths <= place[:, tf.newaxis] + 1
        first = tf.where(fits, tf.range(tf.size(char, tf.int64))[:, tf.newaxis] - lengths + 1, 0)
        begin = tf.where(fits, tf.gather(start, first), 0)
        size = tf.where(fits, end[:, tf.newaxis] - begin, 0)
        found = self._piece.lookup(tf.strings.substr(chunk[:, tf.newaxis], begin, size))
        scores = tf.gather(self._scores, found)
        alone = tf.maximum(scores[:, :1], BYTE_SCORE * CHUNK)
        return found, tf.concat([alone, scores[:, 1:]], axis=1)


def _normalize(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.strip(tf.strings.regex_replace(text, f"[{WHITE_SPACE}]+", " "))


def _units(text: tf.Tensor) -> tf.RaggedTensor:
    """`units` of text string [B] -> string ragged [B, None]."""
    # The space before a word becomes SPACE; then a space, which no unit contains, goes between units.
    marked = tf.strings.regex_replace(_normalize(text), "^(.)", SPACE + r"\1")
    marked = tf.strings.regex_replace(marked, " ", SPACE)
    return tf.strings.split(tf.strings.regex_replace(marked, UNIT, r"\0 "))


def _choose(scores: tf.RaggedTensor) -> tf.Tensor:
    """The Viterbi recursion over all chunks at once: scores [chunks, None, longest] -> length int64 [C].

    length: of the last piece on the best path to the end of each character. `window[:, l-1]`: the best sum up
    to l characters before the end that is being reached.
    """
    dense = scores.to_tensor()  # [chunks, time, longest]
    chunks, time, longest = tf.unstack(tf.shape(dense))
    tag = tf.range(1, longest + 1, dtype=tf.int64)  # in the six free bits: a tie goes to the longer piece
    never = tf.fill([chunks, longest - 1], tf.constant(NEVER * CHUNK, tf.int64))
    window = tf.concat([tf.zeros([chunks, 1], tf.int64), never], axis=1)

    def advance(t, window, choices):
        best = tf.reduce_max(window + dense[:, t] + tag, axis=1, keepdims=True)
        choice = best % CHUNK
        window = tf.concat([best - choice, window[:, :-1]], axis=1)
        return t + 1, window, tf.concat([choices, choice], axis=1)

    state = (tf.constant(0), window, tf.zeros([chunks, 0], tf.int64))
    shapes = tuple(tf.TensorShape(shape) for shape in ([], [None, None], [None, None]))
    *_, choices = tf.while_loop(lambda t, *_: t < time, advance, state, shapes)
    return tf.RaggedTensor.from_tensor(choices, lengths=scores.row_lengths()).flat_values


def _on_best_path(length: tf.Tensor, chunk_starts: tf.Tensor) -> tf.Tensor:
    """length [C], chunk_starts [chunks] -> int64 [P]: last characters of the pieces on the best paths.

    Boundary i stands before character i. The ends of chunks are on the path, and with a boundary the one
    before its last piece. Each round doubles the jump: six rounds walk the at most 64 pieces of a chunk.
    """
    total = tf.size(length, tf.int64)
    jump = tf.concat([tf.zeros([1], tf.int64), tf.range(1, total + 1) - length], axis=0)
    ends = tf.concat([chunk_starts, total[tf.newaxis]], axis=0)
    reached = tf.scatter_nd(ends[:, tf.newaxis], tf.ones_like(ends), [total + 1])
    for _ in range((CHUNK - 1).bit_length()):
        reached = tf.maximum(reached, tf.math.unsorted_segment_max(reached, jump, total + 1))
        jump = tf.gather(jump, jump)
    return tf.where(reached[1:] > 0)[:, 0]


def _spell_bytes(piece: tf.Tensor, char: tf.Tensor, owner: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Pieces counted from 1, or 0 to spell the char by its bytes; all [P] -> ids, owner [at least P]."""
    missing = tf.equal(piece, 0)
    count = tf.where(missing, tf.strings.length(char), 1)
    piece, owner = tf.repeat(piece, count), tf.repeat(owner, count)
    spelled = tf.io.decode_raw(tf.strings.reduce_join(tf.boolean_mask(char, missing)), tf.uint8)
    ids, places = piece + (FIRST_PIECE - 1), tf.where(tf.equal(piece, 0))
    return tf.tensor_scatter_nd_update(ids, places, tf.cast(spelled, tf.int32) + FIRST_BYTE), owner


def _table(keys: Sequence[str], default: int) -> tf.lookup.StaticHashTable:
    """Each key's place in the list."""
    content = tf.lookup.KeyValueTensorInitializer(tf.constant(keys), tf.range(len(keys)))
    return tf.lookup.StaticHashTable(content, default)


def _train_pieces(cut: Sequence[Sequence[str]], size: int) -> list[tuple[str, float]]:
    """Units of each line -> (piece, score in nats)."""
    model = _train_model(cut, size)
    ordinary = (i for i in range(3, model.get_piece_size()) if not model.is_byte(i))
    return [(model.id_to_piece(i), round(model.get_score(i), 4)) for i in ordinary]


def _train_model(cut: Sequence[Sequence[str]], size: int) -> Any:
    import sentencepiece  # only training needs it

    # The trainer takes spaces for SPACE, a delimiter for the other cuts, and refuses NUL.
    lines = ["\x01".join(line).replace("\x01" + SPACE, " ").lstrip(SPACE).replace("\0", "") for line in cut]
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,  # with bytes and three symbols; its are unknown, start and end
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            pretokenization_delimiter="\x01",
            max_sentence_length=1 << 24,
            num_threads=2,  # fixed: sums of floats depend on how they are divided
            minloglevel=3,
        )
    except (RuntimeError, OSError) as error:
        characters = len(set().union(*lines))
        raise ValueError(
            f"no vocabulary of {size} subwords for {len(lines)} lines of {characters} different characters: "
            f"it takes some text, and a size of at least {characters + FIRST_PIECE}"
        ) from error
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def _read(path: str | Path, form: str) -> dict:
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    if document.get("format") != form:
        raise ValueError(f"{path} is no vocabulary of the form {form!r}: it says {document.get('format')!r}")
    return document
