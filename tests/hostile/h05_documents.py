"""JSON that would take memory or time, or say two things; parts of two bundles in one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import tiny

from fieldkit.bundle import write_bundle
from fieldkit.bundle.hdf5 import unpack
from hostile.making import PARTS, Case, sealed


def _card(text: bytes) -> bytes:
    return sealed(parts={**PARTS, "/card": np.frombuffer(text, np.uint8)})


def _other() -> dict[str, np.ndarray]:
    """The parts of another sound bundle: four classes, another recipe."""
    one = tiny.bundle(weights=True)
    images = replace(one.images, codes=np.repeat(one.images.codes, 2, axis=0))
    manifest = replace(one.manifest, classes=("oak", "pine", "rock", "sand"))
    labels = np.full((6, 4), 0.25, np.float16)
    recipe = replace(one.recipes["net"], programs={"predict": b"other", "train/head": b"other"}, state={"head": ()})
    other = replace(one, manifest=manifest, images=images, labels=labels, recipes={"net": recipe})
    return {path: each.array for path, each in unpack(write_bundle(other), "other").items()}


def _mixed(*paths: str) -> bytes:
    """The small bundle with these parts of the other one, sealed by somebody."""
    other = _other()
    return sealed(parts=PARTS | {path: other[path] for path in paths})


def _shaped(shape: list[int], weights: bool = True) -> bytes:
    """The small bundle with a parameter of another shape."""
    document = json.loads(PARTS["/recipes/net/recipe"].tobytes())
    document["parameters"][0]["shape"] = shape
    parts = {**PARTS, "/recipes/net/recipe": np.frombuffer(json.dumps(document).encode(), np.uint8)}
    if not weights:
        del parts["/recipes/net/weights"]
    return sealed(parts=parts)


def cases() -> dict[str, Case]:
    manifest = json.loads(PARTS["/manifest"].tobytes())
    named = json.dumps({**manifest, "name": "\x1b[2J" * 10}).encode()
    return {
        "no UTF-8": Case(_card(b"\xff\xfe"), "/card: not a JSON document"),
        "no object": Case(_card(b"[1]"), "/card: not a JSON object"),
        "a key twice": Case(_card(b'{"a": 1, "a": 2}'), "twice"),
        "no number": Case(_card(b'{"a": NaN}'), "NaN is not a number"),
        "infinite": Case(_card(b'{"a": 1e400}'), "1e400 is not a finite number"),
        "a hundred thousand deep": Case(_card(b'{"a":' * 100_000), "/card: not a JSON document"),
        "five million lists": Case(_card(b'{"a":[' + b"[]," * 5_000_000 + b"[]]}"), "too many values in JSON"),
        "a number of five thousand digits": Case(_card(b'{"a":' + b"9" * 5000 + b"}"), "a number of 5000 digits"),
        "a name that moves the cursor": Case(
            sealed(parts={**PARTS, "/manifest": np.frombuffer(named, np.uint8)}), "manifest name"
        ),
        "a parameter of seventy axes": Case(_shaped([1] * 70), "too many axes"),
        "a parameter of a hundred thousand axes": Case(_shaped([10**19] * 100_000, False), "more than 16 axes"),
        "a parameter of 2^62 values": Case(_shaped([2**62], False), "more than 1073741824 values"),
        "a parameter of less than none": Case(_shaped([-3], False), "is empty"),
        "labels of another bundle": Case(_mixed("/distilled/labels"), "distilled labels: found"),
        "manifest of another bundle": Case(_mixed("/manifest"), "distilled labels: found"),
        "program of another bundle": Case(_mixed("/recipes/net/train/head"), "state: found scopes"),
        "recipe of another bundle": Case(_mixed("/recipes/net/recipe"), "state: found scopes"),
    }
