import csv
import json
import logging

import numpy as np
import pytest
import torch
from evaluation_toys import QUIET, Data, Foreign, ToyClassifier, labelled, run_test
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from callbacks import OODEvaluation
from callbacks.ood import feature_scores as ood_features
from callbacks.ood import scores as ood_scores
from callbacks.ood.metrics import detection_metrics
from callbacks.ood.selection import BUILT_IN, FITTED, NEED_FEATURES, NEED_HEAD

OWN = ("log_density", "distance")
FIGURES = ("auroc", "auroc_low", "auroc_high", "ap_ood", "ap_id", "fpr95_ood_positive", "fpr95_id_positive")


def evaluate(module=None, data=None, trainer=None, **arguments):
    # a step that few binary digits hold: the forward stays free of rounding
    callback = OODEvaluation(**{"odin_epsilon": 0.25, "resamples": 20, **arguments})
    trainer = run_test([callback], module, data, **(trainer or {}))
    return callback.results, trainer


@pytest.fixture(scope="module")
def standard():
    """The results of the capable module on the plain data."""
    return evaluate()[0]


def test_all_scores_of_a_capable_module_are_computed(standard):
    results = standard
    assert results["scores"] == [*BUILT_IN, *OWN]
    assert results["skipped"] == {}
    assert (results["id"], results["samples"]) == ("toy", 11)
    assert {name: figures["samples"] for name, figures in results["sets"].items()} == {
        "near/shifted": 7,
        "far/shifted": 5,
    }
    assert all(set(results["sets"]["far/shifted"][score]) == set(FIGURES) for score in results["scores"])


def test_metrics_are_those_of_the_scores_of_the_transformed_inputs():
    module, data = ToyClassifier(), Data()
    results, _ = evaluate(module, data)
    inside, outside = (data.tests[index].tensors[0].float() - 3 for index in (0, 2))
    train, labels = data.train.tensors[0].float() - 3, data.train.tensors[1]
    with torch.no_grad():
        bank = module.features(train)
        head = ood_features.find_head(module, bank, module(train), 1e-6)
        expected = {
            "msp": lambda x: ood_scores.msp(module(x)),
            "odin": lambda x: ood_scores.odin(module, x, 0.25),
            "knn": lambda x: ood_features.fit_knn(bank, 50)(module.features(x)),
            "mahalanobis": lambda x: ood_features.fit_mahalanobis(bank, labels)(module.features(x)),
            "react": lambda x: ood_features.fit_react(bank, head)(module.features(x)),
            "gradnorm": lambda x: ood_features.gradnorm(module.features(x), head),
            "distance": lambda x: x.square().sum(1),
        }
        for name, score in expected.items():
            figures = detection_metrics(score(inside).numpy(), score(outside).numpy())
            found = results["sets"]["far/shifted"][name]
            assert {key: found[key] for key in figures} == pytest.approx(figures, abs=1e-12), name


def test_results_are_plain_and_without_nan(standard):
    results = standard
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    for score in results["scores"]:
        histogram = results["histograms"][score]
        assert {name: sum(counts) for name, counts in histogram["counts"].items()} == {
            "toy": 11,
            "near/shifted": 7,
            "far/shifted": 5,
        }
        assert all(len(counts) + 1 == len(histogram["edges"]) for counts in histogram["counts"].values())
        assert set(results["roc"][score]) == {"near/shifted", "far/shifted"}


def test_means_are_unweighted_over_the_sets_of_a_kind():
    results, _ = evaluate(data=Data(sizes=(11, 7, 5, 30)))
    sets = results["sets"]
    for figure in ("auroc", "ap_id", "fpr95_id_positive"):
        near = (sets["near/shifted"]["energy"][figure] + sets["near/more"]["energy"][figure]) / 2
        assert results["near_mean"]["energy"][figure] == pytest.approx(near)
        assert results["far_mean"]["energy"][figure] == sets["far/shifted"]["energy"][figure]
    results, _ = evaluate(data=Data(sizes=(11, 7)))
    assert results["far_mean"] == {}


def test_every_metric_is_logged_and_only_means_are_returned(tmp_path):
    callback, module = OODEvaluation(resamples=20), ToyClassifier()
    trainer = Trainer(accelerator="cpu", **QUIET | {"logger": CSVLogger(tmp_path)}, callbacks=[callback])
    returned = trainer.test(module, Data(), verbose=False)
    files = {path.name: path for path in tmp_path.rglob("*") if path.is_file()}
    assert {"auroc.png", "auroc_table.csv", "energy.png", "distance.png"} <= set(files)
    rows = list(csv.DictReader(files["metrics.csv"].open()))
    for name, figures in callback.results["sets"].items():
        for score in callback.results["scores"]:
            for figure in FIGURES:
                key = f"ood/{name}/{score}/{figure}"
                assert [float(row[key]) for row in rows if row[key]] == [figures[score][figure]]
            assert trainer.callback_metrics[f"ood/{name}/{score}/auroc"].item() == pytest.approx(
                figures[score]["auroc"]
            )
    assert len(returned[0]) == 2 * len(callback.results["scores"])
    assert returned[0]["ood/near_mean/knn/auroc"] == pytest.approx(callback.results["near_mean"]["knn"]["auroc"])


