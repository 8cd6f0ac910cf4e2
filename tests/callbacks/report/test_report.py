import copy
import json
import re

import pytest
import torch
from report_records import Page, calibration_results, history, run_record, undrawn

from callbacks.calibration.figures import reliability_figure
from callbacks.calibration.report import ece_error
from callbacks.ood.figures import auroc_heatmap_figure, roc_figure, score_histogram_figure
from callbacks.report import load_record, render
from callbacks.report.__main__ import main
from callbacks.report.curves import curve_groups
from callbacks.report.record import plain, save_record
from callbacks.report.summary import text_table
from callbacks.report.words import verdict


@pytest.fixture(scope="module")
def records():
    return [run_record("JEM", 0), run_record("Classifier", 1, ("energy",), skill=0.8)]


@pytest.fixture(scope="module")
def html(records):
    return render(records)


def test_page_is_sound_self_contained_and_small(html):
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", html)) <= set(page.ids)
    assert not re.search(r"https?://|@import|<script|<link", html)
    assert len(html) < 3e6
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    assert "currentColor" in html


def test_page_shows_the_numbers(records, html):
    text = " ".join(Page(html).text)
    for record in records:
        calibration = record["calibration"]
        for part in ("before", "after"):
            assert f"{calibration[part]['ece']:.4f}" in text
            assert f"ECE {calibration[part]['ece']:.4f}" in text, "the figure's own text"
        for figures in record["ood"]["sets"].values():
            for score in record["ood"]["scores"]:
                assert f"{figures[score]['auroc']:.3f}" in text
    assert "recoveries" in text
    assert "123,456 parameters" in text


def test_hostile_texts_are_escaped(records):
    hostile = '"><script>alert(1)</script>'
    record = json.loads(json.dumps(records[0]).replace("msp", json.dumps(hostile)[1:-1]))
    record |= {
        "title": hostile,
        "model": hostile,
        "data": hostile,
        "device": hostile,
        "notes": {hostile: hostile},
    }
    record["arguments"] = {"model": {hostile: hostile}}
    record["ood"]["skipped"] = {hostile: hostile}
    record["history"] = [row | {f"train/{hostile}": 1.0} for row in record["history"]]
    html = render([record, records[1]])
    assert "script" not in Page(html).tags
    assert "<script" not in html


PARTS = ("calibration", "ood", "samples", "history", "notes", "data", "seed", "seconds")


@undrawn()
@pytest.mark.parametrize("missing", [*([part] for part in PARTS), PARTS], ids=" ".join)
def test_records_may_lack_any_part(records, missing):
    bare = records[1] | dict.fromkeys(missing)
    Page(render([bare, records[1]] if len(missing) == 1 else [bare]))
    text_table([bare, records[1]])


@undrawn()
def test_a_record_of_a_run_without_temperature(records):
    calibration = records[0]["calibration"] | {"temperature": None, "after": None}
    record = records[0] | {"calibration": calibration}
    assert any("no temperature was fitted" in sentence for sentence in verdict([record]))
    Page(render([record, records[1]]))


@undrawn()
def test_intervals_may_be_missing(records):
    record = copy.deepcopy(records[0])
    for figures in record["ood"]["sets"].values():
        for score in record["ood"]["scores"]:
            figures[score] |= {"auroc_low": None, "auroc_high": None}
    Page(render([record, records[1]]))


def test_no_record_is_an_error():
    with pytest.raises(ValueError, match="at least one run record, got none"):
        render([])


def test_equal_titles_are_numbered(records):
    sentences = " ".join(verdict([records[0], records[0]]))
    assert "JEM (1)" in sentences
    assert "JEM (2)" in sentences
    assert "tie" in sentences


def worse(record, **changes):
    record = copy.deepcopy(record)
    record["title"] = "Other"
    record["calibration"]["before"] |= changes
    return record


def test_verdict_names_the_better_one_and_calls_small_differences_ties(records):
    first = copy.deepcopy(records[0])
    first["calibration"]["before"] |= {"ece": 0.012, "accuracy": 0.96}
    far = " ".join(verdict([first, worse(first, ece=0.2, accuracy=0.5)]))
    assert "JEM is better calibrated before temperature: ECE 0.0120 against 0.2000 (Other)" in far
    assert "JEM is more accurate, 96.0% against 50.0% (Other)" in far
    close = " ".join(verdict([first, worse(first, ece=0.014, accuracy=0.957)]))
    assert "ECE before temperature: a tie" in close
    assert "Accuracy: a tie" in close


