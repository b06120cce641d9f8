# make demo   environment, then the main job on the bundled model
# make test   environment, lint, types, the real model's weights, all tests
# make test-browser  the report in a real Chromium, which is installed where that is permitted
# make claims the experiments that test claims, and the page of their verdicts
# make essay  the experiments that measure the essay's claims, and the same page (20 minutes)
# make tour   lists of rooms, files and public names in the pages, from the docstrings
# make bench  the side-by-side comparisons of benchmarks/, and RESULTS.md of them
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-browser lint types bench claims essay figures tour clean

demo: $(READY)
	$(BIN)/induction-lab score

test: lint types
	$(BIN)/induction-lab get smollm2-135m
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-browser: $(READY)
	@command -v chromium >/dev/null || (apt-get update -q && apt-get install -y -q chromium) \
		|| echo "no Chromium here, and none can be installed: the tests are skipped"
	$(BIN)/python -m pytest tests/pages/test_report_browser.py -rs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright

bench: $(READY)
	$(BIN)/induction-lab get smollm2-135m
	$(BIN)/python benchmarks/score_speed.py
	$(BIN)/python benchmarks/score_memory.py
	$(BIN)/python benchmarks/composition_speed.py
	$(BIN)/python benchmarks/ablation_speed.py
	$(BIN)/python benchmarks/training_speed.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/report_speed.py --model smollm2-135m
	$(BIN)/python benchmarks/sweep_overhead.py
	$(BIN)/python benchmarks/gpu_engine.py
	$(BIN)/python benchmarks/results.py

claims: $(READY)
	$(BIN)/induction-lab get smollm2-135m
	$(BIN)/python experiments/composition.py
	$(BIN)/python experiments/ov_eigenvalues.py
	$(BIN)/python experiments/skip_trigrams.py
	$(BIN)/python experiments/ablate_heads.py
	$(BIN)/python experiments/path_to_induction.py
	$(BIN)/python experiments/idealised_patterns.py
	$(BIN)/python experiments/term_importance.py
	$(BIN)/python experiments/phase_change.py
	$(BIN)/python experiments/one_layer_cannot.py
	$(BIN)/python experiments/smeared_keys.py
	$(BIN)/python experiments/clamping.py
	$(BIN)/python experiments/markov_chains.py
	$(BIN)/python experiments/text_phase_change.py
	$(BIN)/python experiments/lag_profile.py
	$(BIN)/python experiments/verdicts.py

# one thread: two are far slower where cores are shared
essay: export OMP_NUM_THREADS = 1
essay: $(READY)
	$(BIN)/induction-lab get smollm2-135m
	$(BIN)/python experiments/soft_addressing.py
	$(BIN)/python experiments/distance.py
	$(BIN)/python experiments/context_fusion.py
	$(BIN)/python experiments/geometry.py
	$(BIN)/python experiments/layers.py
	$(BIN)/python experiments/residual_stream.py
	$(BIN)/python experiments/harry_potter.py
	$(BIN)/python experiments/verdicts.py

figures: $(READY)
	$(BIN)/induction-lab get smollm2-135m
	$(BIN)/python experiments/find_induction_heads.py --model attn-only-2l
	$(BIN)/python experiments/find_induction_heads.py --model smollm2-135m
	$(BIN)/induction-lab explain smollm2-135m --prompts 4 --out figures
	$(BIN)/python experiments/report_picture.py

tour:
	$(PYTHON) docs/tour.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,gguf,report,sweep]'
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
