"""Datasets of the Hugging Face Hub: TFDS's bridge with stand-ins for the package `datasets` and the Hub."""

from types import ModuleType, SimpleNamespace

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builders import huggingface_dataset_builder as bridge
from tensorflow_datasets.core.utils import huggingface_utils

from kerasnets.data import hugging_face, prepared
from kerasnets.data.sources import load_text
from kerasnets.data.splits import DataError

TEXTS = {"train": ["one", "two", "three " * 10], "validation": ["four"], "test": ["five", "six"]}


class Kind:
    """A feature that the stand-in's datasets do not have."""


class Value:
    dtype = "string"


class Builder:
    """As `datasets.DatasetBuilder`, for a dataset with the feature text."""

    VERSION = None
    info = SimpleNamespace(
        version="1.0.0",
        features={"text": Value()},
        supervised_keys=None,
        description="texts",
        citation="",
        license="",
        splits={
            name: SimpleNamespace(name=name, num_bytes=100, num_examples=len(texts)) for name, texts in TEXTS.items()
        },
    )

    def download_and_prepare(self, **options):
        pass

    def as_dataset(self, split):
        name, _, part = split.partition("[")
        start, _, stop = part.rstrip("]").partition(":")
        return [{"text": text} for text in TEXTS[name][int(start) : int(stop)]]


@pytest.fixture
def hub(monkeypatch):
    """The Hub has one dataset, Someone/Texts, and `datasets` is installed."""
    kinds = ("Sequence", "ClassLabel", "Translation", "TranslationVariableLanguages", "Image", "Audio", "Video")
    datasets = ModuleType("datasets")
    vars(datasets).update({name: type(name, (Kind,), {}) for name in kinds}, Features=dict, Value=Value)
    datasets.load_dataset_builder = lambda repository, config: Builder()
    dataset_info = SimpleNamespace(
        id="Someone/Texts", gated=False, tags=[], card_data={}, description="texts", citation=""
    )
    hub = SimpleNamespace(list_datasets=lambda: [dataset_info], dataset_info=lambda name, token: dataset_info)
    for module in (bridge, huggingface_utils):
        monkeypatch.setattr(module, "hf_datasets", datasets)
        monkeypatch.setattr(module, "huggingface_hub", hub)
    monkeypatch.setattr(hugging_face, "is_installed", lambda: True)
    monkeypatch.setattr(prepared, "_reachable", lambda host: host == hugging_face.HOST)


def test_a_dataset_is_downloaded_once(hub, tmp_path, monkeypatch):
    data = load_text("huggingface:someone__texts", str(tmp_path))
    assert (data.train, data.validation, data.test) == ("one\n\ntwo\n\n" + "three " * 10, "four", "five\n\nsix")
    assert prepared.prepared_datasets(str(tmp_path)) == ["huggingface:someone__texts"]
    monkeypatch.setattr(tfds, "builder", None)  # neither the package nor a network is needed any more
    monkeypatch.setattr(hugging_face, "is_installed", lambda: False)
    assert load_text("huggingface:Someone__Texts", str(tmp_path)).train == data.train


def test_an_unknown_name(hub, tmp_path):
    with pytest.raises(DataError, match=r"not listed in Huggingface.*written as huggingface:OWNER__NAME"):
        load_text("huggingface:someone__else", str(tmp_path))


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face, "is_installed", lambda: False)
    with pytest.raises(DataError, match="the package datasets, which downloads it, is not installed: install datasets"):
        load_text("huggingface:someone__texts", str(tmp_path))


def test_without_a_network(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "_reachable", lambda host: False)
    with pytest.raises(DataError, match=r"huggingface\.co cannot be reached: prepare it where"):
        load_text("huggingface:someone__texts", str(tmp_path))
