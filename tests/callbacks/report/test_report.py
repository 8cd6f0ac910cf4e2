import copy
import json
import re

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from report_records import Page, calibration_results, history, run_record
from torch.utils.data import DataLoader, TensorDataset

from callbacks import CalibrationEvaluation, OODEvaluation, Randomness, Report, SampleGrid
from callbacks.calibration.figures import reliability_figure
from callbacks.calibration.report import ece_error
from callbacks.ood.figures import auroc_heatmap_figure, roc_figure, score_histogram_figure
from callbacks.report import load_record, render
from callbacks.report.__main__ import main
from callbacks.report.curves import curve_groups
from callbacks.report.record import plain, save_record
from callbacks.report.summary import summary, text_table
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


def test_page_is_deterministic(records, html):
    assert render(copy.deepcopy(records)) == html


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


@pytest.mark.parametrize("missing", [*([part] for part in PARTS), PARTS], ids=" ".join)
def test_records_may_lack_any_part(records, missing):
    bare = records[1] | dict.fromkeys(missing)
    Page(render([bare, records[1]] if len(missing) == 1 else [bare]))
    text_table([bare, records[1]])


def test_a_record_of_a_run_without_temperature(records):
    calibration = records[0]["calibration"] | {"temperature": None, "after": None}
    record = records[0] | {"calibration": calibration}
    assert any("no temperature was fitted" in sentence for sentence in verdict([record]))
    Page(render([record, records[1]]))


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


def test_command_compares_runs(tmp_path, records, html, capsys):
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


class Blobs(LightningDataModule):
    """Two classes of 1 x 4 x 4 pictures, and one OOD set."""

    num_classes, image_shape, test_sets = 2, (1, 4, 4), ("blobs", "far/noise")

    def __init__(self, number=32):
        super().__init__()
        self.save_hyperparameters()

    def loader(self, seed, shuffle=False):
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(self.hparams.number) % 2
        x = torch.randn(len(y), 1, 4, 4, generator=generator) + y.view(-1, 1, 1, 1)
        return DataLoader(TensorDataset(x, y), batch_size=8, shuffle=shuffle)

    def train_dataloader(self):
        return self.loader(0, shuffle=True)

    def val_dataloader(self):
        return self.loader(1)

    def test_dataloader(self):
        x = 3 * torch.randn(32, 1, 4, 4, generator=torch.Generator().manual_seed(3))
        noise = TensorDataset(x, torch.full((32,), -1))
        return [self.loader(2), DataLoader(noise, batch_size=8)]


class Tiny(LightningModule):
    def __init__(self, lr: float = 0.05):
        super().__init__()
        self.save_hyperparameters()
        self.head = torch.nn.Linear(16, 2)

    def forward(self, x):
        return self.head(x.flatten(1))

    def sample(self, n):
        return torch.rand(n, 1, 4, 4)

    def report_notes(self):
        return {"recoveries": 3}

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        logits = self(batch[0])
        if dataloader_idx == 0:
            self.log("test/acc", (logits.argmax(1) == batch[1]).float().mean(), add_dataloader_idx=False)
        return {"logits": logits}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.hparams.lr)


def trainer_for(folder, *callbacks, epochs=3, **kwargs):
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=CSVLogger(folder, name="", version="run"),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **kwargs,
    )


def test_report_of_a_real_run(tmp_path):
    seed_everything(5, verbose=False)
    parts = [
        Report(title="Tiny run"),
        SampleGrid(number=4),
        CalibrationEvaluation(),
        OODEvaluation(resamples=20),
    ]
    trainer = trainer_for(tmp_path, *parts)
    model, data = Tiny(), Blobs()
    trainer.fit(model, data)
    folder = tmp_path / "run"
    fitted = load_record(folder)
    assert [row["epoch"] for row in fitted["history"]] == [0, 1, 2]
    assert all(0 < row["train/loss"] < 5 and 0 <= row["val/acc"] <= 1 for row in fitted["history"])
    assert fitted["calibration"] is None

    trainer.test(model, data, verbose=False)
    record = load_record(folder)
    assert record["history"] == fitted["history"]
    assert record["title"] == "Tiny run"
    assert record["arguments"] == {"model": {"lr": 0.05}, "data": {"number": 32}}
    assert record["notes"] == {"recoveries": 3}
    assert record["seed"] == "5"
    assert record["metrics"]["test/acc"] == pytest.approx(record["calibration"]["before"]["accuracy"])
    assert set(record["seconds"]) == {"fit", "test"}
    assert record["calibration"] == plain(parts[2].results)
    assert record["ood"] == plain(parts[3].results)
    text = " ".join(Page((folder / "report.html").read_text(encoding="utf-8")).text)
    assert f"{record['calibration']['after']['ece']:.4f}" in text
    assert f"{record['ood']['sets']['far/noise']['energy']['auroc']:.3f}" in text
    assert summary(record)["far"].value == pytest.approx(
        max(row["auroc"] for row in record["ood"]["far_mean"].values())
    )
    assert (folder / "images/samples.png").is_file()
    assert (folder / "images/calibration/reliability.png").is_file()


