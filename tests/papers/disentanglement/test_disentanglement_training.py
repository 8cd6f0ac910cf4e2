"""The six methods in training: schedules, precision, processes, what is refused."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from disentanglement_toys import ALL, few, images, loader, objective, quiet, small
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, multiprocessing
from torch.utils.data import DataLoader

from zoo import DIPVAE, AnnealedVAE, BetaTCVAE, BetaVAE, FactorVAE
from zoo.disentanglement.vae import Codes
from zoo.shared.processes import gather_rows


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
    trainer = quiet(max_epochs=10)
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
    objective(module, few())
    assert torch.equal(torch.get_rng_state(), state)


def test_posteriors_stay_float32_in_mixed_precision_and_losses_leave_it():
    module = BetaTCVAE(num_latents=3)
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(module, images(4))
        mean = module.encode(images(4))
    assert mean.dtype == torch.float32
    assert not torch.equal(mean, mean.bfloat16().float()), "rounded to bfloat16"
    exact = objective(module, images(4))
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.02, atol=1e-3)


def test_covariances_are_not_rounded_in_mixed_precision():
    module = small(DIPVAE)
    codes = Codes(*(torch.randn(16, 3) for _ in range(3)))
    module.draw_codes = lambda *_: codes
    exact = objective(module, few())["penalty"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective(module, few())["penalty"], exact)


@pytest.mark.parametrize("kind", ALL)
def test_a_module_works_wholly_in_bfloat16_and_in_float64(kind):
    for dtype in (torch.bfloat16, torch.float64):
        module = small(kind).to(dtype)
        found = objective(module, few().to(dtype))
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
    result = module.objective(few().chunk(2)[rank])
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
    result = module.objective(few())
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
        local, everywhere = (objective(small(kind, statistics=s), few()) for s in ("local", "all_ranks"))
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
