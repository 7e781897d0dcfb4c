"""The translation tab: sentences on the left, one per line; their translations on the right."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from demos import fragments
from demos.examples import Examples
from demos.page import selected_sample
from demos.predictions import ModelClient, PageError, translate

DESCRIPTION = (
    "**A Transformer.** The *encoder* reads the whole sentence at once: through *attention*, each subword collects "
    "information from all others. The *decoder* generates the translation subword by subword, attending to the source "
    "and to the subwords so far; *greedy search* takes the most probable subword each time."
)
HINT = "The translations appear here, one line per sentence."


def handle(client: ModelClient, text: Any) -> tuple[str, str]:
    """Return HTML of the translations and of an error; ``text`` can be anything that a client sends."""
    try:
        return fragments.translations(translate(client, text)), ""
    except PageError as error:
        return fragments.hint(HINT), fragments.error(str(error))


def tab(client: ModelClient, examples: Examples) -> None:
    """Add the components of the tab to the current Blocks."""
    gr.Markdown(DESCRIPTION, elem_classes="description")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            source = gr.Textbox(
                label="Text to translate",
                info="One sentence per line. Shift+Enter translates.",
                placeholder="Type a sentence",
                lines=4,
                max_lines=16,
                elem_id="source",
            )
            samples = [[each] for each in examples.sentences]
            dataset = gr.Dataset(components=[source], samples=samples, label="Examples", elem_id="sentences")
            button = gr.Button("Translate", variant="primary")
        with gr.Column(min_width=300):
            target = gr.HTML(fragments.hint(HINT), elem_id="translations")
            error = gr.HTML(elem_id="translation-error")
    # ``handle`` checks the raw values, because its errors explain what is allowed.
    on = partial(gr.on, preprocess=False)
    handler, outputs = partial(handle, client), [target, error]
    on([source.submit, button.click], handler, source, outputs, api_name="translate")
    select = partial(selected_sample, examples.sentences)
    on(dataset.click, select, dataset, source, api_visibility="private").then(
        handler, source, outputs, api_visibility="private", preprocess=False
    )
