"""The configuration: presets, invalid values, TOML round trips, and options on the command line."""

import argparse
import dataclasses
import json
import subprocess
import sys
import tomllib

import pytest

from kerasnets.checks import RequestError
from kerasnets.command import Options, option_names, with_dashes
from kerasnets.config.origins import HEADER, Setting, format_settings, trace_settings
from kerasnets.config.text_networks import Seq2SeqLSTMOptions
from kerasnets.config.values import flatten, from_dict, to_dict
from kerasnets.run.config_file import load, save
from kerasnets.tasks import TASKS
from kerasnets.tasks.presets import PRESETS, load_preset, presets, read_preset
from kerasnets.train import train

ALL_PRESETS = sorted((path.parent.name, path.stem) for path in PRESETS.glob("*/*.toml"))


# Presets.


@pytest.mark.parametrize(("task", "preset"), ALL_PRESETS)
def test_every_preset_loads(task, preset):
    loaded = load_preset(task, preset)
    assert type(loaded) is TASKS[task].config
    assert loaded.dataset
    values = tomllib.loads((PRESETS / task / f"{preset}.toml").read_text("utf-8"))
    assert json.loads(json.dumps(to_dict(loaded))) == json.loads(json.dumps(merge(to_dict(loaded), values)))


def merge(values, more):
    nested = {name: merge(values[name], value) for name, value in more.items() if isinstance(value, dict)}
    return values | more | nested


def test_every_task_has_its_default_preset():
    for task, facts in TASKS.items():
        assert facts.default_preset in presets(task)
        assert load_preset(task) == load_preset(task, facts.default_preset)


def test_errors_for_unknown_tasks_and_presets_list_the_choices():
    with pytest.raises(RequestError, match=r"'speech'.*image_classification, text_generation, translation"):
        load_preset("speech")
    with pytest.raises(RequestError, match=r"preset of translation 'huge'.*quick"):
        load_preset("translation", "huge")


# Values.


def test_the_error_for_an_unknown_key_lists_the_choices():
    with pytest.raises(RequestError, match=r"no option model\.unit; choose one of .*model\.units.*model\.dropout"):
        from_dict(TASKS["text_generation"].config, {"model": {"unit": 3}})
    with pytest.raises(RequestError, match=r"no option epochs; choose one of .*training"):
        from_dict(TASKS["text_generation"].config, {"epochs": 3})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": "1"}, r"seed is '1'; it must be of type int"),
        ({"seed": True}, r"seed is True; it must be of type int"),
        ({"seed": 1.0}, r"seed is 1\.0"),
        ({"dataset": 3}, r"dataset is 3; it must be of type str"),
        ({"flip": 1}, r"flip is 1; it must be of type bool"),
        ({"image_size": 2.5}, r"image_size is 2\.5"),
        ({"training": 3}, r"training is 3; it must be a table"),
        ({"training": {"epochs": 0}}, r"training\.epochs is 0; it must be 1 or more"),
        ({"training": {"learning_rate": "fast"}}, r"training\.learning_rate is 'fast'"),
        ({"training": {"learning_rate": -1}}, r"training\.learning_rate is -1\.0; it must be 0 or more"),
        ({"training": {"beta_2": 1.0}}, r"training\.beta_2 is 1\.0"),
        (
            {"training": {"schedule": "linear"}},
            r"training\.schedule is 'linear'; it must be 'cosine' or 'inverse_sqrt'",
        ),
        ({"model": {"filters": 32}}, r"model\.filters is 32; it must be a list"),
        ({"model": {"filters": [32, "64"]}}, r"model\.filters is '64'"),
        ({"seed": -1}, r"seed is -1; it must be 0 or more"),
    ],
)
def test_errors_name_the_option_and_the_allowed_values(values, message):
    with pytest.raises(RequestError, match=message):
        from_dict(TASKS["image_classification"].config, values)


def test_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(
        RequestError, match=r"model\.width is 10; it must be a multiple of model\.num_heads, which is 4"
    ):
        from_dict(TASKS["translation"].config, {"model": {"width": 10, "num_heads": 4}})


def test_only_lossless_conversions_are_made():
    config = from_dict(
        TASKS["image_classification"].config, {"training": {"learning_rate": 1}, "model": {"filters": [4, 5]}}
    )
    assert isinstance(config.training.learning_rate, float)
    assert config.model.filters == (4, 5)
    assert from_dict(TASKS["image_classification"].config, {"image_size": None}).image_size is None


def test_configurations_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_preset("translation").seed = 1


# Files.


