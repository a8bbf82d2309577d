"""The ring against the vectors that all languages share."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List

import pytest

from roster_client import InvalidRequest, RingError, RingView
from roster_client.ring import jump, mix64
from roster_client.xxh64 import xxh64, xxh64_pure

from .ring_model import RingModel
from .vectors import KEYS, VECTORS, key_of


@pytest.mark.parametrize("hash_function", [xxh64_pure, xxh64], ids=["pure", "fastest"])
def test_every_hash_is_as_published(hash_function: Any) -> None:
    for vector in VECTORS["xxh64"]:
        data, seed = bytes.fromhex(vector["hex"]), vector["seed"]
        assert hash_function(data, seed) == int(vector["hash"], 16), vector


def test_every_mixed_number_is_as_published() -> None:
    for vector in VECTORS["mix64"]:
        assert mix64(int(vector["in"], 16)) == int(vector["out"], 16), vector


def test_every_jump_is_as_published_whatever_the_order_of_division() -> None:
    assert any(vector["why"] == "division order" for vector in VECTORS["jump"])
    for vector in VECTORS["jump"]:
        assert jump(int(vector["key"]), vector["buckets"]) == vector["bucket"], vector


def steps_of(ring: Dict[str, Any]) -> Iterator[Any]:
    """Each step with the state after it."""
    model = RingModel(ring["group"], ring["seed"], ring["replicas"])
    for step in ring["steps"]:
        changed = model.apply(step["index"], step["ops"])
        assert (changed, model.epoch) == (step["changed"], step["epoch"])
        yield step, model


def digest(view: RingView) -> str:
    lines = (",".join(view.owners(f"probe-{number}")) + "\n" for number in range(300))
    return f"{xxh64_pure(''.join(lines).encode(), 0):016x}"


RINGS: List[Dict[str, Any]] = VECTORS["rings"]


@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: str(ring["name"]))
def test_every_ring_has_the_published_owners_after_each_step(ring: Dict[str, Any]) -> None:
    for step, model in steps_of(ring):
        description = model.describe()
        if "describe" in step:
            assert description == step["describe"]
            assert model.holes == [tuple(hole) for hole in step["holes"]]
        view = RingView.from_description(description)
        assert view.epoch == step["epoch"]
        assert digest(view) == step["digest"], f"after {step['index']}"
        if "owners" in step:
            assert [view.owners(key) for key in KEYS] == step["owners"]
        for key in KEYS:
            owners = view.owners(key)
            assert view.owner(key) == (owners[0] if owners else None)
            assert all(view.owns(worker, key) == (worker == view.owner(key)) for worker in owners)


def test_keys_that_tell_division_orders_apart_have_the_published_owner() -> None:
    checked = 0
    for ring in RINGS:
        *_, (_, model) = steps_of(ring)
        view = RingView.from_description(model.describe())
        for entry in ring.get("keys_here", []):
            assert view.owner(key_of(entry)) == entry["owner"], entry
            checked += 1
    assert checked


@pytest.mark.parametrize("description", VECTORS["refuse"])
def test_every_description_that_is_to_be_refused_is_refused(description: Dict[str, Any]) -> None:
    with pytest.raises(RingError, match="cannot be used"):
        RingView.from_description(description)


GOOD: Dict[str, Any] = {
    "v": 1,
    "kind": "jump-probe-1",
    "group": "g",
    "epoch": 7,
    "seed": 0,
    "replicas": 2,
    "workers": [["a", 1], ["b", 2]],
    "slots": [0, 1, -1, 1],
}


@pytest.mark.parametrize(
    "change",
    [
        {"v": True},
        {"v": 1.0},
        {"group": None},
        {"epoch": -1},
        {"epoch": 1 << 53},
        {"epoch": "7"},
        {"seed": None},
        {"replicas": 0},
        {"replicas": 17},
        {"workers": {"a": 1}},
        {"workers": [["a", 1], ["b", 2.0]]},
        {"workers": [["a", 1], ["b"]]},
        {"workers": [["", 1], ["b", 2]]},
        {"workers": [["\ud800", 1], ["b", 2]]},
        {"workers": [["a", True], ["b", 2]]},
        {"slots": "0"},
        {"slots": [0, 1, None, 1]},
        {"slots": [False, 1, -1, 1]},
        {"slots": [0, 1, -1.0, 1]},
    ],
    ids=str,
)
def test_a_description_with_one_thing_wrong_is_refused(change: Dict[str, Any]) -> None:
    RingView.from_description(GOOD)
    with pytest.raises(RingError):
        RingView.from_description({**GOOD, **change})
    missing = {name: value for name, value in GOOD.items() if name not in change}
    with pytest.raises(RingError):
        RingView.from_description(missing)


def test_fields_that_are_not_known_are_passed_over() -> None:
    view = RingView.from_description({**GOOD, "settled": 5, "addresses": {"a": "10.0.0.1"}})
    assert (view.epoch, view.workers) == (7, (("a", 1), ("b", 2)))


def test_workers_are_ordered_by_bytes_and_not_by_utf16() -> None:
    beyond, private = "\U0001f600", "\ue000"
    ordered = {**GOOD, "workers": [[private, 1], [beyond, 2]]}
    assert RingView.from_description(ordered).workers[0][0] == private


def test_copies_are_distinct_and_no_more_than_there_are_workers() -> None:
    view = RingView.from_description(GOOD)
    assert sorted(view.owners("k", 16)) == ["a", "b"]
    assert view.owners("k", 1) == [view.owner("k")]
    for wrong in (0, 17):
        with pytest.raises(InvalidRequest, match="only 1 to 16"):
            view.owners("k", wrong)


def test_a_key_is_its_bytes_and_half_a_surrogate_pair_has_none() -> None:
    view = RingView.from_description(GOOD)
    assert view.owners("键") == view.owners("键".encode())
    with pytest.raises(InvalidRequest, match="no UTF-8 encoding"):
        view.owner("\ud800")
