"""The text tab: a prompt and the sampling controls on the left, the continuation on the right."""

from __future__ import annotations

from functools import partial

import gradio as gr

from demos import fragments
from demos.examples import Examples
from demos.predictions import ModelClient, Problem, Sampling, continue_text

HOW = (
    "**An LSTM.** The network reads one character at a time. Three *gates* decide what its memory (the "
    "*cell*) forgets, takes in and shows; from that comes a probability for every possible next "
    "character. One is drawn, read in its turn, and so on."
)
WAITING = "Type the beginning of a text and press Enter: its continuation appears here."
PLACEHOLDER = "The beginning of a text"
INCOMPLETE = "A control is empty: give length, temperature, top-k, top-p and seed a number each."


def answer(
    client: ModelClient,
    prompt: str,
    length: float | None,
    temperature: float | None,
    top_k: float | None,
    top_p: float | None,
    seed: float | None,
) -> tuple[str, str]:
    """A prompt and the controls -> (the text as HTML, what went wrong)."""
    if length is None or temperature is None or top_k is None or top_p is None or seed is None:
        return fragments.hint(WAITING), fragments.problem(INCOMPLETE)
    sampling = Sampling(int(length), float(temperature), int(top_k), float(top_p), int(seed))
    try:
        return fragments.continuation(continue_text(client, prompt, sampling)), ""
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


def next_seed(seed: float | None) -> int:
    """Another seed, for another text."""
    return int(seed or 0) + 1


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
    ask, inputs, outputs = partial(answer, client), [prompt, *sampling], [text, trouble]
    gr.on([prompt.submit, button.click, sampling[-1].submit], ask, inputs, outputs, api_name="continue_text")
    picked.click(lambda row: row[0], picked, prompt, api_visibility="private").then(
        ask, inputs, outputs, api_visibility="private"
    )
    another.click(next_seed, sampling[-1], sampling[-1], api_visibility="private").then(
        ask, inputs, outputs, api_visibility="private"
    )
