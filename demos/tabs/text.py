"""The text tab: a prompt and the sampling controls on the left, the continuation on the right."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from demos import fragments
from demos.examples import Examples
from demos.page import selected_sample
from demos.predictions import ModelClient, PageError, Sampling, continue_text

DESCRIPTION = (
    "**An LSTM or a Transformer.** The network reads one character at a time. In an LSTM, three *gates* decide what "
    "its memory (the *cell*) forgets, stores and outputs; in a Transformer, *attention* weighs the characters before. "
    "The output gives a probability for every possible next character; one is sampled and becomes the next input."
)
HINT = "Type the beginning of a text and press Enter: its continuation appears here."
PLACEHOLDER = "The beginning of a text"
INCOMPLETE = "A control is empty; length, temperature, top-k, top-p and seed must be numbers."


@dataclass(frozen=True)
class Control:
    """The valid numbers of a control; the server checks the limits of the model."""

    name: str
    minimum: float
    maximum: float
    is_integer: bool = True

    def number(self, value: Any) -> Any:
        """Return the value as int or float.

        Raises: PageError if it is not valid.
        """
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # NaN is not >= minimum.
        if not is_number or not self.minimum <= value <= self.maximum or (self.is_integer and value % 1):
            kind = "a whole number" if self.is_integer else "a number"
            raise PageError(f"{self.name} must be {kind} from {self.minimum:,} to {self.maximum:,}.")
        return int(value) if self.is_integer else float(value)


# In the order of the page. The bounds are those of the signature's dtypes and of the meaning of each number.
CONTROLS = (
    Control("Length", 1, 2**31 - 1),
    Control("Temperature", 0, 1000, is_integer=False),
    Control("Top-k", 0, 2**31 - 1),
    Control("Top-p", 0, 1, is_integer=False),
    Control("Seed", 1 - 10**18, 10**18 - 1),
)


def handle(
    client: ModelClient,
    prompt: Any,
    length: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    seed: Any,
) -> tuple[str, str]:
    """Return HTML of the text and of an error; the arguments can be anything that a client sends."""
    values = (length, temperature, top_k, top_p, seed)
    try:
        if None in values:
            raise PageError(INCOMPLETE)
        numbers = [control.number(value) for control, value in zip(CONTROLS, values, strict=True)]
        return fragments.continuation(continue_text(client, prompt, Sampling(*numbers))), ""
    except PageError as error:
        return fragments.hint(HINT), fragments.error(str(error))


def controls() -> tuple[gr.Slider, gr.Slider, gr.Slider, gr.Slider, gr.Number]:
    """Add the controls; return them in the order of the arguments of ``handle``."""
    defaults = Sampling()
    slider = partial(gr.Slider, min_width=170, buttons=[])
    with gr.Row(equal_height=True):
        return (
            slider(1, 1000, defaults.length, step=1, label="Length", info="In characters."),
            slider(
                0,
                2,
                defaults.temperature,
                step=0.05,
                label="Temperature",
                info="0: greedy. High: random.",
            ),
            slider(0, 100, defaults.top_k, step=1, label="Top-k", info="The k most likely; 0: all."),
            slider(0.05, 1, defaults.top_p, step=0.05, label="Top-p", info="Probability mass; 1: all."),
            gr.Number(defaults.seed, precision=0, label="Seed", info="Same seed, same text.", min_width=170),
        )


def next_seed(seed: Any) -> int:
    """Return another seed, for another text."""
    try:
        return int(CONTROLS[-1].number(seed)) + 1
    except PageError:
        return 1


def tab(client: ModelClient, examples: Examples) -> None:
    """Add the components of the tab to the current Blocks."""
    gr.Markdown(DESCRIPTION, elem_classes="description")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            prompt = gr.Textbox(label="Prompt", placeholder=PLACEHOLDER, max_lines=6, elem_id="prompt")
            samples = [[each] for each in examples.prompts]
            dataset = gr.Dataset(components=[prompt], samples=samples, label="Examples")
            with gr.Row():
                button = gr.Button("Continue", variant="primary")
                another = gr.Button("Another continuation")
        with gr.Column(min_width=300):
            text = gr.HTML(fragments.hint(HINT), elem_id="continuation")
            error = gr.HTML(elem_id="text-error")
    sampling = controls()
    # ``handle`` checks the raw values, because its errors explain what is allowed.
    on = partial(gr.on, preprocess=False)
    handler, inputs, outputs = partial(handle, client), [prompt, *sampling], [text, error]
    on([prompt.submit, button.click, sampling[-1].submit], handler, inputs, outputs, api_name="continue_text")
    select = partial(selected_sample, examples.prompts)
    on(dataset.click, select, dataset, prompt, api_visibility="private").then(
        handler, inputs, outputs, api_visibility="private", preprocess=False
    )
    on(another.click, next_seed, sampling[-1], sampling[-1], api_visibility="private").then(
        handler, inputs, outputs, api_visibility="private", preprocess=False
    )
