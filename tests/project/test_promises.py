"""The table of promises: each names a test that is there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
ROWS = [
    line
    for line in (TESTS.parent / "docs" / "promises.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ")
][2:]
NAMED = r"`(test_\w+\.py)::(test_\w+)`"


@pytest.mark.parametrize(("file", "name"), re.findall(NAMED, "\n".join(ROWS)))
def test_a_promised_test_is_there(file, name):
    (path,) = TESTS.rglob(file)
    assert re.search(rf"^def {name}\(", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_promise_has_a_test():
    assert len(ROWS) >= 20
    assert [row for row in ROWS if not re.search(NAMED, row)] == []
