"""What a train step does with its gradients, and what each scope trains: against torch, and by the program's face."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from test_compiler import DATA, SCHEDULE, SMALL

from fieldkit.bundle.samples import Samples
from fieldkit.errors import UsageError
from fieldkit.field.engine.session import Stepper
from fieldkit.field.engine.training import Trainer
from fieldkit.hq.compiler import AdamW, Sgd, compile_model, compile_recipe, parity
from fieldkit.hq.compiler.scopes import set_modes, trained_parameters
from fieldkit.hq.compiler.updates import Regularisation, Update
from fieldkit.hq.evidence.reference import Reference
from fieldkit.hq.models import build_model

pytestmark = pytest.mark.hq

UPDATES = [
    (Sgd(0.9, nesterov=True), Regularisation()),
    (Sgd(0.8, 0.1, nesterov=True, decoupled=True), Regularisation(clip_norm=0.5)),
    (Sgd(0.0, 0.1, decoupled=True), Regularisation(average=0.9)),
    (AdamW(), Regularisation(clip_norm=0.01, average=0.99, label_smoothing=0.1)),
    (Sgd(), Regularisation(label_smoothing=0.3, clip_norm=1e6)),
]


def samples(count: int = 9) -> Samples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *DATA.input_shape)).astype(np.float32)
    return Samples(images, rng.dirichlet(np.ones(3), count).astype(np.float32))


def faces(program: bytes) -> tuple[list[str], list[str]]:
    """Names of a program's inputs and outputs."""
    graph = onnx.load_from_string(program).graph
    return [each.name for each in graph.input], [each.name for each in graph.output]


@pytest.mark.parametrize(("optimiser", "regularisation"), UPDATES)
def test_every_update_is_torchs(optimiser, regularisation):
    # compile_recipe raises if one step or fifty differ.
    made = compile_recipe("convnet", SMALL, DATA, optimiser=optimiser, schedule=SCHEDULE, regularisation=regularisation)
    assert made.parity.step_error > 0


@pytest.mark.parametrize("optimiser", [Sgd(), AdamW()])
def test_a_training_ends_where_torchs_does(optimiser):
    # Adam's first steps are signs of gradients, so that it tells every difference of the samples, yet none of engine.
    made = compile_recipe("mlp", {"width": 8}, DATA, optimiser=optimiser, schedule=replace(SCHEDULE, steps=30))
    module = build_model("mlp", {"width": 8}, DATA.input_shape, 3)
    trainer = Trainer(made.recipe, threads=1)
    first, found = trainer.begin(0).tensors, trainer.fit(samples(), seed=0).weights
    reference = Reference(made.recipe, module, DATA.radiometry, Update(optimiser))
    expected = reference.train(samples(), 0, Stepper(made.recipe, "full").feeds).state_dict()
    for name, each in found.items():
        moved = np.abs(each - first[f"param.{name}"]).max()
        np.testing.assert_allclose(each, expected[name].numpy(), rtol=0, atol=1e-4 * moved)


def test_a_large_batch_is_proven_in_parts(monkeypatch):
    fed, feed = Counter(), parity._feed

    def counted(stepper, batch, rate, step):
        fed[len(batch["weights"])] += 1
        return feed(stepper, batch, rate, step)

    monkeypatch.setattr(parity, "_feed", counted)
    large = replace(SCHEDULE, batch=parity.LONG_BATCH + 3)
    made = compile_recipe("mlp", {"width": 8}, DATA, optimiser=Sgd(), schedule=large)
    assert fed == {parity.LONG_BATCH: parity.LOSS_STEPS, parity.LONG_BATCH + 3: 1 + parity.WHOLE_STEPS}
    assert set(made.recipe.programs) == {"predict", "train/full"}
    assert Trainer(made.recipe, threads=1).batch == large.batch


