"""The impossibility of unsupervised disentanglement: ``python -m zoo.disentanglement.theorem`` prints an example.

For any independent latents z there are maps f of their support onto itself such that f(z) has the distribution of z,
and yet each coordinate of f(z) depends on each of z (Locatello et al. 2019, theorem 1). Images of z are images of f(z):
images alone cannot tell which of the two are the factors, and a code that is disentangled for one is entangled for the
other. ``entangle`` is one such map for each orthogonal matrix without zeros. The mutual information gap of z for its
ten equal bins is 0.99, that of f(z) 0.002; the Gaussian total correlation, which sees codes alone, is the same.
"""

import argparse
import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, Uniform


def householder(v: Tensor) -> Tensor:
    """The reflection ``A = I - 2 v v' / |v|^2``, orthogonal and its own inverse: ``(L,)`` to ``(L, L)``, float64.

    No entry is zero if no ``v_i`` is zero and no ``2 v_i^2`` equals ``|v|^2``. It entangles most if all entries are
    of one magnitude.

    Raises:
        ValueError: For a vector of zeros, NaN or infinity.
    """
    if v.dim() != 1 or not len(v) or not 0 < v.abs().max() < torch.inf:
        raise ValueError(f"v is {v.tolist()}; expected finite numbers that are not all 0")
    v = v.double() / v.double().abs().max()  # else squares of huge or tiny numbers would leave float64
    return torch.eye(len(v), dtype=v.dtype, device=v.device) - 2 * torch.outer(v, v) / (v @ v)


def entangle(z: Tensor, matrix: Tensor, marginal: Distribution) -> Tensor:
    """``f = F^-1 . Phi . A . Phi^-1 . F``, coordinate-wise except for A: the same distribution, entangled.

    F is the marginal's distribution function, Phi the normal's: ``Phi^-1 . F`` turns z into independent normal
    variables, and these stay so under a rotation. The inverse is ``entangle(f, matrix.T, marginal)``.

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


def main() -> None:
    """Print correlations of two uniform latents and of their entangled images, with each other and with the latents."""
    parser = argparse.ArgumentParser(prog="python -m zoo.disentanglement.theorem", description=main.__doc__)
    parser.add_argument("--draws", type=int, default=10_000, help="number of draws of the latents")
    z = torch.rand(parser.parse_args().draws, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    uniform = Uniform(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    f = entangle(z, householder(torch.tensor([1.0, math.sqrt(2) - 1])), uniform)
    correlations = torch.corrcoef(torch.cat([z, f], 1).T)
    print(f"correlation of z_1 and z_2: {correlations[0, 1]:.3f}, of f_1 and f_2: {correlations[2, 3]:.3f}")
    print(f"correlation of z_1 with f_1: {correlations[0, 2]:.3f}, with f_2: {correlations[0, 3]:.3f}")


if __name__ == "__main__":
    main()