def test_a_test_in_a_fresh_process_finds_the_learning_curves_in_the_checkpoint(tmp_path):
    trainer = trainer_for(tmp_path, Report(), Randomness())
    trainer.fit(Tiny(), Blobs())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    fitted = load_record(tmp_path / "run")
    other = trainer_for(tmp_path / "other", Report(), Randomness())
    other.test(Tiny(), Blobs(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    tested = load_record(tmp_path / "other" / "run")
    assert tested["history"] == fitted["history"]
    assert tested["seconds"]["fit"] >= fitted["seconds"]["fit"]


def test_testing_an_earlier_checkpoint_keeps_the_whole_learning_curve(tmp_path):
    class Early(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "early.ckpt")

    trainer = trainer_for(tmp_path, Report(), Early())
    trainer.fit(Tiny(), Blobs())
    trainer.test(Tiny(), Blobs(), ckpt_path=tmp_path / "early.ckpt", verbose=False)
    assert len(load_record(tmp_path / "run")["history"]) == 3


def test_a_resumed_fit_goes_on_with_its_learning_curves(tmp_path):
    trainer = trainer_for(tmp_path, Report(), epochs=2)
    trainer.fit(Tiny(), Blobs())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    trainer_for(tmp_path, Report(), epochs=4).fit(Tiny(), Blobs(), ckpt_path=tmp_path / "two.ckpt")
    assert [row["epoch"] for row in load_record(tmp_path / "run")["history"]] == [0, 1, 2, 3]


def test_old_validation_figures_are_not_repeated(tmp_path):
    trainer = trainer_for(tmp_path, Report(), epochs=4, check_val_every_n_epoch=2)
    trainer.fit(Tiny(), Blobs())
    rows = load_record(tmp_path / "run")["history"]
    assert [row["epoch"] for row in rows if "val/acc" in row] == [1, 3]
    assert all("train/loss" in row for row in rows)


def test_validations_within_an_epoch_have_rows_of_their_own(tmp_path):
    trainer = trainer_for(tmp_path, Report(), epochs=2, val_check_interval=0.5)
    trainer.fit(Tiny(), Blobs())
    rows = load_record(tmp_path / "run")["history"]
    assert [row["step"] for row in rows if "val/acc" in row] == [2, 4, 6, 8]
    assert [row["step"] for row in rows if "train/loss" in row] == [4, 8]


def test_two_processes_write_one_report(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    parts = [
        Report(),
        SampleGrid(number=4),
        CalibrationEvaluation(),
        OODEvaluation(resamples=0),
        Randomness(),
    ]
    trainer = trainer_for(tmp_path, *parts, epochs=1, strategy="ddp_fork", devices=2)
    trainer.fit(Tiny(), Blobs())
    trainer.test(Tiny(), Blobs(), verbose=False)
    record = load_record(tmp_path / "run")
    assert record["processes"] == 2
    assert record["calibration"]["samples"] == 32
    assert record["samples"]


def test_folder_and_no_logger(tmp_path):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_model_summary=False,
        callbacks=[Report(folder=str(tmp_path / "chosen"))],
        **options,
    )
    trainer.fit(Tiny(), Blobs())
    assert {path.name for path in (tmp_path / "chosen").iterdir()} == {"report.html", "report.json"}


def test_a_folder_that_cannot_be_written_is_an_error_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"the report cannot be written to .*file/below"):
        trainer_for(tmp_path, Report(folder=str(tmp_path / "file" / "below"))).fit(Tiny(), Blobs())


def test_fast_dev_run_writes_nothing(tmp_path):
    Trainer(fast_dev_run=True, accelerator="cpu", default_root_dir=tmp_path, callbacks=[Report()]).fit(Tiny(), Blobs())
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_with_learning_curves_loads_with_weights_only(tmp_path):
    trainer = trainer_for(tmp_path, Report())
    trainer.fit(Tiny(), Blobs())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["Report"]
    assert len(state["history"]) == 3
