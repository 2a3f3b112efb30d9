"""Whole programs: parity with torch, the contract of docs/program.md, and what is refused."""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Augmentation, Initial, Recipe, Schedule
from fieldkit.bundle.weights import initial_weights
from fieldkit.errors import ProgramError, UsageError
from fieldkit.field.engine.session import Stepper
from fieldkit.field.programs.program import ALLOWED_OPERATORS
from fieldkit.hq.compiler import AdamW, Compiled, Data, Sgd, compile_model, compile_recipe
from fieldkit.hq.compiler.parity import LOSS_LIMIT, PROBABILITY_LIMIT, STEP_LIMIT
from fieldkit.hq.compiler.programs import Sizes, Tensors, TrainingLoss, predict_program, train_program
from fieldkit.hq.compiler.rules import RULES, activation
from fieldkit.hq.compiler.updates import Update
from fieldkit.hq.models import build_model

pytestmark = pytest.mark.hq

DATA = Data((2, 8, 9), 3, Radiometry(("red", "green"), "uint8", (100.0, 120.0), (50.0, 60.0)))
SCHEDULE = Schedule(steps=10, batch=4, rate=0.01)
SMALL = {"depth": 2, "width": 4}
EVERYTHING = Augmentation(0.1, 0.2, 15.0, True, 0.5, 0.5, 0.5)


def train_only(options: dict, optimiser, augmentation=Augmentation(), data: Data = DATA, batch: int = 4) -> Recipe:
    """A recipe with a train program and no proof, for tests that look at the program."""
    model = build_model("convnet", options, data.input_shape, data.class_count)
    tensors = Tensors.of(model)
    sizes = Sizes(batch, data.input_shape, data.class_count)
    loss = TrainingLoss(model, data.radiometry, augmentation, sizes)
    made = train_program(loss, tensors, Update(optimiser))
    programs = {"train/full": made.program}
    return Recipe("convnet", options, tensors.all, {"full": made.state}, programs, replace(SCHEDULE, batch=batch))


def stepper_at_start(recipe: Recipe) -> tuple[Stepper, dict[str, np.ndarray]]:
    """A stepper with seed 0's weights, and one random batch in its feeds."""
    stepper = Stepper(recipe, "full", threads=1)
    weights = initial_weights(recipe.parameters, Initial(), 0)
    states = {f"state.{each.name}": np.zeros(each.shape, np.float32) for each in recipe.state["full"]}
    stepper.load({f"param.{name}": each for name, each in weights.items()} | states)
    generator = np.random.default_rng(0)
    feeds = stepper.feeds
    feeds["images"][...] = generator.integers(0, 256, feeds["images"].shape)
    feeds["targets"][...] = generator.dirichlet(np.ones(feeds["targets"].shape[1]), len(feeds["targets"]))
    feeds["weights"][...] = 1
    feeds["class_mask"][...] = 1
    feeds["lr"][...] = 0.1
    return stepper, weights


VARIANTS = [
    ({"norm": "instance", "pooling": "avg"}, Sgd(0.9, 1e-3), Augmentation()),
    ({"norm": "instance", "pooling": "max"}, AdamW(), EVERYTHING),
    ({"norm": "group", "pooling": "max"}, Sgd(0.0), Augmentation(shift=0.2)),
    ({"norm": "group", "pooling": "none"}, AdamW(0.8, 0.99, 1e-6, 0.1), Augmentation(flip=True, contrast=0.3)),
    ({"norm": "none", "pooling": "avg"}, AdamW(weight_decay=0.0), Augmentation(cutout=0.4, brightness=0.2)),
    ({"norm": "none", "pooling": "max"}, Sgd(0.5, 0.01), Augmentation(scale=0.3, rotate=30.0)),
]


