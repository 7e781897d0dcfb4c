"""Pictures show the values that they are drawn from, whatever the texts contain."""

import warnings

import numpy as np
import pytest

from kerasnets.run.files import write_figure
from kerasnets.tasks import figures
from kerasnets.tasks.image_classification import drawings as image_drawings
from kerasnets.tasks.text_generation import drawings as text_drawings
from kerasnets.tasks.translation import drawings as translation_drawings

RANDOM = np.random.default_rng(0)
AWKWARD = "$x^{$ \\frac \t\x00中▁"  # a broken formula, control characters, a character that the font lacks


def words(*texts):
    return np.array([[text.encode() for text in texts]], object)


def heat_maps(figure):
    """-> the arrays drawn as images, with NaN where nothing is drawn."""
    return [np.ma.filled(image.get_array().astype(float), np.nan) for axes in figure.axes for image in axes.images]


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_labels_are_never_read_as_formulas(suffix, tmp_path):
    figure = figures.new_figure(3, 3)
    figure.subplots().set_title(figures.label(AWKWARD * 2))
    write_figure(tmp_path / f"a.{suffix}", figure)
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]
    assert figures.label("a" * 50, 10) == "a" * 9 + "…"
    assert [figures.character_label(c) for c in " \n\x00$"] == ["·", "↵", "\ufffd", r"\$"]


def test_characters_that_the_font_lacks_are_drawn_in_another_font(tmp_path):
    figure = figures.new_figure(3, 3)
    title = figure.subplots().set_title("ab \u02ef")  # DejaVu Sans lacks it; DejaVu Serif, beside it, has it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_figure(tmp_path / "a.png", figure)
        assert any("Serif" in family for family in title.get_fontfamily())
        title.set_text("\U0010fffd")  # no font has it
        write_figure(tmp_path / "a.png", figure)


def explained_text(length, **outputs):
    probability = RANDOM.random((1, length))
    return {"characters": words(*["a$ \n中"[n % 5] for n in range(length)]), "probability": probability} | outputs


@pytest.mark.parametrize("length", [1, 30, 250])
def test_gates_of_the_units_that_change_most(length):
    cell = 0.01 * RANDOM.normal(size=(1, length, 2, 20))
    cell[0, :, -1, 5] = np.arange(length)  # it counts
    gate = np.full((1, length, 2, 20), 0.5) + 0.1 * cell
    outputs = explained_text(length, input_gate=gate, cell=cell)
    figure = text_drawings.draw_reading(outputs)
    characters, gates, cells = heat_maps(figure)
    assert characters[~np.isnan(characters)] == pytest.approx(outputs["probability"][0])
    units = [int(name) for name in labels(figure.axes[1].yaxis)]
    assert len(units) == text_drawings.UNITS
    if length > 1:
        assert 5 in units
    assert gates == pytest.approx(gate[0, :, -1, units]) and cells == pytest.approx(cell[0, :, -1, units])
    figure.canvas.draw()


def test_attention_of_a_text_instead_of_gates():
    attention = RANDOM.random((1, 12, 3, 2, 4))  # of the last four characters
    outputs = explained_text(12, attention=attention)
    outputs["characters"][0, 10:] = b""  # the end of the text
    figure = text_drawings.draw_reading(outputs)
    _, drawn = heat_maps(figure)
    for t, s in np.ndindex(10, 10):
        assert drawn[t, s] == pytest.approx(attention[0, t, -1, :, t - s].mean() if 0 <= t - s < 4 else 0)
    assert labels(figure.axes[1].xaxis) == [r"a", r"\$", "·", "↵", "中"] * 2
    figure.canvas.draw()


