"""The six methods as modules: networks, gradients, figures, schedules, processes, what is refused."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, multiprocessing, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo import DIPVAE, AnnealedVAE, BetaTCVAE, BetaVAE, FactorVAE
from zoo.disentanglement.loss import discriminator_loss, kl_divergence
from zoo.disentanglement.net import Discriminator
from zoo.disentanglement.vae import VAE, Codes
from zoo.shared.losses import at_least_float32
from zoo.shared.processes import gather_rows

ALL = [BetaVAE, AnnealedVAE, FactorVAE, DIPVAE, BetaTCVAE]


def images(count: int = 8, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def small_network(kind: type[VAE]) -> type[VAE]:
    """The same method with a linear encoder and decoder and a small discriminator, for images of any size."""

    class Small(kind):  # type: ignore[misc, valid-type]  # a class that is an argument
        def build_encoder(self) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(self.image_shape), 2 * self.hparams["num_latents"]))

        def build_decoder(self) -> nn.Module:
            pixels = math.prod(self.image_shape)
            return nn.Sequential(nn.Linear(self.hparams["num_latents"], pixels), nn.Unflatten(1, self.image_shape))

        def build_discriminator(self) -> nn.Module:
            return Discriminator(self.hparams["num_latents"], width=16)

    return Small


def small(kind: type[VAE], **arguments: Any) -> Any:
    torch.manual_seed(0)
    return small_network(kind)(**{"image_shape": (1, 6, 6), "num_latents": 3} | arguments)


def few(count: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def figures(module: Any, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
    return module.figures(x, torch.Generator().manual_seed(seed))


def quiet(**arguments: Any) -> L.Trainer:
    usual: dict[str, Any] = {
        "max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "log_every_n_steps": 1,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return L.Trainer(**usual | arguments)


def loader(x: Tensor, batch_size: int = 8) -> DataLoader:
    return DataLoader(TensorDataset(x, torch.zeros(len(x), dtype=torch.int64)), batch_size)


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize(("channels", "encoder", "decoder"), [(1, 309_204, 381_313), (3, 310_228, 382_339)])
def test_the_networks_have_the_studys_parameters_and_shapes(channels, encoder, decoder):
    module = FactorVAE(image_shape=(channels, 64, 64))
    counts = [
        sum(p.numel() for p in part.parameters()) for part in (module.encoder, module.decoder, module.discriminator)
    ]
    assert counts == [encoder, decoder, 5_018_002]
    kernels = [m.kernel_size for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(4, 4), (4, 4), (2, 2), (2, 2)]
    sides: list[int] = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(lambda *args: sides.append(args[2].shape[2]))
    x = images(2, channels)
    assert module(x).shape == x.shape
    assert sides == [32, 16, 8, 4, 8, 16, 32, 64]
    assert [layer.negative_slope for layer in module.discriminator if isinstance(layer, nn.LeakyReLU)] == [0.2] * 6


def test_weights_start_glorot_uniform_and_biases_at_zero():
    module = BetaVAE()
    assert all((value == 0).all() for name, value in module.named_parameters() if name.endswith("bias"))
    first, head = module.encoder.body[0].weight, module.encoder.head.weight
    assert first.abs().max().item() == pytest.approx(math.sqrt(6 / (16 + 32 * 16)), rel=0.02)
    assert head.abs().max().item() == pytest.approx(math.sqrt(6 / (256 + 10)), rel=0.005)  # a head has ten units


@pytest.mark.parametrize(("channels", "expected"), [(1, 2839.1), (3, 8517.4)])
def test_training_starts_at_log_2_in_each_pixel_without_any_divergence(channels, expected):
    found = figures(BetaVAE(image_shape=(channels, 64, 64)), images(channels=channels))
    assert found["reconstruction"].item() == pytest.approx(expected, rel=2e-3)
    assert 0 <= found["kl"].item() < 0.1


def test_weights_and_feature_maps_are_channels_last():
    module = BetaVAE(image_shape=(3, 64, 64))
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert module.encoder.body[:2](images(2, 3)).is_contiguous(memory_format=torch.channels_last)


def test_an_encoder_or_a_decoder_of_ones_own_is_one_method():
    class Mine(BetaVAE):
        def build_encoder(self) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(4096, 20))

    assert Mine().encode(images(2)).shape == (2, 10)
    module = small(BetaVAE)
    assert module(few(2)).shape == (2, 1, 6, 6)


# ---------------------------------------------------------------- what a module offers


def test_the_capabilities_agree_with_one_another():
    module = BetaVAE(num_latents=4).eval()
    x = images(3)
    posterior = module.posterior(x)
    assert posterior.batch_shape == (3,)
    assert posterior.event_shape == (4,)
    assert torch.equal(posterior.mean, module.encode(x))
    assert torch.equal(module(x), module.decode(module.encode(x)))
    drawn = module.sample(5)
    assert drawn.shape == (5, 1, 64, 64)
    assert not drawn.requires_grad
    assert 0 <= drawn.min() <= drawn.max() <= 1


def test_the_encoder_and_the_likelihood_see_pixels_from_0_to_1():
    module, seen = small(BetaVAE), []
    module.encoder.register_forward_hook(lambda *args: seen.append(args[1][0]))
    x = few()
    with torch.no_grad():
        for parameter in module.decoder.parameters():
            parameter.zero_()
        module.decoder[0].bias.copy_(torch.full((36,), 2.0))
    found = figures(module, x)
    torch.testing.assert_close(seen[0], (x + 1) / 2)
    expected = nn.functional.binary_cross_entropy_with_logits(torch.full_like(x, 2.0), (x + 1) / 2, reduction="none")
    torch.testing.assert_close(found["reconstruction"], expected.sum((1, 2, 3)).mean())


def test_the_draws_of_a_batch_follow_its_posterior():
    module = small(BetaVAE)
    x = few(1).expand(20_000, 1, 6, 6)
    codes = module.draw_codes((x + 1) / 2, torch.Generator().manual_seed(0))
    posterior = module.posterior(x[:1])
    torch.testing.assert_close(codes.z.mean(0), posterior.mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(codes.z.std(0), posterior.stddev[0], rtol=0.03, atol=0)


# ---------------------------------------------------------------- objectives


def plain(**arguments: Any) -> list[Any]:
    """What is the plain VAE in each family."""
    return [
        small(BetaVAE, beta=1.0, **arguments),
        small(FactorVAE, gamma=0.0, **arguments),
        small(DIPVAE, lambda_od=0.0, **arguments),
        *(small(BetaTCVAE, beta=1.0, estimator=e, dataset_size=99, **arguments) for e in ("mixture", "stratified")),
    ]


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_at_weight_zero_or_one_all_methods_are_the_same_vae(likelihood):
    x, found = few(), []
    for module in plain(likelihood=likelihood):
        result = figures(module, x)
        parameters = [*module.encoder.parameters(), *module.decoder.parameters()]
        found.append([result["loss"], *torch.autograd.grad(result["loss"], parameters)])
    for other in found[1:]:
        for first, second in zip(found[0], other, strict=True):
            torch.testing.assert_close(first, second)


def test_a_discriminator_with_equal_logits_leaves_the_vae_loss():
    module = small(FactorVAE)
    with torch.no_grad():
        module.discriminator[-1].weight.zero_()
    found = figures(module, few())
    torch.testing.assert_close(found["loss"], found["reconstruction"] + found["kl"])
    assert found["discriminator_loss"].item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        (BetaVAE, {"beta": 6.0}, lambda f: 6 * f["kl"]),
        (AnnealedVAE, {"gamma": 7.0}, lambda f: 7 * (f["kl"] - f["capacity"]).abs()),
        (FactorVAE, {"gamma": 20.0}, lambda f: f["kl"] + 20 * f["total_correlation"]),
        (DIPVAE, {"variant": "II"}, lambda f: f["kl"] + f["penalty"]),
        (BetaTCVAE, {"beta": 8.0}, lambda f: f["kl"] + 7 * f["total_correlation"]),
    ],
)
def test_the_loss_is_the_reconstruction_plus_the_methods_own_regulariser(kind, arguments, expected):
    found = figures(small(kind, **arguments), few())
    torch.testing.assert_close(found["regulariser"], expected(found))
    torch.testing.assert_close(found["loss"], found["reconstruction"] + found["regulariser"])


@pytest.mark.parametrize(
    ("variant", "lambda_d", "weights"),
    [("I", None, (2, 20)), ("II", None, (2, 2)), ("I", 0.0, (2, 0)), ("II", 3.0, (2, 3))],
)
def test_dip_vae_weighs_the_diagonal_as_the_study_does_unless_told(variant, lambda_d, weights):
    module = small(DIPVAE, variant=variant, lambda_od=2.0, lambda_d=lambda_d)
    mean = torch.tensor([[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0], [2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])
    variances = torch.tensor([0.5, 1.0, 1.0])
    codes = Codes(mean, mean, variances.log().expand(4, 3))
    kl = kl_divergence(codes.mean, codes.logvar)
    diagonal = torch.tensor([2.5, 0.5, 0.0]) + (variances if variant == "II" else 0)
    expected = weights[0] * 2 * 0.25 + weights[1] * (diagonal - 1).square().sum()
    torch.testing.assert_close(module.regulariser(codes, kl, None)["penalty"], expected)


def test_the_estimators_differ_by_their_constants_and_the_stratified_one_truly():
    found = {}
    for name in ("unnormalised", "mixture", "weighted", "stratified"):
        module = small(BetaTCVAE, estimator=name, dataset_size=1000)
        with torch.no_grad():
            module.encoder[1].weight.mul_(5)  # posteriors that differ
        found[name] = figures(module, few())["total_correlation"].item()
    assert found["mixture"] - found["unnormalised"] == pytest.approx(2 * math.log(16), abs=1e-4)
    assert found["weighted"] - found["unnormalised"] == pytest.approx(2 * math.log(16_000), abs=1e-4)
    assert abs(found["stratified"] - found["mixture"]) > 0.01


# ---------------------------------------------------------------- FactorVAE


@pytest.mark.parametrize("second_batch", [False, True])
def test_neither_loss_of_factor_vae_leaves_a_gradient_in_what_the_other_trains(second_batch):
    module = small(FactorVAE, second_batch=second_batch)
    found = figures(module, few())
    own, others = list(module.discriminator.parameters()), [*module.encoder.parameters(), *module.decoder.parameters()]
    of_others = torch.autograd.grad(found["loss"], others + own, retain_graph=True, allow_unused=True)
    of_own = torch.autograd.grad(found["discriminator_loss"], others + own, retain_graph=True, allow_unused=True)
    assert all(g is not None for g in of_others[: len(others)])
    assert all(g is None for g in of_others[len(others) :])
    assert all(g is None for g in of_own[: len(others)])
    assert all(g is not None for g in of_own[len(others) :])
    module.minimised(found).backward()
    for parameter, expected in zip(others + own, [*of_others[: len(others)], *of_own[len(others) :]], strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_the_total_correlation_reaches_the_encoder_through_the_discriminator():
    module = small(FactorVAE)
    found = figures(module, few())
    gradients = torch.autograd.grad(found["total_correlation"], list(module.encoder.parameters()))
    assert all(g.abs().sum() > 0 for g in gradients)


def test_one_adam_with_two_groups_steps_like_two_adams_at_once():
    x, modules = few(64), [small(FactorVAE), small(FactorVAE)]
    torch.manual_seed(1)
    trainer = quiet(max_steps=4)
    trainer.fit(modules[0], loader(x, 16))
    assert trainer.global_step == 4, "max_steps counts batches"

    vae, discriminator = modules[1], modules[1].discriminator
    own = torch.optim.Adam([*vae.encoder.parameters(), *vae.decoder.parameters()], 1e-4, fused=True)
    other = torch.optim.Adam(discriminator.parameters(), 1e-4, betas=(0.5, 0.9), fused=True)
    torch.manual_seed(1)
    list(loader(x, 16).__iter__().__next__())  # draws what the trainer's loader drew
    for batch in x.split(16):
        found = vae.figures(batch)
        own.zero_grad()
        other.zero_grad()
        found["loss"].backward()
        found["discriminator_loss"].backward()
        own.step()
        other.step()
    for first, second in zip(modules[0].parameters(), vae.parameters(), strict=True):
        assert torch.equal(first, second)


def test_permuted_codes_are_those_of_the_batch_or_of_its_second_half():
    for second_batch, halves in ((False, 1), (True, 2)):
        module, seen, encoded = small(FactorVAE, second_batch=second_batch), [], []
        module.discriminator.register_forward_hook(lambda *args, seen=seen: seen.append(args[1][0]))
        module.encoder.register_forward_hook(lambda *args, encoded=encoded: encoded.append(args[2].detach()))
        x = few()
        found = figures(module, x)
        z, permuted = seen[1].chunk(2)
        assert len(z) == 16 // halves
        assert len(encoded) == halves
        assert torch.equal(seen[0], z), "the total correlation and the discriminator's loss see the same codes"
        source = z if not second_batch else at_least_float32(encoded[1]).chunk(2, 1)[0]
        if not second_batch:
            torch.testing.assert_close(permuted.sort(0).values, source.sort(0).values, rtol=0, atol=0)
            assert not torch.equal(permuted, z)
        else:
            assert not set(permuted.flatten().tolist()) & set(z.flatten().tolist())
        logits = module.discriminator(torch.cat([z, permuted]))
        torch.testing.assert_close(found["discriminator_loss"], discriminator_loss(*logits.split(len(z))))
        assert len(figures(module.eval(), x)) == len(found)
        assert len(seen[-1]) == 32, "evaluation always takes the whole batch for both"


def test_a_batch_of_one_image_cannot_be_halved():
    with pytest.raises(ValueError, match="second_batch halves a batch of 1; expected 2 images at least"):
        figures(small(FactorVAE, second_batch=True), few(1))


# ---------------------------------------------------------------- training


def test_the_capacity_follows_the_optimisers_steps_and_a_checkpoint_keeps_their_number(tmp_path):
    class Capacities(L.Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.seen.append(trainer.callback_metrics["train/capacity"].item())

    module, seen = small(AnnealedVAE, max_capacity=8.0, annealing_steps=4), Capacities()
    trainer = quiet(callbacks=[seen], accumulate_grad_batches=2)
    trainer.fit(module, loader(few(96)))
    assert seen.seen == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 8, 8]
    assert module.step.item() == trainer.global_step == 6
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    loaded = type(module).load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert loaded.step.item() == 6


def test_validation_and_test_have_the_capacity_at_its_end():
    module = small(AnnealedVAE, max_capacity=8.0, annealing_steps=4)
    trainer = quiet()
    found = trainer.validate(module, loader(few()), verbose=False)[0]
    assert found["val/capacity"] == 8
    assert found["val/regulariser"] == pytest.approx(1000 * abs(found["val/kl"] - 8), rel=1e-3)


@pytest.mark.parametrize("kind", ALL)
def test_every_method_lowers_its_loss_and_logs_it(kind):
    module = small(kind, lr=0.01, **({"annealing_steps": 5, "gamma": 1.0} if kind is AnnealedVAE else {}))
    x = few(64)
    trainer = quiet(max_epochs=40)
    before = trainer.validate(module, loader(x), verbose=False)[0]
    trainer.fit(module, loader(x))
    assert {f"train/{name}" for name in ("loss", "reconstruction", "kl", "regulariser")} <= set(
        trainer.callback_metrics
    )
    after = trainer.validate(module, loader(x), verbose=False)[0]
    names = {f"val/{name}" for name in ("loss", "reconstruction", "kl", "regulariser", "elbo", "reconstruction_excess")}
    assert names <= set(after)
    assert after["val/reconstruction"] < before["val/reconstruction"]
    assert after["val/elbo"] == pytest.approx(-after["val/reconstruction"] - after["val/kl"], rel=1e-5)
    assert 0 < after["val/reconstruction_excess"] < after["val/reconstruction"]


@pytest.mark.parametrize("kind", [BetaVAE, FactorVAE])
def test_evaluation_draws_the_same_each_time_and_leaves_the_random_state_alone(kind):
    module, found = small(kind), []
    state = torch.get_rng_state()
    for _ in range(2):
        found.append(quiet().validate(module, loader(few(32)), verbose=False)[0])
        torch.rand(3)
    assert found[0] == found[1]
    torch.set_rng_state(state)
    module.eval()
    figures(module, few())
    assert torch.equal(torch.get_rng_state(), state)


def test_posteriors_stay_float32_in_mixed_precision_and_losses_leave_it():
    module = BetaTCVAE(num_latents=3)
    with torch.autocast("cpu", torch.bfloat16):
        found = figures(module, images(4))
        mean = module.encode(images(4))
    assert mean.dtype == torch.float32
    assert not torch.equal(mean, mean.bfloat16().float()), "rounded to bfloat16"
    exact = figures(module, images(4))
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.02, atol=1e-3)


def test_covariances_are_not_rounded_in_mixed_precision():
    module = small(DIPVAE)
    codes = Codes(*(torch.randn(16, 3) for _ in range(3)))
    module.draw_codes = lambda *_: codes
    exact = figures(module, few())["penalty"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(figures(module, few())["penalty"], exact)


@pytest.mark.parametrize("kind", ALL)
def test_a_module_works_wholly_in_bfloat16_and_in_float64(kind):
    for dtype in (torch.bfloat16, torch.float64):
        module = small(kind).to(dtype)
        found = figures(module, few().to(dtype))
        assert all(value.isfinite() for value in found.values())
        assert module.sample(2).isfinite().all()


def test_max_steps_counts_batches_and_a_run_goes_on_where_it_stopped(tmp_path):
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    module = small(FactorVAE)
    quiet(max_steps=4, max_epochs=-1, callbacks=[keep], enable_checkpointing=True).fit(module, loader(few(64)))
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["step=2", "step=4"]
    trainer = quiet(max_steps=6, max_epochs=-1)
    trainer.fit(small(FactorVAE), loader(few(64)), ckpt_path=tmp_path / "step=4.ckpt", weights_only=True)
    assert trainer.global_step == 6


# ---------------------------------------------------------------- processes


def two_processes(rank: int, folder: str) -> None:
    """What each of two processes gets of a covariance penalty over both."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    module = small(DIPVAE, statistics="all_ranks")
    with torch.no_grad():
        found = {"rows": gather_rows(torch.full((2, 1), float(rank)))}
    module.draw_codes = noiseless(module)
    result = module.figures(few().chunk(2)[rank])
    result["loss"].backward()
    found |= {name: p.grad / 2 for name, p in module.named_parameters()} | {"penalty": result["penalty"].detach()}
    for name in found.keys() - {"rows", "penalty"}:
        torch.distributed.all_reduce(found[name])
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def noiseless(module: Any) -> Any:
    def draw(x: Tensor, *_: Any) -> Codes:
        mean, logvar = module.encoder(x).chunk(2, 1)
        return Codes(mean, mean, logvar)

    return draw


