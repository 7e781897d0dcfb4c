"""Gradio's page as this one uses it: its events take plain values, and what is wrong with one is a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from fastapi import Request
from fastapi.responses import JSONResponse
from gradio.block_function import BlockFunction
from gradio.route_utils import FnIndexInferError


class Page(gr.Blocks):
    """Blocks whose events take texts, numbers and objects of these.

    Gradio takes ``{"path": ..., "meta": ...}`` in any value for a file, and copies or downloads it.
    """

    def validate_inputs(self, block_fn: BlockFunction, inputs: list[Any]) -> None:
        """Refuse an event's values before Gradio looks into them."""
        if len(inputs) != len(block_fn.inputs):
            raise problem(
                f"This event takes {len(block_fn.inputs)} values, and {len(inputs)} were sent; open the page again."
            )
        for number, value in enumerate(inputs, start=1):
            members = value.values() if isinstance(value, dict) else [value]
            if any(isinstance(member, dict | list) for member in members):
                raise problem(f"Value {number} has parts within parts; a text, a number or a picture is taken.")


def problem(sentence: str) -> gr.Error:
    """An error that is shown on the page, and not logged: anybody can cause it."""
    return gr.Error(sentence, print_exception=False)


def picked_sample(samples: Sequence[str], index: Any) -> str:
    """The one of a ``gr.Dataset``'s samples that was clicked."""
    if not isinstance(index, int) or not 0 <= index < len(samples):
        raise problem(f"There are {len(samples)} examples; click one of them.")
    return samples[index]


async def no_such_event(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request for an event that the page does not have."""
    return JSONResponse({"error": "The page has no such event; open it again."}, status_code=404)


UNKNOWN_EVENTS = {KeyError: no_such_event, FnIndexInferError: no_such_event}  # what Gradio raises for them
