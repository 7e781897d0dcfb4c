"""Word vectors: both formats, the report, and invalid files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasnets.checks import RequestError
from kerasnets.config.text_networks import TransformerOptions
from kerasnets.data.word_vectors import VectorsError, read_vectors
from kerasnets.tasks.translation.facts import Translation
from kerasnets.tasks.translation.task import TranslationTask

GLOVE = "the 0.1 -0.2 3e-1\ndog 1 2 3\n. . . 4 5 6\nBär -1 -2 -3\n"
WORD2VEC = "4 3\n" + GLOVE


@pytest.fixture
def write_vectors(tmp_path):
    def write(content):
        path = tmp_path / "vectors.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("content", [GLOVE, WORD2VEC, GLOVE.rstrip("\n"), WORD2VEC.replace("\n", " \n")])
@pytest.mark.parametrize("width", [None, 3])
def test_vectors_are_read_for_the_words(content, width, write_vectors):
    vectors = read_vectors(write_vectors(content), ["Bär", "cat", None, "the", ". . .", "the"], width)
    expected = [[-1, -2, -3], [0, 0, 0], [0, 0, 0], [0.1, -0.2, 0.3], [4, 5, 6], [0.1, -0.2, 0.3]]
    np.testing.assert_allclose(vectors.rows, expected, rtol=1e-6)
    np.testing.assert_array_equal(vectors.found, [True, False, False, True, True, True])
    filled = vectors.fill(np.full((6, 3), 7.0))
    np.testing.assert_array_equal(filled[1:3], np.full((2, 3), 7.0))
    np.testing.assert_allclose(filled[3], expected[3], rtol=1e-6)


def test_first_line_of_a_word_is_used(write_vectors):
    assert read_vectors(write_vectors("dog 1 2\ndog 3 4\n"), ["dog"]).rows.tolist() == [[1, 2]]


def test_report(write_vectors):
    path = write_vectors(GLOVE)
    assert read_vectors(path, ["the", "dog", "cat", None]).report() == (
        f"{path}: vectors for 2 of 3 words (66.7%); none for cat"
    )
    assert read_vectors(path, ["the"]).report() == f"{path}: vectors for 1 of 1 words (100.0%)"
    assert read_vectors(path, list("abcdefghij")).report().endswith("none for a, b, c, d, e, f, g, h, ...")


@pytest.mark.parametrize(
    ("content", "width", "words"),
    [
        ("", None, "is empty; it must have a word and its numbers"),
        (GLOVE, 4, "line 1: 3 numbers; there must be 4"),
        (WORD2VEC, 4, "line 1: 3 numbers; there must be 4"),
        (GLOVE, 2, "line 1: 3 numbers; there must be 2"),
        (GLOVE.replace("dog 1 2 3", "dog 1 2"), None, "line 2: 2 numbers; there must be 3"),
        (GLOVE.replace("dog 1 2 3", "dog 1 2 3 4"), None, "line 2: 4 numbers; there must be 3"),
        (GLOVE.replace("dog 1 2 3", ""), None, "line 2: 0 numbers; there must be 3"),
        ("dog\n", None, "line 1: 0 numbers; there must be 1"),
        (GLOVE.replace("dog 1 2 3", "dog 1 x 3"), None, "line 2: 'x' is not a finite number"),
        (GLOVE.replace("dog 1 2 3", "dog 1 nan 3"), None, "line 2: 'nan' is not a finite number"),
        (GLOVE.encode("latin-1"), None, r"line 4: b'B\\xe4r -1 -2 -3\\n' is not UTF-8; .* not the binary one"),
        (WORD2VEC.replace("4 3", "5 3"), None, "has 4 vectors; its first line says 5: the file is incomplete"),
    ],
)
def test_invalid_file_is_named_with_its_line(content, width, words, write_vectors):
    path = write_vectors(content)
    with pytest.raises(VectorsError, match=words) as caught:
        read_vectors(path, ["dog", "Bär"], width)
    assert str(caught.value).startswith(str(path))


def test_missing_file(tmp_path):
    with pytest.raises(VectorsError, match=r"nothing.txt cannot be read \(No such file or directory\)"):
        read_vectors(tmp_path / "nothing.txt", ["dog"])


def test_vectors_initialize_an_embedding(write_vectors):
    vectors = read_vectors(write_vectors(GLOVE), ["dog", "cat"])
    layer = keras.layers.Embedding(2, 3, embeddings_initializer=keras.initializers.Constant(vectors.rows))
    np.testing.assert_array_equal(layer(tf.constant([0, 1])), [[1, 2, 3], [0, 0, 0]])


# Translation.


def task(path, **options):
    model = TransformerOptions(width=8, num_heads=2, hidden_units=8, num_blocks=1, **options)
    return TranslationTask(Translation("cldr", vocabulary_size=700, embeddings=str(path), model=model))


def test_translation_is_initialized_with_vectors_of_whole_words(write_vectors, capsys):
    numbers = np.random.default_rng(0).normal(0, 3, (2, 8))
    lines = (f"{word} {' '.join(map(str, row))}\n" for word, row in zip(["hundred", ","], numbers, strict=True))
    translation = task(write_vectors("".join(lines)))
    model = translation.model()
    table, ids = model.embedding.embeddings.numpy(), translation.vocabulary.model.ids
    scale = 8**-0.5 / numbers.std()  # as large as what the model starts with
    np.testing.assert_allclose(table[[ids["▁hundred"], ids[","]]], numbers * scale, rtol=1e-4)
    assert abs(np.delete(table, [ids["▁hundred"], ids[","]], axis=0).std() - 8**-0.5) < 0.02
    assert ": vectors for 2 of " in capsys.readouterr().err
    translation.model()
    assert capsys.readouterr().err == ""  # read and reported once


def test_translation_rejects_unusable_vectors(write_vectors):
    with pytest.raises(RequestError, match="line 1: 3 numbers; there must be 8"):
        task(write_vectors(GLOVE)).model()
    with pytest.raises(RequestError, match="no word of the vocabulary"):
        task(write_vectors("xyzzy 1 2 3 4 5 6 7 8\n")).model()


def test_learned_positions_cover_the_longest_sentence():
    translation = TranslationTask(
        Translation(
            "cldr", vocabulary_size=700, max_length=20, model=TransformerOptions(8, 2, 8, 1, positions="learned")
        )
    )
    assert translation.model().max_length == 21