@pytest.mark.parametrize(("task", "preset"), ALL_PRESETS)
def test_saved_configurations_load_unchanged(task, preset, tmp_path):
    changed = dataclasses.replace(load_preset(task, preset), seed=7, data_dir='a "strange" folder\\é')
    save(tmp_path / "config.toml", task, preset, changed)
    assert load(tmp_path / "config.toml") == (task, preset, changed)


def test_none_survives_a_round_trip(tmp_path):
    config = TASKS["image_classification"].config(dataset="digits")
    assert config.image_size is None
    save(tmp_path / "config.toml", "image_classification", "quick", config)
    assert load(tmp_path / "config.toml")[2] == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no config.toml: give the directory of a training run"),
        ("task = ", "is not the configuration of a run"),
        ("seed = 1", "is not the configuration of a run"),
        (b"\xff\xfe", "is not the configuration of a run"),
        ('task = "speech"\npreset = "quick"', "no task 'speech'"),
        (
            'task = "translation"\npreset = "quick"\nlayers = 3\n[training]\n[model]\n',
            "no option layers; choose one of",
        ),
    ],
)
def test_invalid_files_are_request_errors(text, message, tmp_path):
    if text is not None:
        (tmp_path / "config.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RequestError, match=message):
        load(tmp_path / "config.toml")


# The command line.


def parse(task, *arguments):
    options = Options("kerasnets.train", "Trains.")
    options.add("--run-dir")
    options.add_config(load_preset(task, "quick"))
    return options.parse(list(arguments))


def test_the_preset_is_the_default():
    for task in TASKS:
        assert parse(task).config == load_preset(task, "quick")


def test_nested_options_replace_single_values():
    preset = load_preset("text_generation", "quick")
    config = parse("text_generation", "--model.units=8", "--training.epochs", "2", "--seed", "5").config
    assert config.model == dataclasses.replace(preset.model, units=8)
    assert config.training == dataclasses.replace(preset.training, epochs=2)
    assert config.seed == 5


@pytest.mark.parametrize("dashes", ["--training.learning-rate", "--training.learning_rate"])
@pytest.mark.parametrize("equals", [True, False])
def test_dashes_equal_underscores(dashes, equals):
    arguments = [f"{dashes}=1e-2"] if equals else [dashes, "1e-2"]
    assert parse("translation", *arguments).config.training.learning_rate == 0.01


def test_dashes_and_underscores_of_values_are_kept():
    options = parse("text_generation", "--data-dir=my-own_folder", "--dataset", "file:a-b_c.txt", "--run-dir", "x-y_z")
    assert options.config.data_dir == "my-own_folder"
    assert options.config.dataset == "file:a-b_c.txt"
    assert options.run_dir == "x-y_z"


def test_lists_numbers_and_choices():
    config = parse("image_classification", "--model.filters=[4, 8]", "--image-size", "12", "--flip", "true").config
    assert config.model.filters == (4, 8)
    assert config.image_size == 12
    assert config.flip is True
    assert parse("translation", "--model.norm=post").config.model.norm == "post"
    assert parse("image_classification", "--training.learning-rate=1").config.training.learning_rate == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.unit=3"], "unit"),
        (["--epoch=3"], "epoch"),
        (["--training.epochs=many"], "epochs"),
        (["--training.epochs=0"], "epochs is 0"),
        (["--training.schedule=linear"], "schedule"),
    ],
)
def test_errors_name_the_invalid_option(arguments, message):
    with pytest.raises((argparse.ArgumentError, RequestError), match=message):
        parse("text_generation", *arguments)


