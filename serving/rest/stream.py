"""Server-sent events of a model that generates step by step: its output `state` becomes its input `state`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import Any

import numpy as np

from serving.api.admission import AdmissionControl
from serving.engine.deadline import Deadline
from serving.engine.runner import Runner, array_bytes
from serving.engine.servable import Call, Signature
from serving.errors import StatusError, invalid_argument
from serving.models.manager import Use
from serving.rest.json_text import debug
from serving.rest.request import read_columns, signature_name
from serving.rest.response import LARGE_JSON_RESULT, check_json_type, columnar_json
from serving.telemetry.observers import Record, status_of

STATE = "state"
STREAM_SIGNATURE = "stream"
MAX_STEPS = 10_000


async def events(
    runner: Runner,
    admission: AdmissionControl,
    use: Use,
    document: dict[str, Any],
    large: bool,
    timeout: float | None,
    record: Record,
) -> AsyncGenerator[bytes]:
    """Return the events of a request after its first step has run: until then errors are ordinary error replies.

    Each of `steps` runs of the signature is one event, `data: {outputs without state}`; the last is `event: done`. If
    a step fails or takes longer than `timeout` seconds (None: no deadline), the last is `event: error`. All steps use
    one version. A thread reads a `large` document. The outcome is stored in `record`.
    """
    stream = _events(runner, admission, use, document, large, timeout, record)
    await anext(stream)
    return stream


async def _events(
    runner: Runner,
    admission: AdmissionControl,
    use: Use,
    document: dict[str, Any],
    large: bool,
    timeout: float | None,
    record: Record,
) -> AsyncGenerator[bytes]:
    with ExitStack() as hold:
        record.signature = signature_name(document) or STREAM_SIGNATURE
        version = hold.enter_context(use)
        record.version = version.number
        signature = _signature(version.servable.signatures, record.signature)
        steps = _steps(document)
        arrays = (
            await runner.submit(_first_arrays, document, signature) if large else _first_arrays(document, signature)
        )
        del document  # it may hold most of the request's memory
        for step in range(steps):
            try:
                async with asyncio.timeout(timeout):
                    call = Call(signature.feeds(arrays), signature.fetches(signature.all_outputs), list)
                    fetched = await runner.run(hold, version, "stream", call, Deadline(timeout))
                    outputs = dict(zip(signature.all_outputs, fetched, strict=True))
                    arrays[STATE] = outputs.pop(STATE)
                    large = sum(map(array_bytes, outputs.values())) > LARGE_JSON_RESULT
                    line = (
                        await runner.submit(_outputs_json, outputs, signature)
                        if large
                        else _outputs_json(outputs, signature)
                    )
            except (StatusError, TimeoutError) as error:
                if step == 0:
                    raise
                yield _error_event(error, record)
                return
            if step == 0:
                hold.enter_context(admission.count_request())
                yield b""  # `events` waits for it
            yield b"data: %s\n\n" % line
        yield b"event: done\ndata: {}\n\n"


def _signature(signatures: dict[str, Signature], name: str) -> Signature:
    signature = signatures.get(name)
    if signature is None:
        raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
    state, output_type = signature.inputs.get(STATE), signature.output_types.get(STATE)
    if state is None or state.data_type != output_type:
        raise invalid_argument(
            f'Signature "{name}" cannot be streamed: it needs an input and an output "{STATE}" of one type; its inputs '
            f"are {', '.join(signature.inputs)}, its outputs {', '.join(signature.outputs)}."
        )
    signature.check_inputs()
    signature.fetches(signature.all_outputs)
    for alias, data_type in signature.output_types.items():
        if alias != STATE:
            check_json_type(data_type)
    return signature


def _steps(document: dict[str, Any]) -> int:
    steps = document.get("steps", 1)
    if type(steps) is not int or not 1 <= steps <= MAX_STEPS:
        raise invalid_argument(f"'steps' is {debug(steps)}; it must be a whole number from 1 to {MAX_STEPS}.")
    return steps


def _first_arrays(document: dict[str, Any], signature: Signature) -> dict[str, np.ndarray]:
    """Return the inputs of the first step; the state is zeros in the shape that the signature declares."""
    inputs = document.get("inputs")
    if not isinstance(inputs, dict):
        raise invalid_argument("Missing 'inputs' key: give an object with a list for each input but the state.")
    specs = {alias: info for alias, info in signature.inputs.items() if alias != STATE}
    defaults = {alias: signature.defaults[alias].tolist() for alias in specs if alias in signature.defaults}
    arrays = read_columns({**defaults, **inputs}, specs)
    rows = {array.shape[0] if array.ndim else None for array in arrays.values()}
    if rows != {1}:
        raise invalid_argument("A stream has one row: give each input as a list of one value.")
    state = signature.inputs[STATE]
    arrays[STATE] = np.zeros([1, *(max(size, 0) for size in (state.shape or [])[1:])], state.dtype)
    return arrays


def _outputs_json(outputs: dict[str, np.ndarray], signature: Signature) -> bytes:
    """Return {"name": value, ...} on one line, values as in the reply to a columnar request."""
    if not outputs:
        return b"{}"
    text = columnar_json({name: (signature.output_types[name], array) for name, array in outputs.items()})
    values = json.loads(text)["outputs"]
    if len(outputs) == 1:
        values = {next(iter(outputs)): values}
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _error_event(error: StatusError | TimeoutError, record: Record) -> bytes:
    status = status_of(error)
    record.code = status.code
    return b"event: error\ndata: %s\n\n" % json.dumps({"error": status.message, "code": status.code}).encode()
