"""The module DANN: one step by hand, its schedules through a run, several processes, what it refuses."""

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from dann_toys import QUIET, SMALL, fit, images, loaders
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from zoo import DANN
from zoo.dann.loss import annealing_factor, domain_coefficient


class Halfway(L.Callback):
    """Keeps the gradients of the step in the middle of four, and the weights and the batch that it took them with."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2:
            self.weights, self.batch = copy.deepcopy(module.network), batch

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        if trainer.global_step == 2:
            self.gradients = {name: p.grad.clone() for name, p in module.network.named_parameters()}


def expected_gradients(kept: Halfway, adaptation: str, coefficient: float, weight: float) -> dict[str, Tensor]:
    """Without reversal: the features' and the heads' gradients of the two losses, taken apart and put together."""
    network: Any = kept.weights
    (x_s, y_s), x_t = kept.batch["source"], kept.batch["target"]
    f_s, f_t = network.extractor(x_s).flatten(1), network.extractor(x_t).flatten(1)
    logits = [network.label_output(network.label_body(f)) for f in (f_s, f_t)]
    label_loss = nn.functional.cross_entropy(logits[0], y_s)
    total = torch.zeros(())
    for label, (f, z) in enumerate(zip((f_s, f_t), logits, strict=True)):
        p = z.detach().softmax(1)
        seen = f if adaptation in ("none", "dann") else torch.einsum("bk,bd->bkd", p, f).flatten(1)
        q = network.domain_head(seen).sigmoid().squeeze(1)
        losses = -(q if label else 1 - q).log()
        w = 1 + (p * p.log()).sum(1).exp()
        total = total + (losses * w / w.mean() if adaptation == "cdan_e" else losses).mean()
    parameters = dict(network.named_parameters())
    of_label, of_domain = (
        torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        for loss in (label_loss, total)
    )
    back = 0.0 if adaptation == "none" else -coefficient
    return {
        name: (0 if y is None else y) + weight * (back if name.startswith("extractor") else 1) * (0 if d is None else d)
        for name, y, d in zip(parameters, of_label, of_domain, strict=True)
    }


@pytest.mark.parametrize("adaptation", ["none", "dann", "cdan", "cdan_e"])
def test_a_step_has_the_gradients_of_the_two_losses_put_together_by_hand(adaptation):
    torch.manual_seed(0)
    kept = Halfway()
    module = DANN(**SMALL, adaptation=adaptation, max_coefficient=0.7, domain_weight=1.5).double()
    fit(module, kept, max_epochs=-1, max_steps=4, precision="64-true")
    expected = expected_gradients(kept, adaptation, 0.7 * domain_coefficient(0.5), 1.5)
    assert kept.gradients.keys() == expected.keys()
    for name, gradient in kept.gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12, msg=name)


def test_the_control_trains_features_and_label_head_as_if_there_were_no_domain_head():
    curves = []
    for weight in (0.0, 5.0):
        torch.manual_seed(0)
        module = DANN(**SMALL, adaptation="none", domain_weight=weight)
        fit(module, max_epochs=3)
        curves.append(dict(module.network.state_dict()))
    same = {name for name, value in curves[0].items() if torch.equal(value, curves[1][name])}
    assert {name for name in curves[0] if name.startswith("domain_head")}.isdisjoint(same)
    assert {name for name in curves[0] if not name.startswith("domain_head")} == same


class Watch(L.Callback):
    """The coefficient and the learning rate of each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append((module.coefficient(), trainer.optimizers[0].param_groups[1]["lr"]))


