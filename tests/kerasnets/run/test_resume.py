"""Whether a training goes on in a directory: the same run, or one whose options were changed by name."""

import dataclasses
import json
import zipfile

import pytest

from kerasnets.checks import RequestError
from kerasnets.run import config_file
from kerasnets.run.resume import RESUMABLE, look_at, named_values, with_values
from kerasnets.tasks.presets import load_preset


@pytest.fixture
def config():
    return load_preset("translation", "quick")


@pytest.fixture
def begun(tmp_path, config):
    config_file.save(tmp_path / "config.toml", "translation", "quick", config)
    return tmp_path


def test_values_are_given_by_name_in_either_spelling(config):
    values = named_values("training.learning-rate=3e-4, training.warmup_steps=7,training.schedule=cosine")
    training = with_values(config, values).training
    assert (training.learning_rate, training.warmup_steps, training.schedule) == (3e-4, 7, "cosine")
    assert dataclasses.replace(training, **vars(config.training)) == config.training
    assert named_values("") == {} and with_values(config, {}) == config


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model.width=3", "no option for --resume-with 'model.width'; choose one of training.beta_2"),
        ("training.batch_size=3", "no option for --resume-with 'training.batch_size'"),
        ("training.learning_rate", "training.learning_rate is ''; it must be of type float"),
        ("training.warmup_steps=1.5", "training.warmup_steps is '1.5'; it must be of type int"),
        ("training.learning_rate=-1", "training.learning_rate is -1.0; it must be 0 or more"),
        ("training.learning_rate=nan", "training.learning_rate is nan; it must be 0 or more"),
        ("training.schedule=linear", "training.schedule is 'linear'; it must be 'cosine' or 'inverse_sqrt'"),
    ],
)
def test_other_options_and_values_are_refused(config, text, sentence):
    with pytest.raises(RequestError, match=sentence):
        with_values(config, named_values(text))


def test_changes_of_a_run_must_be_named(begun, config):
    changed = with_values(config, {"training.learning_rate": "1e-4", "training.epochs": "9"})
    with pytest.raises(RequestError) as refused:
        look_at(begun, "translation", "quick", changed, {"training.epochs": "9"})
    old = config.training.learning_rate
    assert f"(training.learning_rate was {old} and is now 0.0001)" in str(refused.value)
    assert str(refused.value).endswith("or go on with these values by --resume-with training.learning_rate=0.0001.")
    names = dict.fromkeys(("training.learning_rate", "training.epochs"), "")
    assert look_at(begun, "translation", "quick", changed, names) == (
        None,
        {"training.epochs": [config.training.epochs, 9], "training.learning_rate": [old, 0.0001]},
    )
    other = dataclasses.replace(changed, seed=5)
    with pytest.raises(RequestError, match=r"seed was 0 and is now 5\); give another --run-dir\.$"):
        look_at(begun, "translation", "quick", other, names)
    assert "training.batch_size" not in RESUMABLE


def test_what_a_killed_process_left_before_the_run_began_is_no_hindrance(config, tmp_path):
    for name in (".lock", "subwords.json", ".data.json.partial"):
        (tmp_path / name).touch()
    assert look_at(tmp_path, "translation", "quick", config, {}) == (None, {})
    (tmp_path / ".diary").touch()
    with pytest.raises(RequestError, match="holds files but no run"):
        look_at(tmp_path, "translation", "quick", config, {})


def test_no_run_and_a_finished_one_cannot_go_on(begun, config, tmp_path):
    with pytest.raises(RequestError, match="holds no run to go on with"):
        look_at(tmp_path / "new", "translation", "quick", config, {"training.epochs": "9"})
    (begun / "metrics.json").write_text(json.dumps({"steps": 3}))
    assert look_at(begun, "translation", "quick", config, {}) == (None, {})  # its model.keras is lost
    with zipfile.ZipFile(begun / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    assert look_at(begun, "translation", "quick", config, {}) == ({"steps": 3}, {})
    longer = with_values(config, {"training.epochs": "99"})
    with pytest.raises(RequestError, match="is finished; give another --run-dir to train with other options"):
        look_at(begun, "translation", "quick", longer, {"training.epochs": "99"})
    (begun / "metrics.json").write_text('{"steps": ')
    with pytest.raises(RequestError, match=r"metrics.json is damaged or cut off; remove it"):
        look_at(begun, "translation", "quick", config, {})
