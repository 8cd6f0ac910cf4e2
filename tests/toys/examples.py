"""How many examples Hypothesis tries where the profile's number does not fit."""

from hypothesis import settings

SHORT = 50  # examples of the short profile, in tests/conftest.py


def examples(short: int) -> settings:
    """Settings with so many examples in the short profile, and as many times more as another profile has.

    For tests whose examples cost much more or much less than those of others, or of which fewer are all that there are.
    """
    return settings(max_examples=max(1, short * settings().max_examples // SHORT))
