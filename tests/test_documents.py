"""Documents name files, links and targets of make that exist."""

import re

import pytest
from small_runs import ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), ROOT / "benchmarks" / "README.md"]
ROOMS = ("kerasnets", "serving", "demos", "tests", "benchmarks", "examples", "docs")
# Examples of what a reader may add, or what programs write.
EXAMPLES = re.compile(r"perceptron|language|TASK|/$")


def named(pattern: str, text: str) -> set[str]:
    return set(re.findall(pattern, text, re.MULTILINE))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_names_exists(path):
    text = path.read_text("utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    targets = named(r"^([\w.-]+)(?:/installed)?:", (ROOT / "Makefile").read_text("utf-8"))
    assert named(r"^make (?:PYTHON=\S+ )?([\w.-]+)", text) | named(r"`make (?:PYTHON=\S+ )?([\w.-]+)`", text) <= targets
    links = {link.partition("#")[0] for link in named(r"\]\(([^)\s]+)\)", prose) if "://" not in link}
    assert not [link for link in links if link and not (path.parent / link).exists()]
    files = named(rf"`((?:{'|'.join(ROOMS)})/[\w./-]+)`", text)
    assert not [name for name in files if not EXAMPLES.search(name) and not (ROOT / name).exists()]
