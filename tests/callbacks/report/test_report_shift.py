"""The report where test sets named ``target/…`` were judged beside the first one."""

import copy
import json

import pytest
from evaluation_toys import ShiftedData, run_test
from report_records import Page, calibration_results, ood_results, run_record, undrawn

from callbacks import CalibrationEvaluation, OODEvaluation, Report
from callbacks.ood.figures import set_styles
from callbacks.ood.report import best_score, head_to_head
from callbacks.report import load_record, render
from callbacks.report.record import plain
from callbacks.report.summary import summary, text_table
from callbacks.report.words import verdict
from callbacks.shared.style import IN_DISTRIBUTION

TARGET = "target/moved"


def shifted_record(title="Shifted", seed=0, targets=(TARGET,), detected=0.9):
    """A made-up run: another model's figures stand for those on the target."""
    record = run_record(title, seed) | {"history": []}  # learning curves take time to draw
    calibration, ood = record["calibration"], record["ood"]
    calibration["shifted"] = {}
    ood["sets"], others = {}, ood["sets"]
    ood["shifted"] = {}
    for number, name in enumerate(targets, seed + 10):
        found = calibration_results(number, samples=200, skill=0.3, sharpness=2.0)
        calibration["shifted"][name] = {key: found[key] for key in ("samples", "before", "after")}
        best = {"auroc": detected, "auroc_low": detected - 0.05, "auroc_high": detected + 0.05}
        ood["sets"][name] = {"samples": 200, "msp": {"auroc": 0.4, "auroc_low": 0.3, "auroc_high": 0.5}, "energy": best}
        for score in ood["scores"]:
            curve = ood["roc"][score]["near/rotated"]
            ood["roc"][score] = {name: curve} | ood["roc"][score]
            ood["histograms"][score]["counts"][name] = ood["histograms"][score]["counts"]["near/rotated"]
        weak = ood_results(number, skill=0.2)
        ood["shifted"][name] = {key: weak[key] for key in ("samples", "scores", "sets", "near_mean", "far_mean")}
        ood["shifted"][name]["id"] = name
    ood["sets"] |= others
    return record


def set_accuracy_and_ece(record, source, target, after):
    calibration = record["calibration"]
    calibration["before"] |= source
    calibration["shifted"][TARGET]["before"] |= target
    calibration["shifted"][TARGET]["after"]["ece"] = after
    return record


def set_auroc(figures, value):
    figures |= {"auroc": value, "auroc_low": value - 0.02, "auroc_high": value + 0.02}


@pytest.mark.parametrize("targets", [(TARGET,), (TARGET, "target/far_away")])
def test_page_shows_source_and_targets_side_by_side(targets):
    record = shifted_record(targets=targets)
    html = render([record])
    page = Page(html)
    text = " ".join(page.text)
    assert len(page.ids) == len(set(page.ids))
    judged = {"source": record["calibration"], **record["calibration"]["shifted"]}
    captions = [f"{name}, {part} temperature</figcaption>" for part in ("before", "after") for name in judged]
    places = [html.index(caption) for caption in captions]
    assert places == sorted(places), "a row for each part, the source first"
    for part in ("before", "after"):
        for name, found in judged.items():
            assert f"ECE {found[part]['ece']:.4f}" in text, "the figure's own text"
            assert f"{name}, {part}" in text
            assert f"{found[part]['classwise_ece']:.4f}" in text
    for name in targets:
        assert f"{name} as in-distribution" in text
        for figures in record["ood"]["shifted"][name]["sets"].values():
            assert f"{figures['energy']['auroc']:.3f}" in text


def test_a_record_without_a_target_has_none_of_it():
    html = render([run_record("Plain")])
    assert "arget" not in html
    assert "source, before" not in html


def test_words_say_what_the_shift_did_to_accuracy_and_confidences():
    source, target = {"accuracy": 0.95, "ece": 0.01}, {"accuracy": 0.5, "ece": 0.3}
    record = set_accuracy_and_ece(shifted_record(), source, target, after=0.2)
    assert (
        f"From the source to {TARGET}, accuracy falls from 95.0% to 50.0% and ECE rises from 0.0100 to 0.3000; "
        "the source's temperature still helps there, ECE 0.2000."
    ) in verdict([record])
    record = set_accuracy_and_ece(record, source, source | {"accuracy": 0.94}, after=0.4)
    assert (
        f"From the source to {TARGET}, accuracy is a tie (95.0% and 94.0%) and ECE is a tie (0.0100 and 0.0100); "
        "the source's temperature does not help there: ECE becomes 0.4000."
    ) in verdict([record])


@undrawn()
def test_words_of_a_run_without_temperature():
    record = shifted_record()
    for part in (record["calibration"], record["calibration"]["shifted"][TARGET]):
        part |= {"temperature": None, "after": None}
    (sentence,) = (sentence for sentence in verdict([record]) if sentence.startswith("From the source"))
    assert "temperature" not in sentence
    Page(render([record]))
    assert "target_ece_after" not in summary(record)


def test_words_say_how_far_the_shift_is_detected():
    assert (
        f"The shift to {TARGET} is detected with AUROC 0.900 (0.850 to 0.950) by the best score for it, energy."
        in verdict([shifted_record()])
    )
    assert f"No score reliably tells {TARGET} from the source (best energy, AUROC 0.520)." in verdict(
        [shifted_record(detected=0.52)]
    )


