"""What every module keeps to in half precision, with deterministic algorithms and compiled."""

import math
import statistics

import pytest
import torch
import torch._inductor.config
from contract_runs import CONFS, ONE_A_METHOD, Losses, build, differences, fit, losses_of_a_run
from lightning.pytorch.plugins import MixedPrecision
from torch.amp import GradScaler

LOSE_STEPS = {each["model"]["class_path"] for each in CONFS.values() if "lost_steps" in each["contract"]}
LONG = [pytest.mark.long, pytest.mark.timeout(900)]  # compilers are slow, and the machine may be busy


@pytest.mark.parametrize("conf", ONE_A_METHOD, indirect=True)
@pytest.mark.parametrize("precision", ["bf16-mixed", pytest.param("16-mixed", marks=LONG)])
def test_twenty_steps_in_half_precision_end_near_those_in_float32(conf, precision):
    # For "16-mixed" on a CPU Lightning quietly takes bfloat16. The scale is one that loses no step: see below.
    half = MixedPrecision("16-mixed", "cpu", scaler := GradScaler("cpu", init_scale=16.0))
    arguments = {"plugins": [half]} if precision == "16-mixed" else {"precision": precision}
    expected, _ = losses_of_a_run(conf, 20)
    losses, model = losses_of_a_run(conf, 20, **arguments)
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in model.parameters())
    end, expected_end = statistics.fmean(losses[-4:]), statistics.fmean(expected[-4:])
    assert abs(end - expected_end) <= conf["contract"].get("half_precision", 0.05) * max(abs(expected_end), 1)
    assert end != expected_end, "it ran in float32"
    assert scaler.get_scale() == 16


@pytest.mark.long
def test_float16_finds_its_scale_within_the_steps_that_the_table_says(conf):
    half = MixedPrecision("16-mixed", "cpu", scaler := GradScaler("cpu"))
    before = scaler.get_scale()
    losses_of_a_run(conf, 16, plugins=[half])
    lost, stated = math.log2(before / scaler.get_scale()), conf["contract"].get("lost_steps", 0)
    assert lost <= stated, "more steps are lost"
    assert (lost > 0) == (stated > 0), "no step is lost any more"
    assert ("16-mixed" in (type(build(conf)[0]).__doc__ or "")) == (conf["model"]["class_path"] in LOSE_STEPS)


@pytest.fixture
def _deterministic_for_a_moment():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_deterministic_for_a_moment")
def test_deterministic_algorithms_are_all_that_is_needed_for_equal_runs(conf):
    runs = [losses_of_a_run(conf, 3, deterministic=True) for _ in range(2)]
    assert runs[0][0] == runs[1][0]
    assert differences(runs[0][1].state_dict(), runs[1][1].state_dict()) == []


@pytest.mark.parametrize("backend", [pytest.param(name, marks=LONG) for name in ("aot_eager", "inductor")])
def test_a_compiled_module_learns_as_the_plain_one_does(conf, backend):
    expected, _ = losses_of_a_run(conf, 4)
    model, data = build(conf)
    losses, counters = Losses(), torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, backend=backend)
    with torch._inductor.config.patch(fallback_random=True):  # else inductor draws other numbers than torch does
        trainer = fit(compiled, data, [losses], max_epochs=4, max_steps=4, limit_val_batches=1)
    assert trainer.callback_metrics["val/loss"].isfinite()
    assert counters["frames"]["ok"] > 0, "nothing was compiled"
    assert losses.values == pytest.approx(expected, rel=1e-3, abs=1e-3)
