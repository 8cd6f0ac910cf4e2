"""Profiles decide how many examples Hypothesis tries."""

import re
from pathlib import Path

import pytest
from examples import examples
from hypothesis import settings

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("profile", "expected"), [(50, (150, 10, 1)), (2000, (6000, 400, 40))])
def test_a_number_of_its_own_grows_with_the_profile(profile, expected):
    before = settings.get_current_profile_name()
    settings.register_profile("of this test", max_examples=profile)
    settings.load_profile("of this test")
    try:
        assert tuple(examples(short).max_examples for short in (150, 10, 1)) == expected
    finally:
        settings.load_profile(before)


def test_no_test_takes_its_number_of_examples_out_of_the_profiles_hands():
    allowed = {"conftest.py", Path(__file__).name}
    paths = [path for path in TESTS.rglob("*.py") if path.name not in allowed]
    assert not [path.name for path in paths if re.search(r"settings\([^)]*max_examples=\d", path.read_text())]
