"""What every folder looks like, and who may import whom."""

import ast
import importlib
import inspect
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import LightningDataModule, LightningModule

import callbacks
import datamodules
import train
import zoo

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("zoo", "datamodules", "callbacks")
ROOMS = {  # beside the papers, which have rules of their own below
    "zoo": {"command_line", "shared", "weights.py"},
    "callbacks": {
        *("adaptation", "calibration", "disentanglement", "generation", "ood", "regression", "similarity"),
        *("report", "runs", "shared"),
    },
    "datamodules": {"adaptation", "factors", "images", "tables", "shared"},
}
# From one room to another: each arrow has a reason. Everything may import shared, which imports no room.
ARROWS = {
    "zoo": set(),
    "callbacks": set(),
    "datamodules": {("adaptation", "images")},  # pairs are made of two sets of images
}
PAPERS = sorted(
    path.name for path in (ROOT / "zoo").iterdir() if (path / "__init__.py").exists() and path.name not in ROOMS["zoo"]
)
ROOMS["zoo"] |= set(PAPERS)
SHIPPED = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("zoo/**/*.yaml"))
CONFIGS = [path for path in SHIPPED if not Path(path).name.startswith("sweep")]  # those are for `wandb sweep`
CONFS = {path: yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob("tests/contract/conf/*.yaml"))}
# `tests` and `benchmarks` know all packages; the rest is what a project needs around them
TOP_LEVEL = {
    *PACKAGES,
    *("tests", "benchmarks", "train.py", "pyproject.toml", "README.md", "LICENSE", "CITATION.cff"),
    *("docs", "CONTRIBUTING.md", "SECURITY.md"),
    *("CHANGELOG.md", "Makefile", ".ci", ".gitignore"),
}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """The level of each import (0 is absolute) and the module, with the imported name where there is no module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, node.module or alias.name) for alias in node.names)


def arrows(package: str) -> dict[str, set[str]]:
    """The files of a package that each of its files imports, by their dotted names; a room's own name is its init."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sources(package)}
    names = {name.removesuffix(".__init__") for name in files}
    graph: dict[str, set[str]] = {}
    for dotted, path in files.items():
        name, own = dotted.removesuffix(".__init__"), graph.setdefault(dotted.removesuffix(".__init__"), set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                above = dotted.split(".")[: -node.level]
                target = ".".join([*above, node.module] if node.module else above)
                parts = {f"{target}.{alias.name}" for alias in node.names} & names
                own |= parts | ({target} if len(parts) < len(node.names) else set())
        own -= {name}
    return graph


def room(name: str) -> str:
    """The room of a file: ``zoo.jem.loss`` stands in ``jem``, ``zoo.weights`` in ``weights``, ``zoo`` in none."""
    return [*name.split("."), ""][1]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_itself_relatively_and_never_the_others_or_wandb(package):
    forbidden = {*PACKAGES, "train", "tests", "benchmarks", "wandb"}
    found = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(package)
        for level, module in imports(path)
        if level == 0 and module.partition(".")[0] in forbidden
    }
    assert found == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_import_shared_and_no_other_room_but_what_is_named_here(package):
    between = {(room(name), room(target)) for name, targets in arrows(package).items() for target in targets}
    between = {(one, other) for one, other in between if one and other not in (one, "shared")}
    assert between == ARROWS[package]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_have_no_circle(package):
    list(TopologicalSorter(arrows(package)).static_order())  # raises CycleError, which names the files


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_these_rooms_and_nothing_else_beside_them(package):
    found = {path.name for path in (ROOT / package).iterdir() if path.name != "__pycache__"}
    assert found == {"__init__.py", "py.typed", *ROOMS[package]}


@pytest.mark.parametrize("room", sorted(ROOMS["callbacks"] - {"shared"}))
def test_a_room_of_callbacks_exports_its_callbacks_and_its_pure_functions(room):
    package = importlib.import_module(f"callbacks.{room}")
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    classes = {name for name in callbacks.__all__ if getattr(callbacks, name).__module__.split(".")[1] == room}
    assert classes <= set(package.__all__)


def test_wandb_is_reached_through_the_trainers_loggers_only():
    paths = [ROOT / "train.py", *(path for package in PACKAGES for path in sources(package))]
    assert not [path for path in paths for _, module in imports(path) if module.partition(".")[0] == "wandb"]


def test_no_init_file_below_tests_would_hide_a_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_nothing_else_lies_at_the_top_level():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this copy is no checkout: what belongs to it cannot be told from what was built in it")
    assert {line.partition("/")[0] for line in listed.stdout.splitlines()} <= TOP_LEVEL


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_marked_as_typed(package):
    assert (ROOT / package / "py.typed").exists()


