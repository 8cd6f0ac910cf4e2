"""JEM's parts: the exact numbers of a linear model, the sampler's laws, the memory, the signs of divergence."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import grad

from zoo import JEM
from zoo.jem.initialisation import ClassGaussians, class_moments
from zoo.jem.loss import (
    class_log_density,
    conditional_generative_loss,
    energy,
    energy_penalty,
    generative_loss,
    log_density,
    log_odds_of_error,
)
from zoo.jem.recovery import Escalation, diverged
from zoo.jem.sampler import ReplayMemory, sgld
from zoo.jem.schedule import learning_rate_factor

WEIGHT = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
BIAS = torch.tensor([0.0, 0.5, -0.5], dtype=torch.float64)
X = torch.tensor([[0.5, -0.25]], dtype=torch.float64)
X_P = torch.tensor([[0.5, -0.25], [2.0, 1.0]], dtype=torch.float64)
X_Q = torch.tensor([[0.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)


def linear(x: Tensor) -> Tensor:
    return x @ WEIGHT.T + BIAS


def density(x: Tensor) -> Tensor:
    return log_density(linear(x))


def close(actual: Any, expected: Any, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        atol=tolerance,
        rtol=0,
    )


# --------------------------------------------------------------------- exact numbers (the sheet's section 13)


def test_energies_of_the_linear_model():
    logits = linear(X)
    close(logits, [[0.5, 0.25, -0.75]])
    close(log_density(logits), [1.2252781960613617], 1e-15)
    close(energy(logits), [-1.2252781960613617], 1e-15)
    close(logits.softmax(1), [[0.48418985, 0.37708743, 0.13872271]])
    close(logits - log_density(logits)[:, None], [[-0.7252782, -0.9752782, -1.9752782]], 1e-7)
    close(class_log_density(logits, torch.tensor([2])), [-0.75])


def test_approximate_mass_of_the_linear_model():
    gradient = grad(lambda x: density(x).sum())(X)
    close(gradient, [[0.34546714, 0.23836472]])
    close(gradient.norm(), 0.4197204803279715, 1e-15)
    close(-gradient.norm().log(), 0.8681663122921203, 1e-15)


def test_deterministic_chains_of_the_linear_model():
    step = sgld(density, X, 1, 1.0, 0.0)
    close(step, [[0.84546714, -0.01163528]])
    close(density(step), [1.4403516816])
    close(sgld(density, X, 2, 1.0, 0.0), [[1.33469298, 0.31193766]])
    end = sgld(density, X, 20, 1.0, 0.0)
    close(end, [[18.0476629, 1.5251475]], 1e-7)
    close(density(end), [18.0476630], 1e-7)
    close(sgld(density, X, 1, 0.5, 0.0), [[0.67273357, -0.13081764]])


def test_class_conditional_step():
    labels = torch.tensor([2])
    close(sgld(lambda x: class_log_density(linear(x), labels), X, 1, 1.0, 0.0), [[-0.5, -1.25]])


def test_each_chain_moves_as_if_alone():
    both = sgld(density, X_P, 1, 1.0, 0.0) - X_P
    close(both, [[0.34546714, 0.23836472], [0.61834251, 0.37404531]])
    close(both[1:], sgld(density, X_P[1:], 1, 1.0, 0.0) - X_P[1:], 1e-15)


def test_loss_and_gradients_of_the_linear_model():
    weight, bias = WEIGHT.clone().requires_grad_(), BIAS.clone().requires_grad_()
    f_p, f_q = X_P @ weight.T + bias, X_Q @ weight.T + bias
    close(log_density(f_p), [1.2252782, 2.4766176], 1e-7)
    close(log_density(f_q), [1.1802697, 1.6967341], 1e-7)
    loss = generative_loss(f_p, f_q)
    close(loss, -0.412446015794673, 1e-14)
    cross_entropy = nn.functional.cross_entropy(f_p, torch.tensor([0, 1]))
    close(cross_entropy, 0.8509478995753488, 1e-14)
    close(loss + cross_entropy, 0.4385018837806758, 1e-14)
    by_weight, by_bias = torch.autograd.grad(loss, [weight, bias])
    close(by_bias, [-0.36522426, 0.28710964, 0.07811462])
    close(by_weight, [[-0.77564005, -0.21620354], [-0.88155907, 0.26954909], [-0.09280088, 0.07165445]])


def test_energy_penalty_is_the_mean_of_squares():
    close(0.1 * energy_penalty(linear(X_P), linear(X_Q)), 0.595, 5e-4)


def test_conditional_loss_by_hand():
    y = torch.tensor([0, 1])
    by_hand = (0.0 + 1.5) / 2 - (0.5 + 1.5) / 2  # f(0,0)[0]=0, f(-1,1)[1]=1.5, f(.5,-.25)[0]=.5, f(2,1)[1]=1.5
    close(conditional_generative_loss(linear(X_P), linear(X_Q), y), by_hand)


def test_stationary_variance_of_a_chain_in_a_quadratic_well():
    generator = torch.Generator().manual_seed(0)
    start = torch.zeros(200_000, 1, dtype=torch.float64)
    end = sgld(lambda x: -x.square().sum(1) / 8, start, 60, 1.0, 0.01, generator=generator)
    close(end.var(), 2.2857e-4, 3e-6)


def test_proximal_step():
    slope = torch.tensor([2.0, -3.0, 0.4])
    end = sgld(lambda x: (x * slope).sum(1), torch.zeros(1, 3), 1, 0.2, 0.0, gradient_clip=1.0, bounds=(-1, 1))
    close(end, [[0.2, -0.2, 0.08]], 1e-7)


def test_warmup_and_decay():
    lr = {
        (step, epoch): 1e-4 * learning_rate_factor(step, epoch, 1000, [160, 180], 0.3)
        for step, epoch in [(0, 0), (1, 0), (500, 0), (1000, 1), (112_480, 160), (126_540, 180)]
    }
    close(list(lr.values()), [0, 1e-7, 5e-5, 1e-4, 3e-5, 9e-6], 1e-18)
    assert learning_rate_factor(0, 0, -1, [], 0.3) == 1.0


def test_wide_resnet_28_10_has_the_published_size():
    model = JEM(network_args={"depth": 28, "width": 10})
    assert sum(p.numel() for p in model.parameters()) == 36_471_338
    with torch.no_grad():
        assert model.features(torch.zeros(1, 3, 39, 32)).shape == (1, 640)


# --------------------------------------------------------------------- invariants


@given(st.floats(-1e4, 1e4), st.integers(0, 2**31))
def test_a_shift_of_all_logits_shifts_the_density_and_nothing_else(shift, seed):
    logits = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    close(log_density(logits + shift), log_density(logits) + shift, 1e-9)
    close((logits + shift).log_softmax(1), logits.log_softmax(1), 1e-9)
    close(grad(lambda z: log_density(z).sum())(logits + shift), logits.softmax(1), 1e-9)


def test_on_one_batch_the_data_gradient_is_minus_the_label():
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    loss = nn.functional.cross_entropy(logits, y, reduction="sum") - log_density(logits).sum()
    close(torch.autograd.grad(loss, logits)[0], -nn.functional.one_hot(y, 4).double())


def test_ascent_without_noise_raises_the_density():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 5))
    x = torch.rand(8, 1, 4, 4) * 2 - 1
    before = log_density(network(x))
    after = log_density(network(sgld(lambda v: log_density(network(v)), x, 5, 0.1, 0.0)))
    assert (after > before).all()


@pytest.mark.parametrize("mode", ["grad", "no_grad", "inference"])
def test_chains_run_anywhere_and_leave_no_gradient(mode):
    torch.manual_seed(0)
    network = nn.Linear(3, 4)
    x = torch.randn(5, 3)
    expected = sgld(lambda v: log_density(network(v)), x, 3, 1.0, 0.1, generator=torch.Generator().manual_seed(1))
    context = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}[mode]
    with context():
        inside = x.clone()
        generator = torch.Generator().manual_seed(1)
        end = sgld(lambda v: log_density(network(v)), inside, 3, 1.0, 0.1, generator=generator)
        assert torch.equal(end, expected)
        assert not end.requires_grad
        assert torch.equal(inside, x), "the start must stay as it was"
    assert network.weight.grad is None


def test_log_odds_rank_like_the_probability_but_do_not_saturate():
    logits = torch.tensor([[30.0, 0, 0], [40.0, 0, 0], [2.0, 1, 0], [0.0, 0, 0]])
    assert logits.softmax(1).max(1).values[0] == logits.softmax(1).max(1).values[1] == 1.0
    odds = log_odds_of_error(logits)
    assert odds.argsort().tolist() == [1, 0, 2, 3]
    p = logits[2].double().softmax(0).max()
    close(odds[2], ((1 - p) / p).log(), 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_logits_are_float32(dtype):
    f_p, f_q = torch.randn(4, 3).to(dtype), torch.randn(4, 3).to(dtype)
    y = torch.tensor([0, 1, 2, 0])
    for half, full in [
        (generative_loss(f_p, f_q), generative_loss(f_p.double(), f_q.double())),
        (conditional_generative_loss(f_p, f_q, y), conditional_generative_loss(f_p.double(), f_q.double(), y)),
        (energy_penalty(f_p, f_q), energy_penalty(f_p.double(), f_q.double())),
    ]:
        assert half.dtype == torch.float32
        close(half, full, 1e-5)


# --------------------------------------------------------------------- memory


def test_slots_differ_within_a_batch_and_respect_the_classes():
    memory = ReplayMemory(torch.zeros(50, 1), num_classes=5)
    generator = torch.Generator().manual_seed(0)
    slots = memory.slots(50, None, generator)
    assert sorted(slots.tolist()) == list(range(50))
    labels = torch.tensor([3, 0, 3, 3, 1, 0])
    for _ in range(20):
        slots = memory.slots(6, labels, generator)
        assert len(set(slots.tolist())) == 6
        assert (slots // 10 == labels).all()


def test_a_slot_of_a_class_is_the_one_of_the_paper():
    for classes, first in ((10, 3000), (100, 300)):
        memory = ReplayMemory(torch.zeros(10_000, 1), classes)
        per_class = 10_000 // classes
        offsets = torch.randperm(per_class, generator=torch.Generator().manual_seed(5))
        slots = memory.slots(1, torch.tensor([3]), torch.Generator().manual_seed(5))
        assert slots.tolist() == [first + offsets[0]]  # y = 3, u = 7 is slot 3007 of 10 classes, 307 of 100


def test_starts_equal_their_slots_or_are_all_new():
    images = torch.full((20, 3), 5.0)
    memory = ReplayMemory(images.clone(), num_classes=2)
    slots = memory.slots(10)

    def fresh(places: Tensor) -> Tensor:
        return torch.rand(len(places), 3) * 2 - 1

    assert torch.equal(memory.read(slots, fresh, 0.0), images[slots])
    renewed = memory.read(slots, fresh, 1.0)
    assert (renewed.abs() <= 1).all()
    memory.read(slots, fresh, 0.0).zero_()
    assert torch.equal(memory.images, images), "reading gives a copy"


def test_a_new_start_fits_the_class_of_its_slot():
    memory = ReplayMemory(torch.zeros(20, 1), num_classes=4)
    labels = torch.tensor([2, 2, 0, 3])
    slots = memory.slots(4, labels)
    start = memory.read(slots, lambda places: (places // 5).float()[:, None] + 100, 1.0)
    assert start[:, 0].tolist() == [102, 102, 100, 103]


def test_writing_touches_the_slots_and_no_other():
    memory = ReplayMemory(torch.zeros(4, 1), num_classes=2)
    memory.write(torch.tensor([1, 3]), torch.tensor([[10.0], [30.0]]))
    assert memory.images[:, 0].tolist() == [0, 10, 0, 30]


@pytest.mark.parametrize(("size", "classes"), [(10, 3), (0, 2)])
def test_memory_refuses_a_size_that_does_not_divide(size, classes):
    with pytest.raises(ValueError, match=f"{size} slots.*multiple of {classes}"):
        ReplayMemory(torch.zeros(size, 1), classes)


def test_memory_refuses_more_chains_than_slots():
    memory = ReplayMemory(torch.zeros(20, 1), 10)
    with pytest.raises(ValueError, match=r"21 chains.*20 slots"):
        memory.slots(21)
    with pytest.raises(ValueError, match=r"3 chains.*2 slots"):
        memory.slots(3, torch.tensor([0, 1, 2]))


# --------------------------------------------------------------------- informative initialisation


def test_class_gaussians_are_those_of_the_images():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 1, 2, 2, generator=generator) * 0.1
    y = torch.arange(400) % 2
    x[y == 1] += 0.2
    x[:, 0, 0, 1] += x[:, 0, 0, 0]
    batches = [(x[start : start + 64], y[start : start + 64]) for start in range(0, 400, 64)]
    gaussians = ClassGaussians.from_moments(*class_moments(batches, 2))
    for label in (0, 1):
        flat = x[y == label].flatten(1).double()
        close(gaussians.mean[label], flat.mean(0), 1e-6)
        covariance = torch.cov(flat.T, correction=0) + 1e-4 * torch.eye(4)
        close(gaussians.factor[label] @ gaussians.factor[label].T, covariance, 1e-6)
    drawn = gaussians.sample(torch.ones(5000, dtype=torch.long), (1, 2, 2), generator)
    assert drawn.shape == (5000, 1, 2, 2)
    assert drawn.abs().max() <= 1
    close(drawn.mean(), gaussians.mean[1].mean(), 0.01)


def test_class_gaussians_refuse_a_class_without_images():
    with pytest.raises(ValueError, match=r"classes \[2\]"):
        ClassGaussians.from_moments(*class_moments([(torch.randn(8, 3), torch.arange(8) % 2)], 3))


# --------------------------------------------------------------------- divergence


@pytest.mark.parametrize(
    ("loss", "gap", "sample", "expected"),
    [
        (0.1, 1.0, 0.5, False),
        (math.nan, 1.0, 0.5, True),
        (math.inf, 1.0, 0.5, True),
        (0.1, 1001.0, 0.5, True),
        (0.1, -1001.0, 0.5, True),
        (0.1, math.nan, 0.5, True),
        (0.1, 1.0, 3.5, True),
        (0.1, 1.0, math.nan, True),
    ],
)
def test_signs_of_divergence(loss, gap, sample, expected):
    bad = diverged(torch.tensor(loss), torch.tensor(gap), torch.full((2, 3), sample), 1e3, 0.1)
    assert bool(bad) is expected


def test_recoveries_lower_the_rate_lengthen_the_chains_and_raise_the_penalty_in_turn():
    escalation = Escalation()
    for count in range(1, 5):
        escalation = escalation.after(count)
    assert escalation == Escalation(learning_rate=0.25, steps=2, penalty=0.1)
