# make up      start everything on this machine, in the foreground; Ctrl-C stops it
#              DETACH=1 returns once it is ready; WORKERS=4 gateway processes; EXCHEQUER_PORT=9000
# make down    stop what `make up` started
# make test    the tests, with a PostgreSQL and a Valkey of their own; ARGS="tests/desk -x" for some
# make check   style, types, layers, migrations, locked requirements
# make bench   what a governed call costs; ARGS=--quick for a short look
# make soak    kill -9 of workers and PostgreSQL under load, and what the ledger lost: KILLS=1000 CRASHES=20
#              CALLS=100000 SECONDS=600 SEED=7 WORKERS=4; each may be left out

unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME PYENV_VERSION
PY := .venv/bin/python

.PHONY: up down test check bench soak venv requirements

up: venv
	@exec $(PY) manage.py up $(if $(filter-out 0,$(DETACH)),--detach)

down: venv
	@$(PY) manage.py down

test: venv
	@$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

check: venv
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	PYTHONWARNINGS=ignore::RuntimeWarning $(PY) manage.py makemigrations --check --dry-run
	uv=$$(deploy/bootstrap uv) && $$uv lock --check --offline --quiet && $$uv $(EXPORT) | diff requirements.txt - \
		|| { echo "requirements.txt and uv.lock differ: run make requirements"; exit 1; }

bench: venv
	@$(PY) -m bench $(ARGS)

soak: venv
	@$(PY) -m tests.soak

# After `uv lock`: what plain pip installs, hash for hash.
EXPORT := export --frozen --quiet --no-dev --all-extras --no-header
requirements: venv
	$$(deploy/bootstrap uv) $(EXPORT) > requirements.txt

venv:
	@deploy/bootstrap
