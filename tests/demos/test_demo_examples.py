"""Examples come from the exported models, or are built in."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from demos.examples import MAX_EXAMPLES, load_examples
from demos.images import image_from_pad


def write(models_dir: Path, task: str, version: str, content: str) -> None:
    folder = models_dir / task / version / "assets.extra"
    folder.mkdir(parents=True)
    (folder / "examples.json").write_text(content, encoding="utf-8")


def rows(*instances: Any) -> str:
    return json.dumps({"signature_name": "serving_default", "instances": instances})


def test_versions_are_compared_as_numbers(tmp_path: Path) -> None:
    for version in ("2", "10", "9", "notes"):
        write(tmp_path, "text_generation", version, rows({"prompt": f"from {version}"}))
    assert load_examples(tmp_path).prompts == ["from 10"]


def test_rows_are_objects_values_or_base64(tmp_path: Path) -> None:
    data = {"b64": base64.b64encode(b"image\0").decode()}
    write(tmp_path, "image_classification", "1", rows({"image_bytes": data}, data))
    write(tmp_path, "text_generation", "1", rows("bare", {"prompt": "named"}, {"b64": "w7w="}))
    write(tmp_path, "translation", "1", rows({"text": "ein Satz"}))
    examples = load_examples(tmp_path)
    assert examples.images == [b"image\0", b"image\0"]
    assert examples.prompts == ["bare", "named", "ü"]
    assert examples.sentences == ["ein Satz"]


def test_a_long_list_is_truncated(tmp_path: Path) -> None:
    write(tmp_path, "translation", "1", rows(*[str(number) for number in range(50)]))
    assert len(load_examples(tmp_path).sentences) == MAX_EXAMPLES


@pytest.mark.parametrize("content", ["{", "[]", '{"instances": [5]}', '{"instances": [{"x": 1}]}'])
def test_unreadable_examples_are_replaced_with_a_warning(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "text_generation", "1", content)
    assert load_examples(tmp_path).prompts == load_examples(None).prompts
    assert "the page shows built-in ones" in capsys.readouterr().err


def test_models_without_examples_cause_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "translation" / "1").mkdir(parents=True)
    assert load_examples(tmp_path).sentences
    assert capsys.readouterr().err == ""


def test_built_in_images_are_valid() -> None:
    from demos.images import data_url

    for image in load_examples(None).images:
        assert image_from_pad({"kind": "image", "data": data_url(image)}) == image
