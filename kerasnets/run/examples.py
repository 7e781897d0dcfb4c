"""A task's examples as a file: a request for TensorFlow Serving's REST API."""

import base64
import json
from pathlib import Path
from typing import Any


def request_body(examples: list[dict[str, Any]]) -> str:
    """Inputs of `serving_default` -> the JSON body of a REST predict request in row form; bytes become {"b64": ...}."""

    def encode(value: Any) -> Any:
        return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value

    rows = [{name: encode(value) for name, value in example.items()} for example in examples]
    return json.dumps({"signature_name": "serving_default", "instances": rows}, ensure_ascii=False, indent=1) + "\n"


def load(path: Path) -> list[dict[str, Any]]:
    """The inverse of `request_body`."""

    def decode(value: Any) -> Any:
        return base64.b64decode(value["b64"]) if isinstance(value, dict) else value

    rows = json.loads(path.read_text("utf-8"))["instances"]
    return [{name: decode(value) for name, value in row.items()} for row in rows]
