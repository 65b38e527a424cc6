# Thin: every target is a task of tasks.py, which does its own set-up. ARGS is passed on:
#   make test ARGS="tests/db -x"
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench mutants setup lock

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Run the fraud demo on an embedded PostgreSQL
	@python3 tasks.py demo $(ARGS)

test: ## Run all tests
	@python3 tasks.py test $(ARGS)

lint: ## Check format, lint, types, import contracts and migrations
	@python3 tasks.py lint

bench: ## Measure everything beside its peers (an hour; ARGS=--quick: five minutes)
	@python3 tasks.py bench $(ARGS)

mutants: ## See that every committed mistake is killed by a test
	@python3 tasks.py mutants $(ARGS)

setup: ## Only make the environment (.venv)
	@python3 tasks.py setup

lock: ## Pin the newest versions anew (needs uv)
	@python3 tasks.py lock
