"""`AdaptationEvaluation`: what it logs, and that a training does not notice it."""

import copy
import math

import numpy as np
import pytest
import torch
from adaptation_toys import Adapting, Pair, fit, trainer_of
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Sampler, TensorDataset

from callbacks import AdaptationEvaluation, Randomness
from callbacks.adaptation import validators
from callbacks.adaptation.density_ratio import density_ratio
from callbacks.adaptation.domains import oracle_figures
from callbacks.adaptation.proxy_distance import proxy_a_distance
from callbacks.shared.held_out import first_loader

NAMES = {
    "validator/source_accuracy",
    "validator/accuracy_and_information",
    "validator/information_maximisation",
    "validator/entropy",
    "validator/diversity",
    "validator/snd",
    "validator/dev",
    "validator/dev_max_weight",
}
ORACLE = {"oracle/val_acc", "oracle/val_nll"}


def numbers(trainer, prefixes=("validator/", "oracle/")):
    return {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith(prefixes)}


class Stream(IterableDataset):
    """Remembers how far it was read."""

    def __init__(self, data):
        self.data = data
        self.position = 0

    def __iter__(self):
        for _ in range(len(self.data)):
            yield self.data[self.position % len(self.data)]
            self.position += 1


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
        trainer = fit(callbacks, module, data(), max_epochs=3, val_check_interval=3)
        assert not callbacks or "validator/dev" in trainer.callback_metrics
        assert module.dropout.training
        weights.append(nn.utils.parameters_to_vector(module.parameters()))
    assert torch.equal(*weights)


def test_a_resumed_training_is_bit_for_bit_the_uninterrupted_one(tmp_path):
    found = []
    for first in (3, 1):
        torch.manual_seed(0)
        callbacks = [Randomness(), AdaptationEvaluation()]
        fit(callbacks, max_epochs=first).save_checkpoint(tmp_path / "first.ckpt", weights_only=False)
        before = callbacks[1].state_dict()["before"]
        module = Adapting()
        callbacks = [Randomness(), AdaptationEvaluation()]
        trainer = fit(callbacks, module, max_epochs=3, ckpt_path=str(tmp_path / "first.ckpt"))
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


def test_a_target_without_labels_has_no_oracle():
    class Unlabelled(Pair):
        def val_dataloader(self):
            source, target = super().val_dataloader()
            return [source, DataLoader(TensorDataset(target.dataset.tensors[0]), self.batch_size)]

    assert set(numbers(fit([AdaptationEvaluation()], data=Unlabelled()))) == NAMES


def test_the_sanity_check_and_its_few_batches_are_left_out():
    class Nothing(Callback):
        def on_sanity_check_end(self, trainer, pl_module):
            assert not numbers(trainer)

    found = numbers(fit([AdaptationEvaluation(), Nothing()], num_sanity_val_steps=2))
    assert set(found) == NAMES | ORACLE


def test_the_target_is_found_by_its_name_among_several_loaders():
    class Several(Pair):
        val_sets = ("a", "b", "target/c")

        def val_dataloader(self):
            source, target = super().val_dataloader()
            return [source, DataLoader(self.other, 2), target]

    torch.manual_seed(0)
    expected = numbers(fit([AdaptationEvaluation()]))
    torch.manual_seed(0)
    assert numbers(fit([AdaptationEvaluation()], data=Several())) == expected
    Several.val_sets = None
    torch.manual_seed(0)
    assert numbers(fit([AdaptationEvaluation(val_sets=["x", "y", "target/z"])], data=Several())) == expected


def test_without_names_the_second_loader_is_the_target():
    class Nameless(Pair):
        val_sets = test_sets = None

    torch.manual_seed(0)
    expected = numbers(fit([AdaptationEvaluation()]))
    torch.manual_seed(0)
    assert numbers(fit([AdaptationEvaluation()], data=Nameless())) == expected


def test_a_module_without_domain_features_is_judged_by_its_features():
    class Plain(Adapting):
        domain_features = None

    expected = trainer_of(AdaptationEvaluation()).validate(Adapting(), Pair(), verbose=False)
    assert trainer_of(AdaptationEvaluation()).validate(Plain(), Pair(), verbose=False) == expected


class Featureless(LightningModule):
    def forward(self, x):
        return x


class Headless(LightningModule):
    def features(self, x):
        return x


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Featureless(), r"needs a module with domain_features\(x\) .* or features\(x\) .*; Featureless has neither"),
        (Headless(), r"needs forward\(x\) -> \(B, K\) logits: Headless has none"),
    ],
)
def test_a_module_that_lacks_something_is_refused_by_name(module, message):
    for stage in ("fit", "validate", "test"):
        with pytest.raises(TypeError, match=message):
            AdaptationEvaluation().setup(trainer_of(), module, stage)


