"""The confusion of classes, scores by length and worst examples, against scikit-learn and sacreBLEU."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasnets.evaluate import format_example, table, worst_page
from kerasnets.tasks.image_classification.confusion import PAIRS, WORST, confusion_metrics, worst_images
from kerasnets.tasks.text_generation.task import WINDOW, worst_windows
from kerasnets.tasks.translation.lengths import MOST_BINS, length_bins, score_lengths, worst_translations


def predictions(images, classes, seed=0):
    """-> random probabilities that are right for about half of the images, and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    logits = random.normal(size=(images, classes))
    logits[np.arange(images), labels] += 2
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("classes", [2, 10])
def test_confusion_equals_scikit_learn(classes):
    from sklearn.metrics import confusion_matrix, precision_score, recall_score

    probabilities, labels = predictions(300, classes)
    predicted = probabilities.argmax(axis=1)
    metrics = confusion_metrics(probabilities, labels, list(map(str, range(classes))))
    assert metrics["confusion_matrix"] == confusion_matrix(labels, predicted).tolist()
    assert metrics["class_accuracy"] == pytest.approx(recall_score(labels, predicted, average=None), abs=1e-4)
    assert metrics["class_precision"] == pytest.approx(precision_score(labels, predicted, average=None), abs=1e-4)
    assert "confused_pairs" not in metrics


def test_classes_without_images_or_predictions_have_zeros():
    metrics = confusion_metrics(np.array([[0.9, 0.1, 0.0]]), np.array([0]), ["a", "b", "c"])
    assert metrics["class_accuracy"] == metrics["class_precision"] == [1, 0, 0]


def test_many_classes_have_their_most_confused_pairs():
    names = [f"class {n}" for n in range(30)]
    labels = np.repeat([3, 5, 7], [4, 10, 2])
    predicted = np.array([3, 4, 4, 4] + [5] * 5 + [6] * 5 + [7, 8])
    metrics = confusion_metrics(np.eye(30)[predicted], labels, names)
    assert metrics["confused_pairs"] == [
        {"class": "class 5", "predicted": "class 6", "count": 5, "share": 0.5},
        {"class": "class 3", "predicted": "class 4", "count": 3, "share": 0.75},
        {"class": "class 7", "predicted": "class 8", "count": 1, "share": 0.5},
    ]
    pairs = confusion_metrics(*predictions(3000, 30), names)["confused_pairs"]
    counts = [pair["count"] for pair in pairs]
    assert len(pairs) == PAIRS and counts == sorted(counts, reverse=True)
    printed = table({"classes": names} | metrics)
    assert "class 5  class 6        5   0.50" in printed and "confusion matrix" not in printed


def test_worst_images_have_the_highest_loss():
    probabilities, labels = predictions(100, 5)
    worst = worst_images(probabilities, labels, "abcde")
    losses = -np.log(probabilities[np.arange(100), labels])
    assert [example["loss"] for example in worst] == pytest.approx(sorted(losses, reverse=True)[:WORST], abs=1e-4)
    for example in worst:
        n = example["index"]
        assert example["class"] == "abcde"[labels[n]]
        assert example["predicted"] == "abcde"[probabilities[n].argmax()]
        assert example["probability"] == pytest.approx(probabilities[n].max(), abs=1e-4)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50))
def test_every_sentence_is_in_the_bin_of_its_length(lengths):
    bins = length_bins(lengths)
    assert len(bins) <= MOST_BINS
    assert sorted(n for _, indices in bins for n in indices) == list(range(len(lengths)))
    for name, indices in bins:
        low, _, high = name.partition(" to ")
        assert indices and all(int(low) <= max(lengths[n], 1) <= int(high or low) for n in indices)


def test_scores_of_lengths_and_worst_translations_equal_sacrebleu():
    from sacrebleu.metrics import CHRF

    references = ["the cat sat", "a dog", "the bird sang a long song", "no"]
    greedy = ["the cat sat", "a dig", "the bird sings", "yes"]
    beams = ["the cat sat", "a dog", "the bird sang", ""]
    bins = score_lengths([3, 2, 6, 1], {"": greedy, "beam_": beams}, references)
    assert [(b["length"], b["sentences"]) for b in bins] == [("1", 1), ("2", 1), ("3", 1), ("6", 1)]
    (whole,) = score_lengths([3] * 4, {"": greedy, "beam_": beams}, references)
    for name, translations in (("chrf", greedy), ("beam_chrf", beams)):
        assert whole[name] == CHRF().corpus_score(translations, [references]).score
    worst = worst_translations(["s1", "s2", "s3", "s4"], references, greedy)
    assert [example["source"] for example in worst] == ["s4", "s2", "s3", "s1"]
    assert worst[1] == {
        "chrf": round(CHRF().sentence_score("a dig", ["a dog"]).score, 2),
        "source": "s2",
        "reference": "a dog",
        "translation": "a dig",
    }


def test_worst_passages_are_the_windows_with_the_highest_loss():
    text = "".join(chr(ord("a") + n // WINDOW) for n in range(5 * WINDOW))
    worst = worst_windows(np.array([0.5, 2.0, 1.0]), text)
    assert [(example["loss"], example["position"]) for example in worst] == [(2.0, 256), (1.0, 512), (0.5, 0)]
    assert worst[0]["passage"] == "b" * WINDOW + "c"


def test_worst_examples_are_readable_whatever_they_contain():
    """As Markdown every line of a text is code; on a terminal none of its characters has an effect."""
    examples = [{"loss": 1.5, "passage": "# one\n\n```\n\x1b[31mred"}, {"loss": 1.0, "passage": "two"}]
    assert format_example(examples[0]).splitlines() == [
        "loss     1.5",
        "passage  # one",
        "",
        "         ```",
        "         \\x1b[31mred",
    ]
    page = worst_page({"split": "test", "dataset": "d", "worst_examples": examples})
    lines = [line for line in page.splitlines() if line and not line.startswith("    ")]
    assert lines == ["# Worst examples of the test split of d", "## 1", "## 2"]