@settings(suppress_health_check=list(HealthCheck))  # all thirteen, in any profile
@given(st.integers(1, 13))
def test_no_metric_depends_on_the_batch_size(standard, batch_size):
    assert evaluate(data=Data(batch_size=batch_size))[0] == standard


def test_no_metric_depends_on_the_order_of_the_samples(standard):
    data = Data()
    for dataset in data.tests:
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(1))
        dataset.tensors = tuple(tensor[order] for tensor in dataset.tensors)
    assert evaluate(data=data)[0] == standard


def test_no_metric_depends_on_the_scale_of_a_score(standard):
    class Scaled(ToyClassifier):
        def ood_scores(self, x):
            return {name: 1024 * score + 5 for name, score in super().ood_scores(x).items()}

    expected, found = standard, evaluate(Scaled())[0]
    assert [found["sets"][name]["distance"] for name in found["sets"]] == [
        expected["sets"][name]["distance"] for name in expected["sets"]
    ]


def test_a_realistic_module_gives_the_same_in_batches_of_any_size():
    class Realistic(ToyClassifier):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            for parameter in self.parameters():
                torch.nn.init.normal_(parameter)

    arguments = {"odin_epsilon": 0.0, "knn_k": 3}  # a step along a sign, and the farthest of few, may jump
    found = [evaluate(Realistic(), Data(sizes=(200, 150), batch_size=size), **arguments)[0] for size in (3, 64)]
    for score in found[0]["scores"]:
        first, second = (result["sets"]["near/shifted"][score] for result in found)
        assert first == pytest.approx(second, abs=1e-6), score


def test_forward_runs_once_a_batch_where_the_step_returns_logits():
    module = ToyClassifier()
    evaluate(module, Data(sizes=(8, 8), batch_size=4), scores=["energy", "msp"])
    assert module.forwards == 4


def test_training_data_are_not_augmented_and_evenly_spread_where_limited():
    seen = []

    class Recording(ToyClassifier):
        def features(self, x):
            seen.append(x)
            return super().features(x)

    data = Data(train=40)
    evaluate(Recording(), data, scores=["knn"], max_fit_samples=10)
    expected = data.train.tensors[0][::4].float() - 3
    torch.testing.assert_close(torch.cat(seen)[:10], expected)


@pytest.mark.parametrize("form", ["dict", "list"])
def test_labelled_loader_is_found_among_several(form):
    class Several(Data):
        def train_dataloader(self):
            unlabelled = DataLoader(self.train.tensors[0], 4, shuffle=True)
            labelled = super().train_dataloader()
            return {"unlabelled": unlabelled, "labelled": labelled} if form == "dict" else [unlabelled, labelled]

    assert evaluate(data=Several())[0] == evaluate()[0]


def test_a_foreign_module_with_plain_loaders_gets_what_it_allows(caplog):
    loaders = [
        DataLoader(TensorDataset(labelled(9, seed).tensors[0].float()), batch_size=4) for seed in range(3)
    ]  # no labels
    callback = OODEvaluation(test_sets=["mine", "near/one", "far/two"], resamples=10)
    trainer = Trainer(accelerator="cpu", **QUIET, callbacks=[callback])
    with caplog.at_level(logging.INFO):
        trainer.test(Foreign(), loaders, verbose=False)
    assert callback.results["scores"] == ["msp", "max_logit", "energy", "entropy", "gen", "odin"]
    assert set(callback.results["skipped"]) == set(NEED_FEATURES)
    assert set(callback.results["skipped"].values()) == {"Foreign has no features(x) -> (B, D)"}


def test_a_training_loader_may_be_given_to_a_foreign_module():
    class Feature(Foreign):
        def features(self, x):
            return self.body(x).relu()

    sets = [TensorDataset(labelled(9, seed).tensors[0].float(), labelled(9, seed).tensors[1]) for seed in range(3)]
    loaders = [DataLoader(dataset, batch_size=4) for dataset in sets]
    callback = OODEvaluation(test_sets=["mine", "near/one"], resamples=10, fit_data=loaders[2])
    Trainer(accelerator="cpu", **QUIET, callbacks=[callback]).test(Feature(), loaders[:2], verbose=False)
    assert callback.results["skipped"] == {}
    callback = OODEvaluation(test_sets=["mine", "near/one"], resamples=10)
    Trainer(accelerator="cpu", **QUIET, callbacks=[callback]).test(Feature(), loaders[:2], verbose=False)
    assert set(callback.results["skipped"]) == set(FITTED)


def test_scores_that_need_the_last_layer_are_left_out_without_one():
    class Headless(ToyClassifier):
        def forward(self, x):
            return super().forward(x).tanh()

    results, _ = evaluate(Headless())
    assert set(results["skipped"]) == set(NEED_HEAD)
    assert "no linear layer" in results["skipped"]["vim"]
    assert "knn" in results["scores"]


