"""Temperature scaling: the fitted temperature, the expected calibration error, and the files of a run."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from small_runs import TASKS, small_config

from kerasnets.calibration.bins import BINS, Bins, bin_sums, expected_calibration_error
from kerasnets.calibration.temperature import HIGHEST, LOWEST, fit, load_temperature
from kerasnets.checks import RequestError
from kerasnets.evaluate import evaluate
from kerasnets.loading import open_model
from kerasnets.train import train


def batches(logits, labels, size=700):
    return lambda: ((logits[n : n + size], labels[n : n + size]) for n in range(0, len(labels), size))


def draw_examples(temperature, count=4000, classes=10, seed=0):
    """-> logits, and labels drawn from softmax(logits / temperature)."""
    random = np.random.default_rng(seed)
    true = 3 * random.normal(size=(count, classes))
    labels = (softmax(true, axis=1).cumsum(axis=1) > random.random((count, 1))).argmax(axis=1)
    return (true * temperature).astype(np.float32), labels


# The temperature.


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7, 6.0])
def test_temperature_equals_the_true_one_and_scipys(temperature):
    logits, labels = draw_examples(temperature)

    def loss(log_temperature):
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(labels)), labels].mean()

    best = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-9})
    fitted = fit(batches(logits, labels))
    assert fitted.temperature == pytest.approx(temperature, rel=0.05)
    assert fitted.temperature == pytest.approx(np.exp(best.x), rel=5e-4)
    assert fitted.nll_after == pytest.approx(best.fun, abs=1e-6) and fitted.nll_before == pytest.approx(loss(0.0))
    assert fitted.examples == len(labels) and not fitted.bounded


def test_overconfident_probabilities_become_calibrated():
    fitted = fit(batches(*draw_examples(3.0)))
    assert fitted.ece_before > 0.2 and fitted.ece_after < 0.03
    gaps = np.abs(np.subtract(fitted.bins_after.confidence, fitted.bins_after.accuracy))
    assert gaps[np.array(fitted.bins_after.count) > 100].max() < 0.08


def test_batch_size_does_not_change_the_fit():
    logits, labels = draw_examples(2.0, count=300)
    whole, parts = fit(batches(logits, labels, 300)), fit(batches(logits, labels, 7))
    assert parts.temperature == pytest.approx(whole.temperature, rel=1e-5)
    assert parts.bins_before.count == whole.bins_before.count
    assert parts.ece_after == pytest.approx(whole.ece_after, abs=1e-6)


def test_large_logits_and_constant_shifts_do_not_change_the_fit():
    logits, labels = draw_examples(1.5, count=500)
    shifted = fit(batches(logits + 1000, labels))
    assert shifted.temperature == pytest.approx(fit(batches(logits, labels)).temperature, rel=1e-3)
    assert fit(batches(np.array([[1e30, 0], [1e30, 0]], np.float32), np.array([0, 1]))).temperature == HIGHEST


def test_fit_takes_three_passes():
    logits, labels = draw_examples(1.3, count=100)
    passes = []

    def counted():
        passes.append(1)
        return batches(logits, labels)()

    fit(counted)
    assert len(passes) == 3


def test_perfect_and_wrong_predictions_reach_the_bounds():
    random = np.random.default_rng(0)
    logits = random.normal(size=(50, 4)).astype(np.float32)
    perfect = fit(batches(logits, logits.argmax(axis=1)))
    assert perfect.temperature == LOWEST and perfect.bounded
    wrong = fit(batches(logits, logits.argmin(axis=1)))
    assert wrong.temperature == HIGHEST and wrong.bounded
    uniform = fit(batches(np.zeros((5, 3), np.float32), np.arange(5) % 3))
    assert uniform.temperature == 1.0 and not uniform.bounded


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_logits_raise_floating_point_error(value):
    logits = np.zeros((3, 2), np.float32)
    logits[1, 1] = value
    with pytest.raises(FloatingPointError, match="logits that are NaN or infinite"):
        fit(batches(logits, np.zeros(3, int)))


def test_no_examples_raise_request_error():
    with pytest.raises(RequestError, match="no example in the validation split"):
        fit(lambda: iter([]))


# The expected calibration error.


def test_expected_calibration_error_by_hand():
    # Two answers of 0.9, one of them right: a gap of 0.4. One of 0.6, right: a gap of 0.4. One of 0.52, right: 0.48.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.52, 0.48]])
    error = expected_calibration_error(probabilities, np.array([0, 1, 1, 0]))
    assert error == pytest.approx((2 * 0.4 + 0.4 + 0.48) / 4)


def test_expected_calibration_error_equals_the_equation():
    probabilities = softmax(np.random.default_rng(1).normal(size=(2000, 5)), axis=1)
    labels = np.random.default_rng(2).integers(5, size=2000)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            expected += inside.sum() / 2000 * abs(correct[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_bounds_belong_to_the_lower_interval():
    counts = bin_sums(np.array([1.0, 0.2, np.nextafter(0.2, 1), 1 / 15, 0.0]), np.ones(5, bool))[2]
    assert np.flatnonzero(counts).tolist() == [0, 2, 3, BINS - 1] and counts[0] == 2


def test_calibrated_and_empty_bins_have_no_error():
    assert Bins([0.2, 0.0, 0.9], [0.2, 0.0, 0.9], [5, 0, 2]).error == 0
    assert Bins([0.2, 0.0, 0.9], [0.4, 0.0, 0.8], [1, 0, 3]).error == pytest.approx((0.2 + 3 * 0.1) / 4)


# Files.


def test_without_a_file_the_temperature_is_1(tmp_path):
    assert load_temperature(None) == load_temperature(tmp_path) == 1.0


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"temperature": null}', '{"temperature": NaN}', '{"temperature": 0}']
)
def test_invalid_file_raises_request_error_with_its_path(text, tmp_path):
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(RequestError, match=r"calibration\.json has no temperature from 0\.05 to 20"):
        load_temperature(tmp_path)


@pytest.mark.parametrize("task", TASKS)
def test_every_run_is_calibrated(runs, task):
    run = runs[task]
    calibration = json.loads((run / "calibration.json").read_text("utf-8"))
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics["calibration"] == {name: calibration[name] for name in ("temperature", "ece_before", "ece_after")}
    assert load_temperature(run) == calibration["temperature"]
    assert calibration["nll_after"] < calibration["nll_before"] and calibration["ece_after"] < 0.1
    assert (
        sum(calibration["bins_before"]["count"]) == sum(calibration["bins_after"]["count"]) == calibration["examples"]
    )
    # The loss of training on the same split, over all characters, including those outside the vocabulary.
    assert calibration["nll_before"] == pytest.approx(metrics["best"]["loss"], abs=2e-3)


@pytest.mark.parametrize("task", TASKS)
def test_every_run_has_a_reliability_diagram(runs, task):
    with Image.open(runs[task] / "reliability.png") as image:
        assert image.size == (1080, 720)
        colours = {tuple(colour[:3]) for _, colour in image.getcolors(2**20)}
    assert {(31, 119, 180), (127, 127, 127), (255, 255, 255)} <= colours  # accuracy, counts, background


def test_finished_run_keeps_its_calibration(runs):
    run = runs["image_classification"]
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    metrics = train("image_classification", "quick", small_config("image_classification"), run)
    assert metrics["calibration"]["temperature"] == load_temperature(run)
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_calibration_changes_image_probabilities_but_not_predictions(runs, monkeypatch):
    run = runs["image_classification"]
    calibration = json.loads((run / "calibration.json").read_text("utf-8"))
    scores = evaluate(run, "validation")
    assert scores["ece"] == pytest.approx(calibration["ece_after"], abs=1e-4)
    assert scores["loss"] == pytest.approx(calibration["nll_after"], abs=1e-4)
    opened = open_model(run)
    pixels = opened.task.data.validation[0].astype(np.float32)
    logits = opened.task.logits(opened.model, pixels).numpy()
    expected = softmax(logits / calibration["temperature"], axis=1)
    assert opened.signatures["pixels"](pixels=pixels)["probabilities"].numpy() == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr("kerasnets.calibration.temperature.load_temperature", lambda directory: 1.0)
    uncalibrated = evaluate(run, "validation")
    assert uncalibrated["accuracy"] == scores["accuracy"]
    assert uncalibrated["confusion_matrix"] == scores["confusion_matrix"]
    assert uncalibrated["ece"] == pytest.approx(calibration["ece_before"], abs=1e-4)
