"""The image pad: draw with mouse, finger or pen; drop, paste or choose an image; or click an example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from demos.images import data_url

HERE = Path(__file__).parent
TEMPLATE = """
<div class="pad">
  <canvas width="320" height="320" aria-label="Image pad: draw here, or drop or paste an image"></canvas>
  <img class="preview" alt="" hidden>
  <div class="empty">Draw here<small>or drop, paste or choose an image</small></div>
</div>
<div class="tools">
  <button type="button" class="clear">Clear</button>
  <button type="button" class="choose">Choose an image …</button>
  <input type="file" accept="image/*" hidden>
</div>
<div class="examples-title">Examples</div>
<div class="thumbnails" role="group" aria-label="Examples">@examples@</div>
"""


def image_pad(examples: Sequence[bytes]) -> gr.HTML:
    """Return a component whose value is ``{"kind": "drawing" | "image", "data": data URL}``; None if empty.

    The value contains the image itself, so its bytes reach the server unchanged and no file is kept.
    The component triggers ``input`` after each stroke and for each new image.
    """
    thumbnails = "".join(
        f'<button type="button"><img src="{data_url(image)}" alt="Example {number}"></button>'
        for number, image in enumerate(examples, start=1)
    )
    return gr.HTML(
        None,
        html_template=TEMPLATE.replace("@examples@", thumbnails),
        js_on_load=(HERE / "pad.js").read_text(encoding="utf-8"),
        elem_id="pad",
        label="Image",
    )
