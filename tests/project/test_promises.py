"""The README's table of promises: each names a test that is there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
README = (TESTS.parent / "README.md").read_text(encoding="utf-8")
PROMISES = README[README.index("## What we promise") : README.index("## Measured")]
NAMED = re.findall(r"`((?:papers/)?test_\w+\.py)::(test_\w+)`", PROMISES)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_promised_test_is_there(file, name):
    assert re.search(rf"^def {name}\(", next(TESTS.rglob(Path(file).name)).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_promise_has_a_test():
    rows = [line for line in PROMISES.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 20
    assert all(re.search(r"`(?:papers/)?test_\w+\.py::test_\w+`", row) for row in rows)
