import importlib
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the same on every machine; CUDA_VISIBLE_DEVICES=0 lets a GPU in
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for `pytest` as for `python -m pytest`, installed or not

# The short one draws the same examples each time: `make test` fails for what was changed. A test's own
# `@settings(max_examples=...)` would win over both: where the number does not fit, `examples.py` scales another.
settings.register_profile("short", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("quick", max_examples=10, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--paper", help="only the tests of this folder of zoo/: its own, its contract, its layout")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    paper = config.getoption("--paper")
    if paper is None:
        return
    confs = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "tests/contract/conf").glob("*.yaml")}
    modules = set(importlib.import_module(f"zoo.{paper}").__all__)
    own = {name for name, text in confs.items() if set(re.findall(r"^  class_path: zoo\.(\w+)", text, re.M)) & modules}

    def belongs(item: pytest.Item) -> bool:
        parameters = getattr(item, "callspec", None)
        named = {str(value) for value in parameters.params.values()} if parameters else set()
        return f"papers/{paper}/" in item.nodeid or bool(named & {paper, *own, *modules})

    config.hook.pytest_deselected(items=[item for item in items if not belongs(item)])
    items[:] = [item for item in items if belongs(item)]


@pytest.fixture(autouse=True)
def _hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv[:1])  # Lightning's command line warns of pytest's arguments
    if "wandb" not in os.environ.get("WANDB_DIR", ""):
        folder = tmp_path_factory.getbasetemp() / "wandb"
        folder.mkdir(exist_ok=True)
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            monkeypatch.setenv(name, str(folder))
