"""How many examples Hypothesis tries where the profile's number does not fit, and tables of numbers for them."""

import torch
from hypothesis import settings
from hypothesis import strategies as st

OF = 50


def examples(short: int) -> settings:
    """Settings with so many examples where the profile has 50, and in proportion where it has more or fewer.

    For tests whose examples cost much more or much less than those of others, or of which fewer are all that there are.
    """
    return settings(max_examples=max(1, short * settings().max_examples // OF))


def tables(values, fewest=1, widest=5):
    """(N, D) with N of at least so many rows, in float64."""
    rows = st.integers(1, widest).flatmap(
        lambda width: st.lists(st.lists(values, min_size=width, max_size=width), min_size=fewest, max_size=10)
    )
    return rows.map(lambda found: torch.tensor(found, dtype=torch.float64))
