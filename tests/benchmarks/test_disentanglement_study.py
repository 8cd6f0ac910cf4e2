"""The study of disentanglement: its tables and pictures say what they claim, and its sweeps reach the command line."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import OneHotEncoder

import train
from benchmarks.disentanglement import study
from benchmarks.disentanglement.page import heat_table, scores_figure, study_page, training_figure, variance_figure
from benchmarks.disentanglement.tables import (
    agreement_table,
    best_table,
    by_chance,
    measured,
    rank_correlations,
    ranks,
    scores_table,
    selection_table,
    training_table,
    variance_explained,
    variance_table,
)

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = sorted(ROOT.glob("zoo/disentanglement/configurations/sweep_*.yaml"))
STUDY = {  # section 2.3 of the sheet
    "BetaVAE": {"model.beta": [1, 2, 4, 6, 8, 16]},
    "AnnealedVAE": {"model.max_capacity": [5, 10, 25, 50, 75, 100]},
    "FactorVAE": {"model.gamma": [10, 20, 30, 40, 50, 100]},
    "DIPVAE": {"model.variant": ["I", "II"], "model.lambda_od": [1, 2, 5, 10, 20, 50]},
    "BetaTCVAE": {"model.beta": [1, 2, 4, 6, 8, 10]},
}


# ---------------------------------------------------------------- sweeps


def test_there_is_a_sweep_of_every_method_with_the_values_of_the_study():
    found = {}
    for path in SWEEPS:
        parameters = yaml.safe_load(path.read_text())["parameters"]
        assert parameters.pop("seed_everything") == {"values": list(range(50))}
        found[path.stem.removeprefix("sweep_")] = {name: each["values"] for name, each in parameters.items()}
    assert found == STUDY


def arguments_of_an_agent(sweep, values):
    """The command line that W&B's agent makes: ``${args}`` is one ``--name=value`` for each parameter."""
    words = []
    for word in sweep["command"]:
        given = {"${env}": [], "${program}": [sweep["program"]]}
        given["${args}"] = [f"--{name}={value}" for name, value in values.items()]
        words += given.get(word, [word])
    return words


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("which", [0, -1])
def test_every_parameter_of_a_sweep_reaches_the_module(path, which, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(path.read_text())
    values = {name: each["values"][which] for name, each in sweep["parameters"].items()}
    python, program, *arguments = arguments_of_an_agent(sweep, values)
    assert (python, program) == ("python", "train.py")
    with pytest.raises(SystemExit) as end:
        train.main([*arguments, "--print_config"])
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    config = yaml.safe_load(printed.out)
    assert config["seed_everything"] == values.pop("seed_everything")
    assert config["model"]["class_path"] == f"zoo.{path.stem.removeprefix('sweep_')}"
    assert {name: config["model"]["init_args"][name.removeprefix("model.")] for name in values} == values


def test_a_parameter_that_no_method_has_is_refused(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(SWEEPS[0].read_text())
    with pytest.raises(SystemExit):
        train.main([*arguments_of_an_agent(sweep, {"model.strength": 4})[2:], "--print_config"])
    assert "--model.strength" in capsys.readouterr().err


# ---------------------------------------------------------------- metrics over runs


METHODS = ("beta-VAE", "FactorVAE", "DIP-VAE-I")


def record(method, strength, seed, **metrics):
    return {
        "method": method,
        "strength": strength,
        "argument": f"beta={strength}",
        "seed": seed,
        "mig_during_training": [(0, 0.01), (500, 0.1 + 0.01 * seed)],
        "metrics": {name.replace("__", "/"): value for name, value in metrics.items()},
    }


def made_up(score_of, seeds=3):
    """Runs of three methods and strengths whose MIG is known."""
    return [
        record(method, strength, seed, **score_of(index, strength, seed))
        for index, method in enumerate(METHODS)
        for strength in (1, 4, 16)
        for seed in range(seeds)
    ]


def test_the_explained_variance_is_that_of_least_squares_on_one_hot_groups():
    random = np.random.default_rng(0)
    groups = [("a", 1)] * 5 + [("a", 2)] * 3 + [("b", 1)] * 4
    values = random.normal(size=12) + np.arange(12)
    one_hot = OneHotEncoder(sparse_output=False).fit_transform([[str(group)] for group in groups])
    expected = LinearRegression().fit(one_hot, values).score(one_hot, values)
    assert variance_explained(values, groups) == pytest.approx(expected, abs=1e-12)


def test_known_shares_of_the_variance_are_found():
    # between methods: 0 and 1, variance 1/4; within, by strength: -0.25 and 0.25, variance 1/16; by seed: 1/64
    runs = [(method, s, method + s / 4 + seed / 8) for method, s, seed in itertools.product((0, 1), (-1, 1), (-1, 1))]
    values = [value for *_, value in runs]
    total = 1 / 4 + 1 / 16 + 1 / 64
    assert variance_explained(values, [method for method, *_ in runs]) == pytest.approx(1 / 4 / total)
    assert variance_explained(values, [run[:2] for run in runs]) == pytest.approx((1 / 4 + 1 / 16) / total)


def test_groups_that_mean_nothing_explain_on_average_what_is_called_by_chance():
    random = np.random.default_rng(0)
    groups = [number // 3 for number in range(54)]
    found = [variance_explained(random.normal(size=54), groups) for _ in range(400)]
    assert by_chance(groups) == pytest.approx(17 / 53)
    assert np.mean(found) == pytest.approx(17 / 53, abs=0.01)


def test_scores_that_are_all_equal_have_no_variance_to_explain():
    assert math.isnan(variance_explained([0.1 + 0.2, 0.3, 0.3], ["a", "b", "b"]))
    with pytest.raises(ValueError, match="zip"):
        variance_explained([1.0, 2.0], ["a"])


def test_a_run_that_diverged_is_left_out():
    groups = ["a", "a", "b", "b", "b"]
    assert variance_explained([1, 2, 5, math.nan, 3], groups) == variance_explained([1, 2, 5, 3], groups[:4])
    assert math.isnan(variance_explained([math.nan], ["a"]))
    runs = [*full_runs(), record("FactorVAE", 16, 3)]
    assert [row[0] for row in scores_table(runs, measured(runs))[4:7]] == ["FactorVAE"] * 3
    study_page(runs, [])


def test_ranks_of_equal_values_are_shared():
    assert ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_rank_correlations_are_those_of_ranks_whatever_the_scale():
    a = np.array([0.1, 0.2, 0.4, 0.8, 0.9])
    table = np.stack([a, np.exp(9 * a), -a, [1, 2, 3, 5, 4], np.full(5, 7.0)], 1)
    found = rank_correlations(table)
    assert found[0, :3] == pytest.approx([1, 1, -1])
    assert found[0, 3] == found[3, 0] == pytest.approx(0.9)  # 1 - 6 * 2 / (5 * 24)
    assert np.isnan(found[:, 4]).all()


def test_runs_without_a_figure_are_left_out_of_the_correlation_only():
    table = np.array([[1, 1], [2, np.nan], [3, 3], [4, 2], [5, 5.0]])
    assert rank_correlations(table)[0, 1] == pytest.approx(0.8)


def test_the_tables_show_every_setting_the_agreement_and_the_best_run():
    runs = made_up(
        lambda method, strength, seed: {"mean__mig": 0.1 * method + 0.01 * seed, "mean__sap": -method - seed}
    )
    keys = measured(runs)
    assert keys == {"MIG": "mean/mig", "SAP": "mean/sap"}
    table = scores_table(runs, keys)
    assert table[0] == ["method", "strength", "seeds", "MIG", "SAP"]
    assert table[4] == ["FactorVAE", "beta=1", "3", "0.110 ± 0.010", "-2.000 ± 1.000"]
    assert len(table) == 10
    training = training_table(runs)
    assert training[0] == ["MIG after steps", "strength", "0", "500"]
    assert training[1] == ["beta-VAE", "beta=1", "0.010 ± 0.000", "0.110 ± 0.010"]
    agreement = agreement_table(runs, keys)
    assert agreement[1][:2] == ["MIG", "100"]
    assert agreement[1][2] == agreement[2][1]
    assert int(agreement[1][2]) < -50
    assert best_table(runs, keys)[1] == ["MIG", "DIP-VAE-I, beta=1, seed 2", "0.220", "0.210"]
    shares = variance_table(runs, keys)
    assert [row[0] for row in shares[1:]] == ["by method", "by method and strength"]
    assert shares[1][1] == "99"
    assert shares[1][-1] == "8"


def test_what_is_known_without_labels_is_set_beside_the_metrics():
    runs = made_up(lambda method, strength, seed: {"mean__mig": method + strength, "test__elbo": -method - strength})
    assert selection_table(runs, measured(runs)) == [["rank correlation x 100", "MIG"], ["ELBO", "-100"]]


def full_runs(seeds=3):
    random = np.random.default_rng(0)
    names = ("mig", "sap", "beta_vae", "total_correlation")
    return made_up(
        lambda method, strength, seed: (
            {f"{kind}__{name}": random.random() for kind in ("mean", "sampled") for name in names}
            | {"test__elbo": random.random(), "mean__modularity": 1.0}
        ),
        seeds,
    )


def test_a_dot_for_every_run_and_a_bar_for_every_setting():
    runs = full_runs()
    (axes,) = scores_figure(runs, "mean/mig", "MIG").axes
    dots = np.concatenate([line.get_ydata() for line in axes.lines if line.get_marker() == "o"])
    assert sorted(dots) == sorted(run["metrics"]["mean/mig"] for run in runs)
    bars = [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "None"]
    expected = [np.mean([run["metrics"]["mean/mig"] for run in runs[start : start + 3]]) for start in range(0, 27, 3)]
    assert bars == pytest.approx(expected)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(METHODS)


def test_a_line_for_every_run_from_the_untrained_network_on():
    (axes,) = training_figure(full_runs(), "FactorVAE").axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [[0, 500]] * 9
    assert [line.get_ydata()[1] for line in axes.lines] == pytest.approx([0.1, 0.11, 0.12] * 3)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["beta=1", "beta=4", "beta=16"]


def test_the_bars_of_explained_variance_are_the_tables():
    runs = full_runs()
    (axes,) = variance_figure(runs, measured(runs)).axes
    heights = [round(100 * bar.get_height()) for bar in axes.patches]
    table = variance_table(runs, measured(runs))
    shown = [0 if cell == "-" else int(cell) for row in table[1:] for cell in row[1:-2]]
    assert heights == shown


@pytest.mark.parametrize("runs", [full_runs(), full_runs(1)[:1]], ids=["all", "one run"])
def test_the_page_stands_alone_and_is_well_formed(runs):
    page = study_page(runs, ["5 steps <b>"])
    assert page.startswith("<!doctype html>")
    assert "5 steps &lt;b&gt;" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL).lower()
    for tag in ("section", "table", "figure", "svg", "tr", "td"):
        assert len(re.findall(rf"<{tag}[\s>]", page)) == page.count(f"</{tag}>")


def test_a_heat_table_colours_by_sign():
    page = heat_table(["a"], ["b", "c", "d"], np.array([[0.5, -0.5, np.nan]]))
    assert re.search(r"--good\).*>50<.*--bad\).*>-50<", page, re.DOTALL)


# ---------------------------------------------------------------- runs


COMMON = {"steps": 2, "lr": 1e-3, "precision": "32-true"}
COMMON |= {"factor_steps": [1, 3, 20, 16, 16], "batch_size": 4, "test_images": 16}
COMMON |= {"num_train": 60, "num_test": 20, "num_train_votes": 20, "num_test_votes": 10}


def test_every_method_has_the_first_a_middle_and_the_last_of_the_studys_strengths():
    assert len(study.METHODS) == 6
    for name, argument, values, _ in study.METHODS.values():
        swept = STUDY[name][f"model.{argument}"]
        assert (values[0], values[-1]) == (swept[0], swept[-1])
        assert values[1] in swept[1:-1]
    assert study.build("AnnealedVAE", 25, COMMON | {"steps": 300}, (1, 64, 64)).hparams["annealing_steps"] == 100
    assert study.build("FactorVAE", 10, COMMON, (1, 64, 64)).hparams["discriminator_lr"] == 1e-3
    assert study.build("DIP-VAE-I", 5, COMMON, (1, 64, 64)).hparams["variant"] == "I"
    assert study.build("DIP-VAE-II", 50, COMMON, (1, 64, 64)).hparams["lambda_od"] == 50


@pytest.mark.long
def test_a_study_is_resumed_where_it_was_stopped_and_gives_tables_and_a_page(tmp_path, monkeypatch, capsys):
    jobs = [("beta-VAE", 4, 0), ("beta-VAE", 4, 1)]
    study.make(jobs[:1], tmp_path, COMMON)
    first = {path.name: path.read_bytes() for path in tmp_path.rglob("*seed0*")}
    assert sorted(first) == ["beta4_seed0.json", "beta4_seed0.npy"]
    study.make(jobs, tmp_path, COMMON)
    shown = capsys.readouterr().out
    assert "0 of 1 runs are there" in shown
    assert "1 of 2 runs are there" in shown
    assert re.search(
        r"1/1 beta-VAE, beta=4, seed 1: BetaVAE .*, MIG 0\.\d+, .*; trained in .*, judged in .*, 0.0 s left", shown
    )
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*seed0*")} == first
    records = study.load(jobs, tmp_path, COMMON)
    assert [each["seed"] for each in records] == [0, 1]
    assert [step for step, _ in records[0]["mig_during_training"]] == [0, 1, 2]
    assert {"mean/mig", "sampled/mig", "test/elbo", "latents/active", "udr"} <= records[0]["metrics"].keys()
    assert not any(name.startswith("train/") for name in records[0]["metrics"])
    assert records[0]["codes"].shape == (1000, 10)
    arguments = ["--folder", str(tmp_path), "--table", "--methods", "beta-VAE", "--seeds", "0", "1", "--steps", "2"]
    monkeypatch.setattr("sys.argv", ["disentanglement", *arguments, "--lr", "1e-3"])
    with pytest.raises(SystemExit, match=r"was made with .*: give another --folder"):
        study.main()
    monkeypatch.setattr(study, "DATA", {name: COMMON[name] for name in study.DATA})
    monkeypatch.setattr(study, "EVALUATION", {name: COMMON[name] for name in study.EVALUATION})
    study.main()
    shown = capsys.readouterr().out
    assert re.search(r"beta-VAE +beta=4 +2 ", shown)
    assert "rank correlation x 100" in shown
    assert "2 runs on sprites with 3x2x2x2x2 values" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_run_that_diverged_is_kept_as_one(tmp_path, capsys):
    study.make([("beta-VAE", 4, 0)], tmp_path, COMMON | {"lr": 1e30})
    assert "beta=4, seed 0: diverged; trained in" in capsys.readouterr().out
    (run,) = study.load([("beta-VAE", 4, 0)], tmp_path, COMMON | {"lr": 1e30})
    assert run["metrics"] == {}
    assert [step for step, _ in run["mig_during_training"]] == [0]


def test_models_whose_latents_agree_but_for_order_and_sign_have_the_largest_udr():
    random = np.random.default_rng(0)
    codes = random.normal(size=(1000, 3))
    rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
    found = {}
    for name, other in (("same", -codes[:, [2, 0, 1]]), ("rotated", codes @ rotation)):
        runs = [record("a", 1, 0), record("a", 1, 1)]
        for run, values in zip(runs, (codes, other), strict=True):
            run |= {"codes": values, "kl": [1.0, 1.0, 1.0]}
            run["metrics"]["mean/mig"] = 0.0
        runs.append(record("b", 1, 0, mean__mig=0.0))
        study.add_udr(runs)
        assert "udr" not in runs[2]["metrics"]
        found[name] = runs[0]["metrics"]["udr"]
    assert found["same"] > 0.8 > found["rotated"]
