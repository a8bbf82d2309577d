"""Holds a cluster of three real nodes to its OpenAPI document."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from cluster import NODES, Cluster, end_with_parent, running_cluster, wait_until
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

HERE = Path(__file__).parent

# Seconds after which a stream that tells nothing is given up. A bookmark comes at least each 10.
PATIENCE = 30.0

# The requests are the same for the same seed.
SEED = 20261122


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=SEED, help="other requests for another one")
    arguments.add_argument("--max-examples", type=int, default=5, help="requests per operation and phase")
    chosen = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with running_cluster() as cluster:
        document = valid_document(cluster)
        fill(cluster)
        watches_fit(cluster, document)
        return requests_fit(cluster, chosen.seed, chosen.max_examples)


def valid_document(cluster: Cluster) -> Any:
    """The document, which is the same on all nodes."""
    texts = {read(cluster, node, "/openapi.json") for node in NODES}
    assert len(texts) == 1, "the nodes serve different documents"
    document = json.loads(texts.pop())
    OpenAPIV31SpecValidator(document).validate()
    print(f"the document is valid: {len(document['paths'])} paths", flush=True)
    return document


def read(cluster: Cluster, node: str, path: str) -> bytes:
    with urllib.request.urlopen(cluster.base(node) + path, timeout=PATIENCE) as answer:
        return bytes(answer.read())


def fill(cluster: Cluster) -> None:
    """Something of everything, under the names that `hooks.py` knows."""
    call = cluster.call
    call("POST", "/v1/sessions", {"ttl": "24h"})
    call("POST", "/v1/sessions", {"ttl": "24h"})
    cluster.register("pay", "a", metadata={"team": "pay"}, payload="AAEC")
    cluster.register("pay", "b", session="1", ttl=None)
    cluster.register("fetchers", "f1", zone="z")
    call("PUT", "/v1/apps/fetchers/ring", {"replicas": 1})
    call("PUT", "/v1/apps/pay/documents/flow", {"qps": 10})
    scaling = {"shards_per_worker": 4, "max": 9}
    call("PUT", "/v1/shard-sets/main", {"workers": "fetchers", "apps": ["*"], "scaling": scaling})
    work = "/v1/shard-sets/main/workers/f1"
    wait_until("the worker has work", lambda: cluster.get(work)["shards"])
    call("POST", "/v1/locks/pay/acquire", {"session": "1", "owner": "nightly"})
    call("POST", "/v1/elections/pay/campaign", {"session": "2", "value": "10.0.0.1:8719"})


def watches_fit(cluster: Cluster, document: Any) -> None:
    """Every line of a snapshot, and of the changes up to the next bookmark, is one that the document
    describes."""
    line_schema = {"$ref": "#/components/schemas/WatchLine", "components": document["components"]}
    fits = Draft202012Validator(line_schema)
    for accept in ("application/x-ndjson", "text/event-stream"):
        request = urllib.request.Request(cluster.base("1") + "/v1/watch", headers={"Accept": accept})
        kinds: set[str] = set()
        with urllib.request.urlopen(request, timeout=PATIENCE) as stream:
            assert stream.headers.get_content_type() == accept
            for raw in stream:
                data = raw.removeprefix(b"data: ")
                if not data.startswith(b"{"):
                    continue
                line = json.loads(data)
                fits.validate(line)
                kinds.add(line.get("kind", line["event"]))
                if line["event"] == "snapshot-end":
                    cluster.call("DELETE", "/v1/apps/pay/instances/b")
                if line["event"] == "delete" and line["kind"] == "shard":
                    break
        cluster.register("pay", "b", session="1", ttl=None)
        missing = {"app", "instance", "shard", "ring", "document", "worker", "latch"} - kinds
        assert not missing, f"the watch told nothing of {missing}"
        print(f"the watch fits the document as {accept}", flush=True)


def requests_fit(cluster: Cluster, seed: int, max_examples: int) -> int:
    print(f"schemathesis with --seed {seed} --max-examples {max_examples}", flush=True)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"),
        "run", f"{cluster.base('2')}/openapi.json", "--seed", str(seed), "--max-examples", str(max_examples),
        "--request-timeout", "10", "--no-color", "--continue-on-failure", "--warnings", "off",
    ]  # fmt: skip
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks"}
    running = subprocess.Popen(command, cwd=HERE, env=environment, preexec_fn=end_with_parent)
    try:
        return running.wait()
    finally:
        running.kill()
        running.wait()


if __name__ == "__main__":
    sys.exit(main())
