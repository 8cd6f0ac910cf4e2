"""The section of the report on disentanglement: scores beside their ceilings, and what is said of the latents."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from disentanglement_toys import Halves, ToyEncoder, ToyVAE
from evaluation_toys import trainer_of
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from callbacks import DisentanglementEvaluation, LatentPictures, Report
from callbacks.disentanglement.latents_figure import information_shares
from callbacks.disentanglement.report import disentanglement_section, mig_ceiling, sentences
from callbacks.report import load_record, render
from callbacks.report.summary import summary, text_table
from callbacks.report.words import verdict
from callbacks.shared.html import Figures

SMALL = {"num_train": 200, "num_test": 100, "num_train_votes": 20, "num_test_votes": 20}
DSPRITES = {"shape": 3, "scale": 6, "orientation": 40, "position_x": 32, "position_y": 32}


def scored(shares, factors=None, **scores):
    """Results of `DisentanglementEvaluation` in which latents hold given shares of the factors' entropies."""
    factors = factors or {"left": 5, "right": 3}
    nats = np.asarray(shares) * np.log(list(factors.values()))
    matrices = {"mean": {"mutual_information": nats.tolist()}, "sampled": {}}
    found = {"mean": {"mig": 0.3, **scores}, "sampled": {"mig": 0.2}}
    sizes = list(factors.values())
    return {"factor_names": list(factors), "factor_sizes": sizes, "scores": found, "matrices": matrices}


def latents(active, kl=None):
    return {"active": active, "kl": kl, "samples": 1234, "std": [1.0] * len(active), "order": list(range(len(active)))}


def text_of(results, pictures=None):
    page = disentanglement_section({"a": {"disentanglement": results, "latents": pictures}}, Figures())
    return re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL))


def row_of(page, title):
    (row,) = re.findall(rf"<tr><th>{re.escape(title)}</th>(.*?)</tr>", page)
    return re.findall(r"<td[^>]*>(.*?)</td>", row)


def test_the_words_say_which_latent_codes_which_factor_and_how_many_are_active():
    found = sentences(scored([[0.1, 0.02], [0.7, 0.01], [0, 0.04]]), latents([True, False, True], [2.0, 0.01, 0.5]))
    assert found == [
        "2 of 3 latents are active: the variance of their mean over 1,234 images is above 0.01; KL from the prior 2.51 "
        "nats in all.",
        "left: z1 holds 70% of its entropy, next z0 with 10%.",
        "right: no latent codes it; the most that one holds is 4% of its entropy.",
    ]


def test_a_latent_that_is_first_for_several_factors_is_called_entangled():
    found = sentences(scored([[0.5, 0.4], [0.1, 0.1]]), {})
    assert found[-1] == "Entangled: z0 is the first latent of several factors."
    assert not any("Entangled" in each for each in sentences(scored([[0.5, 0.01], [0.1, 0.02]]), {}))
    assert not any("Entangled" in each for each in sentences(scored([[0.02, 0.01], [0.01, 0.0]]), {}))


def test_one_latent_has_no_next():
    assert sentences(scored([[0.5, 0.4]]), {})[0] == "left: z0 holds 50% of its entropy."


def test_the_ceiling_of_mig_is_that_of_twenty_bins():
    assert mig_ceiling([3, 6, 10, 16, 16]) == pytest.approx(1)
    each = [1, 1, math.log(20) / math.log(40)] + [math.log(32) - 24 * math.log(2) / 32] * 2
    each[3:] = [value / math.log(32) for value in each[3:]]
    assert mig_ceiling([3, 6, 40, 32, 32]) == pytest.approx(np.mean(each))
    assert mig_ceiling([3, 6, 40, 32, 32]) == pytest.approx(0.902, abs=5e-4)


def test_ceilings_of_dsprites_stand_beside_its_scores_and_of_nothing_else():
    shares = np.eye(5)
    results = scored(shares, DSPRITES, sap=0.1, modularity=0.9, mig_corrected=0.4)
    page = disentanglement_section({"a": {"disentanglement": results}}, Figures())
    assert row_of(page, "MIG") == ["0.300", "0.200", "0.902", "0.000"]
    assert row_of(page, "SAP") == ["0.100", "\N{EN DASH}", "0.245", "0.002"]
    assert row_of(page, "Modularity") == ["0.900", "\N{EN DASH}", "1.000", "0.670"]
    assert row_of(page, "MIG, corrected")[2] == "1.000"
    assert "SAP at 0.245" in page
    page = disentanglement_section({"a": {"disentanglement": scored(np.eye(2), sap=0.1)}}, Figures())
    assert row_of(page, "SAP")[2:] == ["\N{EN DASH}"]
    assert row_of(page, "MIG")[2:] == ["1.000"]
    assert "0.245" not in page


