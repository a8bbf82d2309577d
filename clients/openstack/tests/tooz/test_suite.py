"""tooz's own functional suite, as it lies in its wheel, against a real cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Dict

from ..cluster import ENDPOINT, needs_cluster

SUITE = (
    "tooz.tests.test_coordination",
    "tooz.tests.test_partitioner::TestPartitioner",
    "tooz.tests.test_hashring",
)

SKIPPED = {"test_watch_join_group_disappear": "it is for three drivers that it names"}


@needs_cluster
def test_the_whole_of_toozs_own_suite_passes(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", *targets()]
        + [f"--junit-xml={report}"],
        cwd=tmp_path,
        env={**os.environ, "TOOZ_TEST_URL": f"roster://{ENDPOINT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), run.stdout + run.stderr
    outcomes = outcomes_of(report)
    bad = [name for name, outcome in outcomes.items() if outcome == "failed"]
    assert not bad, f"{bad}\n{run.stdout}"
    assert {n.rpartition(".")[2] for n, o in outcomes.items() if o == "skipped"} == set(SKIPPED)
    # So that a test that is not found any more is noticed.
    assert len(outcomes) == 106, sorted(outcomes)


def targets() -> list[str]:
    """pytest takes a test class only behind the path of its file."""
    import tooz.tests

    folder = Path(tooz.tests.__file__).parent
    targets = []
    for target in SUITE:
        module, _, rest = target.partition("::")
        file = str(folder / f"{module.rpartition('.')[2]}.py")
        targets.append(f"{file}::{rest}" if rest else file)
    return targets


def outcomes_of(report: Path) -> Dict[str, str]:
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = "passed"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        elif case.find("skipped") is not None:
            outcome = "skipped"
        outcomes[f"{case.get('classname')}.{case.get('name')}"] = outcome
    return outcomes