def test_integer_inputs_have_no_odin():
    class Integers(Data):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch

    class Converting(Foreign):
        def forward(self, x):
            return super().forward(x.float())

    results, _ = evaluate(Converting(), Integers())
    assert "no gradient" in results["skipped"]["odin"]


def test_one_test_set_is_a_warning():
    with pytest.warns(UserWarning, match="nothing to evaluate: 'toy' is the only test set"):
        results, _ = evaluate(data=Data(sizes=(5,)))
    assert results == {}


def test_no_interval_without_resamples():
    results, _ = evaluate(resamples=0)
    assert results["sets"]["near/shifted"]["energy"]["auroc_low"] is None


@pytest.mark.parametrize(
    ("module", "score", "message"),
    [
        (Foreign, "knn", "'knn' was asked for, but Foreign has no features"),
        (Foreign, "entropyy", r"unknown scores \['entropyy'\]: Foreign has no ood_scores"),
        (ToyClassifier, "entropyy", r"unknown scores \['entropyy'\]: ToyClassifier.ood_scores gives \['log_density'"),
    ],
)
def test_a_score_that_was_asked_for_and_is_impossible_is_an_error(module, score, message):
    with pytest.raises(ValueError, match=message):
        evaluate(module(), scores=["energy", score])


def test_only_the_scores_asked_for_are_computed():
    results, _ = evaluate(scores=["distance", "energy"])
    assert results["scores"] == ["energy", "distance"]
    assert results["skipped"] == {}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            lambda x: {"mine": torch.full((len(x),), torch.nan)},
            "'mine' of Own is NaN or infinite for 11 samples of 'toy'",
        ),
        (lambda x: {"mine": x}, r"ood_scores\(x\)\['mine'\] of shape \(4,\), got \(4, 6\)"),
        (lambda x: {"energy": x[:, 0]}, "gives 'energy': choose a name that is not built in"),
    ],
)
def test_broken_scores_of_the_module_are_refused(scores, message):
    class Own(ToyClassifier):
        def ood_scores(self, x):
            return scores(x)

    with pytest.raises(ValueError, match=message):
        evaluate(Own())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: z.softmax(1), "all rows of test set 'toy' are probabilities"),
        (lambda z: z * torch.nan, "NaN or infinite logits for 11 of 11 samples of test set 'toy'"),
    ],
)
def test_logits_that_are_none_are_refused(change, message):
    class Returning(Foreign):
        def forward(self, x):
            return change(super().forward(x))

    with pytest.raises(ValueError, match=message):
        evaluate(Returning())


def test_nan_in_one_ood_set_is_refused_by_its_name():
    class Sensitive(ToyClassifier):
        def test_step(self, batch, batch_idx, dataloader_idx=0):
            logits = self(batch[0])
            return {"logits": logits * torch.nan if dataloader_idx == 2 else logits}

    with pytest.raises(ValueError, match="5 of 5 samples of test set 'far/shifted'"):
        evaluate(Sensitive())


def test_names_must_fit_the_loaders():
    with pytest.raises(ValueError, match="2 names for 3 loaders"):
        evaluate(test_sets=["toy", "near/one"])
    with pytest.raises(ValueError, match="each once"):
        OODEvaluation(test_sets=["toy", "toy"])


@pytest.mark.parametrize("arguments", [{"resamples": -1}, {"knn_k": 0}, {"odin_epsilon": -1.0}, {"max_fit_samples": 0}])
def test_numbers_out_of_range_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"expected {name} of at least"):
        OODEvaluation(**arguments)


def test_the_test_run_is_in_inference_mode_and_leaves_no_gradient():
    modes = []

    class Recording(ToyClassifier):
        def ood_scores(self, x):
            modes.append(torch.is_inference_mode_enabled())
            return super().ood_scores(x)

    module = Recording()
    evaluate(module)
    assert modes
    assert all(modes)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_bfloat16_finds_the_head_and_all_scores():
    results, _ = evaluate(trainer={"precision": "bf16-mixed"})
    assert results["skipped"] == {}
    assert np.isfinite(results["sets"]["near/shifted"]["vim"]["auroc"])


def test_the_global_random_state_is_left_alone():
    states = []

    class Recording(Foreign):
        def on_test_epoch_end(self):
            states.append(torch.get_rng_state())

    for callbacks in ([], [OODEvaluation(resamples=10)]):
        torch.manual_seed(0)
        run_test(callbacks, Recording(), Data())
    assert torch.equal(*states)


def test_both_callbacks_can_be_written_in_a_configuration_file():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback])
    found = parser.parse_string(
        "callbacks: [{class_path: callbacks.CalibrationEvaluation, init_args: {bins: 20}}, "
        "{class_path: callbacks.OODEvaluation, init_args: {scores: [energy, knn], resamples: 50}}]"
    )
    calibration, ood = parser.instantiate_classes(found).callbacks
    assert (calibration.bins, ood.scores, ood.resamples) == (20, ["energy", "knn"], 50)
