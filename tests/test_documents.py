"""Documents name files, links and make targets that exist, and every layer and model; the README is short."""

import re

import pytest
from small_runs import ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/api/*.md"))]
FOLDERS = ("kerasnets", "serving", "demos", "tests", "benchmarks", "examples", "docs")
# Examples of what a reader may add, or what programs write.
EXAMPLES = re.compile(r"perceptron|language|TASK|/$|docs/_build")


def find_all(pattern: str, text: str) -> set[str]:
    return set(re.findall(pattern, text, re.MULTILINE))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_in_a_document_exist(path):
    text = path.read_text("utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    targets = find_all(r"^([\w.-]+)(?:/installed)?:", (ROOT / "Makefile").read_text("utf-8"))
    commands = find_all(r"^make (?:PYTHON=\S+ )?([\w.-]+)", text)
    assert commands | find_all(r"`make (?:PYTHON=\S+ )?([\w.-]+)`", text) <= targets
    links = {link.partition("#")[0] for link in find_all(r"\]\(([^)\s]+)\)", prose) if "://" not in link}
    assert not [link for link in links if link and not (path.parent / link).exists()]
    files = find_all(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", text)
    assert not [name for name in files if not EXAMPLES.search(name) and not (ROOT / name).exists()]


def test_the_table_of_layers_and_models_is_complete():
    from kerasnets import layers, models

    page = (ROOT / "docs" / "models_and_layers.md").read_text("utf-8")
    assert not [name for name in (*layers.__all__, *models.__all__) if f"`{name}`" not in page]
    files = re.findall(r"`((?:calibration|data|decoding|layers|models|tasks|text|training)/[\w/.]*)`", page)
    assert files and not [name for name in files if not (ROOT / "kerasnets" / name).exists()]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 160
