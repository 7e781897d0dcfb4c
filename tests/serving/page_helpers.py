"""Helpers for tests of the status page: a fake model manager, and a parser of pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.errors import StatusError

EMPTY_ELEMENTS = frozenset({"br", "link", "meta"})


class Servable:
    def __init__(self, **definitions: meta_graph_pb2.SignatureDef) -> None:
        self.signature_defs = definitions


class Manager:
    """Replaces ModelManager; the latest version of each model is loaded from `path`."""

    def __init__(self, path: str = "/missing", **models: list[tuple[int, str, StatusError | None]]) -> None:
        self._models, self._path = models, path
        self.servables = {name: Servable(serving_default=definition()) for name in models}
        self.label = {name: {} for name in models}

    def models(self) -> list[str]:
        return list(self._models)

    def labels(self, name: str) -> dict[str, int]:
        return self.label[name]

    def versions(self, name: str) -> list[tuple[int, str, StatusError | None]]:
        return self._models[name]

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        number = next((number for number, state, _ in self._models[name] if state == "AVAILABLE"), None)
        if number is None:
            raise StatusError("NOT_FOUND", "Servable not found")
        yield SimpleNamespace(number=number, path=self._path, servable=self.servables[name])


def definition(input_name: str = "x", output_name: str = "y") -> meta_graph_pb2.SignatureDef:
    signature = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    signature.inputs[input_name].dtype = types_pb2.DT_FLOAT
    for size in (-1, 28):
        signature.inputs[input_name].tensor_shape.dim.add(size=size)
    signature.outputs[output_name].dtype = types_pb2.DT_STRING
    signature.outputs[output_name].tensor_shape.unknown_rank = True
    return signature


class Reader(HTMLParser):
    """Parses a page into elements with attributes, text and scripts; checks that every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs))
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY_ELEMENTS:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif not self._open or self._open[-1] != "style":
            self.text += data + " "

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


def visible_text(html: str) -> str:
    return re.sub(r"\s+", " ", Reader(html).text)