@pytest.mark.parametrize(("kind", "optimiser", "augmentation"), VARIANTS)
def test_a_compiled_recipe_is_proven_against_torch(kind, optimiser, augmentation):
    compiled = compile_recipe(
        "convnet", SMALL | kind, DATA, optimiser=optimiser, schedule=SCHEDULE, augmentation=augmentation
    )
    parity = compiled.parity
    assert parity.step_error <= STEP_LIMIT
    assert parity.loss_error <= LOSS_LIMIT
    assert parity.probability_error <= PROBABILITY_LIMIT
    assert set(compiled.recipe.programs) == {"predict", "train/full"}
    assert compiled.recipe.architecture["name"] == "convnet"
    assert compiled.recipe.architecture["norm"] == kind["norm"]
    assert parity.to_json()["steps"] == 50


def test_parity_holds_for_16_bit_counts_and_one_band():
    data = Data((1, 7, 5), 2, Radiometry(("sar",), "uint16", (9000.0,), (4000.0,)))
    made = compile_recipe("convnet", {"width": 3}, data, optimiser=Sgd(), schedule=replace(SCHEDULE, batch=1))
    assert made.recipe.architecture["depth"] == 2


def test_a_recipe_that_differs_from_torch_is_refused(monkeypatch):
    def wrong_relu(call, x):
        y, pullback = activation.relu(call, x)
        return y, lambda dy: (call.graph.op("Mul", pullback(dy)[0], call.tensor(1.01)),)

    monkeypatch.setitem(RULES, "aten.relu.default", wrong_relu)
    with pytest.raises(ProgramError, match=r"recipe convnet, .*blocks.*: one train step differs from torch") as caught:
        compile_recipe("convnet", SMALL, DATA, optimiser=Sgd(), schedule=SCHEDULE)
    assert "relative error 0.0" in str(caught.value)


