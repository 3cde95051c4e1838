# The two commands: `make fit` trains a VAE on the embedded digits, `make test` checks the project.
# Each builds .venv on first use. PYTHON chooses the interpreter (3.11 or later).

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: fit test lint slow avx2 clean

fit: $(VENV)
	$(RUN) -m ppl_vae.fit

test: $(VENV) lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2

lint: $(VENV)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

slow: $(VENV)
	$(RUN) -m pytest -m slow

# The tests of bfloat16 as a processor without AVX-512 and bfloat16 runs them.
avx2: $(VENV)
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 $(RUN) -m pytest \
		tests/test_onednn.py tests/test_compiling.py tests/test_bad_input.py tests/test_bfloat16.py \
		-k bfloat16

# It is cleared first; where it is a link, that would be the environment of another checkout.
$(VENV): pyproject.toml constraints.txt
	@test ! -L $(VENV) || { echo "$(VENV) is a symbolic link and is not cleared; remove it"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[arviz,test]' \
		|| { rm -rf $(VENV); exit 1; }
	touch $(VENV)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
