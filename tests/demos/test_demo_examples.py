"""Examples come from the exported models, else from here."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from demos.examples import MOST, load_examples
from demos.pictures import picture_bytes


def write(models_dir: Path, task: str, version: str, content: str) -> None:
    folder = models_dir / task / version / "assets.extra"
    folder.mkdir(parents=True)
    (folder / "examples.json").write_text(content, encoding="utf-8")


def rows(*instances: Any) -> str:
    return json.dumps({"signature_name": "serving_default", "instances": instances})


def test_the_highest_version_counts_by_number(tmp_path: Path) -> None:
    for version in ("2", "10", "9", "notes"):
        write(tmp_path, "text_generation", version, rows({"prompt": f"from {version}"}))
    assert load_examples(tmp_path).prompts == ["from 10"]


def test_objects_and_bare_values_and_base64(tmp_path: Path) -> None:
    data = {"b64": base64.b64encode(b"picture\0").decode()}
    write(tmp_path, "image_classification", "1", rows({"image_bytes": data}, data))
    write(tmp_path, "text_generation", "1", rows("bare", {"prompt": "named"}, {"b64": "w7w="}))
    write(tmp_path, "translation", "1", rows({"text": "ein Satz"}))
    examples = load_examples(tmp_path)
    assert examples.images == [b"picture\0", b"picture\0"]
    assert examples.prompts == ["bare", "named", "ü"]
    assert examples.sentences == ["ein Satz"]


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    write(tmp_path, "translation", "1", rows(*[str(number) for number in range(50)]))
    assert len(load_examples(tmp_path).sentences) == MOST


@pytest.mark.parametrize("content", ["{", "[]", '{"instances": [5]}', '{"instances": [{"x": 1}]}'])
def test_what_cannot_be_read_is_said_and_replaced(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "text_generation", "1", content)
    assert load_examples(tmp_path).prompts == load_examples(None).prompts
    assert "built-in ones are shown" in capsys.readouterr().err


def test_other_models_without_examples_are_no_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "translation" / "1").mkdir(parents=True)
    assert load_examples(tmp_path).sentences
    assert capsys.readouterr().err == ""


def test_built_in_pictures_can_be_sent() -> None:
    from demos.pictures import data_url

    for picture in load_examples(None).images:
        assert picture_bytes({"kind": "picture", "data": data_url(picture)}) == picture
