# make quickstart   make the environment and run the main job, within about five minutes
# make test         make the environment if needed and run all tests, on all cores
# make test-unit    the quick tests, for while one works: tests/unit and the examples of the docstrings
# make test-versions  the quick tests on the lowest versions that are claimed and on the newest Python
# make check        format, lint and types
# make docs         build the documentation site into build/site; a warning is an error
# make package      build the package, install it into a new environment and use it away from the repository

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test test-unit test-versions check docs package clean

quickstart: $(VENV)/.ready
	$(VENV)/bin/innerloop quickstart $(if $(DATA_DIR),--data-dir "$(DATA_DIR)")

test: $(VENV)/.ready-to-develop
	$(VENV)/bin/python -m pytest -n logical --dist loadgroup

test-unit: $(VENV)/.ready-to-develop
	$(VENV)/bin/python -m pytest -n logical --dist loadgroup src tests/unit

test-versions: $(VENV)/.ready-to-develop
	$(VENV)/bin/python scripts/versions.py

check: $(VENV)/.ready-to-develop
	PATH="$(abspath $(VENV))/bin:$$PATH" scripts/check

docs: $(VENV)/.ready-to-develop
	$(VENV)/bin/python -m sphinx -W --keep-going -q -b html -c website -d build/doctrees . build/site

package: $(VENV)/.ready-to-develop
	$(VENV)/bin/python scripts/check_package.py

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[cli,images,plots,tensorboard]'
	touch $@

$(VENV)/.ready-to-develop: $(VENV)/.ready
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
