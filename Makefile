# make test, test-long, test-paper, test-oldest, demo: on a machine that has only Python (3.11 or newer, with venv) and
# make.
PYTHON ?= python3
# One thread for each process, here and nowhere else: a training step of a small convolutional network takes 5 ms with
# one thread and 90 to 170 ms with two while another process uses the second core. Set OMP_NUM_THREADS to change it.
export OMP_NUM_THREADS ?= 1
# pytest's workers; each of the two-process tests in them starts a second process for a moment.
WORKERS ?= 2

.PHONY: test test-long test-paper test-oldest demo check clean

test: check
	.venv/bin/python -m pytest -n $(WORKERS) -q -m "not long"

# What `make test` has no time for, and Hypothesis' tests once more with many examples.
test-long: check
	HYPOTHESIS_PROFILE=long .venv/bin/python -m pytest -n $(WORKERS) -q -m "long or hypothesis"

# One paper in half a minute: its own tests, its layout and golden curve, the contract of its configurations. It leaves
# out launchers, several processes, half precision, determinism, make test-long's tests and most of Hypothesis' examples:
# make test-paper PAPER=jem
test-paper: .venv/installed
	HYPOTHESIS_PROFILE=quick .venv/bin/python -m pytest -n $(WORKERS) -q --paper $(PAPER) -m "not long and not slow" \
		-k "not processes and not precision and not deterministic" \
		tests/papers/$(PAPER) tests/contract tests/project/test_layout.py

# The tests once more with the lowest versions of all dependencies, in an environment of its own.
OLDEST ?= tests
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -n $(WORKERS) -q -m "not long" $(OLDEST)

check: .venv/installed
	@.venv/bin/python -c "import torch, torchvision; print('torch', torch.__version__, 'torchvision', torchvision.__version__)"
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The lower bounds of pyproject.toml, pinned; what they need in turn is as new as pip finds it.
.venv-oldest/installed: pyproject.toml tests/project/oldest.py
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python tests/project/oldest.py > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet --upgrade --constraint .venv-oldest/constraints.txt --editable '.[dev]'
	@touch .venv-oldest/installed

demo: .venv/installed
	.venv/bin/python -m benchmarks.jem.digits --folder runs/demo

# Made anew when pyproject.toml is newer; the stamp comes last, so that a broken installation is not taken for a good one.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade --editable '.[dev]'
	@touch .venv/installed

clean:
	rm -rf .venv .venv-oldest runs build dist