class Plain(torch.nn.Module):
    """A convolution and a linear layer; the tests below vary it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 4, 3)
        self.head = torch.nn.Linear(4 * 6 * 7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).flatten(1))


class Warp(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = torch.zeros(len(x), 6, 7, 2)
        return torch.nn.functional.grid_sample(x, grid, align_corners=False)


class Warping(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.warp = Warp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.warp(self.conv(x)).flatten(1))


class Unused(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.spare = torch.nn.Linear(2, 2)


def test_a_module_of_ones_own_compiles():
    compiled = compile_by_hand(Plain())
    assert next(each.name for each in compiled.recipe.parameters) == "conv.weight"
    assert compiled.recipe.name == "own"


def compile_by_hand(model: torch.nn.Module) -> Compiled:
    return compile_model(model, {"name": "own"}, DATA, optimiser=Sgd(), schedule=SCHEDULE)


def test_a_form_that_a_rule_does_not_cover_is_named_with_its_place():
    with pytest.raises(ProgramError, match=r"model\.warp: aten\.grid_sampler\.default .*depends on trained weights"):
        compile_by_hand(Warping())


def test_a_parameter_that_the_loss_never_reads_is_refused():
    with pytest.raises(ProgramError, match=r"param\.spare\.weight"):
        compile_by_hand(Unused())


def test_data_must_fit_together():
    with pytest.raises(UsageError, match="two classes"):
        Data((1, 8, 8), 1, Radiometry(("grey",), "uint8", (0.0,), (1.0,)))
    with pytest.raises(UsageError, match="per channel"):
        Data((3, 8, 8), 2, Radiometry(("grey",), "uint8", (0.0,), (1.0,)))


@pytest.mark.parametrize("optimiser", [{"momentum": 1.0}, {"weight_decay": -1.0}])
def test_optimiser_settings_out_of_range(optimiser):
    with pytest.raises(UsageError, match="optimiser"):
        Sgd(**optimiser)


def test_programs_keep_the_contract():
    recipe = train_only(SMALL, AdamW(), EVERYTHING)
    model = onnx.load_from_string(recipe.programs["train/full"])
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 20)]
    assert model.ir_version == 10
    assert {node.op_type for node in model.graph.node} <= ALLOWED_OPERATORS
    tensors = [f"param.{each.name}" for each in recipe.parameters]
    tensors += [f"state.{each.name}" for each in recipe.state["full"]]
    host = ["images", "targets", "weights", "class_mask", "aug", "lr", "step"]
    assert [each.name for each in model.graph.input] == tensors + host
    assert [each.name for each in model.graph.output] == [f"new.{name}" for name in tensors] + ["loss"]
    assert not any(node.name or node.doc_string for node in model.graph.node)


def test_a_program_asks_only_for_what_it_uses():
    model = onnx.load_from_string(train_only(SMALL, Sgd(0.0)).programs["train/full"])
    host = [each.name for each in model.graph.input if not each.name.startswith("param.")]
    assert host == ["images", "targets", "weights", "class_mask", "lr"]


def test_predict_is_stored_without_weights():
    model = build_model("convnet", SMALL, DATA.input_shape, 3)
    tensors = Tensors.of(model)
    stored = onnx.load_from_string(predict_program(model, DATA.radiometry, Sizes(1, DATA.input_shape, 3), tensors))
    known = {each.name for each in stored.graph.initializer} | {each.name for each in stored.graph.input}
    read = {name for node in stored.graph.node for name in node.input if name.startswith("param.")}
    assert read == {f"param.{each.name}" for each in tensors.all}
    assert not read & known
    (images,) = stored.graph.input
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert images.type.tensor_type.shape.dim[0].dim_param == "N"
    assert {node.op_type for node in stored.graph.node} <= ALLOWED_OPERATORS


@pytest.mark.parametrize(("width", "fused"), [(36, True), (35, False)])
def test_wide_first_layers_are_taken_together(width, fused):
    # 2 bands of 3x3 make 18 values per patch; together they pay from twice as many channels on.
    model = onnx.load_from_string(train_only({"depth": 1, "width": width}, Sgd()).programs["train/full"])
    reads_bias = [node for node in model.graph.node if "param.blocks.0.conv.bias" in node.input]
    # The bias cancels in the normalisation: where the layers are fused, only its own update reads it.
    assert len(reads_bias) == (1 if fused else 2)


def test_the_same_recipe_compiles_to_the_same_bytes():
    first, second = (train_only(SMALL, AdamW(), EVERYTHING).programs for _ in range(2))
    assert first == second


def test_the_fields_standard_convnet_steps_in_12_kilobytes():
    data = Data((3, 32, 32), 10, Radiometry(("r", "g", "b"), "uint8", (120.0,) * 3, (60.0,) * 3))
    program = train_only({"depth": 3, "width": 128}, Sgd(), data=data, batch=100).programs["train/full"]
    assert len(gzip.compress(program, 9)) <= 12 * 1024


def test_a_sample_of_weight_zero_changes_nothing():
    stepper, weights = stepper_at_start(train_only(SMALL, Sgd(0.0)))
    stepper.feeds["weights"][-1] = 0
    loss = stepper.step()
    first = stepper.tensors()
    stepper.load({f"param.{name}": each for name, each in weights.items()})
    stepper.feeds["images"][-1] = 255 - stepper.feeds["images"][-1]
    assert stepper.step() == loss
    for name, each in stepper.tensors().items():
        np.testing.assert_array_equal(each, first[name])


def test_a_class_that_is_off_learns_nothing():
    stepper, weights = stepper_at_start(train_only(SMALL, Sgd(0.0)))
    stepper.feeds["class_mask"][1] = 0
    stepper.feeds["targets"][...] = np.float32([0.5, 0.0, 0.5])
    stepper.step()
    new = stepper.tensors()
    np.testing.assert_array_equal(new["param.head.weight"][1], weights["head.weight"][1])
    assert (new["param.head.weight"][0] != weights["head.weight"][0]).any()


def test_training_lowers_the_loss():
    stepper, _ = stepper_at_start(train_only(SMALL, Sgd(0.9)))
    losses = [stepper.step() for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]