@pytest.mark.parametrize(
    ("names", "loaders", "message"),
    [
        (("a",), 1, r"needs a set named 'target/<name>' after the source's in val_sets, got \['a'\]"),
        (("a", "b"), 2, r"needs a set named 'target/<name>' after the source's in val_sets, got \['a', 'b'\]"),
        (None, 1, "needs two loaders, of source and of target data, got 1"),
        (("a", "target/b", "c"), 2, "knows 3 names for 2 loaders"),
    ],
)
def test_validation_data_without_a_target_are_refused_before_the_first_step(names, loaders, message):
    class Lacking(Pair):
        val_sets = names

        def val_dataloader(self):
            return super().val_dataloader()[:loaders]

    module = Adapting()
    for sanity in (0, 2):
        with pytest.raises(ValueError, match=message):
            fit([AdaptationEvaluation()], module, Lacking(), num_sanity_val_steps=sanity)
    assert module.head.weight.grad is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_samples": 9}, "max_samples of at least 10, got 9"),
        ({"dev_every_n_epochs": 0}, "dev_every_n_epochs of at least 1, got 0"),
        ({"max_points": 3}, "max_points of at least 10, got 3"),
        ({"test_sets": ["a", "near/b"]}, "'target/<name>' after the source's in test_sets"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaptationEvaluation(**arguments)


@pytest.mark.parametrize(("domain", "label"), [("source", 3), ("source", -1), ("target", 3)])
def test_labels_out_of_range_are_refused(domain, label):
    data = Pair()
    getattr(data, domain)[1].tensors[1][2] = label
    message = "labels of set .* missing or out of range for 1 of"
    with pytest.raises(ValueError, match=message):
        trainer_of(AdaptationEvaluation()).validate(Adapting(), data, verbose=False)


def test_probabilities_instead_of_logits_are_refused():
    class Probable(Adapting):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return {"logits": self(batch[0]).softmax(1)}

    with pytest.raises(ValueError, match="expected logits, but all rows of set 'a' are probabilities"):
        trainer_of(AdaptationEvaluation()).validate(Probable(), Pair(), verbose=False)


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


def test_features_are_taken_of_so_many_samples_and_evenly():
    data, module = Pair(size=401, batch_size=50), Adapting()
    trainer_of(AdaptationEvaluation(max_samples=100)).validate(module, data, verbose=False)
    rows = [len(x) for x in module.seen]
    seen, total = torch.cat(module.seen), 0
    for domain, samples in (("source", 401), ("target", 397)):
        x = getattr(data, domain)[1].tensors[0].float() - 3
        assert torch.equal(seen[total : total + 100], x[-(-torch.arange(100) * samples // 100)])
        total += 100
    assert sum(rows) == 300, "100 of the training data too"
    assert max(rows) <= 50


def test_features_of_the_target_are_taken_while_the_target_runs():
    class TwoFaced(Adapting):
        face = "source"

        def on_validation_batch_start(self, batch, batch_idx, dataloader_idx=0):
            self.face = ("source", "target")[dataloader_idx]

        def on_validation_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0):
            self.face = "source"

        def domain_features(self, x):
            self.faces = [*getattr(self, "faces", []), self.face]
            return super().domain_features(x)

    module = TwoFaced()
    trainer_of(AdaptationEvaluation()).validate(module, Pair(), verbose=False)
    assert module.faces == ["source"] * 6 + ["target"] * 5 + ["source"] * 11


def test_validation_after_a_fit_by_the_same_trainer_judges_its_own_data():
    trainer = fit([AdaptationEvaluation(max_samples=20)], module := Adapting())
    (alone, _) = trainer_of(AdaptationEvaluation(max_samples=20)).validate(module, other := Pair(33), verbose=False)
    (after, _) = trainer.validate(module, other, verbose=False)
    assert after == alone


def test_hooks_of_the_transfer_are_told_whose_samples_come_before_the_first_step_too():
    class Told(Pair):
        told = ()

        def on_after_batch_transfer(self, batch, dataloader_idx):
            self.told = (*self.told, dataloader_idx)
            return super().on_after_batch_transfer(batch, dataloader_idx)

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            assert trainer.datamodule.told == (0,) * 6 + (1,) * 5

    fit([AdaptationEvaluation(), Look()], data=Told(), num_sanity_val_steps=0)


def test_no_data_are_loaded_a_second_time():
    class Counting(Pair):
        calls = 0

        def train_dataloader(self):
            self.calls += 1
            return super().train_dataloader()

    fit([AdaptationEvaluation()], data=(data := Counting()), max_epochs=3)
    assert data.calls == 1


def test_the_loader_called_source_is_the_sources_wherever_it_stands():
    source, target = Pair().val_dataloader()
    assert first_loader({"target": target, "source": source}) is source
    assert first_loader([target, source]) is target


def test_the_oracle_takes_samples_without_finite_logits_for_wrong():
    logits = torch.tensor([[math.nan, 0], [1.0, 0]])
    assert oracle_figures(logits, torch.tensor([0, 0])) == {"acc": 0.5, "nll": math.inf}


def test_on_one_process_data_may_come_as_a_stream():
    class Streaming(Pair):
        def val_dataloader(self):
            return [DataLoader(Stream(part[1]), self.batch_size) for part in (self.source, self.target)]

    (expected, _) = trainer_of(AdaptationEvaluation()).validate(Adapting(), Pair(), verbose=False)
    (found, _) = trainer_of(AdaptationEvaluation()).validate(Adapting(), Streaming(), verbose=False)
    assert found == expected


def test_without_labelled_training_data_only_embedded_validation_is_left_out():
    class Untrained(Pair):
        train_dataloader = LightningDataModule.train_dataloader

    with pytest.warns(UserWarning, match=r"leaves out validator/dev: there is no DataLoader of labelled training data"):
        (found, _) = trainer_of(AdaptationEvaluation()).validate(Adapting(), Untrained(), verbose=False)
    assert set(found) == (NAMES | ORACLE) - {"validator/dev", "validator/dev_max_weight"}


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


def test_a_test_without_a_target_is_not_judged():
    class Sourceonly(Pair):
        test_sets = ("a", "near/b", "near/c")

    callback = AdaptationEvaluation()
    with pytest.warns(UserWarning, match=r"nothing is tested: .*needs a set named 'target/<name>'"):
        trainer_of(callback).test(Adapting(), Sourceonly(), verbose=False)
    assert callback.results == {}
    assert copy.deepcopy(callback.state_dict()) == {"validation": {}, "before": {}, "monitors": []}