def test_a_moving_average_is_what_a_device_exports():
    decay = 0.8
    made = compile_recipe(
        "convnet", SMALL, DATA, optimiser=Sgd(), schedule=SCHEDULE, regularisation=Regularisation(average=decay)
    )
    trainer = Trainer(made.recipe, threads=1)
    steps = []
    for step, _ in trainer.run(samples(), trainer.begin(0), seed=0, schedule=SCHEDULE):
        steps.append(trainer.state(step + 1).tensors["param.head.weight"])
    shares = decay ** np.arange(len(steps))[::-1]
    expected = np.tensordot(shares / shares.sum(), np.stack(steps), axes=1)
    np.testing.assert_allclose(trainer.weights()["head.weight"], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "wrong",
    [{"clip_norm": 0.0}, {"average": 1.0}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1}],
)
def test_regularisation_out_of_range(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Regularisation(**wrong)


def test_nesterov_needs_momentum():
    with pytest.raises(UsageError, match="nesterov"):
        Sgd(0.0, nesterov=True)


@pytest.fixture(scope="module")
def recipe():
    scopes = ("full", "head", "norm-bias", "last-1", "last-2")
    return compile_recipe("convnet", SMALL, DATA, optimiser=Sgd(), schedule=SCHEDULE, scopes=scopes).recipe


LAST = {"head.weight", "head.bias"}
BLOCK = {f"blocks.1.{each}" for each in ("conv.weight", "conv.bias", "norm.weight", "norm.bias")}
NORMS = {f"blocks.{index}.{each}" for index in (0, 1) for each in ("conv.bias", "norm.weight", "norm.bias")}


class TestScopes:
    @pytest.mark.parametrize(
        ("scope", "trained"), [("head", LAST), ("last-1", LAST | BLOCK), ("norm-bias", NORMS | {"head.bias"})]
    )
    def test_a_scope_trains_its_own_part_and_leaves_the_rest(self, recipe, scope, trained):
        inputs, outputs = faces(recipe.programs[f"train/{scope}"])
        assert {name for name in outputs if name.startswith("new.param.")} == {f"new.param.{name}" for name in trained}
        assert {each.name for each in recipe.state[scope]} == {f"momentum.{name}" for name in trained}
        trainer = Trainer(recipe, scope=scope, threads=1)
        first = trainer.begin(0).tensors
        trained_to = trainer.fit(samples(), seed=0).weights
        changed = {name for name, each in trained_to.items() if (each != first[f"param.{name}"]).any()}
        assert changed <= trained
        assert {"head.bias", *(name for name in trained if "norm" in name)} <= changed
        assert len(inputs) == len(set(inputs))

    def test_a_frozen_trunk_carries_no_way_back(self, recipe):
        def convolutions(name: str) -> int:
            nodes = onnx.load_from_string(recipe.programs[name]).graph.node
            return sum(each.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm") for each in nodes)

        # The head's product, its weight's gradient, and the trunk's own way forward.
        assert convolutions("train/head") <= convolutions("predict") + 3
        assert convolutions("train/full") > convolutions("train/head")

    def test_all_blocks_are_all_of_the_model(self, recipe):
        assert faces(recipe.programs["train/last-2"]) == faces(recipe.programs["train/full"])

    @pytest.mark.parametrize(
        ("scope", "words"), [("last-3", "at most last-2"), ("neck", "unknown scope"), ("last-0", "unknown")]
    )
    def test_scopes_that_do_not_exist(self, scope, words):
        with pytest.raises(UsageError, match=words):
            trained_parameters(build_model("convnet", SMALL, DATA.input_shape, 3), scope)

    def test_the_biases_of_attention_count(self):
        model = torch.nn.MultiheadAttention(4, 2)
        assert trained_parameters(model, "norm-bias") == {"in_proj_bias", "out_proj.bias"}

    def test_a_model_without_blocks_says_so(self):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 3))
        assert trained_parameters(model, "head") == {"1.weight", "1.bias"}
        with pytest.raises(UsageError, match="does not name its blocks"):
            trained_parameters(model, "last-1")

    def test_a_frozen_part_is_in_evaluation_mode(self):
        model = torch.nn.Sequential(
            torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5)),
            torch.nn.Dropout(0.5),
            torch.nn.Flatten(),
            torch.nn.Linear(4 * 6 * 7, 3),
        )
        set_modes(model, trained_parameters(model, "head"))
        assert [each.training for each in (model[0], model[0][1], model[0][2], model[1], model[3])] == [
            False, False, False, True, True,
        ]  # fmt: skip


class Normed(torch.nn.Module):
    """Batch normalisation, whose statistics a step carries along, and dropout, whose randoms the host draws."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Dropout(dropout)
        )
        self.head = torch.nn.Linear(4 * 6 * 7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x).flatten(1))


def test_running_statistics_are_carried_and_predict_reads_them():
    made = compile_model(
        Normed(), {"name": "own"}, DATA, optimiser=Sgd(), schedule=SCHEDULE, scopes=("full", "head"),
        regularisation=Regularisation(average=0.9),
    )  # fmt: skip
    names = [each.name for each in made.recipe.parameters]
    assert names[-2:] == ["blocks.1.running_mean", "blocks.1.running_var"]
    _, outputs = faces(made.recipe.programs["train/full"])
    assert "new.param.blocks.1.running_var" in outputs
    _, frozen = faces(made.recipe.programs["train/head"])
    assert "new.param.blocks.1.running_var" not in frozen
    trained = Trainer(made.recipe, threads=1).fit(samples()).weights
    assert (trained["blocks.1.running_mean"] != 0).all()
    assert (trained["blocks.1.running_var"] > 0).all()


def test_dropout_repeats_with_the_seed():
    made = compile_model(Normed(0.5), {"name": "own"}, DATA, optimiser=Sgd(), schedule=replace(SCHEDULE, steps=4))
    inputs, _ = faces(made.recipe.programs["train/full"])
    assert "random.0" in inputs
    trainer = Trainer(made.recipe, threads=1)
    first, same, other = (trainer.fit(samples(), seed=seed).weights["head.weight"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
