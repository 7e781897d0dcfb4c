"""Gradio Blocks whose events take only plain values; invalid events return an error of one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from fastapi import Request
from fastapi.responses import JSONResponse
from gradio.block_function import BlockFunction
from gradio.route_utils import FnIndexInferError


class Page(gr.Blocks):
    """Blocks whose events take texts, numbers and flat objects of these.

    Gradio interprets ``{"path": ..., "meta": ...}`` in any value as a file, and copies or downloads it.
    """

    def validate_inputs(self, block_fn: BlockFunction, inputs: list[Any]) -> None:
        """Reject invalid values of an event before Gradio inspects them."""
        if len(inputs) != len(block_fn.inputs):
            raise page_error(
                f"The event has {len(inputs)} values; it must have {len(block_fn.inputs)}. Reload the page."
            )
        for number, value in enumerate(inputs, start=1):
            members = value.values() if isinstance(value, dict) else [value]
            if any(isinstance(member, dict | list) for member in members):
                raise page_error(f"Value {number} is nested; it must be a text, a number or an image.")


def page_error(sentence: str) -> gr.Error:
    """Return an error that the page shows. It is not logged, because any client can cause it."""
    return gr.Error(sentence, print_exception=False)


def selected_sample(samples: Sequence[str], index: Any) -> str:
    """Return the clicked sample of a ``gr.Dataset``."""
    if not isinstance(index, int) or not 0 <= index < len(samples):
        raise page_error(f"There are {len(samples)} examples; click one of them.")
    return samples[index]


async def unknown_event(request: Request, error: Exception) -> JSONResponse:
    """Respond to a request for an event that the page does not have."""
    return JSONResponse({"error": "The page has no such event; reload it."}, status_code=404)


UNKNOWN_EVENTS = {KeyError: unknown_event, FnIndexInferError: unknown_event}  # the exceptions that Gradio raises
