from pathlib import Path
from typing import Any

import pytest
from contract_runs import CONFS, prepared


@pytest.fixture(params=CONFS)
def conf(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Each configuration, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return prepared(request.param)
