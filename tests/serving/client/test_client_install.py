"""`pip install '.[client]'` in a new environment: it installs only the expected packages, and the client works."""

import json
import sys
import venv

import pytest
from packaging_helpers import copy_source, run
from serving_helpers import ROOT

# The client and its dependencies; pip and setuptools come with the environment.
EXPECTED = {
    "kerasnets",
    "grpcio",
    "protobuf",
    "numpy",
    "httpcore",
    "h11",
    "certifi",
    "anyio",
    "idna",
    "typing-extensions",
}
TOOLS = {"pip", "setuptools"}
PROGRAM = """
import asyncio, json, sys
from serving.client import Client
from serving.client import AsyncClient

async def ask(address):
    async with AsyncClient(address) as client:
        return await client.predict("example", {"x": [1, 2]}, version=1)

answers = []
for address in sys.argv[1:]:
    with Client(address) as client:
        answers.append(client.predict("example", {"x": [1, 2]}, version=1)["y"].tolist())
    answers.append(asyncio.run(ask(address))["y"].tolist())
packages = {name.partition(".")[0] for name in sys.modules}
print(json.dumps({"answers": answers, "heavy": sorted(packages & {"tensorflow", "keras", "kerasnets", "demos"})}))
"""


@pytest.mark.slow
def test_the_client_works_with_its_extra_alone(server, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    source = tmp_path / "source"
    source.mkdir()
    copy_source(source)
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{source}[client]")
    listed = json.loads(run(python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"))
    assert {package["name"].lower().replace("_", "-") for package in listed} - TOOLS <= EXPECTED
    answer = json.loads(run(python, "-I", "-c", PROGRAM, server.grpc, server.rest, cwd=tmp_path))
    assert answer == {"answers": [[2.5, 3.0]] * 4, "heavy": []}


def test_the_extra_lists_the_packages_that_the_client_imports():
    import ast
    import tomllib

    extra = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]["client"]
    required = {requirement.partition("[")[0] for requirement in extra}
    provided = {"grpc": "grpcio", "google": "protobuf"}
    imported = set()
    for path in [ROOT / "serving" / "protocol.py", *(ROOT / "serving" / "client").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    outside = imported - sys.stdlib_module_names - {"serving"}
    assert {provided.get(name, name) for name in outside} == required
