"""What a model takes, measured in a process that does nothing else, so that the peak of memory is the model's own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np

from fieldkit.errors import ResourceError
from fieldkit.field.device.description import peak_memory
from fieldkit.field.engine.isolation import isolated
from fieldkit.field.engine.providers import chosen_provider, use_provider
from fieldkit.field.measurement.ranking import Cost
from fieldkit.field.models.latency import measure
from fieldkit.field.models.prediction import Predictor

PATIENCE = 300.0


def cost(model: bytes, image: np.ndarray, threads: int | None = None, seconds: float = 1.0) -> Cost:
    """What ``model`` takes on ``image``, [c, h, w] of its dtype; single images are timed for ``seconds``.

    Raises ResourceError where it cannot be tried: no process, no memory, or far too slow.
    """
    image = np.ascontiguousarray(image)
    request = {"shape": image.shape, "dtype": image.dtype.name, "threads": threads, "seconds": seconds}
    request["provider"] = chosen_provider()
    handed = json.dumps(request).encode() + b"\n" + image.tobytes() + model
    try:
        done = subprocess.run(isolated(__name__), input=handed, capture_output=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _untried(str(error)) from error
    if done.returncode != 0:
        complaint = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise _untried(complaint or f"status {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return Cost(len(model), answer["latency"], answer["rate"], answer["memory"])


def serve() -> None:
    """The child's side: read image and model from stdin, predict, and say what that took."""
    request = json.loads(sys.stdin.buffer.readline())
    use_provider(request["provider"])
    dtype = np.dtype(request["dtype"])
    count = int(np.prod(request["shape"]))
    image = np.frombuffer(sys.stdin.buffer.read(count * dtype.itemsize), dtype).reshape(request["shape"])
    predictor = Predictor.open(sys.stdin.buffer.read(), request["threads"])
    (speed,) = measure([predictor], image, request["seconds"])
    answer = {"latency": speed.latency, "rate": speed.rate, "memory": peak_memory()}
    sys.stdout.write(json.dumps(answer))


def _untried(found: str) -> ResourceError:
    return ResourceError(
        "a model could not be tried in a process of its own",
        found=found[:300],
        remedy="free memory, or end other programs",
    )