def test_both_schedules_follow_the_share_of_all_optimiser_steps_and_go_on_after_a_resume(tmp_path):
    whole, resumed = Watch(), Watch()

    class Save(L.Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

    fit(DANN(**SMALL, lr=0.1), whole, Save(), max_epochs=4)
    assert len(whole.seen) == 12
    for step, (coefficient, rate) in enumerate(whole.seen):
        assert coefficient == pytest.approx(domain_coefficient(step / 12), rel=1e-12)
        assert rate == pytest.approx(0.1 * annealing_factor(step / 12), rel=1e-12)
    fit(DANN(**SMALL, lr=0.1), resumed, max_epochs=4, ckpt_path=tmp_path / "1.ckpt")
    assert resumed.seen == whole.seen[6:]


def test_accumulated_batches_count_as_one_step():
    watch = Watch()
    fit(DANN(**SMALL), watch, max_epochs=2, accumulate_grad_batches=3)
    assert [coefficient for coefficient, _ in watch.seen] == [0.0] * 3 + [pytest.approx(domain_coefficient(0.5))] * 3


def test_without_annealing_and_ramp_both_are_constant():
    watch = Watch()
    fit(DANN(**SMALL, gamma=None, max_coefficient=0.3, lr=0.05, lr_annealing=False), watch)
    assert watch.seen == [(0.3, 0.05)] * 3


def test_the_features_may_learn_at_a_rate_of_their_own():
    module = DANN(**SMALL, features_lr_factor=0.1)
    trainer = fit(module)
    rates = {id(p): group["lr"] for group in trainer.optimizers[0].param_groups for p in group["params"]}
    extractor, rest = (
        {rates[id(p)] for name, p in module.network.named_parameters() if name.startswith("extractor") == inside}
        for inside in (True, False)
    )
    assert len(rates) == len(list(module.parameters()))
    assert extractor.pop() == pytest.approx(0.1 * rest.pop())


def test_evaluation_never_looks_at_a_label_of_the_target():
    module, nonsense = DANN(**SMALL), torch.full((6,), 10**9)
    loader = DataLoader(TensorDataset(images(6, 0), torch.arange(6) % 3), 3)
    target = DataLoader(TensorDataset(images(6, 1), nonsense), 3)
    trainer = L.Trainer(**QUIET)
    trainer.validate(module, [loader, target], verbose=False)
    trainer.test(module, [loader, target], verbose=False)
    assert set(trainer.callback_metrics) == {"test/loss", "test/acc"}


def test_the_target_may_have_a_batch_of_another_size():
    module = DANN(**SMALL)
    data = loaders() | {"target": DataLoader(images(6, 1), 2)}
    trainer = L.Trainer(**QUIET, max_epochs=1, log_every_n_steps=1)
    trainer.fit(module, data)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


# several processes


class InOrder(L.LightningDataModule):
    """Hands sample r, r + 2, ... to process r of two, so that they see what one process sees in batches of twice the
    size."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def train_dataloader(self) -> dict[str, DataLoader]:
        trainer: Any = self.trainer
        share = {"num_replicas": trainer.world_size, "rank": trainer.global_rank, "shuffle": False}
        sets = {name: loader.dataset for name, loader in loaders().items()}
        return {name: DataLoader(s, self.batch, sampler=DistributedSampler(s, **share)) for name, s in sets.items()}


class Weights(L.Callback):
    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name

    def on_train_end(self, trainer: Any, module: Any) -> None:
        torch.save(module.network.state_dict(), f"{self.path}{trainer.global_rank}")


@pytest.mark.parametrize("adaptation", ["none", "dann", "cdan"])
def test_two_processes_with_half_batches_make_the_step_of_one(adaptation, tmp_path):
    for name, processes, batch in (("one", 1, 4), ("two", 2, 2)):
        torch.manual_seed(0)
        module = DANN(**SMALL, adaptation=adaptation).double()
        arguments: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2} if processes == 2 else {}
        trainer = L.Trainer(
            **QUIET, **arguments, max_epochs=2, precision="64-true", use_distributed_sampler=False,
            callbacks=[Weights(tmp_path, name)],
        )  # fmt: skip
        trainer.fit(module, datamodule=InOrder(batch))
    one, two, other = (torch.load(tmp_path / name) for name in ("one0", "two0", "two1"))
    for key, value in one.items():
        assert torch.equal(two[key], other[key])
        torch.testing.assert_close(two[key], value, rtol=1e-9, atol=1e-11)


# what it refuses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adaptation": "gan"}, "adaptation is 'gan'; expected one of none, dann, cdan, cdan_e"),
        ({"normalisation": "batch"}, "normalisation is 'batch'; expected one of none, joint, per_domain"),
        ({"network": "LeNet"}, "network is 'LeNet'; expected one of MNIST, SVHN, GTSRB, Shallow, AlexNet"),
        ({"network_args": {"depth": 3}}, r"network_args has \['depth'\], which MNIST does not take"),
        ({"network": "Shallow", "normalisation": "joint"}, "the network Shallow has no place for it"),
        ({"num_classes": 1}, "num_classes is 1"),
        ({"image_shape": (1, 9, 9)}, r"does not take inputs of image_shape \(1, 9, 9\)"),
        ({"image_shape": ()}, r"image_shape is \(\); expected positive sizes"),
        ({"gamma": 0.0}, "gamma is 0.0; expected a number above 0"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"max_coefficient": -1.0}, "max_coefficient is -1.0; expected a number of at least 0"),
        ({"domain_weight": float("inf")}, "domain_weight is inf"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"max_norm": -1.0}, "max_norm is -1.0"),
        ({"random_features": 8}, "random_features=8 is for a conditional domain head, not 'dann'"),
        ({"network_args": {"dropout": 1.0}}, "dropout is 1.0"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        DANN(**arguments)


def test_a_training_without_an_end_is_refused_because_progress_is_undefined():
    with pytest.raises(ValueError, match=r"max_epochs is -1 without max_steps.*set max_steps"):
        fit(DANN(**SMALL), max_epochs=-1)


class Endless(IterableDataset):
    def __init__(self, labelled: bool) -> None:
        self.labelled = labelled

    def __iter__(self) -> Any:
        while True:
            yield (images(1, 0)[0], 1) if self.labelled else images(1, 1)[0]


def test_so_is_one_over_data_without_an_end():
    endless = {"source": DataLoader(Endless(True), 4), "target": DataLoader(Endless(False), 4)}
    with pytest.raises(ValueError, match="needs to know where it ends: set max_steps"):
        L.Trainer(**QUIET, max_epochs=1).fit(DANN(**SMALL), endless)
    L.Trainer(**QUIET, max_epochs=-1, max_steps=3).fit(DANN(**SMALL), endless)


def test_a_target_of_another_shape_is_refused():
    data = loaders() | {"target": DataLoader(images(12, 1, (1, 7, 7)), 4)}
    with pytest.raises(ValueError, match=r"images of shape \(1, 7, 7\) arrived, but the module was built for"):
        L.Trainer(**QUIET, max_epochs=1).fit(DANN(**SMALL), data)


def test_nan_in_the_target_alone_is_refused():
    x = images(12, 1)
    x[2, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinite pixels in 1 of 4 images of a batch: rows \[2\]"):
        L.Trainer(**QUIET, max_epochs=1).fit(DANN(**SMALL), loaders() | {"target": DataLoader(x, 4)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"no tensors here", "damaged, or not a state dict"),
        ({"other": torch.zeros(1)}, "has nothing for this network; expected names like 0.weight"),
        ([1, 2], "has nothing for this network"),
        ({"0.weight": torch.zeros(2, 2)}, r"has 0.weight of \(2, 2\), the network \(32, 1, 5, 5\)"),
    ],
)
def test_a_bad_file_of_pretrained_features_is_refused_when_a_training_begins(content, message, tmp_path):
    path = tmp_path / "features.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    module = DANN(**SMALL, pretrained=str(path))  # building needs no file, nor does a checkpoint
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fit(module)
