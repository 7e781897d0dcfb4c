"""The page: a status line and a tab for each task."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported: the page speaks to nobody else

import gradio as gr
from fastapi import FastAPI

from demos import fragments
from demos.examples import Examples
from demos.guard import AllowedHosts, Guard
from demos.health import check
from demos.page import UNKNOWN_EVENTS, Page
from demos.pictures import MAX_BYTES
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
QUEUE = 32  # requests that wait, each with up to guard.MAX_BODY bytes; more are refused
SESSIONS = 8  # whose last inputs Gradio keeps, of the same size; no event needs them
FILE_SECONDS = (
    60  # after which a file would be removed that Gradio kept; the page makes none, and guard.py lets none in
)
STYLE = Path(__file__).parent / "style.css"


def build(client: ModelClient, examples: Examples, address: str = "localhost:8500") -> gr.Blocks:
    """The whole page, answered by ``client``; ``address`` is only shown."""

    def look() -> list[str]:
        state = check(client)
        return [fragments.banner(state, address), *(fragments.tab_notice(state, task) for task in TASKS)]

    with Page(title=TITLE, analytics_enabled=False, delete_cache=(FILE_SECONDS, FILE_SECONDS)) as page:
        gr.HTML(HEADER, elem_id="header")
        shown = [gr.HTML(fragments.looking(address), elem_id="banner")]
        with gr.Tabs():
            for task, module in TABS.items():
                with gr.Tab(fragments.TITLES[task], id=task):
                    shown.append(gr.HTML(elem_id=f"{task}-notice"))
                    module.tab(client, examples)
        timer = gr.Timer(POLL)
        gr.on([page.load, timer.tick], look, None, shown, show_progress="hidden", api_visibility="private")
    page.state_session_capacity = SESSIONS
    # The limit of concurrency is that of each button: several readers are answered at once.
    page.queue(max_size=QUEUE, default_concurrency_limit=8)
    return page


def web_app(page: gr.Blocks, hosts: AllowedHosts) -> Guard:
    """The page as an ASGI application, with its looks, that answers for ``hosts`` alone."""
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        app_kwargs={"exception_handlers": UNKNOWN_EVENTS},
        theme=theme(),
        css=STYLE.read_text(encoding="utf-8"),
        footer_links=[],
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
    )
    return Guard(app, hosts)


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
