"""The image tab: the image pad on the left, the best classes on the right."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import gradio as gr

from demos import fragments
from demos.examples import Examples
from demos.images import image_from_pad
from demos.pad import image_pad
from demos.predictions import ModelClient, PageError, classify

DESCRIPTION = (
    "**A convolutional network.** Small learned filters slide over the image (*convolution*); *pooling* keeps their "
    "largest outputs and halves the resolution. After several such stages, a *softmax* computes a probability for "
    "each class."
)

Outputs = tuple[dict[str, float] | None, str]  # value of the label; HTML below it: the sent drawing or an error


def handle(client: ModelClient, value: Any) -> Outputs:
    """Classify the value of the pad, which can be anything that a client sends."""
    try:
        image = image_from_pad(value)
        classes = classify(client, image)
    except PageError as error:
        return None, fragments.error(str(error))
    is_drawing = isinstance(value, Mapping) and value.get("kind") == "drawing"
    return classes, fragments.sent_drawing(image) if is_drawing else ""


def tab(client: ModelClient, examples: Examples) -> None:
    """Add the components of the tab to the current Blocks."""
    gr.Markdown(DESCRIPTION, elem_classes="description")
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pad = image_pad(examples.images)
        with gr.Column(scale=3, min_width=300):
            label = gr.Label(label="Predicted classes", elem_id="classes")
            below = gr.HTML(elem_id="below-classes")
            button = gr.Button("Classify", variant="primary")
    handler, outputs = partial(handle, client), [label, below]
    pad.input(handler, pad, outputs, api_name="classify", trigger_mode="always_last", show_progress="hidden")
    pad.clear(lambda: (None, ""), None, outputs, api_visibility="private", show_progress="hidden")
    button.click(handler, pad, outputs, api_visibility="private")
