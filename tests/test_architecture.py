"""Which way dependencies point, and how large files and functions may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 400, 60

# What each room of kerasnets may import of kerasnets. A program is a module beside the rooms.
LEAVES = {"calibration", "checks", "config", "data", "decoding", "embeddings", "images", "text", "networks"}
PROGRAMS = {"train", "evaluate", "export", "predict", "describe"}
SHARED_BY_PROGRAMS = {"command", "examples", "loading"}
MAY_IMPORT = {
    "layers": {"layers"},
    "models": {"layers", "models"},
    "checks": set(),
    "networks": {"checks"},
    "config": {"checks", "networks"},
    "data": {"data", "images"},
    "images": {"images"},
    "calibration": {"checks"},
    "decoding": {"decoding"},
    "embeddings": set(),
    "text": set(),
    "training": {"checks", "config", "training"},
    "tasks": {"layers", "models", "tasks", *LEAVES},
    "command": {"checks", "config"},
    "examples": set(),
    "loading": {"checks", "config", "tasks", "training"},
    "verify": set(),  # it runs where kerasnets cannot be imported
    "card": {"data"},
    "deployment": set(),
    "artifacts": {"checks"},
    "compression": {"artifacts", "data"},
    "formats": {"artifacts", "command", "models"},
    "recording": set(),
    "simplification": set(),
    **{
        program: {"tasks", "training", "calibration", "checks", "config"} | PROGRAMS | SHARED_BY_PROGRAMS
        for program in PROGRAMS
    },
    "describe": {"checks", "command", "config", "models", "tasks"},
}
MAY_IMPORT["export"] |= {
    "artifacts",
    "card",
    "compression",
    "formats",
    "deployment",
    "recording",
    "simplification",
    "verify",
}
TASKS = {"image_classification", "text_generation", "translation"}


def python_files(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py") if "__pycache__" not in path.parts)


def imports(path: Path) -> Iterator[str]:
    """The full names of all that a file imports, also inside functions; with `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def outer(name: str) -> str:
    return name.partition(".")[0]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "kerasnets").parts[0].removesuffix(".py")


def relative(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_there_is_something_to_look_at():
    for room in (
        "kerasnets/layers",
        "kerasnets/models",
        "kerasnets/tasks",
        "kerasnets/training",
        "serving",
        "demos",
    ):
        assert python_files(room), room


@pytest.mark.parametrize("path", python_files("kerasnets"), ids=relative(python_files("kerasnets")))
def test_dependencies_point_one_way(path):
    room = room_of(path)
    if room == "__init__":
        assert not [name for name in imports(path) if outer(name) == "kerasnets"]
        return
    assert room in MAY_IMPORT, f"say in MAY_IMPORT what {room} may import"
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "kerasnets" and rest:
            assert outer(rest) in MAY_IMPORT[room], f"{room} imports {name}"


@pytest.mark.parametrize("path", python_files("kerasnets/tasks"), ids=relative(python_files("kerasnets/tasks")))
def test_no_task_imports_another(path):
    for name in imports(path):
        for task in TASKS - {path.stem}:
            assert not name.startswith(f"kerasnets.tasks.{task}"), f"{path.stem} imports {name}"


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("kerasnets/layers", {"tensorflow", "jax", "torch"}),
        ("kerasnets/models", {"tensorflow", "jax", "torch"}),
        ("kerasnets", {"serving", "demos", "tests"}),
        ("serving", {"kerasnets", "demos", "tests"}),
        ("demos", {"kerasnets", "tensorflow", "keras", "tests"}),
    ],
)
def test_rooms_do_not_know_each_other(room, forbidden):
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in python_files(room)
        for name in imports(path)
        if outer(name) in forbidden
    }
    assert not found


def test_demos_know_the_client_of_serving_alone():
    client = {"serving.client", "serving.client_grpc", "serving.client_rest"}
    for path in python_files("demos"):
        for name in imports(path):
            assert outer(name) != "serving" or any(name.startswith(module) for module in client), f"{path}: {name}"


def test_the_client_and_its_programs_need_no_tensorflow():
    for path in python_files("serving"):
        if path.stem.startswith("client") or path.stem in ("compare", "instances"):
            assert "tensorflow" not in {outer(name) for name in imports(path)}, path


@pytest.mark.parametrize("room", ["kerasnets", "serving", "demos"])
def test_files_are_short(room):
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in python_files(room)}
    assert not {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FILE}


@pytest.mark.parametrize("room", ["kerasnets", "serving", "demos"])
def test_functions_are_short(room):
    found = {}
    for path in python_files(room):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if ast.get_docstring(node) is not None:
                    length -= node.body[0].end_lineno - node.body[0].lineno + 1
                if length > MOST_LINES_OF_A_FUNCTION:
                    found[f"{path.relative_to(ROOT)}:{node.name}"] = length
    assert not found
