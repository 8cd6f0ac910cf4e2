"""JEM: the exact numbers of a linear model, the sampler's laws, the memory, divergence and recovery."""

import copy
import math
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import grad
from torch.utils.data import DataLoader, TensorDataset

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
from zoo.jem.recovery import Rungs, diverged
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


@settings(max_examples=50, deadline=None)
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
    memory = ReplayMemory(torch.zeros(10_000, 1), num_classes=10)
    slots = torch.cat([memory.slots(1, torch.tensor([3])) for _ in range(300)])
    assert slots.min() >= 3000
    assert slots.max() < 4000
    assert 3000 + 7 == 3 * (10_000 // 10) + 7  # y = 3, u = 7


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


def test_sgld_refuses_negative_numbers():
    with pytest.raises(ValueError, match="steps=-1"):
        sgld(density, X, -1, 1.0, 0.0)


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
    found = diverged(torch.tensor(loss), torch.tensor(gap), torch.full((2, 3), sample), 1e3, 0.1)
    assert bool(found) is expected


def test_rungs_come_in_turn():
    rungs = Rungs()
    for count in range(1, 5):
        rungs = rungs.after(count)
    assert rungs == Rungs(learning_rate=0.25, steps=2, penalty=0.1)


# --------------------------------------------------------------------- the module


def tiny_jem(**arguments: Any) -> JEM:
    defaults: dict[str, Any] = {
        "image_shape": (1, 8, 8), "num_classes": 3, "network": "SmallConvNet", "network_args": {"width": 4},
        "memory_size": 60, "sgld_steps": 3, "lr": 1e-2, "warmup_steps": 0, "snapshot_every_n_steps": 2,
    }  # fmt: skip
    L.seed_everything(0, verbose=False)
    return JEM(**(defaults | arguments))


def images(count: int = 48) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    x = torch.rand(count, 1, 8, 8, generator=generator) - 1 + y[:, None, None, None] / 2
    return TensorDataset(x.clamp(-1, 1), y)


def fit(model: JEM, steps: int = 6, **arguments: Any) -> L.Trainer:
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, **arguments,
    )  # fmt: skip
    trainer.fit(model, DataLoader(images(), batch_size=12, shuffle=True, drop_last=True))
    return trainer


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"shared_batch": True},
        {"class_conditional": True},
        {"weight_px": 0.0, "weight_pyx": 0.0, "weight_pxy": 1.0},
        {"weight_pxy": 0.5, "class_conditional": True},
        {"memory_size": 0},
        {"initialisation": "informative", "gradient_clip": 1.0, "clamp_samples": True, "noise_std": 0.0},
        {"penalty": 0.1, "optimizer": "sgd"},
        {"chain_precision": "bfloat16"},
        {
            "initialisation": "informative",
            "network": "WideResNet",
            "network_args": {"depth": 10, "width": 1, "norm": "batch"},
        },
    ],
)
def test_every_variant_trains(arguments):
    model = tiny_jem(**arguments)
    before = copy.deepcopy(model.state_dict())
    trainer = fit(model, 3)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert model.sample(4).shape == (4, 1, 8, 8)
    by_class = model.sample(5, label=2)
    assert by_class.min() >= 0
    assert by_class.max() <= 1


def test_the_training_step_is_the_hand_written_one():
    """One SGD step against plain PyTorch: chains, three separate passes, one backward."""
    model = tiny_jem(noise_std=0.0, dequantisation_std=0.0, reinit_probability=0.0, optimizer="sgd", lr=0.1)
    network = copy.deepcopy(model.network)
    seen: dict[str, Tensor] = {}
    draw = model.chains.draw

    def spy(*arguments: Any) -> Any:
        seen["memory"] = model.chains.memory.images.clone()
        samples, slots = draw(*arguments)
        seen["samples"], seen["slots"] = samples.clone(), slots.clone()
        return samples, slots

    model.chains.draw = spy
    x, y = images(12)[:]
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=12))

    chain = seen["memory"][seen["slots"]]
    for _ in range(3):
        chain = chain.detach().requires_grad_()
        (slope,) = torch.autograd.grad(network(chain).logsumexp(1).sum(), chain)
        chain = chain + slope
    torch.testing.assert_close(seen["samples"], chain.detach(), atol=1e-6, rtol=0)
    x_p, x_l, y_l = x[:6], x[6:], y[6:]
    loss = network(chain.detach()).logsumexp(1).mean() - network(x_p).logsumexp(1).mean()
    loss = loss + nn.functional.cross_entropy(network(x_l), y_l)
    loss.backward()
    for parameter, trained in zip(network.parameters(), model.network.parameters(), strict=True):
        torch.testing.assert_close(trained, parameter - 0.1 * parameter.grad, atol=1e-6, rtol=0)
    assert torch.equal(model.chains.memory.images[seen["slots"]], seen["samples"])


def test_forced_divergence_recovers_and_training_ends_well():
    """At step 3 the weights are blown up: the memory must not see it, and the run must end finite and lower."""

    class Saboteur(L.Callback):
        poisoned = False
        memory = None

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 3 and not self.poisoned:
                self.poisoned = True
                self.memory = module.chains.memory.images.clone()
                with torch.no_grad():
                    for parameter in module.network.parameters():
                        parameter.mul_(1e4)

        def on_train_batch_end(self, trainer, module, *_):
            assert module.chains.memory.images.abs().max() < 10

    model = tiny_jem(shared_batch=True)
    with pytest.warns(UserWarning, match="diverged at step 3.*recovery 1 of at most 5"):
        trainer = fit(model, 40, callbacks=[Saboteur()])
    assert model.recovery.count == 1
    assert model.recovery.rungs.learning_rate == 0.5
    assert trainer.callback_metrics["train/recoveries"] == 1
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.005)
    assert trainer.callback_metrics["train/pyx"] < 0.9, "below log 3 = 1.1: it still learns"
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model.report_notes()["recoveries from divergence"] == 1


