"""The impossibility of unsupervised disentanglement, as an example that runs.

For any independent latents z there are maps f of their support onto itself such that f(z) has the distribution of z,
and yet each of its coordinates depends on each of z's (Locatello et al. 2019, theorem 1). Images of z are images of
f(z): whoever sees images alone cannot know which of the two are the factors, and a code that is disentangled for one is
entangled for the other. Here is one such map for each orthogonal matrix without zeros::

    uniform = torch.distributions.Uniform(0.0, 1.0)
    z = torch.rand(10_000, 2, dtype=torch.float64)
    f = entangle(z, householder(torch.tensor([1.0, 2**0.5 - 1])), uniform)  # uniform on the square again

The mutual information gap of z for ten equal bins of z is 0.99, that of f 0.002. A score that sees codes alone, such
as their Gaussian total correlation, cannot tell the two apart.
"""

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal


def householder(v: Tensor) -> Tensor:
    """The reflection ``A = I - 2 v v' / |v|^2``, orthogonal and its own inverse: ``(L,)`` to ``(L, L)``, float64.

    No entry is zero where no ``v_i`` is, and ``2 v_i^2`` is ``|v|^2`` for none. The closer the entries are to one
    magnitude, the more it entangles.

    Raises:
        ValueError: For a vector of zeros, NaN or infinity.
    """
    if v.dim() != 1 or not len(v) or not 0 < v.abs().max() < torch.inf:
        raise ValueError(f"v is {v.tolist()}; expected finite numbers that are not all 0")
    v = v.double() / v.double().abs().max()  # squares of what is huge or tiny would leave float64
    return torch.eye(len(v), dtype=v.dtype, device=v.device) - 2 * torch.outer(v, v) / (v @ v)


def entangle(z: Tensor, matrix: Tensor, marginal: Distribution) -> Tensor:
    """``f = F^-1 . Phi . A . Phi^-1 . F``, coordinate-wise but for A: the same distribution, entangled.

    F is the marginal's distribution function, Phi the normal's: ``Phi^-1 . F`` makes independent normal variables of z,
    which a rotation leaves so. The inverse is ``entangle(f, matrix.T, marginal)``.

    Args:
        z: ``(n, L)`` independent draws of ``marginal``; computed in float64.
        matrix: A, orthogonal, ``(L, L)``.
        marginal: Of each latent, continuous, with ``cdf`` and ``icdf``.

    Returns:
        ``(n, L)``, float64; NaN may come of several latents at the ends of the marginal's support.

    Raises:
        ValueError: For a matrix of another shape, or one that is not orthogonal.
    """
    matrix = matrix.to(z.device, torch.float64)
    latents = z.shape[1]
    if matrix.shape != (latents, latents):
        raise ValueError(f"the matrix has shape {tuple(matrix.shape)}; {latents} latents need ({latents}, {latents})")
    error = (matrix @ matrix.T - torch.eye(latents, dtype=torch.float64, device=z.device)).abs().max().item()
    if not error < 1e-6:
        raise ValueError(f"the matrix is not orthogonal: A A' differs from the identity by {error:.3g}")
    normal = Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    return marginal.icdf(normal.cdf(normal.icdf(marginal.cdf(z.double())) @ matrix.T))
