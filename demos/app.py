"""The page: a status line and a tab for each task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported: the page speaks to nobody else

import gradio as gr

from demos import fragments
from demos.examples import Examples
from demos.health import check
from demos.predictions import ModelClient
from demos.tabs import images, text, translation
from demos.tasks import IMAGES, TASKS, TEXT, TRANSLATION

TITLE = "kerasnets"
HEADER = (
    f"<header><h1>{TITLE}</h1><p>Three classic networks, live: what you enter goes to a model server over "
    "gRPC, and the network's answer comes back.</p></header>"
)
TABS = {IMAGES: images, TEXT: text, TRANSLATION: translation}
POLL = 3.0  # seconds between looks at the server
STYLE = Path(__file__).parent / "style.css"


def build(client: ModelClient, examples: Examples, address: str = "localhost:8500") -> gr.Blocks:
    """The whole page, answered by ``client``; ``address`` is only shown."""

    def look() -> list[str]:
        state = check(client)
        return [fragments.banner(state, address), *(fragments.tab_notice(state, task) for task in TASKS)]

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(HEADER, elem_id="header")
        shown = [gr.HTML(fragments.looking(address), elem_id="banner")]
        with gr.Tabs():
            for task, module in TABS.items():
                with gr.Tab(fragments.TITLES[task], id=task):
                    shown.append(gr.HTML(elem_id=f"{task}-notice"))
                    module.tab(client, examples)
        timer = gr.Timer(POLL)
        gr.on([page.load, timer.tick], look, None, shown, show_progress="hidden", api_visibility="private")
    page.queue(default_concurrency_limit=8)  # of each button: several readers are answered at once
    return page


def launch_options() -> dict[str, Any]:
    """What ``gr.Blocks.launch`` needs for this page's looks and privacy."""
    return {
        "theme": theme(),
        "css": STYLE.read_text(encoding="utf-8"),
        "footer_links": [],
        "share": False,
        "quiet": True,
        "show_error": True,
        "ssr_mode": False,
        "run_history": False,
        "enable_monitoring": False,
        "mcp_server": False,
    }


def theme() -> gr.themes.Base:
    """Calm colours and the reader's own fonts: nothing is loaded from elsewhere."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=[
            "Inter",
            "Segoe UI",
            "Roboto",
            "Helvetica Neue",
            "Noto Sans",
            "Liberation Sans",
            "Arial",
            "sans-serif",
        ],
        font_mono=["JetBrains Mono", "Cascadia Mono", "Menlo", "DejaVu Sans Mono", "Consolas", "monospace"],
    ).set(
        block_radius="12px",
        button_large_radius="10px",
        input_radius="8px",
        body_text_color_subdued="*neutral_500",  # Gradio's own is too faint to read comfortably
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
    )
