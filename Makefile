# Every target works alone on a fresh clone: it makes its environment, installs, and runs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
BIN := .venv/bin
BIN4 := .venv-tl4/bin
PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
# two processes, each with whole groups of tests, which share what is expensive: tests/conftest.py has the groups
SHARED := -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: demo test test-tl4 test-slow test-slow-tl4 test-install coverage check format fuzz benchmark notebooks pictures results docs clean

demo: .venv/.demo  ## convert, prove and sample the shipped checkpoint, and name its heads
	$(BIN)/nanogpt-lens info shakespeare_char
	$(BIN)/nanogpt-lens check shakespeare_char
	$(BIN)/nanogpt-lens sample shakespeare_char --prompt "ROMEO:" --max-new-tokens 200
	$(BIN)/nanogpt-lens heads shakespeare_char

test: .venv/.dev check  ## lint, types and the suite, TransformerLens 3.9
	$(PYTEST) $(BIN)/python -m pytest $(SHARED)

test-tl4: .venv-tl4/.dev  ## the suite under TransformerLens 4.3
	$(PYTEST) $(BIN4)/python -m pytest $(SHARED)

test-slow: .venv/.dev  ## what takes minutes: eight notebooks, pictures in a browser, training with torch.compile
	$(PYTEST) $(BIN)/python -m pytest -m slow $(SHARED)

test-slow-tl4: .venv-tl4/.dev
	$(PYTEST) $(BIN4)/python -m pytest -m slow $(SHARED)

test-install:  ## the wheel, and the source distribution, each installed into an empty environment outside the clone
	$(PYTHON) scripts/installing.py --torch "$(TORCH)"

coverage: .venv/.dev  ## which lines and branches all tests run, slow ones too; the page is in htmlcov/
	$(PYTEST) $(BIN)/python -m pytest -m "slow or not slow" $(SHARED) --cov --cov-report=term:skip-covered --cov-report=html

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: .venv/.dev  ## three minutes of damaged and hostile files for the reader of checkpoints
	$(PYTEST) $(BIN)/python -m scripts.fuzz --seconds 180

benchmark: .venv/.dev  ## the numbers of docs/BENCHMARKS.md
	$(BIN)/python benchmarks/conversion.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/encoding.py
	$(BIN)/python benchmarks/patching.py
	$(BIN)/python benchmarks/circuits.py
	$(BIN)/python benchmarks/neurons.py
	$(BIN)/python benchmarks/trajectory.py
	$(BIN)/python benchmarks/circuit_atlas.py
	$(BIN)/python benchmarks/scrubbing.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/widgets.py  # needs Chromium

notebooks: .venv/.dev  ## execute the notebooks and put still pictures into them (needs Chromium)
	$(BIN)/python scripts/notebooks.py

pictures: .venv/.dev  ## docs/images anew (needs Chromium)
	$(BIN)/python scripts/pictures.py

results: .venv/.dev  ## every number of docs/RESULTS.md anew, from the shipped weights and docs/data
	$(BIN)/python -m scripts.results

docs: .venv-docs/.docs  ## the documentation site: site/index.html opens without a server and without a network
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

# torch first: asked for by another package, pip takes gigabytes of CUDA with it
.venv/.torch:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH)
	touch $@

.venv/.demo: .venv/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[hooked]'
	touch $@

.venv/.dev: .venv/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[hooked,data,sae,dev]'
	touch $@ .venv/.demo

.venv-tl4/.dev: pyproject.toml constraints-tl4.txt
	$(PYTHON) -m venv .venv-tl4
	$(BIN4)/python -m pip install --quiet $(TORCH)
	$(BIN4)/python -m pip install --quiet -c constraints-tl4.txt -e '.[data,dev]'
	touch $@

# what the site needs, without the package and without torch: the sources are read, not run
.venv-docs/.docs: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" | xargs .venv-docs/bin/python -m pip install --quiet
	touch $@

clean:
	rm -rf .venv .venv-tl4 .venv-docs site build dist .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
