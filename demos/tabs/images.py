"""The image tab: a picture pad on the left, the best classes on the right."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import gradio as gr

from demos import fragments
from demos.examples import Examples
from demos.pad import picture_pad
from demos.pictures import picture_bytes
from demos.predictions import ModelClient, Problem, classify

HOW = (
    "**A convolutional network.** Small learned filters slide over the picture (*convolution*), "
    "*pooling* keeps their strongest answers and halves the picture; after a few rounds of both, a "
    "*softmax* turns what is left into one probability for each class."
)

Answer = tuple[dict[str, float] | None, str]  # the label's value; below it what was sent, or what went wrong


def answer(client: ModelClient, value: Any) -> Answer:
    """The pad's value, or whatever was sent for it -> probabilities and the drawing as it was sent, or a sentence."""
    try:
        image = picture_bytes(value)
        classes = classify(client, image)
    except Problem as problem:
        return None, fragments.problem(str(problem))
    drawn = isinstance(value, Mapping) and value.get("kind") == "drawing"
    return classes, fragments.sent(image) if drawn else ""


def tab(client: ModelClient, examples: Examples) -> None:
    """Lay the tab out in the current Blocks."""
    gr.Markdown(HOW, elem_classes="how")
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pad = picture_pad(examples.images)
        with gr.Column(scale=3, min_width=300):
            label = gr.Label(label="What the network sees", elem_id="classes")
            below = gr.HTML(elem_id="below-classes")
            button = gr.Button("Classify", variant="primary")
    ask, outputs = partial(answer, client), [label, below]
    pad.input(ask, pad, outputs, api_name="classify", trigger_mode="always_last", show_progress="hidden")
    pad.clear(lambda: (None, ""), None, outputs, api_visibility="private", show_progress="hidden")
    button.click(ask, pad, outputs, api_visibility="private")
