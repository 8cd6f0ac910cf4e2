import csv
import json

import numpy as np
import pytest
import torch
from disentanglement_toys import Encoder, FactorImages, Variational, few_stages
from evaluation_toys import Dump, run_test
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.loggers import CSVLogger

from callbacks import DisentanglementEvaluation
from callbacks.disentanglement import callback as disentanglement_evaluation
from callbacks.disentanglement import irs, kl_per_latent, mig, pair_differences, sap, vote_variances
from callbacks.disentanglement.metrics.scores import SCORES
from datamodules import SpritesDataModule
from zoo import BetaVAE

FEW = {"num_train": 200, "num_test": 100, "num_train_votes": 60, "num_test_votes": 40}
CHEAP = ("beta_vae", "factor_vae", "mig", "modularity", "sap", "irs", "unsupervised")


def evaluated(module=None, data=None, metrics=CHEAP, trainer=None, **options):
    callback = DisentanglementEvaluation(metrics, **{**FEW, **options})
    run = run_test([callback], module or Variational(), data or FactorImages(), **(trainer or {}))
    return callback.results, run


def test_all_metrics_of_both_representations_are_logged_by_name():
    with few_stages():
        sizes = {"num_train": 60, "num_test": 40, "downstream_sizes": (10, 30)}
        results, trainer = evaluated(data=FactorImages((2, 3)), metrics=tuple(SCORES), **sizes)
    expected = {
        *("beta_vae", "factor_vae", "factor_vae_active", "mig", "mig_corrected", "modularity", "modularity_corrected"),
        *("explicitness", "sap", "sap_continuous", "irs", "irs_corrected"),
        *("dci_disentanglement", "dci_completeness", "dci_informativeness", "dci_informativeness_train"),
        *("total_correlation", "wasserstein", "wasserstein_normalised"),
        *("code_mutual_information", "code_mutual_information_corrected"),
        *(
            f"{task}_{which}"
            for task in ("logistic_regression", "boosted_trees")
            for which in ("10", "10_min", "30", "30_min", "efficiency")
        ),
    }
    assert list(results["scores"]) == ["mean", "sampled"]
    for representation, scores in results["scores"].items():
        assert set(scores) == expected
        logged = {name: trainer.callback_metrics[f"disentanglement/{representation}/{name}"].item() for name in scores}
        assert logged == pytest.approx(scores, rel=1e-5)
    matrices = results["matrices"]["mean"]
    for name in ("mutual_information", "importance", "sap"):
        assert np.shape(matrices[name]) == (4, 2)
    assert np.shape(matrices["downstream"]["boosted_trees"][30]) == (2,)
    json.dumps(results)


def test_the_scores_are_those_of_the_functions_on_the_codes_of_the_module():
    results, _ = evaluated(seed=3)
    data, generator = FactorImages(), torch.Generator().manual_seed(4 * 3)

    def drawn(number):
        factors = data.sample_factors(number, generator)
        mean = Encoder().encode(data.images_of(factors, generator)).detach()
        noise = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return factors.numpy(), mean.numpy(), (mean + 0.25 * torch.randn(mean.shape, generator=noise)).numpy()

    factors, mean, sampled = drawn(200)
    test_factors, test_mean, test_sampled = drawn(100)
    for name, codes, test in (("mean", mean, test_mean), ("sampled", sampled, test_sampled)):
        found = results["scores"][name]
        assert found["mig"] == pytest.approx(mig(codes, factors), abs=1e-12)
        assert found["irs"] == pytest.approx(irs(codes, factors).score, abs=1e-12)
        assert found["sap"] == pytest.approx(sap(codes, factors, test, test_factors).score, abs=1e-12)
    np.testing.assert_allclose(results["kl"], kl_per_latent(mean, np.full(mean.shape, 0.25)))
    assert results["latents"] == 4
    assert results["factor_names"] == ["factor_0", "factor_1", "factor_2"]
    assert results["factor_sizes"] == [3, 4, 5]
    assert results["samples"] == {"train": 200, "test": 100, "train_votes": 60, "test_votes": 40}


def test_a_perfect_code_scores_one_and_its_dead_latent_costs_nothing():
    found = evaluated(num_train=3000, num_train_votes=300)[0]["scores"]["mean"]
    for name in ("beta_vae", "factor_vae", "mig_corrected", "modularity_corrected", "irs_corrected", "sap_continuous"):
        assert found[name] == pytest.approx(1, abs=0.02), name
    assert found["factor_vae_active"] == 3
    assert found["modularity"] == pytest.approx(0.75, abs=0.01)