def test_verdict_says_where_a_model_is_worse_at_ood_detection(records):
    first, second = copy.deepcopy(records[0]), copy.deepcopy(records[0])
    second["title"] = "Other"
    for record, wins in ((first, "near/rotated"), (second, "far/photos")):
        for name, figures in record["ood"]["sets"].items():
            value = 0.95 if name == wins else 0.8
            for score in record["ood"]["scores"]:
                figures[score] |= {"auroc": value, "auroc_low": value - 0.02, "auroc_high": value + 0.02}
    sentence = next(sentence for sentence in verdict([first, second]) if "best score on each set" in sentence)
    assert "JEM is better on 1 of 5 sets (near/rotated)" in sentence
    assert "Other is better on 1 of 5 sets (far/photos)" in sentence
    assert "a tie on near/interpolated, far/uniform and far/constant" in sentence


def test_verdict_warns_of_scores_at_chance(records):
    assert any(
        "No score is reliably better than chance on far/constant" in sentence for sentence in verdict([records[0]])
    )


def test_error_of_ece_agrees_with_resampling():
    generator = torch.Generator().manual_seed(0)
    counts, accuracies = torch.tensor([40, 100, 260]), torch.tensor([0.6, 0.8, 0.97])
    confidences = torch.tensor([0.75, 0.9, 0.99])
    draws = torch.binomial(counts.float().expand(4000, 3), accuracies.expand(4000, 3), generator=generator)
    ece = ((draws / counts - confidences).abs() * counts).sum(1) / counts.sum()
    diagram = {"count": counts.tolist(), "accuracy": accuracies.tolist()}
    assert ece_error(diagram) == pytest.approx(ece.std().item(), rel=0.12)


def test_text_table_lists_every_score_and_set(records):
    text = text_table(records)
    assert text.splitlines()[1].split()[:2] == [
        "JEM",
        f"{records[0]['calibration']['before']['accuracy']:.4f}",
    ]
    assert len(text.splitlines()) == 3 + 1 + 1 + 2 + 1
    assert f"{records[1]['ood']['sets']['far/photos']['energy']['auroc']:.3f}" in text


def test_figures_draw_every_part(records):
    results = records[0]["ood"]
    assert len(reliability_figure(records[0]["calibration"]).axes) == 4
    assert len(reliability_figure({**records[0]["calibration"], "after": None}).axes) == 2
    assert len(auroc_heatmap_figure(results).axes[0].texts) == 2 * 7
    assert len(roc_figure(results, "msp").axes[0].lines) == 1 + 5
    assert len(score_histogram_figure(results, "msp").axes[0].patches) == 6


def test_empty_bins_draw_nothing():
    results = calibration_results(samples=50)
    filled = sum(count > 0 for count in results["before"]["diagram"]["count"])
    assert filled < 15
    assert len(reliability_figure(results, ["before"]).axes[0].patches) == 2 * filled


def test_keys_of_one_quantity_share_a_panel():
    groups = curve_groups(history(epochs=3))
    assert groups == {"acc": ["val/acc"], "loss": ["train/loss", "val/loss"], "p_x": ["train/p_x"]}


def test_records_are_strict_json(tmp_path):
    odd = {
        "nan": float("nan"),
        "tensor": torch.tensor([1.0, float("inf")]),
        "path": tmp_path,
        "set": {1},
        "n": None,
    }
    expected = {"nan": None, "tensor": [1.0, None], "path": str(tmp_path), "set": [1], "n": None}
    assert plain(odd) == expected
    save_record({"format": 1} | odd, tmp_path / "report.json")
    assert load_record(tmp_path) == {"format": 1} | expected


def test_command_compares_runs_and_writes_the_same_page_as_render(tmp_path, records, html, capsys):
    folders = []
    for record in records:
        folders.append(tmp_path / record["title"])
        folders[-1].mkdir()
        save_record(record, folders[-1] / "report.json")
    page = tmp_path / "new" / "comparison.html"
    assert main([*map(str, folders), "-o", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == html
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(page)
    assert "ECE after T" in printed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no run record at"),
        ("{", "is not JSON"),
        ("[]", "is not a run record"),
        ('{"format": 0}', "of format 1"),
    ],
)
def test_command_explains_a_missing_or_broken_record(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert main([str(tmp_path), "-o", str(tmp_path / "page.html")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(tmp_path) in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "page.html").exists()