def test_too_many_divergences_end_with_advice():
    model = tiny_jem(max_energy_gap=-1.0, max_recoveries=3)  # every step counts as diverged
    with pytest.warns(UserWarning, match="recovery"), pytest.raises(RuntimeError, match=r"3 times already.*penalty"):
        fit(model, 5)


def test_a_second_divergence_goes_back_to_the_older_snapshot():
    model = tiny_jem()
    fit(model, 4)
    recovery, network, optimizer = model.recovery, model.network, model.trainer.optimizers[0]
    recovery._states.clear()
    marks = []
    for value in (1.0, 2.0):
        with torch.no_grad():
            network.head.bias.fill_(value)
        recovery.take_snapshot(network, optimizer, None)
        marks.append(value)
    recovery.go_back(network, optimizer, None)
    assert network.head.bias[0] == 2.0
    recovery.go_back(network, optimizer, None)
    assert network.head.bias[0] == 1.0
    with torch.no_grad():
        network.head.bias.fill_(math.nan)
    recovery.take_snapshot(network, optimizer, None)  # refused: not finite
    recovery.go_back(network, optimizer, None)
    assert network.head.bias[0] == 1.0


def test_a_checkpoint_keeps_memory_and_recoveries(tmp_path):
    model = tiny_jem()
    trainer = fit(model)
    model.recovery.count = 2
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["jem"]["memory"].shape == (60, 1, 8, 8)
    loaded = JEM.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert loaded.recovery.count == 2
    torch.testing.assert_close(loaded._restored["memory"], model.chains.memory.images)
    found = loaded.sample(3, steps=0)
    inside = (model.chains.memory.images + 1) / 2
    assert all((inside.clamp(0, 1) - image).abs().flatten(1).amax(1).min() < 1e-6 for image in found)


def test_sampling_changes_neither_memory_nor_training():
    runs = []
    for look in (False, True):

        class Look(L.Callback):
            look_now = look

            def on_train_batch_end(self, trainer, module, *_):
                if self.look_now:
                    with torch.random.fork_rng(devices=[]):
                        module.sample(4)

        model = tiny_jem()
        fit(model, 4, callbacks=[Look()])
        runs.append((model.state_dict(), model.chains.memory.images))
    assert all(torch.equal(runs[0][0][key], runs[1][0][key]) for key in runs[0][0])
    assert torch.equal(runs[0][1], runs[1][1])


def test_scores_are_the_papers_and_work_in_a_test_run():
    model = tiny_jem()
    fit(model, 2)
    x, y = images(9)[:]
    model.eval()
    expected = model.ood_scores(x)
    gathered: dict[str, Tensor] = {}

    class Score(L.Callback):
        def on_test_batch_end(self, trainer, module, outputs, batch, *_):
            assert torch.is_inference_mode_enabled()
            gathered.update(module.ood_scores(batch[0]))

    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[Score()])
    trainer.test(model, DataLoader(TensorDataset(x, y), batch_size=9), verbose=False)
    variable = x.clone().requires_grad_()
    logits = model(variable)
    (slope,) = torch.autograd.grad(logits.logsumexp(1).sum(), variable)
    for scores in (expected, gathered):
        close(scores["log_density"], -logits.detach().logsumexp(1), 1e-5)
        close(scores["approximate_mass"], slope.flatten(1).norm(dim=1), 1e-5)
        assert scores["max_probability"].argsort().equal((-logits.softmax(1).amax(1)).argsort())
    assert all(parameter.grad is None or not parameter.grad.isnan().any() for parameter in model.parameters())


def test_semi_supervised_batches_use_two_different_minibatches():
    model = tiny_jem(dequantisation_std=0.0)
    x, y = images(12)[:]
    x_p, x_l, y_l = model._minibatches({"labelled": (x[:5], y[:5]), "unlabelled": x[5:]})
    assert torch.equal(x_p, x[5:])
    assert torch.equal(x_l, x[:5])
    assert torch.equal(y_l, y[:5])
    x_p, x_l, y_l = model._minibatches((x, y))
    assert torch.equal(torch.cat([x_p, x_l]), x)
    assert torch.equal(y_l, y[6:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "WideResNet", "network_args": {"depth": 10, "width": 1, "norm": "batch"}}, "informative"),
        ({"weight_pxy": 1.0}, "weight_pxy=1.0 mix"),
        ({"weight_px": 0.0}, "both 0"),
        ({"network": "Nothing"}, "'Nothing' is unknown.*SmallConvNet"),
        ({"network_args": {"depth": 3}}, "depth.*SmallConvNet"),
        ({"num_classes": 1}, "at least 2"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_jem(**arguments)


def test_a_memory_that_does_not_divide_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"memory_size is 50.*3 classes x 1 processes"):
        fit(tiny_jem(memory_size=50))


def test_nan_pixels_are_refused_and_not_taken_for_divergence():
    model = tiny_jem(shared_batch=True)
    x, y = images(12)[:]
    x[3] = math.nan
    trainer = L.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match=r"NaN or infinite pixels in 1 of 12 images.*rows \[3\]"):
        trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=12))
    assert model.recovery.count == 0
