# The five things one does. A virtual environment is yours to choose.
.PHONY: install test check format run

install:  ## everything that tests and linters need
	pip install -e '.[test]'

test:  ## the whole suite
	pytest

check:  ## what has to hold before a change lands
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	pytest

format:  ## style, mended
	ruff check --fix .
	ruff format .

run:  ## a first model, in a minute or two
	lm fit gpt-nano