def test_statistics_over_all_processes_give_the_gradients_of_one_process_with_the_whole_batch(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=two_processes, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    module = small(DIPVAE)
    module.draw_codes = noiseless(module)
    result = module.figures(few())
    result["loss"].backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["rows"].flatten().tolist() == [0, 0, 1, 1]
        torch.testing.assert_close(found["penalty"], result["penalty"])
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad)


def test_in_one_process_all_ranks_are_one():
    rows = torch.rand(3, 2)
    assert gather_rows(rows) is rows
    for kind in (DIPVAE, BetaTCVAE, AnnealedVAE):
        local, everywhere = (figures(small(kind, statistics=s), few()) for s in ("local", "all_ranks"))
        assert local["loss"] == everywhere["loss"]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (BetaVAE, {"beta": -1.0}, "beta is -1.0; expected a number of at least 0"),
        (BetaVAE, {"beta": math.nan}, "beta is nan; expected a number of at least 0"),
        (BetaVAE, {"num_latents": 0}, "num_latents is 0; expected a number of at least 1"),
        (BetaVAE, {"lr": 0.0}, "lr is 0.0; expected a number above 0"),
        (BetaVAE, {"likelihood": "poisson"}, "likelihood is 'poisson'; expected one of bernoulli, gaussian"),
        (BetaVAE, {"image_shape": (1, 28, 28)}, r"image_shape is \(1, 28, 28\); the study's network takes"),
        (AnnealedVAE, {"max_capacity": -5.0}, "max_capacity is -5.0; expected a number of at least 0"),
        (AnnealedVAE, {"annealing_steps": 0}, "annealing_steps is 0; expected a number of at least 1"),
        (FactorVAE, {"gamma": math.inf}, "gamma is inf; expected a number of at least 0"),
        (FactorVAE, {"discriminator_lr": -1.0}, "discriminator_lr is -1.0; expected a number above 0"),
        (DIPVAE, {"variant": "III"}, "variant is 'III'; expected one of I, II"),
        (DIPVAE, {"lambda_d": -1.0}, "lambda_d is -1.0; expected a number of at least 0"),
        (DIPVAE, {"statistics": "global"}, "statistics is 'global'; expected one of local, all_ranks"),
        (BetaTCVAE, {"estimator": "naive"}, "estimator is 'naive'; expected one of mixture, weighted, stratified"),
        (BetaTCVAE, {"estimator": "stratified"}, "estimator 'stratified' needs dataset_size, the number of different"),
        (BetaTCVAE, {"estimator": "weighted", "dataset_size": 0}, "dataset_size is 0; expected a number of at least 1"),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused_by_name(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (few() * 255, r"pixels from -25.* to 25.* arrived; expected images in \[-1, 1\], with 1 for white"),
        (few() + 0.01, "pixels from -0.9.* to 1.00.* arrived"),
        (torch.full((2, 1, 6, 6), math.nan), "NaN or infinite pixels in 2 of 2 images"),
        (images(2), r"images of shape \(1, 64, 64\) arrived, but the module was built for \(1, 6, 6\)"),
    ],
)
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_images_that_are_none_are_refused_in_every_stage(x, message, stage):
    with pytest.raises(ValueError, match=message):
        getattr(quiet(), stage)(small(BetaVAE), loader(x))


def test_rounding_beyond_the_range_is_no_error():
    quiet(max_steps=1).fit(small(BetaVAE), loader(few() * (1 + 1e-6)))
    found = quiet().validate(small(BetaVAE), loader(torch.full((8, 1, 6, 6), 1 + 1e-6)), verbose=False)[0]
    assert math.isfinite(found["val/reconstruction_excess"])


def test_images_may_come_without_factors():
    batches = DataLoader(
        [(image,) for image in few()], 8, collate_fn=lambda rows: torch.stack([row[0] for row in rows])
    )
    quiet(max_steps=2).fit(small(BetaVAE), batches)
    assert [codes.shape for codes in quiet().predict(small(BetaVAE), batches)] == [(8, 3), (8, 3)]