def test_help_contains_the_docstrings_of_the_fields(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse("translation", "--help")
    assert exit_info.value.code == 0
    help_text = " ".join(capsys.readouterr().out.split())
    for option in ("--training.learning-rate", "--model.num-heads", "--data-dir", "--run-dir", "--vocabulary-size"):
        assert option in help_text
    assert "_" not in "".join(word for word in help_text.split() if word.startswith("--"))
    assert "Peak learning rate." in help_text
    assert "Number of subwords in the vocabulary that both languages share." in help_text


def test_help_shows_the_values_of_the_preset(capsys):
    with pytest.raises(SystemExit):
        parse("image_classification", "--help")
    help_text = " ".join(capsys.readouterr().out.split())
    epochs = load_preset("image_classification", "quick").training.epochs
    assert help_text.startswith("usage: python -m kerasnets.train [options] Trains.")
    assert f"--training.epochs EPOCHS Passes over the training data. Default: {epochs}." in help_text
    assert "required if their sizes differ." in help_text  # there is no default
    assert help_text.count("(default: the value of TFDS_DATA_DIR).") == 1


# Origins of values.


def origins(task, preset, config, **options):
    """-> {option: (value, origin)}"""
    settings = trace_settings(config, preset, read_preset(task, preset), **options)
    return {name: (value, origin) for name, value, origin in settings}


def test_each_value_has_an_origin(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/data")
    config = load_preset("translation", "quick")
    config = dataclasses.replace(config, seed=5, training=dataclasses.replace(config.training, patience=2))
    found = origins("translation", "quick", config, given={"dataset", "seed"}, resumed={"training.patience"})
    assert {*found} == {*flatten(config), "model"}
    assert found["dataset"] == ("cldr", "command line")  # given, though it is the preset's value
    assert found["seed"] == ("5", "command line")
    assert found["training.patience"] == ("2", "--resume-with")
    assert found["data_dir"] == ("/data", "TFDS_DATA_DIR")
    assert found["model"] == ("transformer", "default")
    assert found["model.width"] == ("96", "preset quick")
    assert found["model.positions"] == ("sinusoidal", "default")
    assert found["embeddings"] == ("none", "default")
    changed = origins("translation", "quick", dataclasses.replace(config, max_length=7))
    assert changed["max_length"] == ("7", "command line")


def test_values_of_a_preset_do_not_count_for_another_network():
    config = dataclasses.replace(load_preset("translation", "quick"), model=Seq2SeqLSTMOptions(units=2))
    found = origins("translation", "quick", config)
    assert found["model"] == ("seq2seq_lstm", "command line")
    assert found["model.width"] == ("128", "default")
    assert found["model.units"] == ("2", "command line")
    assert found["training.epochs"] == ("6", "preset quick")
    assert origins("translation", "lstm", load_preset("translation", "lstm"))["model"] == (
        "seq2seq_lstm",
        "preset lstm",
    )


def test_settings_are_a_table():
    settings = [HEADER, Setting("model.filters", "[32, 64]", "preset quick"), Setting("seed", "0", "default")]
    assert format_settings(settings).splitlines() == [
        "option         value     from",
        "model.filters  [32, 64]  preset quick",
        "seed           0         default",
    ]


def test_names_of_options_are_those_of_the_fields():
    names = option_names(["translation", "--training.batch-size=64", "--seed", "1", "--flip=a=b"])
    assert names == {"training.batch_size", "seed", "flip"}


def test_only_option_names_get_dashes():
    assert with_dashes("--data_dir DATA_DIR  a_b --model.num_heads") == "--data-dir DATA_DIR  a_b --model.num-heads"


# Programs.


def test_the_error_for_an_unknown_strategy_lists_the_choices(tmp_path):
    with pytest.raises(RequestError, match="no strategy 'tpu'; choose one of auto, mirrored, multi_worker, one_device"):
        train("translation", "quick", load_preset("translation", "quick"), tmp_path / "run", strategy="tpu")
    assert not (tmp_path / "run").exists()


WITHOUT_TENSORFLOW = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
except SystemExit as error:
    status = error.code
imported = {"tensorflow", "keras", "tensorflow_datasets", "sentencepiece"} & set(sys.modules)
print(f"status {status}, imported {sorted(imported)}")
"""


def run_program(*arguments):
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["kerasnets.train", "--help"],
        ["kerasnets.train", "translation", "--help"],
        ["kerasnets.evaluate", "--help"],
        ["kerasnets.export", "--help"],
        ["kerasnets.predict", "--help"],
        ["kerasnets.describe", "--help"],
    ],
    ids=" ".join,
)
def test_help_does_not_import_tensorflow(arguments):
    process = run_program(*arguments)
    assert process.stdout.startswith(f"usage: python -m {arguments[0]}")
    assert process.stdout.endswith("status 0, imported []\n"), process.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kerasnets.train"], "name the task to train: image_classification, text_generation, translation."),
        (["kerasnets.train", "speech"], "there is no task 'speech'"),
        (["kerasnets.train", "translation", "--preset", "huge"], "there is no preset of translation 'huge'"),
        (["kerasnets.train", "translation", "--training.epochs=0"], "training.epochs is 0; it must be 1 or more."),
        (["kerasnets.train", "translation", "--strategy=all"], "there is no strategy 'all'"),
        (["kerasnets.describe", "resnet21"], "there is no run directory and no preset resnet21"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_requests_exit_with_one_line_and_status_2(arguments, message):
    process = run_program(*arguments)
    assert process.stdout == "status 2, imported []\n"
    assert message in process.stderr
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1
