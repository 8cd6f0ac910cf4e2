"""`AdaptationEvaluation`: what it logs, and that a training does not notice it."""

import math

import numpy as np
import pytest
import torch
from adaptation_toys import NAMES, ORACLE, Adapting, Pair, Stream, fit, numbers
from evaluation_toys import trainer_of
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, Sampler

from callbacks import AdaptationEvaluation, Randomness
from callbacks.adaptation import validators
from callbacks.adaptation.density_ratio import density_ratio
from callbacks.adaptation.domains import oracle_metrics
from callbacks.adaptation.proxy_distance import proxy_a_distance


class History(Callback):
    """What can be seen at the end of each validation."""

    def __init__(self):
        self.rows = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.rows.append(numbers(trainer))


def test_the_figures_are_those_of_the_scores_on_all_samples():
    module, data, callback = Adapting(), Pair(), AdaptationEvaluation()
    found = numbers(fit([callback], module, data))
    assert set(found) == NAMES | ORACLE
    module.eval()
    (x, y), (target, labels) = (
        (part[1].tensors[0].float() - 3, part[1].tensors[1]) for part in (data.source, data.target)
    )
    train = data.source[0].tensors[0].float() - 3
    with torch.no_grad():
        logits, shifted = module(x), module(target)
        features = [module.domain_features(rows).numpy() for rows in (train, target, x)]
    weights = density_ratio(*features)
    losses = nn.functional.cross_entropy(logits.double(), y, reduction="none").numpy()
    accuracy, information = (logits.argmax(1) == y).double().mean().item(), validators.information_maximisation(shifted)
    expected = {
        "validator/source_accuracy": accuracy,
        "validator/accuracy_and_information": accuracy + information / math.log(3),
        "validator/information_maximisation": information,
        "validator/entropy": validators.entropy_score(shifted),
        "validator/diversity": validators.diversity_score(shifted),
        "validator/snd": validators.soft_neighbourhood_density(shifted.double().softmax(1)),
        "validator/dev": validators.deep_embedded_validation(losses, weights),
        "validator/dev_max_weight": weights.max(),
        "oracle/val_acc": (shifted.argmax(1) == labels).double().mean().item(),
        "oracle/val_nll": nn.functional.cross_entropy(shifted, labels).item(),
    }
    assert found == pytest.approx(expected, rel=1e-5)
    assert callback.validation == pytest.approx(expected, rel=1e-5)


def test_checkpoints_and_early_stopping_see_the_figures_of_their_own_validation(tmp_path):
    history = History()
    monitor = "validator/accuracy_and_information"
    checkpoint = ModelCheckpoint(tmp_path, monitor=monitor, mode="max", save_top_k=-1)
    stopping = EarlyStopping(monitor, patience=50, mode="max")
    # the checkpoint is named first: Lightning puts it last
    fit([checkpoint, stopping, AdaptationEvaluation(), history], Adapting(0.3), max_epochs=4, enable_checkpointing=True)
    assert sorted(v.item() for v in checkpoint.best_k_models.values()) == sorted(row[monitor] for row in history.rows)
    assert stopping.best_score == checkpoint.best_model_score == max(row[monitor] for row in history.rows)
    assert len({row[monitor] for row in history.rows}) > 1


