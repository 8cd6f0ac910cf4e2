import pytest
import torch
from torch import nn

from callbacks.shared.checks import check_at_least, check_shape, require_method


def test_the_first_argument_below_the_least_value_is_named():
    check_at_least(2, number=2, columns=5)
    with pytest.raises(ValueError, match="expected columns of at least 2, got 1"):
        check_at_least(2, number=2, columns=1, rows=0)


def test_a_method_that_a_module_lacks_is_named_with_its_signature():
    require_method(nn.Linear(1, 1), "forward(x) -> (B, K)", "Judge")
    module = nn.Linear(1, 1)
    module.encode = None
    for name in ("encode", "decode"):
        message = rf"Judge needs a module with {name}\(x\) -> \(B, L\); Linear has no method '{name}'"
        with pytest.raises(TypeError, match=message):
            require_method(module, f"{name}(x) -> (B, L)", "Judge")


def test_a_result_of_the_expected_shape_is_returned():
    values = torch.ones(3, 7)
    assert check_shape(values, (3, "L"), "M.encode(x)") is values
    assert check_shape(values[:, 0], (3,), "M.score(x)").shape == (3,)


@pytest.mark.parametrize(
    ("values", "shape", "message"),
    [
        (torch.ones(3, 7), (4, "L"), r"expected M\.f\(x\) of shape \(4, L\), got \(3, 7\)"),
        (torch.ones(3, 7), (3,), r"of shape \(3,\), got \(3, 7\)"),
        (torch.ones(()), (3,), r"of shape \(3,\), got \(\)"),
        ([1.0], ("B",), r"of shape \(B,\), got list"),
        (None, (3, "L"), r"got NoneType"),
    ],
)
def test_a_result_of_another_shape_is_refused_with_both_shapes(values, shape, message):
    with pytest.raises(ValueError, match=message):
        check_shape(values, shape, "M.f(x)")