def test_each_combination_of_factors_is_encoded_once_in_batches_of_at_most_the_size():
    module = Variational()
    results, _ = evaluated(module, batch_size=16)
    assert results["images"] == 3 * 4 * 5
    assert max(module.batches) <= 16
    # batches are of equal size, for which the last may have some images twice
    assert sum(module.batches) < 60 + 4
    module = Variational()
    results, _ = evaluated(module, FactorImages((20, 20)), metrics=("mig",), batch_size=16)
    assert results["images"] <= 300
    assert max(module.batches) <= 16
    assert sum(module.batches) < 300 + 16


def test_images_that_do_not_follow_from_the_factors_are_drawn_for_every_row():
    results, _ = evaluated(data=FactorImages(noisy=True), metrics=("mig", "factor_vae"))
    assert results["images"] == 200 + 100 + 64 * (60 + 40)
    assert results["scores"]["mean"]["mig"] < evaluated(metrics=["mig"])[0]["scores"]["mean"]["mig"]


def test_only_what_is_asked_for_is_computed():
    results, _ = evaluated(metrics=["mig"], sampled=False)
    assert {name: list(scores) for name, scores in results["scores"].items()} == {"mean": ["mig", "mig_corrected"]}
    one, _ = evaluated(metrics=["sap"])
    assert one["scores"]["sampled"]["sap"] == evaluated()[0]["scores"]["sampled"]["sap"]


def test_a_module_without_a_posterior_has_one_representation_and_no_kl():
    results, _ = evaluated(Encoder())
    assert list(results["scores"]) == ["mean"]
    assert results["kl"] is None
    assert results["scores"]["mean"] == pytest.approx(evaluated()[0]["scores"]["mean"])


def test_a_factor_of_one_value_is_left_out_and_one_latent_is_scored():
    results, _ = evaluated(Variational(1), FactorImages((3, 1, 4)))
    assert results["factor_names"] == ["factor_0", "factor_2"]
    assert np.shape(results["matrices"]["mean"]["mutual_information"]) == (1, 2)
    assert 0.4 < results["scores"]["mean"]["mig"] < 0.6


def test_the_draws_follow_from_the_seed_and_the_global_random_state_is_left_alone():
    class Noisy(Variational):
        def encode(self, x):
            torch.rand(()), np.random.rand()  # noqa: NPY002  # a module that draws from the global generators
            return super().encode(x)

    states = []
    for callbacks in ([], [DisentanglementEvaluation(CHEAP, **FEW)]):
        seed_everything(1, verbose=False)
        run_test(callbacks, Noisy(), FactorImages())
        states.append((torch.rand(3).tolist(), np.random.rand(3).tolist()))  # noqa: NPY002  # as above
    assert states[0] == states[1]
    first = evaluated()[0]
    assert evaluated()[0] == first
    assert evaluated(seed=1)[0]["scores"] != first["scores"]