class Moving(Sampler):
    """Draws other samples each time it is asked."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return iter([(7 * self.passes + 5 * index) % 42 for index in range(12)])

    def __len__(self):
        return 12


class Stateful(Pair):
    def train_dataloader(self):
        return super().train_dataloader() | {"source": DataLoader(self.source[0], self.batch_size, sampler=Moving())}


class FromStream(Pair):
    def train_dataloader(self):
        return super().train_dataloader() | {"source": DataLoader(Stream(self.source[0]), self.batch_size)}


@pytest.mark.parametrize("data", [Pair, Stateful, FromStream])
def test_a_training_is_bit_for_bit_the_same_with_the_callback(data):
    weights = []
    for callbacks in ([], [AdaptationEvaluation()]):
        torch.manual_seed(0)
        module = Adapting()
        trainer = fit(callbacks, module, data(), max_epochs=2, val_check_interval=3)
        assert not callbacks or "validator/dev" in trainer.callback_metrics
        assert module.dropout.training
        weights.append(nn.utils.parameters_to_vector(module.parameters()))
    assert torch.equal(*weights)


def test_a_resumed_training_is_bit_for_bit_the_uninterrupted_one(tmp_path):
    found = []
    for first in (2, 1):
        torch.manual_seed(0)
        callbacks = [Randomness(), AdaptationEvaluation()]
        fit(callbacks, max_epochs=first).save_checkpoint(tmp_path / "first.ckpt", weights_only=False)
        before = callbacks[1].state_dict()["before"]
        module = Adapting()
        callbacks = [Randomness(), AdaptationEvaluation()]
        trainer = fit(callbacks, module, max_epochs=2, ckpt_path=str(tmp_path / "first.ckpt"))
        after = callbacks[1].state_dict()["before"]
        assert all(torch.equal(torch.as_tensor(before[name]), torch.as_tensor(after[name])) for name in before)
        found.append((nn.utils.parameters_to_vector(module.parameters()).tolist(), callbacks[1].validation))
        del trainer
    assert found[0] == found[1]


def test_target_labels_play_no_role_but_for_the_oracle():
    data, other = Pair(), Pair()
    for part in (other.target[1], other.target[0]):
        x, y = part.tensors
        part.tensors = (x, (y + 1) % 3)
    found = []
    for used in (data, other):
        torch.manual_seed(0)
        found.append(numbers(fit([AdaptationEvaluation()], data=used)))
    for name in found[0]:
        assert (found[0][name] == found[1][name]) == name.startswith("validator/"), name


def test_the_sanity_check_and_its_few_batches_are_left_out():
    class Nothing(Callback):
        def on_sanity_check_end(self, trainer, pl_module):
            assert not numbers(trainer)

    found = numbers(fit([AdaptationEvaluation(), Nothing()], num_sanity_val_steps=2))
    assert set(found) == NAMES | ORACLE


def test_a_diverged_run_goes_on_but_no_checkpoint_is_chosen_by_it(tmp_path):
    class Diverging(Adapting):
        def on_train_epoch_end(self):
            if self.current_epoch == 0:
                self.head.weight.data[:] = math.nan

    class Late(Diverging):  # features only
        def forward(self, x):
            return super().forward(x).nan_to_num(1.0)

        def domain_features(self, x):
            return super().domain_features(x) * self.head.weight.sum()

    for module in (Diverging(), Late()):
        history = History()
        checkpoint = ModelCheckpoint(tmp_path, monitor="validator/dev", mode="max", save_top_k=2)
        options = {"max_epochs": 2, "enable_checkpointing": True, "val_check_interval": 0.5}
        with pytest.warns(UserWarning, match="NaN or infinite logits or features"):
            fit([AdaptationEvaluation(), history, checkpoint], module, **options)
        first, last = history.rows[0], history.rows[-1]
        assert all(math.isfinite(value) for value in first.values())
        assert {last[name] for name in NAMES - {"validator/dev_max_weight"}} == {-math.inf}
        assert not any(math.isnan(value) for value in last.values())
        assert checkpoint.best_model_score == max(row["validator/dev"] for row in history.rows) > -math.inf


def test_embedded_validation_comes_as_rarely_as_asked_for():
    class Steps(Callback):
        found = ()

        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                self.found = (*self.found, len(pl_module.seen))
                pl_module.seen.clear()

    steps = Steps()
    trainer = fit([AdaptationEvaluation(dev_every_n_epochs=2), steps], max_epochs=4)
    assert set(numbers(trainer)) == NAMES | ORACLE
    assert steps.found[2] == 0 < steps.found[1] == steps.found[3], "no features are computed in vain"


def test_validation_after_a_fit_by_the_same_trainer_judges_its_own_data():
    trainer = fit([AdaptationEvaluation(max_samples=20)], module := Adapting())
    (alone, _) = trainer_of(AdaptationEvaluation(max_samples=20)).validate(module, other := Pair(33), verbose=False)
    (after, _) = trainer.validate(module, other, verbose=False)
    assert after == alone


def test_the_oracle_takes_samples_without_finite_logits_for_wrong():
    logits = torch.tensor([[math.nan, 0], [1.0, 0]])
    assert oracle_metrics(logits, torch.tensor([0, 0])) == {"acc": 0.5, "nll": math.inf}


def test_the_test_has_the_oracles_figures_and_the_distance_of_the_features():
    module, data, callback = Adapting(), Pair(), AdaptationEvaluation(max_points=12)
    trainer = trainer_of(callback)
    trainer.test(module, data, verbose=False)
    found = numbers(trainer, ("oracle/", "adaptation/"))
    module.eval()
    source, target = (part[2].tensors[0].float() - 3 for part in (data.source, data.target))
    with torch.no_grad():
        logits, features = module(target), [module.domain_features(x).numpy() for x in (source, target)]
    distance = proxy_a_distance(*features)
    assert found == pytest.approx(
        {
            "oracle/test_acc": (logits.argmax(1) == data.target[2].tensors[1]).double().mean().item(),
            "oracle/test_nll": nn.functional.cross_entropy(logits, data.target[2].tensors[1]).item(),
            "adaptation/proxy_a_distance": distance.value,
        }
    )
    results = callback.results
    assert results["names"] == ("a", "target/b")
    assert results["samples"] == (21, 17)
    assert results["proxy_a_distance"] == distance._asdict()
    assert results["test"]["acc"] == pytest.approx(found["oracle/test_acc"])
    assert list(results["pca"]) == list(results["tsne"]) == ["after"]
    assert np.shape(results["tsne"]["after"]["points"]) == (24, 2)
