"""Checks of constructor arguments: what passes, and the one message of each."""

import math
import re
from typing import Any, Literal

import pytest
from lightning.pytorch import LightningModule

from zoo.shared.arguments import (
    check_at_least,
    check_image_shape,
    check_literals,
    check_names,
    check_positive,
    check_share,
)

AT_LEAST = "n is {}; expected a number of at least 2"
Colour = Literal["red", "green"]


class Parent(LightningModule):
    def __init__(self, colour: Colour = "red", size: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_literals(self)


class Child(Parent):
    def __init__(self, finish: Literal["matt", "gloss"] = "matt", **arguments: Any) -> None:
        super().__init__(**arguments)


class Wider(Parent):
    def __init__(self, colour: Literal["red", "green", "blue"] = "blue") -> None:
        super().__init__(colour)  # type: ignore[arg-type]  # that a child may take more is what is tested


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Parent, {"colour": "blue"}, "colour is 'blue'; expected one of red, green"),
        (Child, {"colour": "blue"}, "colour is 'blue'; expected one of red, green"),
        (Child, {"finish": "rough"}, "finish is 'rough'; expected one of matt, gloss"),
        (Wider, {"colour": "black"}, "colour is 'black'; expected one of red, green, blue"),
    ],
)
def test_an_argument_with_a_literal_type_is_one_of_its_choices_in_parents_too(kind, arguments, message):
    kind()
    with pytest.raises(ValueError, match=f"^{message}$"):
        kind(**arguments)


@pytest.mark.parametrize(
    ("check", "good", "bad", "message"),
    [
        (lambda value: check_at_least(2, n=value), [2, 10**9, None], [1, -math.inf], AT_LEAST),
        (lambda value: check_positive(n=value), [1e-300, 5, None], [0, -1.0], "n is {}; expected a number above 0"),
        (lambda value: check_share(n=value), [0, 1, 0.5, None], [-0.1, 1.1], "n is {}; expected a share in [0, 1]"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_infinite_or_nan_are_refused(check, good, bad, message):
    for value in good:
        check(value)
    for value in (*bad, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"^{re.escape(message.format(value))}$"):
            check(value)


def test_names_that_nobody_takes_and_impossible_image_shapes_are_refused():
    check_names("network_args", ["width"], "Net", ["depth", "width"])
    with pytest.raises(ValueError, match=r"args has \['a', 'b'\], which Net does not take; it takes \['depth'\]"):
        check_names("network_args", ["b", "depth", "a"], "Net", ["depth"])
    check_image_shape([3, 8, 8])
    for shape in ((8, 8), (0, 8, 8), (1, 3, 8, 8)):
        with pytest.raises(ValueError, match="expected \\(channels, height, width\\), all positive"):
            check_image_shape(shape)
