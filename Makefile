# Each target fetches what it needs. A machine needs only make and Python 3.11.
.DEFAULT_GOAL := help
.PHONY: help setup run test approve thorough laws faults races wap engines bench-checks bench-engines bench-looks bench-backfill bench-rudder bench-vault bench-parse compose-test deploy lint format lock clean
MAKEFLAGS += --no-print-directory

PY := .venv/bin/python
CODE := dags include plugins scripts tests

help:  ## this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z -]*\):[^#]*## \(.*\)/  \1#\2/p' $(MAKEFILE_LIST) | awk -F'#' '{printf "%-23s %s\n", $$1, $$2}'
	@echo "The lake itself is looked at and built with ./lake (./lake --help)."

setup:  ## virtual environment (with Java), Delta jars: what is missing of them
	@sh scripts/setup.sh

run:  ## the engine, PostgreSQL and Airflow with sample data, until Ctrl-C [ONCE=1: ends after green runs] [DAYS=3] [SCALE=0.1] [FAMILIES=wev,rudder,audio]
	@sh scripts/setup.sh --for-engine
	@$(PY) -m scripts.run

test: setup lint  ## lint and all tests [ARGS="-m 'not spark and not e2e'": those of a few seconds]
	@# Two processes, because Spark and Sail have one or two threads in each. A free process gets the next test, or the
	@# next group of tests, in the order of tests/conftest.py.
	@$(PY) -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

approve: setup  ## rewrite the approved pictures of the DAGs (tests/approved), for a review to see what changed
	@APPROVE=1 $(PY) -m pytest -q tests/dags -k approved

thorough: setup  ## what `make test` leaves out, for it takes minutes: more of Databricks, the laws and the main job there, the end to end on Spark
	@N=1 $(PY) -m pytest -s tests/scripts/test_workspace.py tests/dags/test_databricks.py tests/storage/test_unity_catalog.py tests/scripts/test_e2e.py
	@N=1 $(PY) -m pytest -s tests/laws -k databricks

laws faults races wap: setup  ## a proof of `make test` with more examples, kills, seeds or failures [N=1000]
	@N=$(N) $(PY) -m pytest -s tests/*/test_$@.py

engines: setup  ## hostile rows for every table, which Spark and Sail have to read alike [N=300] [SEED=1] [ROUNDS=1]
	@$(PY) -m scripts.engines

bench-checks: setup  ## what checks cost on top of a build [SCALE=1] [ROUNDS=7]
	@$(PY) -m scripts.bench_checks

bench-engines: setup  ## the three we_mart tables on Spark cold, Spark warm, Sail [SIZES=10000,100000] [ENGINES=sail,spark] [ROUNDS=3]
	@$(PY) -m scripts.bench_engines

bench-looks: setup  ## a look with a ledger of a million rows beside one with an empty ledger [ROWS=1000000]
	@$(PY) -m scripts.bench_looks

bench-backfill: setup  ## 90 days with a run per day against the backfill DAG [DAYS=90] [SCALE=0.1]
	@$(PY) -m scripts.bench_backfill

bench-rudder: setup  ## a day of the sessions with 30, 90 and 300 days of history [HISTORIES=30,90] [SCALE=1]
	@$(PY) -m scripts.bench_kept rudder

bench-vault: setup  ## a day of the audio warehouse with 30, 90 and 300 days of history [HISTORIES=30,90] [SCALE=1]
	@$(PY) -m scripts.bench_kept vault

bench-parse: setup  ## the parse of the DAG files with 100 and with 500 tables
	@$(PY) -m scripts.bench_parse

compose-test: setup  ## docker-compose.yaml for real: up, green runs, edits, kills, down [KILL="spark postgres": only these] [FAMILIES=wev,rudder,audio]
	@$(PY) -m scripts.compose_test

deploy: setup  ## the code as a wheel into a Volume of Databricks [VOLUME=/Volumes/wev_dev/ops/lake]
	@VOLUME=$(VOLUME) $(PY) -m scripts.deploy

lint: setup  ## ruff, mypy, and the rule which room may import which
	@$(PY) -m ruff check $(CODE) && $(PY) -m ruff format --check $(CODE) && $(PY) -m mypy && $(PY) -m scripts.check_imports

format: setup  ## put the code into shape
	@$(PY) -m ruff format $(CODE) && $(PY) -m ruff check --fix $(CODE)

lock: setup  ## requirements.txt into requirements.lock [ARGS=--upgrade: newer versions underneath]
	@.venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --quiet \
	    --custom-compile-command "make lock" $(ARGS) requirements.txt -o requirements.lock
	@$(MAKE) setup

clean:  ## remove the virtual environment and caches; the lake (.lake) stays
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
