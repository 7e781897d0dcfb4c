"""Control Chromium. As a program, take a screenshot of running demos:

python tests/demos/demo_browser.py http://127.0.0.1:7860 OUT.png --tab Text
"""

from __future__ import annotations

import argparse
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

FLAGS = (
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SEVEN = ((0.3, 0.22), (0.7, 0.22), (0.55, 0.5), (0.42, 0.8))  # corners of a digit 7, as fractions of the pad
PROMPT = "The import statement "
SENTENCES = 3  # examples of the translation tab in a screenshot


def executable() -> str | None:
    """Return the path of Chromium, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """Run a headless browser during a ``with``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(FLAGS))
        yield browser
        browser.close()


def is_local(url: str) -> bool:
    """Return whether a request stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob", "about") or parts.hostname in ("127.0.0.1", "localhost", "::1")


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def open_tab(page: Any, address: str, name: str) -> None:
    """Open the page and select a tab."""
    page.goto(address)
    page.get_by_role("tab", name=name, exact=True).click()


def draw(page: Any, corners: Sequence[tuple[float, float]] = SEVEN) -> None:
    """Draw one stroke with the mouse on the image pad."""
    canvas = page.locator("#pad canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()


def play(page: Any, name: str) -> None:
    """Use one tab and wait for its output."""
    if name == "Images":
        draw(page)
        page.locator("#classes .confidence").first.wait_for()
    elif name == "Text":
        page.get_by_label("Prompt").fill(PROMPT)
        page.get_by_label("Prompt").press("Enter")
        page.locator("#continuation mark").wait_for()
    else:
        examples = page.locator("#sentences button").all_inner_texts()[:SENTENCES]
        page.get_by_label("Text to translate").fill("\n".join(examples))
        page.get_by_role("button", name="Translate").click()
        page.locator("#translations li").first.wait_for()


def main() -> None:
    """Take a screenshot of 1200 x 800 pixels with an output."""
    parser = argparse.ArgumentParser(description="Screenshot of running demos.")
    parser.add_argument("address", help="http://127.0.0.1:7860")
    parser.add_argument("output", help="a .png file")
    parser.add_argument("--tab", choices=("Images", "Text", "Translation"), default="Images")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    with chromium() as browser:
        scheme = "dark" if options.dark else "light"
        page = browser.new_page(viewport={"width": 1200, "height": 800}, color_scheme=scheme)
        open_tab(page, options.address, options.tab)
        page.locator("#banner .status").wait_for()
        play(page, options.tab)
        page.wait_for_timeout(1000)  # for transitions to end
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=options.output)


if __name__ == "__main__":
    main()
