# make demo   environment, then the main job on the bundled model
# make test   environment, lint, types, links of the documentation, the real model's weights, all tests
# make package  wheel and sdist in dist/, checked; the wheel without extras in a clean environment runs README's example
# make test-browser  the report in a real Chromium, which is installed where that is permitted
# make claims the experiments that test claims, and the page of their verdicts. Brings Gemma 3 270M, under its own terms,
#             which are printed. 150 minutes of one core, two scripts at a time. Not among them: text_phase_change (an
#             hour and a half on 2 cores)
# make essay  the experiments that measure the essay's claims, and the same page (79 minutes of one core, two scripts at a
#             time); one of them: make essay-layers. Brings Gemma 3 270M, under its own terms, which are printed.
#             Not among them: prose_between, namesakes (20 minutes more)
# make check-numbers  every number of README, pages and tables is the one in its file, or what the command prints
# make tour   lists of rooms, files and public names in the pages, from the docstrings
# make docs   the documentation site, in build/site: notebooks are run, and a broken link or an unknown name fails
# make links  that site without running its notebooks, to see that no link is broken and no name unknown
# make notebooks  the notebooks, run, as .ipynb for Jupyter and Colab, in build/colab
# make coverage  every decoder of transformers, small and random: what can be measured of it, and the table of it
# make bench-gpu  the engine, sweeps and training on a GPU, at most nine minutes
# make bench  the side-by-side comparisons of experiments/benchmarks/, and the page of them
# make bench-before BEFORE=../before  did anything get slower since? The same jobs by another checkout and by this one
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

NOTEBOOKS := $(wildcard docs/notebooks/*.py docs/zh/notebooks/*.py)

.PHONY: demo notebooks test package test-browser lint types bench bench-before bench-gpu coverage claims essay figures docs links tour clean check-numbers

demo: $(READY)
	$(BIN)/induction-lab score

test: lint types links
	$(BIN)/induction-lab get smollm2-135m
	$(BIN)/python -m pytest -n 2 --dist loadfile

package: $(READY)
	rm -rf dist .package
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/induction-lab get smollm2-135m
	$(PYTHON) -m venv .package
	.package/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	.package/bin/python tests/support/first_example.py README.md
	rm -rf .package

test-browser: $(READY)
	@command -v chromium >/dev/null || (apt-get update -q && apt-get install -y -q chromium) \
		|| echo "no Chromium here, and none can be installed: the tests are skipped"
	$(BIN)/python -m pytest tests/pages -k 'browser or in_page or widget or view' -rs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright

bench: $(READY)
	$(BIN)/induction-lab get smollm2-135m
	$(BIN)/python -m experiments score_speed
	$(BIN)/python -m experiments score_memory
	$(BIN)/python -m experiments composition_speed
	$(BIN)/python -m experiments circuit_speed
	$(BIN)/python -m experiments explain_speed
	$(BIN)/python -m experiments computed_twice
	$(BIN)/python -m experiments first_second
	$(BIN)/python -m experiments profiles
	$(BIN)/python -m experiments growth
	$(BIN)/python -m experiments ablation_speed
	$(BIN)/python -m experiments below_the_floor
	$(BIN)/python -m experiments training_speed
	$(BIN)/python -m experiments scaling
	$(BIN)/python -m experiments report_speed --model smollm2-135m
	$(BIN)/python -m experiments callback_cost
	$(BIN)/python -m experiments sweep_overhead
	$(BIN)/python -m experiments results

bench-before: $(READY)
	$(BIN)/induction-lab get smollm2-135m
	$(BIN)/python -m experiments before_after --before $(BEFORE)
	$(BIN)/python -m experiments results

bench-gpu: $(READY)
	$(BIN)/python -m experiments gpu_engine
	$(BIN)/python -m experiments results

coverage: $(READY)
	$(BIN)/python -m experiments coverage

# longest first, but for path_to_induction, which reads the paths that ablate_heads has cut and kept
CLAIMS := ablate_heads markov_chains initial_scale clamping path_to_induction table_of_subjects ov_eigenvalues \
	match_length phase_change lag_profile idealised_patterns composition skip_trigrams term_importance smeared_keys \
	one_layer_cannot

CLAIM_SCRIPTS := $(CLAIMS:%=claims-%)
.PHONY: $(CLAIM_SCRIPTS)

# what is trained first, a process a core; then two scripts at a time, of one thread each, the longest first
claims: $(READY)
	$(BIN)/induction-lab get smollm2-135m
	$(BIN)/induction-lab get gemma3-270m
	$(BIN)/python -m experiments.subjects.small_models
	$(BIN)/python -m experiments.subjects.phase_runs
	$(MAKE) -j2 $(CLAIM_SCRIPTS)
	$(BIN)/python -m experiments verdicts

$(CLAIM_SCRIPTS): export OMP_NUM_THREADS = 1
$(CLAIM_SCRIPTS): claims-%: $(READY)
	$(BIN)/python -m experiments $*

# two scripts at a time with one thread each, the longest first
ESSAY := pronouns distance harry_potter context_fusion soft_addressing residual_stream detective kept layers dynamic \
	asked towards queries_by_layer subspaces geometry abstraction irony_negation landmarks
ESSAY_SCRIPTS := $(ESSAY:%=essay-%)
.PHONY: $(ESSAY_SCRIPTS)

essay: $(READY)
	$(BIN)/induction-lab get smollm2-135m
	$(BIN)/induction-lab get gemma3-270m
	$(MAKE) -j2 $(ESSAY_SCRIPTS)
	$(BIN)/python -m experiments verdicts

$(ESSAY_SCRIPTS): export OMP_NUM_THREADS = 1
$(ESSAY_SCRIPTS): essay-%: $(READY)
	$(BIN)/python -m experiments $*

figures: $(READY)
	$(BIN)/induction-lab get smollm2-135m
	$(BIN)/python -m experiments find_induction_heads --model induction-2l
	$(BIN)/python -m experiments find_induction_heads --model smollm2-135m
	$(BIN)/induction-lab explain smollm2-135m --prompts 4 --out figures
	$(BIN)/python -m experiments report_picture

notebooks: $(NOTEBOOKS:docs/%.py=build/colab/%.ipynb)

build/colab/%.ipynb: docs/%.py $(READY)
	mkdir -p $(@D)
	$(BIN)/jupytext --quiet --to ipynb --execute --output $@ $<

docs: $(READY)
	$(BIN)/induction-lab get smollm2-135m
	$(BIN)/python -m sphinx -q -W -n --keep-going -c docs -d build/pages . build/site
	@echo "build/site/index.html"

check-numbers: $(READY)
	$(BIN)/python -m pytest -n 2 tests/test_readme.py tests/experiments/test_verdict_pages.py tests/experiments/test_door.py

links: $(READY)
	$(BIN)/python -m sphinx -q -W -n --keep-going -c docs -D nb_execution_mode=off -d build/links_pages . build/links

tour:
	$(PYTHON) docs/tour.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,explore,gguf,report,sweep]'
	touch $@

clean:
	rm -rf .venv .package dist .pytest_cache .ruff_cache .hypothesis
