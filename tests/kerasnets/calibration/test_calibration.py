"""Temperature scaling: the fitted temperature, the expected calibration error, what a run is left with."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from small_runs import TASKS, small

from kerasnets.calibration.bins import BINS, Bins, expected_calibration_error, sums
from kerasnets.calibration.temperature import HIGHEST, LOWEST, fit, load_temperature
from kerasnets.checks import RequestError
from kerasnets.evaluate import evaluate
from kerasnets.loading import open_model
from kerasnets.train import train


def batches(logits, labels, size=700):
    return lambda: ((logits[n : n + size], labels[n : n + size]) for n in range(0, len(labels), size))


def drawn(temperature, count=4000, classes=10, seed=0):
    """Logits whose softmax, with `temperature`, are the probabilities that the labels were drawn with."""
    random = np.random.default_rng(seed)
    true = 3 * random.normal(size=(count, classes))
    labels = (softmax(true, axis=1).cumsum(axis=1) > random.random((count, 1))).argmax(axis=1)
    return (true * temperature).astype(np.float32), labels


# The temperature.


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7, 6.0])
def test_the_temperature_is_the_one_the_labels_were_drawn_with_and_scipys(temperature):
    logits, labels = drawn(temperature)

    def loss(log_temperature):
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(labels)), labels].mean()

    best = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-9})
    fitted = fit(batches(logits, labels))
    assert fitted.temperature == pytest.approx(temperature, rel=0.05)
    assert fitted.temperature == pytest.approx(np.exp(best.x), rel=5e-4)
    assert fitted.nll_after == pytest.approx(best.fun, abs=1e-6) and fitted.nll_before == pytest.approx(loss(0.0))
    assert fitted.examples == len(labels) and not fitted.bounded


def test_probabilities_that_were_too_sure_become_honest():
    fitted = fit(batches(*drawn(3.0)))
    assert fitted.ece_before > 0.2 and fitted.ece_after < 0.03
    gaps = np.abs(np.subtract(fitted.bins_after.confidence, fitted.bins_after.accuracy))
    assert gaps[np.array(fitted.bins_after.count) > 100].max() < 0.08


def test_batches_of_any_size_give_the_same():
    logits, labels = drawn(2.0, count=300)
    whole, parts = fit(batches(logits, labels, 300)), fit(batches(logits, labels, 7))
    assert parts.temperature == pytest.approx(whole.temperature, rel=1e-5)
    assert parts.bins_before.count == whole.bins_before.count
    assert parts.ece_after == pytest.approx(whole.ece_after, abs=1e-6)


def test_large_logits_neither_overflow_nor_differ_from_the_same_with_a_constant_added():
    logits, labels = drawn(1.5, count=500)
    moved = fit(batches(logits + 1000, labels))
    assert moved.temperature == pytest.approx(fit(batches(logits, labels)).temperature, rel=1e-3)
    assert fit(batches(np.array([[1e30, 0], [1e30, 0]], np.float32), np.array([0, 1]))).temperature == HIGHEST


def test_three_passes_are_enough():
    logits, labels = drawn(1.3, count=100)
    passes = []

    def counted():
        passes.append(1)
        return batches(logits, labels)()

    fit(counted)
    assert len(passes) == 3


def test_examples_without_a_mistake_and_mere_noise_stop_at_the_bounds():
    random = np.random.default_rng(0)
    logits = random.normal(size=(50, 4)).astype(np.float32)
    sure = fit(batches(logits, logits.argmax(axis=1)))
    assert sure.temperature == LOWEST and sure.bounded
    wrong = fit(batches(logits, logits.argmin(axis=1)))
    assert wrong.temperature == HIGHEST and wrong.bounded
    alike = fit(batches(np.zeros((5, 3), np.float32), np.arange(5) % 3))
    assert alike.temperature == 1.0 and not alike.bounded


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_an_error(value):
    logits = np.zeros((3, 2), np.float32)
    logits[1, 1] = value
    with pytest.raises(FloatingPointError, match="logits that are NaN or infinite"):
        fit(batches(logits, np.zeros(3, int)))


def test_no_examples_are_an_error():
    with pytest.raises(RequestError, match="no example in the validation split"):
        fit(lambda: iter([]))


# The expected calibration error.


def test_expected_error_by_hand():
    # Two answers of 0.9, one of them right: a gap of 0.4. One of 0.6, right: a gap of 0.4. One of 0.52, right: 0.48.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.52, 0.48]])
    error = expected_calibration_error(probabilities, np.array([0, 1, 1, 0]))
    assert error == pytest.approx((2 * 0.4 + 0.4 + 0.48) / 4)


def test_expected_error_is_the_formulas():
    probabilities = softmax(np.random.default_rng(1).normal(size=(2000, 5)), axis=1)
    labels = np.random.default_rng(2).integers(5, size=2000)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            expected += inside.sum() / 2000 * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_bounds_belong_to_the_lower_interval():
    counts = sums(np.array([1.0, 0.2, np.nextafter(0.2, 1), 1 / 15, 0.0]), np.ones(5, bool))[2]
    assert np.flatnonzero(counts).tolist() == [0, 2, 3, BINS - 1] and counts[0] == 2


def test_calibrated_bins_have_no_error_and_empty_ones_do_not_count():
    assert Bins([0.2, 0.0, 0.9], [0.2, 0.0, 0.9], [5, 0, 2]).error == 0
    assert Bins([0.2, 0.0, 0.9], [0.4, 0.0, 0.8], [1, 0, 3]).error == pytest.approx((0.2 + 3 * 0.1) / 4)


# Files.


def test_without_a_file_the_temperature_is_1(tmp_path):
    assert load_temperature(None) == load_temperature(tmp_path) == 1.0


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"temperature": null}', '{"temperature": NaN}', '{"temperature": 0}']
)
def test_a_broken_file_is_named(text, tmp_path):
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(RequestError, match=r"calibration\.json has no temperature from 0\.05 to 20"):
        load_temperature(tmp_path)


@pytest.mark.parametrize("task", TASKS)
def test_every_run_is_calibrated(runs, task):
    run = runs[task]
    written = json.loads((run / "calibration.json").read_text("utf-8"))
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics["calibration"] == {name: written[name] for name in ("temperature", "ece_before", "ece_after")}
    assert load_temperature(run) == written["temperature"]
    assert written["nll_after"] < written["nll_before"] and written["ece_after"] < 0.1
    assert sum(written["bins_before"]["count"]) == sum(written["bins_after"]["count"]) == written["examples"]
    # What training measured on the same split, of all characters, also those that the vocabulary does not know.
    assert written["nll_before"] == pytest.approx(metrics["best"]["loss"], abs=2e-3)


@pytest.mark.parametrize("task", TASKS)
def test_every_run_has_a_reliability_diagram(runs, task):
    with Image.open(runs[task] / "reliability.png") as picture:
        assert picture.size == (1080, 720)
        colours = {tuple(colour[:3]) for _, colour in picture.getcolors(2**20)}
    assert {(31, 119, 180), (127, 127, 127), (255, 255, 255)} <= colours  # accuracy, counts, paper


def test_a_finished_run_keeps_its_calibration(runs):
    run = runs["image_classification"]
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    metrics = train("image_classification", "quick", small("image_classification"), run)
    assert metrics["calibration"]["temperature"] == load_temperature(run)
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_image_probabilities_are_calibrated_and_answers_stay(runs, monkeypatch):
    run = runs["image_classification"]
    written = json.loads((run / "calibration.json").read_text("utf-8"))
    scores = evaluate(run, "validation")
    assert scores["ece"] == pytest.approx(written["ece_after"], abs=1e-4)
    assert scores["loss"] == pytest.approx(written["nll_after"], abs=1e-4)
    opened = open_model(run)
    pixels = opened.task.data.validation[0].astype(np.float32)
    logits = opened.task.logits(opened.model, pixels).numpy()
    expected = softmax(logits / written["temperature"], axis=1)
    assert opened.signatures["pixels"](pixels=pixels)["probabilities"].numpy() == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr("kerasnets.calibration.temperature.load_temperature", lambda directory: 1.0)
    uncalibrated = evaluate(run, "validation")
    assert uncalibrated["accuracy"] == scores["accuracy"]
    assert uncalibrated["confusion_matrix"] == scores["confusion_matrix"]
    assert uncalibrated["ece"] == pytest.approx(written["ece_before"], abs=1e-4)
