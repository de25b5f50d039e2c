"""A room imports only from the floors below it, and modules of one room not in a circle; docs/architecture.md draws the floors."""

import ast
import importlib.util
from pathlib import Path

import pytest

# Ground first. A room is a folder of arcface/ or a file in it; names on one line are next to one another.
FLOORS = [
    ["errors", "rng"],
    ["io", "extras"],
    ["options"],
    ["config", "command", "system"],
    ["distributed", "ops", "data"],
    ["backbones", "head"],
    ["weights"],
    ["inference"],
    ["verification"],
    ["training"],
    ["doctor"],
    # commands
    ["train", "valid", "export", "embed", "compare", "align", "check", "convert", "demo", "merge", "pack_bin", "deploy"],
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def modules(package: Path) -> dict[str, Path]:
    """The modules below a folder by their dotted names without the package's own."""
    found = {}
    for file in package.rglob("*.py"):
        parts = file.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = file
    return found


def imports(name: str, file: Path, known: dict[str, Path], package: str) -> set[str]:
    """The modules of the package that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):  # absolute: the linter allows no other
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for imported in names:
            parts = imported.split(".")
            if parts[0] != package or len(parts) == 1:
                continue
            inner = ".".join(parts[1:])
            found.add(inner if inner in known else ".".join(parts[1:-1]) or f"arcface's own {inner}")
    return found - {"", name}


def wrong_arrows(package: Path) -> list[str]:
    """Each import that runs up or sideways, and each circle inside a room, as "a -> b: why"."""
    known = modules(package)
    arrows = {name: imports(name, file, known, package.name) for name, file in known.items()}
    wrong = []
    for name, targets in sorted(arrows.items()):
        room = name.split(".")[0]
        for target in sorted(targets):
            other = target.split(".")[0]
            if other not in LEVEL or room not in LEVEL:
                wrong.append(f"{name} -> {target}: {room if room not in LEVEL else other} is on no floor")
            elif other != room and LEVEL[other] >= LEVEL[room]:
                way = "sideways" if LEVEL[other] == LEVEL[room] else "up"
                wrong.append(f"{name} -> {target}: {way}")
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            wrong.append(f"{' -> '.join([*trail[trail.index(name) :], name])}: a circle")
        elif name not in done:
            for target in sorted(arrows.get(name, ())):
                visit(target, [*trail, name])
            done.add(name)

    for name in sorted(arrows):
        visit(name, [])
    return wrong


def test_every_import_runs_down(repository):
    assert not wrong_arrows(repository / "arcface")


def test_every_room_is_on_a_floor_and_every_floor_is_built(repository):
    assert {name.split(".")[0] for name in modules(repository / "arcface")} == LEVEL.keys()


@pytest.mark.parametrize(
    "file, text, arrow",
    [
        ("io/files.py", "from arcface.config import parse", "io.files -> config: up"),
        ("io/files.py", "def late():\n    import arcface.head.margins", "io.files -> head.margins: up"),
        ("data/loader.py", "from arcface import distributed", "data.loader -> distributed: sideways"),
        ("head/shards.py", "from arcface.head import margins", "head.margins -> head.shards -> head.margins: a circle"),
        ("io/files.py", "from arcface import verify", "io.files -> arcface's own verify: arcface's own verify is on no floor"),
        ("attic/box.py", "import arcface.errors", "attic.box -> errors: attic is on no floor"),
    ],
)
def test_an_arrow_that_runs_up_or_sideways_or_in_a_circle_is_seen(tmp_path, file, text, arrow):
    for name in ("errors", "config", "io/files", "head/margins", "head/shards", "data/loader", "distributed/__init__", "attic/box"):
        path = tmp_path / "arcface" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("from arcface.head import shards" if name == "head/margins" else "")
    (tmp_path / "arcface" / file).write_text(text)
    assert wrong_arrows(tmp_path / "arcface") == [arrow]


def test_commands_that_moved_are_found_under_their_old_names(repository):
    assert importlib.util.find_spec("arcface.deploy.weights") and importlib.util.find_spec("arcface.weights.__main__")
