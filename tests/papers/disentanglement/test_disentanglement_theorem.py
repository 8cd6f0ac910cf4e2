"""The theorem: entangled latents that no score of codes alone can tell from the factors."""

import math
import re

import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch import Tensor
from torch.distributions import MultivariateNormal, Uniform, kl_divergence

from zoo.disentanglement import loss
from zoo.disentanglement.theorem import entangle, householder, main


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


UNIFORM = Uniform(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
HADAMARD = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).double() / 2


def uniform(latents: int, count: int = 10_000) -> Tensor:
    return torch.rand(count, latents, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gap(codes: Tensor, factors: Tensor) -> float:
    """The mutual information gap with the study's 20 bins of equal width."""

    def bins(column: Tensor) -> list[int]:
        low, high = column.min(), column.max()
        return ((column - low) / (high - low) * 20).long().clamp(max=19).tolist()

    binned = [bins(column) for column in codes.T]
    gaps = []
    for factor in factors.T.tolist():
        first, second, *_ = sorted((mutual_info_score(factor, column) for column in binned), reverse=True)
        gaps.append((first - second) / mutual_info_score(factor, factor))
    return sum(gaps) / len(gaps)


@pytest.mark.parametrize(
    ("matrix", "before", "after"),
    [
        (householder(torch.tensor([1.0, math.sqrt(2) - 1])), 0.995, 0.002),
        (householder(torch.tensor([1.0, 2.0])), 0.992, 0.111),
        (HADAMARD, 0.994, 0.002),
        (householder(torch.ones(5)), 0.995, 0.052),
        (householder(torch.arange(1.0, 6.0)), 0.995, 0.193),
    ],
)
def test_entangled_latents_have_the_same_distribution_and_hardly_any_mutual_information_gap(matrix, before, after):
    z = uniform(len(matrix))
    factors = (z * 10).long()
    f = entangle(z, matrix, UNIFORM)
    assert gap(z, factors) == pytest.approx(before, abs=0.004)
    assert gap(f, factors) == pytest.approx(after, abs=0.02)

    rank = torch.arange(1, len(z) + 1).double() / len(z)
    assert (f.sort(0).values - rank[:, None]).abs().max() < 0.025
    correlations = torch.corrcoef(f.T)
    assert (correlations - torch.eye(len(matrix)).double()).abs().max() < 0.035
    assert -torch.logdet(correlations) / 2 < 2e-3  # the Gaussian total correlation: no score of codes alone can tell
    assert (entangle(f, matrix.T, UNIFORM) - z).abs().max() < 1e-10


def test_every_coordinate_depends_on_every_latent_and_volumes_stay():
    matrix = householder(torch.tensor([1.0, math.sqrt(2) - 1]))
    assert torch.allclose(matrix.abs(), torch.full((2, 2), math.sqrt(0.5)).double())
    z = uniform(2, 100) * 0.98 + 0.01
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: entangle(row[None], matrix, UNIFORM)[0]))(z)
    assert (jacobians.abs() > 1e-3).all()
    torch.testing.assert_close(torch.linalg.det(jacobians).abs(), torch.ones(100).double())


def test_rotating_codes_keeps_the_elbo_of_isotropic_posteriors_only():
    mean, matrix = random(1, 3), householder(torch.ones(3))
    prior = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())

    def elbo_after_rotation(variances: Tensor) -> tuple[Tensor, Tensor]:
        rotated = matrix @ variances.diag() @ matrix.T
        exact = kl_divergence(MultivariateNormal(matrix @ mean[0], rotated), prior)
        return exact, loss.kl_divergence(mean @ matrix.T, rotated.diagonal()[None].log())  # what a VAE can say of it

    torch.testing.assert_close(*elbo_after_rotation(torch.full((3,), 0.3).double()))
    exact, diagonal = elbo_after_rotation(torch.tensor([0.1, 0.3, 0.9]).double())
    assert diagonal < exact - 0.1  # the rotated posterior is not diagonal any more


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: householder(torch.zeros(3)), "v is .0.0, 0.0, 0.0.; expected finite numbers that are not all 0"),
        (lambda: entangle(uniform(3, 9), HADAMARD, UNIFORM), r"the matrix has shape \(4, 4\); 3 latents need \(3, 3\)"),
        (
            lambda: entangle(uniform(2, 9), torch.ones(2, 2), UNIFORM),
            "the matrix is not orthogonal: A A' differs .* by 2",
        ),
    ],
)
def test_matrices_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_its_command_prints_that_each_new_coordinate_depends_on_the_first_latent(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["theorem"])
    main()
    first, second = capsys.readouterr().out.splitlines()
    assert all(abs(float(value)) < 0.03 for value in re.findall(r"-?0\.\d+", first))
    assert all(abs(float(value)) > 0.6 for value in re.findall(r"-?0\.\d+", second))
