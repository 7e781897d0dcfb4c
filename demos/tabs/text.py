"""The text tab: a prompt and the sampling controls on the left, the continuation on the right."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from demos import fragments
from demos.examples import Examples
from demos.page import picked_sample
from demos.predictions import ModelClient, Problem, Sampling, continue_text

HOW = (
    "**An LSTM.** The network reads one character at a time. Three *gates* decide what its memory (the "
    "*cell*) forgets, takes in and shows; from that comes a probability for every possible next "
    "character. One is drawn, read in its turn, and so on."
)
WAITING = "Type the beginning of a text and press Enter: its continuation appears here."
PLACEHOLDER = "The beginning of a text"
INCOMPLETE = "A control is empty: give length, temperature, top-k, top-p and seed a number each."


@dataclass(frozen=True)
class Control:
    """What a control's number may be, whatever the model's own limits are: that is for the server to say."""

    name: str
    least: float
    most: float
    whole: bool = True

    def number(self, value: Any) -> Any:
        """The control's value, an int or a float; ``Problem`` if it is something else."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not self.least <= value <= self.most or (self.whole and value % 1):  # NaN is not >= least
            kind = "a whole number" if self.whole else "a number"
            raise Problem(f"{self.name} has to be {kind} from {self.least:,} to {self.most:,}.")
        return int(value) if self.whole else float(value)


# In the order of the page. The bounds are those of the signature's types, and what has a meaning.
CONTROLS = (
    Control("Length", 1, 2**31 - 1),
    Control("Temperature", 0, 1000, whole=False),
    Control("Top-k", 0, 2**31 - 1),
    Control("Top-p", 0, 1, whole=False),
    Control("Seed", 1 - 10**18, 10**18 - 1),
)


def answer(
    client: ModelClient,
    prompt: Any,
    length: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    seed: Any,
) -> tuple[str, str]:
    """A prompt and the controls' values, whatever they are -> (the text as HTML, what went wrong)."""
    values = (length, temperature, top_k, top_p, seed)
    try:
        if None in values:
            raise Problem(INCOMPLETE)
        numbers = [control.number(value) for control, value in zip(CONTROLS, values, strict=True)]
        return fragments.continuation(continue_text(client, prompt, Sampling(*numbers))), ""
    except Problem as problem:
        return fragments.hint(WAITING), fragments.problem(str(problem))


def controls() -> tuple[gr.Slider, gr.Slider, gr.Slider, gr.Slider, gr.Number]:
    """Length, temperature, top-k, top-p and seed, in the order that ``answer`` takes them."""
    usual = Sampling()
    slider = partial(gr.Slider, min_width=170, buttons=[])
    with gr.Row(equal_height=True):
        return (
            slider(1, 1000, usual.length, step=1, label="Length", info="Characters to write."),
            slider(
                0,
                2,
                usual.temperature,
                step=0.05,
                label="Temperature",
                info="0: the likeliest. Higher: bolder.",
            ),
            slider(0, 100, usual.top_k, step=1, label="Top-k", info="Only the k likeliest; 0: all."),
            slider(0.05, 1, usual.top_p, step=0.05, label="Top-p", info="Only those that sum to p; 1: all."),
            gr.Number(usual.seed, precision=0, label="Seed", info="The same seed, the same text.", min_width=170),
        )


def next_seed(seed: Any) -> int:
    """Another seed, for another text."""
    try:
        return int(CONTROLS[-1].number(seed)) + 1
    except Problem:
        return 1


def tab(client: ModelClient, examples: Examples) -> None:
    """Lay the tab out in the current Blocks."""
    gr.Markdown(HOW, elem_classes="how")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            prompt = gr.Textbox(label="Prompt", placeholder=PLACEHOLDER, max_lines=6, elem_id="prompt")
            samples = [[each] for each in examples.prompts]
            picked = gr.Dataset(components=[prompt], samples=samples, label="Examples")
            with gr.Row():
                button = gr.Button("Continue", variant="primary")
                another = gr.Button("Another one")
        with gr.Column(min_width=300):
            text = gr.HTML(fragments.hint(WAITING), elem_id="continuation")
            trouble = gr.HTML(elem_id="text-trouble")
    sampling = controls()
    # Values go to ``answer`` as they come, which has a sentence for each that is wrong.
    listen = partial(gr.on, preprocess=False)
    ask, inputs, outputs = partial(answer, client), [prompt, *sampling], [text, trouble]
    listen([prompt.submit, button.click, sampling[-1].submit], ask, inputs, outputs, api_name="continue_text")
    pick = partial(picked_sample, examples.prompts)
    listen(picked.click, pick, picked, prompt, api_visibility="private").then(
        ask, inputs, outputs, api_visibility="private", preprocess=False
    )
    listen(another.click, next_seed, sampling[-1], sampling[-1], api_visibility="private").then(
        ask, inputs, outputs, api_visibility="private", preprocess=False
    )
