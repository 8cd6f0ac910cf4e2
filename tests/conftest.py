import os
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
settings.register_profile("short", max_examples=50, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


@pytest.fixture(autouse=True)
def _hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv[:1])  # Lightning's command line warns of pytest's arguments
    if "wandb" not in os.environ.get("WANDB_DIR", ""):
        folder = tmp_path_factory.getbasetemp() / "wandb"
        folder.mkdir(exist_ok=True)
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            monkeypatch.setenv(name, str(folder))
