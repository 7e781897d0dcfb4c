"""The networks that a task can train (`--model`): choosing, training, evaluation and export."""

import dataclasses
import json
from unittest.mock import patch

import numpy as np
import pytest

from kerasnets import train as training_program
from kerasnets.checks import RequestError
from kerasnets.command import Options
from kerasnets.config.image_networks import ConvNetOptions, SequenceClassifierOptions
from kerasnets.config.text_networks import Seq2SeqLSTMOptions
from kerasnets.config.values import from_dict, to_dict
from kerasnets.run.config_file import load, save
from kerasnets.tasks import TASKS
from kerasnets.tasks.presets import load_preset
from kerasnets.train import pop_option

OTHERS = [(task, kind) for task in TASKS for kind in list(TASKS[task].networks)[1:]]
# Small enough to train in seconds; `translation` learns little.
SMALL = {
    "sequence_classifier": ["--model.units=64", "--training.epochs=15"],
    "sequence_generator": ["--model.filters=[16,32]", "--model.units=32", "--training.epochs=6"],
    "decoder_transformer": [
        *("--model.width=32", "--model.num-blocks=1", "--model.hidden-units=64", "--model.context=24"),
        *("--training.epochs=2", "--max-length=100"),
    ],
    "vision_transformer": [
        *("--model.patch-size=2", "--model.width=32", "--model.num-blocks=2", "--model.dropout=0"),
        *("--training.epochs=12", "--training.batch-size=32"),
    ],
    "seq2seq_lstm": ["--model.width=48", "--model.units=64", "--training.epochs=1"],
}


# Choosing.


def test_pop_option_removes_an_option_from_the_arguments():
    assert pop_option(["a", "--model", "b", "--c"], "--model") == ("b", ["a", "--c"])
    assert pop_option(["--model=b", "a"], "--model") == ("b", ["a"])
    assert pop_option(["--model.units", "3"], "--model") == (None, ["--model.units", "3"])
    assert pop_option(["--model"], "--model") == (None, ["--model"])


def parse(*arguments):
    """-> the configuration of a command line."""
    configs = []

    def keep(task, preset, config, *rest):
        configs.append(config)

    original, training_program.train = training_program.train, keep
    try:
        training_program.main(list(arguments))
    finally:
        training_program.train = original
    return configs[0]


def test_the_network_determines_the_options():
    config = parse("image_classification", "--preset=quick", "--model", "sequence_classifier", "--model.units=7")
    assert config.model == SequenceClassifierOptions(units=7)
    assert config.training == load_preset("image_classification", "quick").training
    with pytest.raises(Exception, match=r"model\.filters"):
        parse("image_classification", "--model=sequence_classifier", "--model.filters=[3]")


def test_the_default_network_is_the_presets():
    assert parse("translation", "--preset", "quick").model == load_preset("translation", "quick").model
    assert (
        parse("translation", "--preset=quick", "--model=transformer").model == load_preset("translation", "quick").model
    )


def test_unknown_networks_are_rejected_with_the_known_ones():
    with pytest.raises(RequestError, match=r"network of translation 'gru'.*seq2seq_lstm, transformer"):
        parse("translation", "--model", "gru")
    with pytest.raises(RequestError, match=r"no model 'gru'.*seq2seq_lstm, transformer"):
        from_dict(TASKS["translation"].config, {"model": {"kind": "gru"}})


def test_help_lists_the_networks_and_the_options_of_one(capsys):
    for kind, option in [("transformer", "--model.num-heads"), ("seq2seq_lstm", "--model.attention")]:
        with pytest.raises(SystemExit):
            training_program.main(["translation", "--model", kind, "--help"])
        printed = capsys.readouterr().out
        assert "--model NAME" in printed and "transformer, seq2seq_lstm" in " ".join(printed.split())
        assert option in printed


@pytest.mark.parametrize(("task", "kind"), [(task, kind) for task in TASKS for kind in TASKS[task].networks])
def test_a_saved_configuration_contains_the_networks_kind(task, kind, tmp_path):
    config = dataclasses.replace(load_preset(task), model=TASKS[task].networks[kind]())
    assert to_dict(config)["model"]["kind"] == kind
    save(tmp_path / "config.toml", task, "small", config)
    assert load(tmp_path / "config.toml")[2] == config


def test_a_table_without_a_kind_is_the_default_network():
    assert from_dict(TASKS["image_classification"].config, {"model": {"filters": [4]}}).model == ConvNetOptions(
        filters=(4,)
    )


def test_incompatible_sizes_are_rejected():
    with pytest.raises(RequestError, match=r"model\.units is 7; it must be even"):
        Seq2SeqLSTMOptions(units=7)
    with pytest.raises(RequestError, match=r"model\.width is 64; it must be the same as model\.units"):
        from_dict(TASKS["text_generation"].config, {"model": {"tied": True}})


def test_model_options_exist_without_model_help():
    options = Options("program", "Description.")
    options.add_config(load_preset("translation", "quick"))
    assert options.parse(["--model.dropout=0.25"]).config.model.dropout == 0.25


# Training.


