"""Whether a training resumes in a directory: the same run, or a run whose options are overridden by name."""

import dataclasses
import json
import zipfile

import pytest

from kerasnets.checks import RequestError
from kerasnets.run import config_file
from kerasnets.run.resume import RESUMABLE, apply_overrides, check_resumable, parse_overrides
from kerasnets.tasks.presets import load_preset


@pytest.fixture
def config():
    return load_preset("translation", "quick")


@pytest.fixture
def run_dir(tmp_path, config):
    config_file.save(tmp_path / "config.toml", "translation", "quick", config)
    return tmp_path


def test_overrides_accept_dashes_and_underscores(config):
    overrides = parse_overrides("training.learning-rate=3e-4, training.warmup_steps=7,training.schedule=cosine")
    training = apply_overrides(config, overrides).training
    assert (training.learning_rate, training.warmup_steps, training.schedule) == (3e-4, 7, "cosine")
    assert dataclasses.replace(training, **vars(config.training)) == config.training
    assert parse_overrides("") == {} and apply_overrides(config, {}) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.width=3", "no option for --resume-with 'model.width'; choose one of training.accumulation"),
        ("training.batch_size=3", "no option for --resume-with 'training.batch_size'"),
        ("training.learning_rate", "training.learning_rate is ''; it must be of type float"),
        ("training.warmup_steps=1.5", "training.warmup_steps is '1.5'; it must be of type int"),
        ("training.learning_rate=-1", "training.learning_rate is -1.0; it must be 0 or more"),
        ("training.learning_rate=nan", "training.learning_rate is nan; it must be 0 or more"),
        ("training.schedule=linear", "training.schedule is 'linear'; it must be 'cosine' or 'inverse_sqrt'"),
    ],
)
def test_other_options_and_values_are_rejected(config, text, message):
    with pytest.raises(RequestError, match=message):
        apply_overrides(config, parse_overrides(text))


def test_changed_options_must_be_overrides(run_dir, config):
    changed = apply_overrides(config, {"training.learning_rate": "1e-4", "training.epochs": "9"})
    with pytest.raises(RequestError) as error:
        check_resumable(run_dir, "translation", "quick", changed, {"training.epochs": "9"})
    old = config.training.learning_rate
    assert f"(training.learning_rate was {old} and is now 0.0001)" in str(error.value)
    assert str(error.value).endswith("or resume with these values: --resume-with training.learning_rate=0.0001.")
    overrides = dict.fromkeys(("training.learning_rate", "training.epochs"), "")
    assert check_resumable(run_dir, "translation", "quick", changed, overrides) == (
        None,
        {"training.epochs": [config.training.epochs, 9], "training.learning_rate": [old, 0.0001]},
    )
    other = dataclasses.replace(changed, seed=5)
    with pytest.raises(RequestError, match=r"seed was 0 and is now 5\); give another --run-dir\.$"):
        check_resumable(run_dir, "translation", "quick", other, overrides)
    assert "training.batch_size" not in RESUMABLE


def test_files_of_a_process_killed_before_the_run_began_are_ignored(config, tmp_path):
    for name in (".lock", "subwords.json", ".data.json.partial"):
        (tmp_path / name).touch()
    assert check_resumable(tmp_path, "translation", "quick", config, {}) == (None, {})
    (tmp_path / ".diary").touch()
    with pytest.raises(RequestError, match="holds files but no run"):
        check_resumable(tmp_path, "translation", "quick", config, {})


def test_missing_and_finished_runs_do_not_resume(run_dir, config, tmp_path):
    with pytest.raises(RequestError, match="has no run to resume"):
        check_resumable(tmp_path / "new", "translation", "quick", config, {"training.epochs": "9"})
    (run_dir / "metrics.json").write_text(json.dumps({"steps": 3}))
    assert check_resumable(run_dir, "translation", "quick", config, {}) == (None, {})  # its model.keras is lost
    with zipfile.ZipFile(run_dir / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    assert check_resumable(run_dir, "translation", "quick", config, {}) == ({"steps": 3}, {})
    longer = apply_overrides(config, {"training.epochs": "99"})
    with pytest.raises(RequestError, match="is finished; give another --run-dir to train with other options"):
        check_resumable(run_dir, "translation", "quick", longer, {"training.epochs": "99"})
    (run_dir / "metrics.json").write_text('{"steps": ')
    with pytest.raises(RequestError, match=r"metrics.json is damaged or cut off; remove it"):
        check_resumable(run_dir, "translation", "quick", config, {})
