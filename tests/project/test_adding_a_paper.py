"""CONTRIBUTING.md adds a paper in six files: copied from the page into a copy of the project, they work there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from page_tables import FENCE

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
FIT = """
import torch

import train
from zoo import FocalClassifier


def test_focal_trains_by_its_recipe_and_comes_back_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli = train.main(["fit", "--model", "FocalClassifier", "--trainer.max_epochs", "3"])
    assert cli.trainer.callback_metrics["val/acc"] > 0.8
    checkpoint = "runs/focal/version_0/checkpoints/last.ckpt"
    again = FocalClassifier.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    x = torch.rand(4, 1, 8, 8) * 2 - 1
    assert torch.equal(again(x), cli.model.cpu().eval()(x))
    train.main(["test", "--model", "FocalClassifier", "--ckpt_path", checkpoint])
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for name in ("zoo", "callbacks", "datamodules", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    for name, text in {**FILES, "tests/papers/focal/test_fit.py": FIT}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (line,) = (block for _, block in FENCE.findall(PAGE) if block.startswith("from .focal"))
    init = (folder / "zoo" / "__init__.py").read_text(encoding="utf-8")
    init = init.replace("from .histogram_loss", f"{line}from .histogram_loss", 1)
    init = init.replace("__all__ = [", '__all__ = [\n    "FocalClassifier",', 1)
    (folder / "zoo" / "__init__.py").write_text(init, encoding="utf-8")
    return folder


def run_tests(project, *chosen):
    environment = {**os.environ, "PYTHONPATH": str(project), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return int(re.search(r"(\d+) passed", done.stdout)[1])


def test_the_page_has_the_six_files():
    assert sorted(FILES) == [
        "tests/contract/conf/focal.yaml",
        "tests/papers/focal/test_focal.py",
        *(f"zoo/focal/{name}" for name in ("__init__.py", "loss.py", "module.py", "recipe.yaml")),
    ]


@pytest.mark.slow
def test_the_paper_trains_and_passes_its_tests(project):
    assert run_tests(project, "tests/papers/focal") >= 3


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_layout_and_the_whole_contract_pass(project):
    files = [f"tests/contract/test_contract{part}.py" for part in ("", "_precision", "_processes")]
    places = ["tests/project/test_layout.py", *files]
    # the page says that the configuration of the paper's own setting comes later
    assert run_tests(project, *places, "-k", "focal and not all_its_files", "-m", "not long") >= 25
