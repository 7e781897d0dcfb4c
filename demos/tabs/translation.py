"""The translation tab: sentences on the left, one a line; their translations on the right."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from demos import fragments
from demos.examples import Examples
from demos.page import picked_sample
from demos.predictions import ModelClient, Problem, translate

HOW = (
    "**A Transformer.** The *encoder* reads the whole sentence at once: by *attention* each piece of a "
    "word gathers what it needs from all others. The *decoder* writes the translation piece by piece, "
    "attending to the source and to what it has written; *greedy search* takes the likeliest piece each time."
)
WAITING = "The translation appears here, a line for each sentence."


def answer(client: ModelClient, text: Any) -> tuple[str, str]:
    """Lines of text, or whatever was sent for them -> (their translations as HTML, what went wrong)."""
    try:
        return fragments.translations(translate(client, text)), ""
    except Problem as problem:
        return fragments.hint(WAITING), fragments.problem(str(problem))


def tab(client: ModelClient, examples: Examples) -> None:
    """Lay the tab out in the current Blocks."""
    gr.Markdown(HOW, elem_classes="how")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            source = gr.Textbox(
                label="Text to translate",
                info="One sentence a line. Shift+Enter translates.",
                placeholder="Type a sentence",
                lines=4,
                max_lines=16,
                elem_id="source",
            )
            samples = [[each] for each in examples.sentences]
            picked = gr.Dataset(components=[source], samples=samples, label="Examples", elem_id="sentences")
            button = gr.Button("Translate", variant="primary")
        with gr.Column(min_width=300):
            target = gr.HTML(fragments.hint(WAITING), elem_id="translations")
            trouble = gr.HTML(elem_id="translation-trouble")
    # Values go to ``answer`` as they come, which has a sentence for each that is wrong.
    listen = partial(gr.on, preprocess=False)
    ask, outputs = partial(answer, client), [target, trouble]
    listen([source.submit, button.click], ask, source, outputs, api_name="translate")
    pick = partial(picked_sample, examples.sentences)
    listen(picked.click, pick, picked, source, api_visibility="private").then(
        ask, source, outputs, api_visibility="private", preprocess=False
    )
