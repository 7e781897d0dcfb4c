"""Characters and subwords: parity of graph and Python, and round trips of text."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from peak_memory import peak_memory

from kerasnets.checks import RequestError
from kerasnets.data import cldr
from kerasnets.text.characters import CharacterVocabulary
from kerasnets.text.subwords import SubwordVocabulary, _units
from kerasnets.text.training import _train_model, train_pieces
from kerasnets.text.unigram import FIRST_BYTE, FIRST_PIECE, Unigram
from kerasnets.text.units import normalize, units

DATA = Path(os.environ.get("TFDS_DATA_DIR") or Path(__file__).parents[4] / "shared" / "datasets")
AWKWARD = (
    "aabcthe dog-é ß▁\t\n\v\f\r\0\x01\x1c\x85\u00a0\u3000\u2028.,;!?'\"()[]{}<>\\^|*+-“”„–…«»"
    "日本語中文한국😀👩‍👧e\u0301\ufeff\ufffd\u200b\ufffe\U0010ffff\ue000"
)
SPECIAL = [
    "",
    " ",
    "▁",
    "▁▁",
    "\0",
    "a\0",
    ".",
    "...",
    "a" * 64,
    "a" * 65,
    "b" * 1000,
    "日" * 200,
    "😀" * 130,
    "x. " * 50,
]


def awkward_texts(count: int, seed: int = 0) -> list[str]:
    source = random.Random(seed)
    awkward = ["".join(source.choices(AWKWARD, k=source.randrange(40))) for _ in range(count)]
    any_character = [chr(c) for c in source.sample([*range(0xD800), *range(0xE000, 0x110000)], 4 * count)]
    return [*SPECIAL, *awkward, *("".join(source.choices(any_character, k=12)) for _ in range(count))]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return [line for pair in cldr.pairs()[:3000] for line in pair]


@pytest.fixture(scope="module")
def subwords(lines) -> SubwordVocabulary:
    return SubwordVocabulary.train(lines, 1000, words=300)


@pytest.fixture(scope="module")
def tokenize(subwords):
    return tf.function(subwords.tokenize, input_signature=[tf.TensorSpec([None], tf.string)])


@pytest.fixture(scope="module")
def detokenize(subwords):
    return tf.function(subwords.detokenize, input_signature=[tf.TensorSpec([None, None], tf.int32)])


class TestCharacters:
    vocabulary = CharacterVocabulary("banä😀")

    def test_order_and_unknown(self):
        assert self.vocabulary.characters == ("\ufffd", "b", "a", "n", "ä", "😀")
        assert self.vocabulary.size == 6
        assert self.vocabulary.encode(tf.constant(["ban", "", "xä"])).to_list() == [[1, 2, 3], [], [0, 4]]

    def test_scalar(self):
        assert self.vocabulary.encode(tf.constant("nab")).numpy().tolist() == [3, 2, 1]

    def test_decode(self):
        decoded = self.vocabulary.decode(tf.constant([[1, 2, 3], [0, 5, 4]]))
        assert [t.decode() for t in decoded.numpy()] == ["ban", "\ufffd😀ä"]

    def test_graph_equals_python(self):
        texts = awkward_texts(200)
        vocabulary = CharacterVocabulary.build("".join(texts[::2]))
        encoded = tf.function(vocabulary.encode)(tf.constant(texts))
        assert encoded.dtype == tf.int32
        assert encoded.to_list() == [vocabulary.encode_python(t).tolist() for t in texts]
        known = set(vocabulary.characters)
        expected = ["".join(c if c in known else "\ufffd" for c in t) for t in texts]
        decoded = [t.decode() for t in vocabulary.decode(encoded.to_tensor(0)).numpy()]
        assert [d[: len(t)] for d, t in zip(decoded, texts, strict=True)] == expected

    def test_encode_python_is_int32_and_takes_lone_surrogates(self):
        ids = self.vocabulary.encode_python("a\ud800")
        assert ids.dtype == np.int32
        assert ids.tolist() == [2, 0]

    def test_build_counts(self):
        assert CharacterVocabulary.build("bbaac\ufffd", minimum_count=2).characters[1:] == ("a", "b")

    def test_file(self, tmp_path):
        self.vocabulary.save(tmp_path / "v.json")
        assert CharacterVocabulary.load(tmp_path / "v.json").characters == self.vocabulary.characters

    @pytest.mark.parametrize("characters", [["ab"], ["a", "a"], ["\ufffd"], [""]])
    def test_invalid_characters_raise_value_error(self, characters):
        with pytest.raises(ValueError, match="must be a single character"):
            CharacterVocabulary(characters)


class TestNormalization:
    def test_white_space_only(self):
        assert normalize(" \t a▁\n\v\f\r b\u00a0c ﬁ ") == "a b\u00a0c ﬁ"

    def test_units(self):
        assert units('A dog, "it\'s" 3.5!') == [
            "▁A",
            "▁dog",
            ",",
            '▁"',
            "it",
            "'",
            "s",
            '"',
            "▁3",
            ".",
            "5",
            "!",
        ]
        assert units(" ") == []

    @pytest.mark.parametrize("text", awkward_texts(20))
    def test_units_spell_the_text(self, text):
        assert normalize("".join(units(text))) == normalize(text)

    def test_graph_equals_python(self):
        texts = awkward_texts(300)
        assert [[u.decode() for u in row] for row in _units(tf.constant(texts)).to_list()] == [units(t) for t in texts]


class TestSubwords:
    def test_graph_equals_python(self, subwords, tokenize, lines):
        texts = [*awkward_texts(300), *lines[:200], *(line[::-1] for line in lines[:100])]
        assert tokenize(tf.constant(texts)).to_list() == [subwords.tokenize_python(t) for t in texts]

    def test_detokenize_inverts_tokenize(self, subwords, tokenize, detokenize, lines):
        texts = [*awkward_texts(300, seed=1), *lines[:200]]
        ids = tokenize(tf.constant(texts))
        expected = [normalize(t) for t in texts]
        assert [t.decode() for t in detokenize(ids.to_tensor()).numpy()] == expected
        assert [subwords.detokenize_python(row) for row in ids.to_list()] == expected

    def test_cache_does_not_change_results(self, subwords, lines):
        assert len(subwords.words) == 300
        bare = SubwordVocabulary(subwords.model.pieces)
        assert (
            bare.tokenize(tf.constant(lines[:300])).to_list() == subwords.tokenize(tf.constant(lines[:300])).to_list()
        )

    def test_empty_inputs(self, tokenize):
        assert tokenize(tf.constant([], tf.string)).to_list() == []
        assert tokenize(tf.constant(["", " "])).to_list() == [[], []]

    def test_only_uncovered_characters_are_spelled_in_bytes(self, subwords, lines):
        covered = subwords.model.scores
        for line in [*lines[:200], *awkward_texts(50)]:
            spelled = "".join(c for c in "".join(units(line)) if c not in covered).encode()
            ids = [i for i in subwords.tokenize_python(line) if i < FIRST_PIECE]
            assert ids == [FIRST_BYTE + byte for byte in spelled]

    def test_random_ids_decode_to_valid_text(self, subwords, detokenize):
        rows = np.random.default_rng(0).integers(0, subwords.size, (500, 12), np.int32)
        rows[::2, :] = rows[::2, :] % 259  # bytes, mostly
        decoded = [t.decode() for t in detokenize(tf.constant(rows)).numpy()]  # strict
        assert decoded == [subwords.detokenize_python(row) for row in rows.tolist()]
        assert any("\ufffd" in t for t in decoded)

    @pytest.mark.parametrize(
        "texts",
        [
            ["x" * 200_000],
            ["\U0001f600" * 50_000],
            ["xqz " * 50_000 + "x" * 1000],  # many short units beside a long one
            ["xqz jq " * 10] * 3000,
        ],
        ids=["one unit", "bytes", "short units", "rows"],
    )
    def test_memory_is_linear_in_the_text(self, tokenize, texts):
        inputs = tf.constant(texts)
        tokenize(inputs[:1])
        assert peak_memory(lambda: tokenize(inputs)) < 150

    def test_boundaries_of_chunks_and_blocks_do_not_change_results(self, subwords, tokenize):
        texts = ["x" * (64 * n + m) for n in (1, 2, 256) for m in (-1, 0, 1)]
        texts += [" ".join(["xq"] * n) for n in (255, 256, 257, 600)]
        assert tokenize(tf.constant(texts)).to_list() == [subwords.tokenize_python(t) for t in texts]

    def test_start_padding_and_end(self, subwords, detokenize):
        ids = subwords.tokenize_python("twenty-three")
        row = [subwords.START, *ids, subwords.PAD, subwords.END, *ids, subwords.END]
        assert detokenize(tf.constant([row])).numpy().tolist() == [b"twenty-three"]

    def test_pieces(self, subwords):
        ids = tf.constant([[0, 1, 2, 3 + 0xE4, subwords.tokenize_python("Monday")[0]]])
        assert subwords.pieces(ids).numpy()[0, :4].tolist() == [b"<pad>", b"<start>", b"<end>", b"<0xE4>"]
        assert subwords.pieces(ids).shape == ids.shape
        assert subwords.pieces(ids).numpy()[0, 4].decode().startswith("▁M")

    def test_file(self, subwords, tmp_path, lines):
        subwords.save(tmp_path / "v.json")
        loaded = SubwordVocabulary.load(tmp_path / "v.json")
        assert loaded.model.pieces == subwords.model.pieces
        assert {u: list(p) for u, p in loaded.words.items()} == dict(subwords.words)
        assert (
            loaded.tokenize(tf.constant(lines[:50])).to_list() == subwords.tokenize(tf.constant(lines[:50])).to_list()
        )
        assert set(json.loads((tmp_path / "v.json").read_text("utf-8"))) == {"format", "pieces", "words"}
        with pytest.raises(RequestError, match="must be 'characters 1'"):
            CharacterVocabulary.load(tmp_path / "v.json")
        (tmp_path / "v.json").write_text('{"format": "characters 1", "characters": ["ab"]}')
        with pytest.raises(RequestError, match="is not a vocabulary .*restore it from a copy"):
            CharacterVocabulary.load(tmp_path / "v.json")

    def test_training_is_deterministic(self, subwords, lines):
        repeated = SubwordVocabulary.train(lines, 1000, words=300)
        assert repeated.model.pieces == subwords.model.pieces
        assert repeated.words == subwords.words

    def test_sizes(self, lines):
        assert SubwordVocabulary.train(lines, 500).size == 500
        assert 259 < SubwordVocabulary.train(["one two", "two\x01\0 one"], 9999).size < 9999
        with pytest.raises(ValueError, match="it must be at least"):
            SubwordVocabulary.train(lines, 260)
        with pytest.raises(ValueError, match="the lines must not be empty"):
            SubwordVocabulary.train(["", " "], 300)

    @pytest.mark.parametrize(
        "pieces", [[("a", -1), ("a", -2)], [("", -1)], [("a" * 64, -1)], [("a", 1)], [("<pad>", -1)]]
    )
    def test_invalid_pieces_raise_value_error(self, pieces):
        with pytest.raises(ValueError):
            SubwordVocabulary(pieces)

    def test_tokenize_in_a_dataset(self, subwords):
        dataset = tf.data.Dataset.from_tensor_slices(["ten", "Monday"]).batch(2).map(subwords.tokenize)
        assert next(iter(dataset)).to_list() == [
            subwords.tokenize_python("ten"),
            subwords.tokenize_python("Monday"),
        ]


class TestViterbi:
    """Check the reference against all segmentations of short units."""

    model = Unigram(
        [("▁", -2), ("a", -2), ("b", -2.5), ("ab", -3), ("ba", -3), ("aab", -4.2), ("aa", -3.9), ("▁a", -3)]
    )

    def segmentations(self, unit: str):
        if not unit:
            yield []
        for n in range(1, len(unit) + 1):
            yield from ([unit[:n], *rest] for rest in self.segmentations(unit[n:]) if unit[:n] in self.model.scores)

    @pytest.mark.parametrize("unit", ["▁aab", "abab", "aabaab", "▁aaaaaa", "bbbb", "▁abaabbab"])
    def test_segmentation_has_the_best_score(self, unit):
        best = max(sum(self.model.scores[p] for p in pieces) for pieces in self.segmentations(unit))
        pieces = [self.model.names[i] for i in self.model.segment(unit)]
        assert "".join(pieces) == unit
        assert sum(self.model.scores[p] for p in pieces) == best

    def test_ties_equal_in_graph(self):
        vocabulary = SubwordVocabulary([("a", -1), ("aa", -2), ("aaa", -3), ("▁", -1)])  # all segmentations tie
        texts = ["a" * n for n in range(1, 200, 7)]
        assert vocabulary.tokenize(tf.constant(texts)).to_list() == [vocabulary.tokenize_python(t) for t in texts]
        assert [vocabulary.model.names[i] for i in vocabulary.model.segment("aaaa")] == ["a", "aaa"]


RELOAD = """
import json, sys
import tensorflow as tf
assert "kerasnets" not in sys.modules
model = tf.saved_model.load(sys.argv[1])
texts = json.loads(sys.argv[2])
ids = model.tokenize(tf.constant(texts))
text = model.detokenize(ids.to_tensor())
chars = model.encode(tf.constant(texts))
print(json.dumps([ids.to_list(), [t.decode() for t in text.numpy()], chars.to_list()]))
"""


def test_saved_model_in_a_fresh_process(subwords, tmp_path, lines):
    texts = [*lines[:20], "日本 😀 zzz!"]
    characters = CharacterVocabulary.build("".join(lines))
    module = tf.Module()
    module.vocabularies = [subwords, characters]
    module.tokenize = tf.function(subwords.tokenize, [tf.TensorSpec([None], tf.string)])
    module.detokenize = tf.function(subwords.detokenize, [tf.TensorSpec([None, None], tf.int32)])
    module.encode = tf.function(characters.encode, [tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(tmp_path))
    command = [sys.executable, "-c", RELOAD, str(tmp_path), json.dumps(texts)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert process.returncode == 0, process.stderr
    ids, decoded, encoded = json.loads(process.stdout.splitlines()[-1])
    assert ids == [subwords.tokenize_python(t) for t in texts]
    assert decoded == [normalize(t) for t in texts]
    assert encoded == [characters.encode_python(t).tolist() for t in texts]


def test_segmentation_agrees_with_sentencepiece(lines):
    """Splitting into units first hardly changes the result: no learned piece crosses units."""
    line_units = [units(line) for line in lines]
    model = _train_model(line_units, 1000)
    ours = Unigram(train_pieces(line_units, 1000))
    equal = [
        model.encode(normalize(t), out_type=str) == [ours.names[i] for i in ours.tokenize(t)] for t in lines[:2000]
    ]
    assert np.mean(equal) > 0.99


@pytest.mark.skipif(not (DATA / "multi30k").is_dir(), reason="multi30k is not prepared in TFDS_DATA_DIR")
def test_multi30k_round_trip():
    from kerasnets.data.sources import load_pairs

    data = load_pairs("multi30k", str(DATA))
    vocabulary = SubwordVocabulary.train(data.train[0][:3000] + data.train[1][:3000], 2000)
    texts = data.test[0][:100] + data.test[1][:100]
    ids = vocabulary.tokenize(tf.constant(texts))
    assert ids.to_list() == [vocabulary.tokenize_python(t) for t in texts]
    assert [t.decode() for t in vocabulary.detokenize(ids.to_tensor()).numpy()] == [normalize(t) for t in texts]