def test_the_heat_map_holds_the_shares_in_the_order_of_the_divergence():
    pictures = latents([True, True, True], [0.1, 3.0, 2.0]) | {"order": [1, 2, 0]}
    page = disentanglement_section(
        {"a": {"disentanglement": scored([[0.1, 0.2], [0.7, 0.01], [0, 1]]), "latents": pictures}}, Figures()
    )
    assert re.findall(r"<th>(z\d)</th>", page) == ["z1", "z2", "z0"]
    assert row_of(page, "z1") == ["0.70", "0.01"]


def test_shares_are_of_the_factors_entropies():
    np.testing.assert_allclose(information_shares([[math.log(2), 0]], [4, 2]), [[0.5, 0]])


def run(folder, module, *callbacks):
    logger = CSVLogger(folder, "run")
    trainer_of(*callbacks, Report(), logger=logger, default_root_dir=folder).test(module, Halves(), verbose=False)
    return Path(logger.log_dir)


def test_a_test_gives_scores_pictures_and_words(tmp_path):
    folder = run(tmp_path, ToyVAE(), LatentPictures(), DisentanglementEvaluation(["mig", "sap"], **SMALL))
    record, page = load_record(folder), (folder / "report.html").read_text(encoding="utf-8")
    found = page[page.index("<h2>Disentanglement</h2>") :]
    found = found[: found.index("</section>")]
    scores = record["disentanglement"]["scores"]
    assert row_of(found, "MIG")[:2] == [f"{scores[kind]['mig']:.3f}" for kind in ("mean", "sampled")]
    assert found.count("data:image/png") == 2
    assert found.count("<svg") == 1
    assert "2 of 3 latents are active" in found
    assert re.search("left: z0 holds (99|100)% of its entropy, next z1", found)
    assert re.search("right: z1 holds (99|100)% of its entropy, next z0", found)
    assert not any(name.startswith(("disentanglement/", "latents/")) for name in record["metrics"])
    pictures = sorted(path.stem for path in (folder / "images/latents").iterdir())
    assert pictures == ["kl", "mutual_information", "reconstructions", "traversals"]
    assert np.asarray(Image.open(folder / "images/latents/mutual_information.png")).std() > 10


def test_an_autoencoder_without_a_posterior_has_one_column_and_no_divergence(tmp_path):
    folder = run(tmp_path, ToyEncoder(), LatentPictures(), DisentanglementEvaluation(["mig"], **SMALL))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert len(row_of(page, "MIG")) == 2
    assert "KL of each latent" not in page
    assert "2 of 3 latents are active: the variance of their mean over 30 images is above 0.01.<" in page


def test_either_callback_is_enough_and_none_makes_no_section(tmp_path):
    assert "<h2>Disentanglement</h2>" in (run(tmp_path, ToyVAE(), LatentPictures()) / "report.html").read_text()
    folder = run(tmp_path, ToyVAE(), DisentanglementEvaluation(["mig"], **SMALL))
    assert "of its entropy, next" in (folder / "report.html").read_text()
    assert disentanglement_section({"a": {}}, Figures()) == ""


def test_several_runs_stand_below_each_other(tmp_path):
    folder = run(tmp_path, ToyVAE(), LatentPictures(), DisentanglementEvaluation(["mig"], **SMALL))
    page = render([load_record(folder)] * 2)
    assert page[page.index("<h2>Disentanglement</h2>") :].count("<th>MIG</th>") == 2
    assert len(set(re.findall(r'\bid="(f\d+)-', page))) > 1


def test_runs_are_compared_by_the_scores_of_their_means():
    records = [
        {"title": name, "disentanglement": scored(np.eye(2), mig=mig, sap=0.1)}
        for name, mig in (("Pure", 0.7), ("Mixed", 0.2))
    ]
    assert {key: value.value for key, value in summary(records[0]).items()} == {"mig": 0.7, "sap": 0.1}
    assert "Pure has the larger MIG (no interval), 0.700 against 0.200 (Mixed)." in verdict(records)
    assert re.search(r"MIG +SAP\b", text_table(records))


def test_a_hostile_record_is_escaped():
    bad = '"><script>'
    results = scored(np.eye(2), {bad: 3, "b": 4}, **{bad: 0.5})
    pictures = latents([True, False], [1.0, 0.0]) | {"traversals": bad, "reconstructions": bad}
    assert "<script" not in disentanglement_section({bad: {"disentanglement": results, "latents": pictures}}, Figures())
