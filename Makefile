# `make demo` and `make test` are all the set-up there is; CI runs the same targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_ARGUMENTS = --bundle bundles/demo.yaml --witness witness/witness.py $(if $(ONCE),--once)

.PHONY: demo test test-attacks test-k8s check bench docs chaos-demo chaos-sync clean

# Where mosquitto cannot be installed, the demo takes nats-server, which is in the environment.
demo: $(STAMP)
	@scripts/system-packages mosquitto || echo "going on without mosquitto" >&2
	@$(BIN)/appliance demo $(DEMO_ARGUMENTS)

test: $(STAMP)
	@scripts/system-packages mosquitto mosquitto-clients skopeo iproute2 util-linux procps \
		gcc libc6-dev strace e2fsprogs fuse3 libfuse3-3
	@$(MAKE) --no-print-directory check
	$(BIN)/pytest -n 2 -m "not slow and not k8s" tests/unit tests/property
	$(BIN)/pytest -n 2 -m slow tests/unit tests/property
	@$(MAKE) --no-print-directory test-attacks
	$(BIN)/pytest -m "not k8s" --ignore tests/unit --ignore tests/property --ignore tests/attacks

test-attacks: $(STAMP)
	$(BIN)/pytest -n 2 tests/attacks

# Against the cluster that KUBECONFIG names; without it, against one that the tests start.
test-k8s: $(STAMP)
	@scripts/system-packages etcd-server openssl containerd runc iproute2 util-linux \
		containernetworking-plugins iptables conntrack socat mmdebstrap buildah
	$(BIN)/pytest -m k8s tests/k8s tests/contract

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/docs.py --check

bench: $(STAMP)
	@scripts/system-packages mosquitto skopeo
	$(BIN)/python -m benchmarks.run $(ONLY)

images: $(STAMP)
	@scripts/system-packages buildah mmdebstrap
	PYTHONPATH=. $(BIN)/python scripts/images.py $(if $(BASE),--base $(BASE)) $(if $(RELOCK),--relock)

manifests: $(STAMP)
	PYTHONPATH=. $(BIN)/python scripts/manifests.py

docs: $(STAMP)
	$(BIN)/python scripts/docs.py

chaos-demo: $(STAMP)
	@scripts/system-packages mosquitto
	$(BIN)/pytest -m chaos --kills 20

# Records of nodes and hub, compared after faults: simulated ones first, then kill -9 and power cuts.
chaos-sync: $(STAMP)
	@scripts/system-packages mosquitto e2fsprogs util-linux iproute2
	PYTHONPATH=. $(BIN)/python -m tests.chaos.sync_simulation --faults $(or $(FAULTS),10000) \
		--keep build/chaos-sync
	PYTHONPATH=. $(BIN)/python -m tests.chaos.sync_real --kills $(or $(KILLS),300) \
		--cuts $(or $(CUTS),30) --keep build/chaos-sync

$(STAMP): requirements/dev.lock pyproject.toml
	@scripts/make-venv $(PYTHON) $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