@pytest.fixture(scope="module", params=OTHERS, ids=[kind for _, kind in OTHERS])
def trained(request, tmp_path_factory):
    """-> task, network kind, finished run directory."""
    task, kind = request.param
    run = tmp_path_factory.mktemp(kind)
    training_program.main([task, "--preset=quick", f"--model={kind}", f"--run-dir={run}", *SMALL[kind]])
    return task, kind, run


@pytest.mark.usefixtures("verify_in_process")
def test_a_run_is_exported_and_scored_and_predicts(trained, tmp_path):
    import tensorflow as tf

    from kerasnets.evaluate import evaluate
    from kerasnets.export import export
    from kerasnets.run.examples import load as load_examples

    task, _, run = trained
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics["calibration"]["temperature"] > 0 and (run / "reliability.png").exists()
    version = export(run, tmp_path)
    scores = evaluate(version, "validation")
    model = tf.saved_model.load(str(version)).signatures["serving_default"]
    examples = load_examples(run / "examples.json")
    if task == "image_classification":
        assert metrics["best"]["accuracy"] == pytest.approx(scores["accuracy"], abs=1e-6) and scores["accuracy"] > 0.5
        outputs = model(image_bytes=tf.constant([example["image_bytes"] for example in examples]))
        assert np.mean(outputs["label"].numpy()[:, 0] == [str(n).encode() for n in range(10)]) >= 0.5
        assert np.all(outputs["score"].numpy() <= 1)
    elif task == "text_generation":
        assert metrics["best"]["loss"] < 2.7 and scores["window_loss"] < 2.7
        outputs = model(prompt=tf.constant([example["prompt"] for example in examples]))
        assert all(outputs["text"].numpy())
    else:
        assert metrics["best"]["loss"] < 4 and scores["chrf"] > 5
        outputs = model(text=tf.constant([example["text"] for example in examples]))
        assert all(outputs["translation"].numpy())


def test_another_network_in_the_same_run_directory_is_rejected(trained):
    task, kind, run = trained
    default = next(iter(TASKS[task].networks))
    with pytest.raises(RequestError, match=f"model was '{kind}' and is now '{default}'"):
        training_program.main([task, "--preset=quick", f"--run-dir={run}"])


def test_a_finished_run_is_not_trained_again(trained, capsys):
    task, kind, run = trained
    training_program.main([task, "--preset=quick", f"--model={kind}", f"--run-dir={run}", *SMALL[kind]])
    assert "is finished" in capsys.readouterr().err


def test_spelling_of_class_names():
    import tensorflow as tf

    from kerasnets.models import ConvNet, SequenceGenerator
    from kerasnets.tasks.image_classification.spelling import END, START, Spelling

    spelling = Spelling(["cat", "car", "a"])
    assert spelling.vocabulary_size == 3 + 4  # a, c, r, t
    assert [len(row[row != 0]) for row in spelling.ids] == [5, 5, 3]
    assert all(row[0] == START and row[row != 0][-1] == END for row in spelling.ids)
    model = SequenceGenerator(spelling.vocabulary_size, ConvNet(6, filters=(4,)), width=5, units=8)
    model.build({"given": (None, 4, 4, 1), "target": (None, None)})
    pixels = tf.random.stateless_uniform((2, 4, 4, 1), (0, 1)) * 255
    logits = spelling.logits(model, pixels).numpy()
    memory, cache = model.start(pixels, 5)
    total, token = np.zeros(2), np.full(2, START)
    for t, following in enumerate(spelling.ids[0][1:5]):
        step, cache = model.step(token, t, memory, cache)
        total += tf.nn.log_softmax(step).numpy()[:, following]
        token = np.full(2, following)
    assert logits[:, 0] == pytest.approx(total, abs=1e-5)
    losses = spelling.losses(model, pixels, tf.constant([0, 0]), 0.0, training=False).numpy()
    assert -losses == pytest.approx(total, abs=1e-5)
    assert spelling.losses(model, pixels, tf.constant([2, 0]), 0.0, True).shape == (2,)


# A few steps and a validation on real data; the README has the commands for the default networks.

REAL = {
    "N to 1": ["image_classification", "--dataset=mnist", "--model=sequence_classifier"],
    "1 to N": ["image_classification", "--dataset=cifar10", "--model=sequence_generator"],
    "N to M": ["translation", "--dataset=multi30k", "--vocabulary-size=1000", "--model=seq2seq_lstm"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_other_networks_train_on_real_data(name, data_dir, capsys):
    with patch("kerasnets.dry_run.export") as export:  # tests with bundled data export the same networks
        training_program.main([*REAL[name], f"--data-dir={data_dir}", "--dry-run"])
    printed = capsys.readouterr().out
    assert "later steps" in printed and "validation loss" in printed
    export.assert_called_once()


@pytest.mark.usefixtures("verify_in_process")
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_other_positions_train_and_are_exported(positions, capsys):
    small = ["--vocabulary-size=400", "--model.width=16", "--model.num-blocks=1"]
    training_program.main(["translation", "--preset=quick", f"--model.positions={positions}", *small, "--dry-run"])
    printed = capsys.readouterr().out
    assert "later steps" in printed and "validation loss" in printed and "exported and verified" in printed
