"""`make demo`: both models trained for an epoch instead of their full recipes, all else as it is."""

import sys

import pytest

from benchmarks.jem import digits


@pytest.fixture
def printed(tmp_path, monkeypatch, capsys):
    run = digits.run
    monkeypatch.setattr(digits, "run", lambda *arguments: run(*arguments, "--trainer.max_epochs=1"))
    monkeypatch.setattr(sys, "argv", ["digits", "--folder", "demo"])
    monkeypatch.chdir(tmp_path)
    digits.main()
    return capsys.readouterr().out


@pytest.mark.long
def test_the_demo_leaves_its_files_and_ends_with_its_tables(tmp_path, printed):
    folder = tmp_path / "demo"
    for name in ("jem", "classifier"):
        for path in ("checkpoints/last.ckpt", "metrics.csv", "report.html", "report.json"):
            assert (folder / name / path).stat().st_size > 0, f"{name}/{path}"
        assert len(list((folder / name).glob("wandb/offline-run-*/run-*.wandb"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    comparison = (folder / "report.html").read_text(encoding="utf-8")
    assert "JEM" in comparison
    assert "Classifier" in comparison

    *_, detection, calibration, report = (block.splitlines() for block in printed.strip().split("\n\n"))
    assert report == ["report: demo/report.html"]
    assert calibration[0].split() == ["JEM", "Classifier"]
    values = {title: [float(a), float(b)] for title, a, b in (line.rsplit(maxsplit=2) for line in calibration[1:])}
    names = ["accuracy", "NLL", "NLL after temperature", "ECE (15 bins)", "ECE after temperature"]
    assert list(values) == names
    assert all(0.2 < accuracy <= 1 for accuracy in values["accuracy"])  # an epoch teaches something; chance is 0.1
    sets = ["near/interpolated", "near/rotated", "far/uniform", "far/gaussian", "far/constant", "far/photo_patches"]
    assert detection[0].split() == ["AUROC", *sets]
    rows = {tuple(line.split()[:2]): [float(cell) for cell in line.split()[2:]] for line in detection[1:]}
    for model in ("JEM", "Classifier"):
        for score in ("msp", "energy", "knn", "mahalanobis"):
            assert len(rows[score, model]) == len(sets)
    assert ("approximate_mass", "JEM") in rows
    assert all(0 <= value <= 1 for row in rows.values() for value in row)
