"""The page: a status line and a tab for each task."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read by `import gradio`: the page contacts only the model server

import gradio as gr
from fastapi import FastAPI

from demos import fragments
from demos.examples import Examples
from demos.guard import AllowedHosts, Guard
from demos.health import check
from demos.images import MAX_BYTES
from demos.page import UNKNOWN_EVENTS, Page
from demos.predictions import ModelClient
from demos.tabs import images, text, translation
from demos.tasks import IMAGES, TASKS, TEXT, TRANSLATION

TITLE = "kerasnets"
HEADER = (
    f"<header><h1>{TITLE}</h1><p>Three classic networks, live: your input goes to a model server over gRPC, and "
    "the network's output comes back.</p></header>"
)
TABS = {IMAGES: images, TEXT: text, TRANSLATION: translation}
POLL_SECONDS = 3.0  # between health checks of the server
MAX_QUEUE = 32  # requests that wait, each with up to guard.MAX_BODY bytes; more are rejected
MAX_SESSIONS = 8  # whose last inputs Gradio keeps, each of up to guard.MAX_BODY bytes; no event needs them
FILE_SECONDS = 60  # lifetime of files that Gradio keeps; the page creates none, and guard.py accepts none
STYLE = Path(__file__).parent / "style.css"


def build(client: ModelClient, examples: Examples, address: str = "localhost:8500") -> gr.Blocks:
    """Build the page, which sends its requests with ``client``; ``address`` is only displayed."""

    def update_status() -> list[str]:
        state = check(client)
        return [fragments.banner(state, address), *(fragments.tab_notice(state, task) for task in TASKS)]

    with Page(title=TITLE, analytics_enabled=False, delete_cache=(FILE_SECONDS, FILE_SECONDS)) as page:
        gr.HTML(HEADER, elem_id="header")
        status = [gr.HTML(fragments.connecting(address), elem_id="banner")]
        with gr.Tabs():
            for task, module in TABS.items():
                with gr.Tab(fragments.TITLES[task], id=task):
                    status.append(gr.HTML(elem_id=f"{task}-notice"))
                    module.tab(client, examples)
        timer = gr.Timer(POLL_SECONDS)
        gr.on([page.load, timer.tick], update_status, None, status, show_progress="hidden", api_visibility="private")
    page.state_session_capacity = MAX_SESSIONS
    # The limit holds for each event: several users are served concurrently.
    page.queue(max_size=MAX_QUEUE, default_concurrency_limit=8)
    return page


def web_app(page: gr.Blocks, hosts: AllowedHosts) -> Guard:
    """Return the page with its theme as an ASGI application that accepts only ``hosts``."""
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
    """Return a theme of calm colours and fonts of the user's system: nothing is loaded from other servers."""
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
        body_text_color_subdued="*neutral_500",  # Gradio's default is too faint to read comfortably
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
    )