@pytest.mark.parametrize("devices", [2, pytest.param(3, marks=pytest.mark.long)])
def test_several_processes_find_the_figures_of_one_to_the_last_digit(tmp_path, monkeypatch, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for noisy in (False, True):
        alone, together = tmp_path / f"alone{noisy}", tmp_path / f"together{noisy}"
        for folder, options in ((alone, {}), (together, {"strategy": "ddp_fork", "devices": devices})):
            folder.mkdir()
            callback = DisentanglementEvaluation(CHEAP, **FEW, batch_size=13)
            run_test([callback, Dump(folder)], Variational(), FactorImages(noisy=noisy), **options)
        expected = (alone / "0.json").read_text()
        assert "disentanglement/sampled/mig" in json.loads(expected)[1]
        for rank in range(devices):
            assert (together / f"{rank}.json").read_text() == expected


def test_a_metric_that_fails_on_one_process_ends_all_instead_of_leaving_them_waiting(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def broken(material):
        raise ValueError("no such thing")

    monkeypatch.setitem(disentanglement_evaluation.SCORES, "irs", broken)
    with pytest.raises(Exception, match=r"DisentanglementEvaluation failed: .*irs.*ValueError: no such thing"):
        evaluated(metrics=["mig", "irs"], trainer={"strategy": "ddp_fork", "devices": 2})
    with pytest.raises(ValueError, match="no such thing"):
        evaluated(metrics=["mig", "irs"])


def test_images_are_encoded_at_the_trainers_precision():
    class Precise(Variational):
        def encode(self, x):
            self.inside = (x.flatten(1) @ self.weight).dtype
            return super().encode(x)

    for precision, dtype in (("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)):
        module = Precise()
        results, _ = evaluated(module, metrics=["mig"], trainer={"precision": precision})
        assert module.inside == dtype
        assert results["scores"]["mean"]["mig"] > 0.5


def test_the_loggers_get_a_table(tmp_path):
    logger = CSVLogger(tmp_path)
    results, _ = evaluated(metrics=["mig"], trainer={"logger": logger})
    (path,) = tmp_path.rglob("disentanglement/scores.csv")
    rows = list(csv.reader(path.open()))
    assert rows[0] == ["metric", "mean", "sampled"]
    assert [row[0] for row in rows[1:]] == ["mig", "mig_corrected"]
    assert float(rows[1][2]) == results["scores"]["sampled"]["mig"]


def test_a_method_of_the_zoo_is_judged_on_sprites():
    data = SpritesDataModule(factor_steps=[1, 5, 20, 16, 16], test_images=4)
    results, _ = evaluated(BetaVAE(image_shape=(1, 64, 64), num_latents=3), data, metrics=["mig", "factor_vae"])
    assert results["images"] == 3 * 2 * 2 * 2 * 2
    assert len(results["kl"]) == 3
    assert 0 <= results["scores"]["mean"]["mig"] < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": ["mig", "mgi"]}, r"expected metrics among beta_vae, .*, got \['mgi'\]"),
        ({"metrics": []}, "expected a metric among .*, got none"),
        ({"num_train": 19}, "expected num_train of at least 20, got 19"),
        ({"num_test_votes": 0}, "expected num_test_votes of at least 1, got 0"),
        ({"downstream_sizes": (100, 4)}, "expected downstream_sizes of at least 5, got 4"),
        ({"batch_size": 0}, "expected batch_size of at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        DisentanglementEvaluation(**arguments)


def test_a_module_or_data_that_lack_something_are_refused_by_name():
    class Blind(LightningModule):
        def test_step(self, batch, batch_idx): ...

    class Unknown(FactorImages):
        images_of = property()

    with pytest.raises(TypeError, match=r"needs encode\(x\) -> \(B, L\) or posterior\(x\): Blind has neither"):
        evaluated(Blind())
    with pytest.raises(TypeError, match="got Unknown without images_of"):
        evaluated(data=Unknown())
    with pytest.raises(TypeError, match="got no data module"):
        evaluated(data=FactorImages().test_dataloader())
    with pytest.raises(ValueError, match=r"two factors with more than one value, got factor_sizes=\(3, 1\)"):
        evaluated(data=FactorImages((3, 1)))
    with pytest.raises(ValueError, match=r"num_train of at least 300 for sizes \(2, 300\), got 200"):
        evaluated(data=FactorImages((2, 300)))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (lambda x: x.flatten(1).log(), r"NaN or infinite codes of Strange for \d+ of \d+ images"),
        (lambda x: x, r"expected Strange\.encode\(x\) of shape \(\d+, latents\), got \(\d+, 1, 2, 4\)"),
        (lambda x: x.flatten(1)[:3], r"of shape \(\d+, latents\), got \(3, 8\)"),
        (lambda x: [x], r"of shape \(\d+, latents\), got list"),
    ],
)
def test_codes_of_another_kind_are_refused_by_name(codes, message):
    class Strange(Encoder):
        def encode(self, x):
            return codes(x)

    with pytest.raises(ValueError, match=message):
        evaluated(Strange())


def test_points_and_votes_of_the_callback_are_those_of_the_functions():
    results, _ = evaluated(Encoder(), seed=2, metrics=["beta_vae", "factor_vae"])
    data = FactorImages()

    def codes_of(factors, generator):
        return Encoder().encode(data.images_of(torch.from_numpy(factors), generator)).detach()

    arguments = (data.sample_factors, codes_of, data.factor_sizes, 60)
    points = pair_differences(*arguments, torch.Generator().manual_seed(4 * 2 + 1))
    votes = vote_variances(*arguments, torch.Generator().manual_seed(4 * 2 + 2))
    assert points.features.shape == votes.features.shape == (60, 4)
    assert results["scores"]["mean"]["factor_vae"] == 1
