"""Hypothesis drives every public function of every paper's loss, and the others that a paper's mathematics has."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FURTHER = {
    "jem": ["sgld", "ReplayMemory", "learning_rate_factor", "diverged", "Escalation", "class_moments", "uniform_start"],
    "classifier": ["warmup_cosine"],
    "local_error": ["ChannelDeviation", "FeedbackLinear", "average_pooling", "AveragePooling", "pooling"],
    "histogram_loss": ["PiecewiseUniform"],
    "disentanglement": ["householder", "entangle"],
}
PAPERS = sorted(path.parent.name for path in ROOT.glob("zoo/*/loss.py"))


def public(paper: str) -> set[str]:
    module = import_module(f"zoo.{paper}.loss")
    own = [
        name for name, found in inspect.getmembers(module, inspect.isfunction) if found.__module__ == module.__name__
    ]
    return {name for name in own if not name.startswith("_")} | set(FURTHER.get(paper, []))


def driven(path: Path) -> set[str]:
    """Names in a file's tests with ``@given``, and in what these use of the file."""
    tree = ast.parse(path.read_text())
    parts: dict[str, ast.AST] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        names = [node.name] if isinstance(node, ast.FunctionDef) else [t.id for t in targets if isinstance(t, ast.Name)]
        parts |= dict.fromkeys(names, node)

    def used(node: ast.AST) -> set[str]:
        return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {
            n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)
        }

    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    given = [node for node in tests if any("given" in used(decorator) for decorator in node.decorator_list)]
    found = set().union(*map(used, given)) if given else set()
    while True:
        more = found.union(*(used(parts[name]) for name in found & parts.keys()))
        if more == found:
            return found
        found = more


@pytest.mark.parametrize("paper", PAPERS)
def test_hypothesis_drives_every_public_function(paper):
    paths = [path for path in (ROOT / "tests/papers").rglob("test_*.py") if f"zoo.{paper}" in path.read_text()]
    assert public(paper) - set().union(*map(driven, paths)) == set()