@pytest.mark.parametrize("paper", PAPERS)
class TestPaper:
    def test_its_card_names_the_paper_what_is_implemented_and_where_it_departs(self, paper):
        card = ast.get_docstring(ast.parse((ROOT / "zoo" / paper / "__init__.py").read_text())) or ""
        assert "https://" in card
        assert re.search(r"\b(19|20)\d\d\b", card), "the year"
        assert "Implemented" in card
        assert "Departures" in card

    def test_it_has_all_its_files(self, paper):
        folder = ROOT / "zoo" / paper
        assert {"__init__.py", "loss.py", "module.py", "recipe.yaml"} <= {path.name for path in folder.iterdir()}
        assert list(folder.rglob("paper_*.yaml"))
        assert (ROOT / "tests" / "papers" / paper / f"test_{paper}.py").exists()

    def test_its_losses_are_documented_pure_functions(self, paper):
        module = ast.parse((ROOT / "zoo" / paper / "loss.py").read_text())
        allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Assign, ast.AnnAssign, ast.Expr)
        assert [type(node).__name__ for node in module.body if not isinstance(node, allowed)] == []
        functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
        loss = importlib.import_module(f"zoo.{paper}.loss")
        named = getattr(loss, "__all__", [node.name for node in functions if not node.name.startswith("_")])
        assert named
        assert [name for name in named if not inspect.getdoc(getattr(loss, name))] == []
        assert not [node for node in ast.walk(module) if isinstance(node, ast.Global)]
        names = {name.arg for node in functions for name in node.args.args}
        assert "self" not in names

    def test_a_test_configuration_names_a_module_of_this_folder(self, paper):
        modules = {f"zoo.{name}" for name in zoo.__all__ if getattr(zoo, name).__module__.startswith(f"zoo.{paper}.")}
        assert modules & {conf["model"]["class_path"] for conf in CONFS.values()}

    def test_nothing_in_it_backpropagates_past_lightning(self, paper):
        calls = [
            f"{path.name}:{node.lineno}"
            for path in sources(f"zoo/{paper}")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "backward"
        ]
        assert calls == [], "under several processes only manual_backward averages the gradients"


@pytest.mark.parametrize("path", CONFS, ids=lambda path: path.stem)
def test_a_test_configuration_names_a_module_of_the_zoo_and_whether_it_draws_noise(path):
    package, _, name = CONFS[path]["model"]["class_path"].partition(".")
    assert package == "zoo"
    assert name in zoo.__all__
    assert "noise" in CONFS[path]["contract"]


def test_the_zoo_exports_a_module_of_every_paper_and_nothing_else():
    modules = {name: getattr(zoo, name) for name in zoo.__all__}
    assert all(issubclass(module, LightningModule) for module in modules.values())
    assert {module.__module__.split(".")[1] for module in modules.values()} == set(PAPERS)


def test_class_names_are_unique_over_the_packages_so_that_bare_names_work():
    names = [*zoo.__all__, *datamodules.__all__, *callbacks.__all__]
    assert len(set(names)) == len(names)
    assert all(issubclass(getattr(datamodules, name), LightningDataModule) for name in datamodules.__all__)


@pytest.mark.parametrize("name", zoo.__all__)
def test_a_modules_arguments_have_plain_defaults_and_each_is_documented(name):
    module = getattr(zoo, name)
    parameters = inspect.signature(module).parameters.values()
    json.dumps([parameter.default for parameter in parameters])
    documented = f"{module.__doc__}\n{module.__init__.__doc__}"
    assert [parameter.name for parameter in parameters if f"  {parameter.name}: " not in documented] == []


@pytest.mark.parametrize("config", CONFIGS)
def test_every_shipped_configuration_is_accepted_without_its_data(config, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        train.main(["fit", "--config", str(ROOT / config), "--print_config"])
    assert end.value.code == 0, capsys.readouterr().err
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["class_path"].startswith("zoo.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("config", CONFIGS)
def test_every_shipped_configuration_spells_our_classes_out_because_a_users_may_have_the_same_names(config):
    short = {*zoo.__all__, *datamodules.__all__, *callbacks.__all__}
    assert not short & set(re.findall(r"class_path: *([\w.]+)", (ROOT / config).read_text()))


def test_no_file_names_a_place_of_one_machine():
    place = re.compile(r"(?<![\w.])/(work|tmp|home|Users)/\w")
    files = [ROOT / "train.py", *(path for folder in (*PACKAGES, "tests", "benchmarks") for path in sources(folder))]
    files += [ROOT / config for config in SHIPPED]
    assert [path.name for path in files if place.search(path.read_text()) and path != Path(__file__)] == []


@pytest.mark.parametrize("folder", [*PACKAGES, "benchmarks", "tests"])
def test_no_file_has_400_lines_and_no_folder_more_than_15_files(folder):
    lengths = {path: len(path.read_text().splitlines()) for path in sources(folder)}
    assert {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length >= 400} == {}
    counts = Counter(str(path.parent.relative_to(ROOT)) for path in lengths)
    assert {parent: count for parent, count in counts.items() if count > 15} == {}


def repeated(paths: list[Path], length: int) -> list[str]:
    """Places at which so many lines stand that stand elsewhere, too, without blank lines, comments and imports."""
    places: dict[tuple[str, ...], list[str]] = {}
    for path in paths:
        text = path.read_text()
        left_out = {
            line
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        lines = [
            (number, line.strip())
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip() and not line.strip().startswith("#") and number not in left_out
        ]
        for start in range(len(lines) - length + 1):
            window = tuple(line for _, line in lines[start : start + length])
            places.setdefault(window, []).append(f"{path.name}:{lines[start][0]}")
    return [" and ".join(where) for where in places.values() if len(where) > 1]


def test_no_two_places_in_the_zoo_share_ten_lines():
    assert repeated(sources("zoo"), 10) == []


def test_repeated_lines_are_found(tmp_path):
    lines = [f"x{i} = {i}" for i in range(10)]
    (tmp_path / "one.py").write_text("\n".join(["import os", *lines]))
    (tmp_path / "two.py").write_text("\n\n".join(["y = 0  # other", *lines[:5], "# why", *lines[5:]]))
    assert repeated(sorted(tmp_path.glob("*.py")), 10) == ["one.py:2 and two.py:3"]
    assert repeated(sorted(tmp_path.glob("*.py")), 11) == []
