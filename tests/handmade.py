"""A linear softmax classifier whose programs are written node by node: an oracle that no compiler has touched.

``recipe`` gives a Recipe of it, ``bundle`` a small bundle around it, and ``numpy_training`` the same training in numpy.
Nothing here needs torch or onnx, so the field's tests run in a bare environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.manifest import Expectation, Manifest
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Augmentation, Initial, Recipe, Schedule, Tensor
from fieldkit.bundle.samples import Samples
from fieldkit.bundle.weights import initial_weights, uniforms
from fieldkit.field.programs.protobuf import encode_bytes, encode_number

MOMENTUM = 0.9
STRENGTH = 0.5
ELEMENT_TYPES = {"float32": 1, "uint8": 2, "uint16": 4, "int64": 7}


def node(operator: str, inputs: Sequence[str], output: str, **attributes: int) -> bytes:
    """A NodeProto with integer attributes."""
    parts = [encode_bytes(1, name.encode()) for name in inputs]
    parts += [encode_bytes(2, output.encode()), encode_bytes(3, output.encode()), encode_bytes(4, operator.encode())]
    for name, value in attributes.items():
        parts.append(encode_bytes(5, encode_bytes(1, name.encode()), encode_number(3, value), encode_number(20, 2)))
    return b"".join(parts)


def value_info(name: str, shape: Sequence[int | str], dtype: str = "float32") -> bytes:
    """A ValueInfoProto; a string in ``shape`` is a symbolic length."""
    dims = b"".join(
        encode_bytes(1, encode_bytes(2, each.encode()) if isinstance(each, str) else encode_number(1, each))
        for each in shape
    )
    tensor = encode_number(1, ELEMENT_TYPES[dtype]) + encode_bytes(2, dims)
    return encode_bytes(1, name.encode()) + encode_bytes(2, encode_bytes(1, tensor))


def constant(name: str, values: np.ndarray) -> bytes:
    """A TensorProto."""
    dims = b"".join(encode_number(1, length) for length in values.shape)
    kind = encode_number(2, ELEMENT_TYPES[values.dtype.name])
    return dims + kind + encode_bytes(8, name.encode()) + encode_bytes(9, values.tobytes())


def model(
    nodes: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    constants: Mapping[str, np.ndarray],
    opset: int = 20,
    ir: int = 10,
) -> bytes:
    """A ModelProto."""
    graph = b"".join(
        (
            *(encode_bytes(1, each) for each in nodes),
            encode_bytes(2, b"handmade"),
            *(encode_bytes(5, constant(name, values)) for name, values in constants.items()),
            *(encode_bytes(11, each) for each in inputs),
            *(encode_bytes(12, each) for each in outputs),
        )
    )
    return encode_number(1, ir) + encode_bytes(7, graph) + encode_bytes(8, encode_number(2, opset))


def train_program(
    shape: tuple[int, int, int], classes: int, batch: int, mean: float, std: float, aug: bool, unlabelled: bool = False
) -> bytes:
    """One step of SGD with momentum on softmax cross-entropy; if asked, on the entropy of rows without labels too."""
    size = int(np.prod(shape))
    nodes = [
        node("Flatten", ["images"], "flat", axis=1),
        node("Sub", ["flat", "mean"], "centred"),
        node("Div", ["centred", "std"], "x0" if aug else "x"),
    ]
    if aug:
        nodes += [
            node("Sub", ["aug", "half"], "a0"),
            node("Mul", ["a0", "strength"], "a1"),
            node("Add", ["x0", "a1"], "x"),
        ]
    nodes += [
        node("Gemm", ["x", "param.weight", "param.bias"], "logits0", transB=1),
        node("Sub", ["class_mask", "one"], "m0"),
        node("Mul", ["m0", "far"], "m1"),
        node("Add", ["logits0", "m1"], "logits"),
        node("LogSoftmax", ["logits"], "logp", axis=1),
        node("Mul", ["targets", "logp"], "tl"),
        node("ReduceSum", ["tl", "axis1"], "tl1" if unlabelled else "ce0", keepdims=0),
        *(entropy_nodes() if unlabelled else [node("Exp", ["logp"], "p"), node("Sub", ["p", "targets"], "d0")]),
        node("Mul", ["ce0", "weights"], "ce1"),
        node("ReduceSum", ["ce1"], "ce2", keepdims=0),
        node("ReduceSum", ["weights"], "total", keepdims=0),
        node("Div", ["ce2", "total"], "ce3"),
        node("Neg", ["ce3"], "loss"),
        node("Div", ["weights", "total"], "w0"),
        node("Unsqueeze", ["w0", "axis1"], "w1"),
        node("Mul", ["d0", "w1"], "d"),
        node("Gemm", ["d", "x"], "grad.weight", transA=1),
        node("ReduceSum", ["d", "axis0"], "grad.bias", keepdims=0),
    ]
    for name in ("weight", "bias"):
        nodes += [
            node("Mul", [f"state.momentum.{name}", "mu"], f"v0.{name}"),
            node("Add", [f"v0.{name}", f"grad.{name}"], f"new.state.momentum.{name}"),
            node("Mul", [f"new.state.momentum.{name}", "lr"], f"s.{name}"),
            node("Sub", [f"param.{name}", f"s.{name}"], f"new.param.{name}"),
        ]
    scalars = {"mean": mean, "std": std, "one": 1.0, "far": 1e9, "mu": MOMENTUM}
    scalars |= {"half": 0.5, "strength": STRENGTH} if aug else {}
    constants = {name: np.array(value, np.float32) for name, value in scalars.items()}
    constants |= {"axis0": np.array([0]), "axis1": np.array([1])}
    carried = [value_info(f"{kind}weight", (classes, size)) for kind in ("param.", "state.momentum.")]
    carried += [value_info(f"{kind}bias", (classes,)) for kind in ("param.", "state.momentum.")]
    fed = [
        ("images", (batch, *shape)),
        ("targets", (batch, classes)),
        ("weights", (batch,)),
        ("class_mask", (classes,)),
    ]
    fed += [("lr", ())] + ([("aug", (batch, 1))] if aug else [])
    outputs = [value_info(f"new.{kind}weight", (classes, size)) for kind in ("param.", "state.momentum.")]
    outputs += [value_info(f"new.{kind}bias", (classes,)) for kind in ("param.", "state.momentum.")]
    return model(nodes, carried + [value_info(*each) for each in fed], [*outputs, value_info("loss", ())], constants)


def entropy_nodes() -> list[bytes]:
    """Rows whose targets lack of 1 count by their entropy H, whose slope is -p (log p + H), for what they lack."""
    return [
        node("Exp", ["logp"], "p"),
        node("Mul", ["p", "logp"], "plogp"),
        node("ReduceSum", ["plogp", "axis1"], "minus_h", keepdims=1),
        node("ReduceSum", ["targets", "axis1"], "sum", keepdims=1),
        node("Sub", ["one", "sum"], "lack"),
        node("Mul", ["lack", "minus_h"], "h"),
        node("Squeeze", ["h", "axis1"], "h1"),
        node("Add", ["tl1", "h1"], "ce0"),
        node("Sub", ["logp", "minus_h"], "sure"),
        node("Mul", ["p", "sure"], "psure"),
        node("Mul", ["psure", "lack"], "dh"),
        node("Mul", ["p", "sum"], "psum"),
        node("Sub", ["psum", "targets"], "dce"),
        node("Sub", ["dce", "dh"], "d0"),
    ]


def predict_program(
    shape: tuple[int, int, int], classes: int, mean: float, std: float, dtype: str, spare: bool = False
) -> bytes:
    """The classifier without its weights; with spare classes, also without the number of those in use."""
    nodes = [
        node("Cast", ["images"], "float", to=ELEMENT_TYPES["float32"]),
        node("Flatten", ["float"], "flat", axis=1),
        node("Sub", ["flat", "mean"], "centred"),
        node("Div", ["centred", "std"], "x"),
        node("Gemm", ["x", "param.weight", "param.bias"], "logits", transB=1),
    ]
    constants = {"mean": np.array(mean, np.float32), "std": np.array(std, np.float32)}
    if spare:
        nodes.append(node("Slice", ["logits", "first", "class_count", "axis"], "used"))
        constants |= {"first": np.array([0]), "axis": np.array([1])}
    nodes.append(node("Softmax", ["used" if spare else "logits"], "probabilities", axis=1))
    inputs = [value_info("images", ("N", *shape), dtype)]
    outputs = [value_info("probabilities", ("N", "K" if spare else classes))]
    return model(nodes, inputs, outputs, constants)


def recipe(
    name: str = "linear",
    *,
    shape: tuple[int, int, int] = (1, 4, 4),
    classes: int = 3,
    batch: int = 8,
    steps: int = 20,
    rate: float = 0.1,
    aug: bool = False,
    dtype: str = "uint8",
    initial: Initial | None = None,
    spare: int = 0,
    unlabelled: bool = False,
) -> Recipe:
    """A recipe of the linear classifier, normalised by mean 100 and standard deviation 50.

    spare: how many of its ``classes`` outputs are spare.
    unlabelled: it has a train program of that scope too, which trains all of its parameters.
    """
    size = int(np.prod(shape))
    parameters = (Tensor("weight", (classes, size), ("normal", 0.1)), Tensor("bias", (classes,), ("constant", 0.0)))
    state = tuple(Tensor(f"momentum.{each.name}", each.shape, ("constant", 0.0)) for each in parameters)
    programs = {
        "predict": predict_program(shape, classes, 100.0, 50.0, dtype, spare > 0),
        "train/full": train_program(shape, classes, batch, 100.0, 50.0, aug),
    }
    if unlabelled:
        programs["train/unlabelled"] = train_program(shape, classes, batch, 100.0, 50.0, False, unlabelled=True)
    states = {name.removeprefix("train/"): state for name in programs if name != "predict"}
    schedule = Schedule(steps, batch, "cosine", rate, 2)
    augmentation = Augmentation(brightness=STRENGTH) if aug else Augmentation()
    return Recipe(name, {"name": "linear"}, parameters, states, programs, schedule, augmentation, initial or Initial())


def images(count: int, shape: tuple[int, int, int] = (1, 4, 4), classes: int = 3, seed: int = 0) -> Samples:
    """Images that a linear classifier tells apart: class c is bright in its own share of the pixels.  uint8."""
    labels = np.arange(count) % classes
    noise = (uniforms(seed, 9, count * int(np.prod(shape))) * 60).reshape(count, -1)
    mine = np.arange(noise.shape[1]) % classes == labels[:, None]
    return Samples((60 + noise + 120 * mine).astype(np.uint8).reshape(count, *shape), labels)


def bundle(
    *recipes: Recipe, per_class: int = 2, probe: int = 30, classes: int = 3, shape: tuple[int, int, int] = (1, 4, 4)
) -> Bundle:
    """A bundle of the images above with soft labels, a probe, and what HQ would have measured on it."""
    chosen = recipes or (recipe(),)
    distilled = images(per_class * classes, shape, classes, seed=1)
    soft = np.full((len(distilled), classes), 0.1 / max(classes - 1, 1))
    soft[np.arange(len(distilled)), distilled.targets] = 0.9
    expectation = Expectation(0.99, 0.01, 0.9, 1.0, 3, probe)
    manifest = Manifest(
        name="handmade",
        task="classification",
        classes=tuple(f"kind {index}" for index in range(classes)),
        input_shape=shape,
        radiometry=Radiometry(
            ("grey",) if shape[0] == 1 else tuple(f"b{i}" for i in range(shape[0])),
            "uint8",
            (100.0,) * shape[0],
            (50.0,) * shape[0],
        ),
        method={"name": "handmade", "ipc": per_class},
        recipes=tuple(each.name for each in chosen),
        provenance={"source": "drawn by tests/handmade.py"},
        licence="CC0-1.0",
        expectations={each.name: {"probe": expectation} for each in chosen} if probe else {},
    )
    return Bundle(
        manifest,
        Pixels.encode(distilled.images.astype(np.float32), "uint8"),
        soft.astype(np.float16),
        {each.name: each for each in chosen},
        images(probe, shape, classes, seed=2) if probe else None,
    )


def numpy_training(chosen: Recipe, samples: Samples, seed: int) -> tuple[dict[str, np.ndarray], list[float]]:
    """The weights and losses that the train program should reach, in float64; for at most one batch of samples."""
    weights = {
        name: each.astype(np.float64) for name, each in initial_weights(chosen.parameters, chosen.initial, seed).items()
    }
    velocity = {name: np.zeros_like(each) for name, each in weights.items()}
    x = (samples.images.reshape(len(samples), -1).astype(np.float64) - 100.0) / 50.0
    losses = []
    for step in range(chosen.schedule.steps):
        logits = x @ weights["weight"].T + weights["bias"]
        logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        losses.append(-(samples.targets * logp).sum(1).mean())
        slope = (np.exp(logp) - samples.targets) / len(samples)
        for name, gradient in (("weight", slope.T @ x), ("bias", slope.sum(0))):
            velocity[name] = MOMENTUM * velocity[name] + gradient
            weights[name] = weights[name] - chosen.schedule.learning_rate(step) * velocity[name]
    return weights, losses
