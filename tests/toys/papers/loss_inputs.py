"""What Hypothesis feeds to losses: any floating dtype, any layout in memory, ties, tiny and huge numbers."""

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LAYOUTS = ("contiguous", "transposed", "strided", "part of a larger one")

dtypes = st.sampled_from(FLOATS)
seeds = st.integers(0, 2**31)


def numbers(limit: float) -> st.SearchStrategy[float]:
    """Numbers in [-limit, limit]: often small integers, which tie, the ends, zeros of both signs and denormals."""
    few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, limit, -limit, 1e-40, -1e-310])
    return few | st.floats(-limit, limit)


@st.composite
def tensors(draw: Any, shape: tuple[int, ...], values: st.SearchStrategy[float], dtype: torch.dtype) -> Tensor:
    """A tensor of this shape, finite in its dtype whatever the values are, in one of the layouts."""
    found = torch.from_numpy(draw(arrays(np.float64, shape, elements=values)))
    largest = torch.finfo(dtype).max
    return laid_out(found.clamp(-largest, largest).to(dtype), draw(st.sampled_from(LAYOUTS)))


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same numbers in another order in memory, or with gaps."""
    if layout == "transposed" and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided" and tensor.dim():
        wide = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    if layout == "part of a larger one" and tensor.dim():
        return torch.cat([torch.full_like(tensor, torch.nan), tensor])[len(tensor) :]
    return tensor


def exact(tensor: Tensor) -> np.ndarray:
    """In float64, for a reference that shares no code with torch."""
    return tensor.detach().double().numpy()


def check(found: Tensor, expected: Any, dtype: torch.dtype, scale: float = 1.0, units: float = 64) -> None:
    """A result is in float32 at least, and within some units in the last place of the reference.

    Args:
        found: The result.
        expected: The reference, in float64; NaN and infinity in the same places.
        dtype: Of the inputs.
        scale: The size of the numbers that were added up: their rounding stays in a sum that is small.
        units: How many units in the last place.
    """
    wanted = torch.promote_types(dtype, torch.float32)
    assert found.dtype == wanted, f"{found.dtype} for inputs of {dtype}"
    tolerance = units * torch.finfo(wanted).eps
    np.testing.assert_allclose(exact(found), expected, rtol=tolerance, atol=tolerance * scale)


def size(*parts: Tensor) -> float:
    """The largest magnitude in some tensors, 1 at least."""
    return max([1.0, *(float(part.detach().double().abs().max()) for part in parts if part.numel())])


def one_line(error: BaseException) -> bool:
    """Whether an error is one line that says something."""
    return bool(str(error).strip()) and "\n" not in str(error)
