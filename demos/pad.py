"""The picture pad: draw with mouse, finger or pen; drop, paste or choose a picture; or click an example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from demos.pictures import data_url

HERE = Path(__file__).parent
TEMPLATE = """
<div class="pad">
  <canvas width="320" height="320" aria-label="Sketch pad: draw here, or drop or paste a picture"></canvas>
  <img class="shown" alt="" hidden>
  <div class="empty">Draw here<small>or drop, paste or choose a picture</small></div>
</div>
<div class="tools">
  <button type="button" class="clear">Clear</button>
  <button type="button" class="choose">Choose a picture …</button>
  <input type="file" accept="image/*" hidden>
</div>
<div class="examples-title">Examples</div>
<div class="thumbnails" role="group" aria-label="Examples">@examples@</div>
"""


def picture_pad(examples: Sequence[bytes]) -> gr.HTML:
    """A component whose value is ``{"kind": "drawing" | "picture", "data": data URL}``; None if empty.

    Pictures travel inside the value, so that their bytes reach the server unchanged and no file is kept.
    It triggers ``input`` after each stroke and with each new picture.
    """
    thumbnails = "".join(
        f'<button type="button"><img src="{data_url(picture)}" alt="Example {number}"></button>'
        for number, picture in enumerate(examples, start=1)
    )
    return gr.HTML(
        None,
        html_template=TEMPLATE.replace("@examples@", thumbnails),
        js_on_load=(HERE / "pad.js").read_text(encoding="utf-8"),
        elem_id="pad",
        label="Picture",
    )