def test_words_say_whether_detection_suffers_with_the_target_as_in_distribution():
    record = shifted_record()
    score = best_score(record["ood"])
    ood, shifted = record["ood"], record["ood"]["shifted"][TARGET]
    for number, name in enumerate(shifted["sets"]):
        set_auroc(ood["sets"][name][score], 0.8)
        set_auroc(shifted["sets"][name][score], (0.5, 0.5, 0.5, 0.95, 0.79)[number])
    ood["near_mean"][score]["auroc"] = ood["far_mean"][score]["auroc"] = 0.8
    shifted["near_mean"][score]["auroc"], shifted["far_mean"][score]["auroc"] = 0.5, 0.747
    start = f"With {TARGET} as in-distribution instead of the source, OOD detection by {score} is"
    means = "mean AUROC near 0.800 to 0.500, far 0.800 to 0.747."
    assert f"{start} worse on 3 and better on 1 of 5 sets; {means}" in verdict([record])
    for name in shifted["sets"]:
        set_auroc(shifted["sets"][name][score], 0.81)
    assert f"{start} a tie on all 5 sets; {means}" in verdict([record])


def test_the_shifted_set_takes_no_part_in_the_choice_of_the_best_score_nor_in_comparisons_and_warnings():
    record = shifted_record(detected=0.5)
    (about,) = (sentence for sentence in verdict([record]) if "better than chance" in sentence)
    assert TARGET not in about
    plain_record = copy.deepcopy(record)
    del plain_record["ood"]["sets"][TARGET]
    chosen = best_score(plain_record["ood"])
    other = next(score for score in record["ood"]["scores"] if score != chosen)
    set_auroc(record["ood"]["sets"][TARGET][other], 100.0)
    assert best_score(record["ood"]) == chosen
    assert list(head_to_head({"a": record, "b": record})) == list(plain_record["ood"]["sets"])


def test_summary_has_the_target_and_means_over_several():
    values = summary(shifted_record())
    assert values["target_accuracy"].value == shifted_record()["calibration"]["shifted"][TARGET]["before"]["accuracy"]
    two = shifted_record(targets=(TARGET, "target/far_away"))
    parts = [found["before"] for found in two["calibration"]["shifted"].values()]
    assert summary(two)["target_ece"].value == pytest.approx(sum(part["ece"] for part in parts) / 2)
    assert 0 < summary(two)["target_accuracy"].error < values["target_accuracy"].error
    assert not [key for key in summary(run_record("Plain")) if key.startswith("target")]


@undrawn()
def test_runs_are_compared_on_the_target_and_in_the_terminal():
    source, good, bad = {"accuracy": 0.95, "ece": 0.01}, {"accuracy": 0.9, "ece": 0.02}, {"accuracy": 0.4, "ece": 0.4}
    first = set_accuracy_and_ece(shifted_record("Adapted"), source, good, after=0.02)
    second = set_accuracy_and_ece(shifted_record("Control"), source, bad, after=0.3)
    records = [first, second, run_record("Plain", 2)]
    sentences = verdict(records)
    assert "Adapted is more accurate on the target, 90.0% against 40.0% (Control)." in sentences
    assert "Adapted is better calibrated on the target: ECE 0.0200 against 0.4000 (Control)." in sentences
    assert [sentence for sentence in sentences if sentence.startswith(f"Control: From the source to {TARGET}")]
    Page(render(records))
    text = text_table(records)
    assert "Target accuracy" in text
    assert f"Adapted, {TARGET} as ID" in text


def test_hostile_names_of_targets_are_escaped():
    hostile = 'target/"><script>alert(1)</script>'
    record = json.loads(json.dumps(shifted_record()).replace(TARGET, json.dumps(hostile)[1:-1]))
    drawn = render([record])
    with undrawn():
        compared = render([record, record])
    for html in (drawn, compared):
        assert "<script" not in html
        assert "script" not in Page(html).tags


@undrawn()
def test_a_target_without_any_other_set():
    record = shifted_record()
    ood = record["ood"]
    ood["sets"] = {TARGET: ood["sets"][TARGET]}
    ood |= {"near_mean": {}, "far_mean": {}, "shifted": None}
    assert best_score(ood) == "energy"
    sentences = " ".join(verdict([record]) + verdict([record, record]))
    assert "The shift to" in sentences
    assert "strongest score" not in sentences
    assert "mean AUROC" not in sentences
    Page(render([record, record]))


def test_the_target_is_dotted_among_the_sets():
    styles = set_styles(shifted_record()["ood"])
    lines = [str(style.get("linestyle")) for name, style in styles.items() if name != TARGET]
    assert str(styles[TARGET]["linestyle"]) not in lines
    assert styles["digits"]["color"] == IN_DISTRIBUTION


@undrawn()
def test_report_of_a_real_run(tmp_path):
    parts = [CalibrationEvaluation(), OODEvaluation(scores=["energy", "knn"], resamples=20, knn_k=3)]
    run_test([*parts, Report(folder=str(tmp_path))], None, ShiftedData())
    record = load_record(tmp_path)
    assert record["calibration"] == plain(parts[0].results)
    assert record["ood"] == plain(parts[1].results)
    assert not [key for key in record["metrics"] if "target" in key]
    text = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).text)
    assert f"{record['calibration']['shifted'][TARGET]['after']['ece']:.4f}" in text
    assert f"{record['ood']['shifted'][TARGET]['sets']['far/shifted']['knn']['auroc']:.3f}" in text
