"""The wheel and the source archive: their files, and that an installed wheel works without this repository."""

import email
import os
import site
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging_helpers import copy_source, run
from small_runs import ROOT

import kerasnets

PRESETS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "kerasnets" / "presets").rglob("*.toml"))
DATA_FILES = [
    *PRESETS,
    "kerasnets/tensorflow_2_20_operations.txt",
    "serving/settings/configuration.proto",
    "serving/config/models.config",
    "serving/config/kubernetes/deployment.yaml",
    "serving/rest/openapi.json",
    "serving/status/page.html",
    "serving/status/page.css",
    "demos/style.css",
    *(f"{package}/py.typed" for package in ("kerasnets", "serving", "demos")),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from the source archive, which is built from a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    copy_source(source)
    run(sys.executable, "-m", "build", "--outdir", source / "dist", source)
    assert len(list((source / "dist").glob("*.tar.gz"))) == 1
    return next((source / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The Python of an environment with the wheel; its dependencies come from the environment of the tests."""
    environment = tmp_path_factory.mktemp("installed")
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", wheel)
    packages = next((environment / "lib").glob("python*/site-packages"))
    # A directory in a .pth file is searched last, and its own .pth files are ignored: no editable kerasnets.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()), "utf-8")
    return python


def run_installed(python: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return run(python, *arguments, cwd=python.parent, env=environment)


def test_the_wheel_contains_all_data_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = email.message_from_bytes(archive.read(next(name for name in names if name.endswith("/METADATA"))))
    assert not set(DATA_FILES) - set(names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    assert metadata["Version"] == kerasnets.__version__
    assert metadata["Requires-Python"] == "<3.14,>=3.11"


def test_the_installed_wheel_works(python):
    assert str(ROOT) not in run_installed(python, "-c", "import kerasnets; print(kerasnets.__file__)")
    overview = run_installed(python, "-m", "kerasnets.train", "--help")
    for preset in map(Path, PRESETS):
        assert preset.stem in next(line for line in overview.splitlines() if line.split()[:1] == [preset.parent.name])
    assert "--training.learning-rate" in run_installed(python, "-m", "kerasnets.train", "translation", "--help")
    assert "--model_config_file" in run_installed(python, "-m", "serving", "--help")
    assert "--server" in run_installed(python, "-m", "demos", "--help")
    heavy = (
        "import sys; from serving.client import Client; print(sorted({'tensorflow', 'kerasnets'} & set(sys.modules)))"
    )
    assert run_installed(python, "-c", heavy) == "[]\n"