@pytest.mark.parametrize(("blocks", "heads"), [(2, 4), (2, 6), (1, 1), (0, 1)])
def test_attention_of_a_translation(blocks, heads):
    weights = RANDOM.random((1, blocks, heads, 4, 5))
    outputs = {
        "translation": np.array([AWKWARD.encode()], object),
        "source_tokens": words("a", "$", "b$", "<end>", ""),
        "target_tokens": words("x", AWKWARD * 9, "<end>", ""),
        "token_probability": RANDOM.random((1, 4)),
        "cross_attention": weights,
    }
    figure = translation_drawings.draw_explanation(outputs)
    bars = next(axes for axes in figure.axes if axes.patches)
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(outputs["token_probability"][0, :3])
    drawn = heat_maps(figure)
    if blocks:
        expected = weights[0, -1, :, :3, :4]
        assert drawn[0] == pytest.approx(expected.mean(axis=0))
        assert labels(figure.axes[0].xaxis) == ["a", r"\$", r"b\$", "<end>"]
        assert np.array(drawn[1:]) == pytest.approx(expected if heads > 1 else np.array([]))
    else:
        assert not drawn
    figure.canvas.draw()


def test_a_long_translation_is_cut_and_says_so():
    tokens = words(*["word"] * 100)
    outputs = {"translation": np.array([b"word " * 100], object), "source_tokens": tokens, "target_tokens": tokens}
    outputs |= {"token_probability": np.ones((1, 100)), "cross_attention": np.ones((1, 1, 1, 100, 100))}
    figure = translation_drawings.draw_explanation(outputs)
    assert heat_maps(figure)[0].shape == (60, 60) and "(the first 60 subwords)" in figure.get_suptitle()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("maps", [(1, 1, 1), (4, 6, 5), (7, 7, 100), (8, 1, 16)])
def test_explanation_of_an_image(channels, maps):
    outputs = {"label": words("cat", AWKWARD), "score": np.array([[0.9, 0.1]]), "heatmap": RANDOM.random((1, 8, 8))}
    image = RANDOM.integers(0, 256, (20, 30, 3), np.uint8)
    pixels = RANDOM.integers(0, 256, (8, 8, channels)).astype(np.float32)
    outputs["feature_maps"] = RANDOM.normal(size=(1, *maps))
    figure = image_drawings.draw_explanation(image, pixels, outputs)
    whole, gray, heat, drawn_maps = heat_maps(figure)
    assert np.array_equal(whole, image)
    assert gray == pytest.approx(pixels.mean(axis=-1)) and heat == pytest.approx(outputs["heatmap"][0])
    first = outputs["feature_maps"][0, :, :, 0]
    scaled = (first - first.min()) / max(np.ptp(first), 1e-12)
    drawn = drawn_maps[:, :1] if maps[1] == 1 and maps[0] > 1 else drawn_maps[: maps[0], : maps[1]]
    assert drawn == pytest.approx(scaled)
    figure.canvas.draw()


def test_a_picture_of_an_evaluation_for_few_and_many_classes():
    pair = {"class": "$a", "predicted": "b", "count": 3, "share": 0.5}
    metrics = {"split": "test", "accuracy": 0.5, "examples": 6, "classes": ["$a", "b"]}
    metrics |= {"confusion_matrix": [[1, 3], [0, 2]], "class_accuracy": [0.25, 1.0], "class_precision": [1.0, 0.4]}
    few, many = (image_drawings.draw_confusion(metrics | more) for more in ({}, {"confused_pairs": [pair]}))
    assert heat_maps(few)[0] == pytest.approx(np.array([[0.25, 0.75], [0, 1]]))
    assert {text.get_text() for text in few.axes[0].texts} == {"1", "3", "2"}
    assert labels(many.axes[0].yaxis) == [r"\$a → b"]
    worst = [{"class": "$a", "predicted": "b", "probability": 0.9}] * 7
    images = RANDOM.integers(0, 256, (7, 5, 4, 3), np.uint8)
    sheet = image_drawings.draw_worst(images, metrics | {"worst_examples": worst})
    assert np.array_equal(heat_maps(sheet), images)
    for figure in (few, many, sheet):
        figure.canvas.draw()
