"""`AdaptationEvaluation`: which loaders and samples it judges, and what it refuses."""

import copy

import pytest
import torch
from adaptation_toys import NAMES, ORACLE, Adapting, Pair, Stream, fit, numbers
from evaluation_toys import trainer_of
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch.utils.data import DataLoader, TensorDataset

from callbacks import AdaptationEvaluation
from callbacks.shared.held_out import first_loader


def test_a_target_without_labels_has_no_oracle():
    class Unlabelled(Pair):
        def val_dataloader(self):
            source, target = super().val_dataloader()
            return [source, DataLoader(TensorDataset(target.dataset.tensors[0]), self.batch_size)]

    assert set(numbers(fit([AdaptationEvaluation()], data=Unlabelled()))) == NAMES


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


def test_a_test_without_a_target_is_not_judged():
    class Sourceonly(Pair):
        test_sets = ("a", "near/b", "near/c")

    callback = AdaptationEvaluation()
    with pytest.warns(UserWarning, match=r"nothing is tested: .*needs a set named 'target/<name>'"):
        trainer_of(callback).test(Adapting(), Sourceonly(), verbose=False)
    assert callback.results == {}
    assert copy.deepcopy(callback.state_dict()) == {"validation": {}, "before": {}, "monitors": []}
