"""Each architecture: its shapes, options, features and scopes, and that it compiles; and models from outside."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from onnx import numpy_helper
from torch import nn

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Initial, Schedule
from fieldkit.bundle.weights import initial_weights
from fieldkit.cli.build import recipe
from fieldkit.errors import ProgramError, UsageError
from fieldkit.hq.compiler import Data, Sgd, compile_model, compile_recipe
from fieldkit.hq.compiler.scopes import trained_parameters
from fieldkit.hq.models import ARCHITECTURES, build_model, check_options, description, model_options, recipe_name
from fieldkit.hq.models.features import features_of
from fieldkit.hq.models.laws import parameter_tensors
from fieldkit.hq.models.resnet import ResNetOptions
from fieldkit.hq.models.vit import StochasticDepth

pytestmark = pytest.mark.hq

SMALL = {
    "convnet": {"depth": 2, "width": 4},
    "mlp": {"width": 8},
    "mobilenet": {"width": 8},
    "resnet": {"width": 4},
    "vit": {"width": 8, "heads": 2, "depth": 2},
}
KINDS = [
    ("convnet", {"norm": "batch", "pooling": "max"}),
    ("mlp", {"norm": "layer", "activation": "gelu"}),
    ("mlp", {"norm": "batch", "activation": "tanh", "depth": 1}),
    ("mobilenet", {"norm": "batch", "activation": "silu", "squeeze": False}),
    ("mobilenet", {"stride": 2}),
    ("resnet", {"norm": "batch", "shortcut": "padded"}),
    ("resnet", {"norm": "instance", "depth": 14}),
    ("vit", {"pool": "token", "dropout": 0.1, "drop_path": 0.3}),
    ("vit", {"patch": 3, "ratio": 1}),
]
EVERY = [(name, {}) for name in sorted(SMALL)] + KINDS


def named(case: object) -> str:
    return case if isinstance(case, str) else ",".join(f"{key}={value}" for key, value in case.items())  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (64, 64), (9, 13)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "kind"), EVERY, ids=named)
def test_an_architecture_classifies_images_of_any_size(name, kind, channels, size):
    model = build_model(name, SMALL[name] | kind, (channels, *size), 5).eval()
    images = torch.randn(2, channels, *size)
    with torch.no_grad():
        features = model.features(images)
        assert features.ndim == 2
        assert model(images).shape == (2, 5)
        torch.testing.assert_close(model.head(features), model(images))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_an_architecture_offers_what_scopes_need(name):
    model = build_model(name, SMALL[name], (3, 16, 16), 5)
    head = trained_parameters(model, "head")
    assert head == {"head.weight", "head.bias"}
    last = trained_parameters(model, "last-1")
    final = f"blocks.{len(model.blocks) - 1}."
    assert head < last < trained_parameters(model, "full")
    assert any(each.startswith(final) for each in last)
    assert not any(each.startswith("blocks.") and not each.startswith(final) for each in last)
    assert trained_parameters(model, "norm-bias")


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_an_architecture_is_built_the_same_whatever_torchs_seed(name):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build_model(name, SMALL[name], (1, 8, 8), 2).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second = build_model(name, SMALL[name], (1, 8, 8), 2).state_dict()
    for key, value in first.items():
        assert torch.equal(value, second[key])


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("convnet", {"norm": "layer"}, "convnet norm"),
        ("mlp", {"depth": 0}, "mlp depth"),
        ("mlp", {"width": "many"}, "mlp width"),
        ("mlp", {"norm": "group"}, "mlp norm.*none or layer or batch"),
        ("mlp", {"activation": "step"}, "mlp activation"),
        ("mobilenet", {"width": 12}, "mobilenet width.*multiple of 8"),
        ("mobilenet", {"stride": 3}, "mobilenet stride.*1 or 2"),
        ("mobilenet", {"norm": "none"}, "mobilenet norm"),
        ("mobilenet", {"activation": "relu"}, "mobilenet activation"),
        ("mobilenet", {"squeeze": 1}, "mobilenet squeeze.*true or false"),
        ("resnet", {"depth": 10}, r"resnet depth.*6n \+ 2"),
        ("resnet", {"depth": 2}, "resnet depth.*at least 8"),
        ("resnet", {"width": 6}, "resnet width.*multiple of 4"),
        ("resnet", {"shortcut": "none"}, "resnet shortcut"),
        ("vit", {"patch": 0}, "vit patch"),
        ("vit", {"width": 10}, "vit width.*4 heads"),
        ("vit", {"pool": "max"}, "vit pool"),
        ("vit", {"dropout": 1.0}, "vit dropout.*0 to below 1"),
        ("vit", {"drop_path": -0.1}, "vit drop_path"),
    ],
)
def test_options_out_of_range_are_refused(name, options, reason):
    with pytest.raises(UsageError, match=reason):
        check_options(name, options)


@pytest.mark.parametrize(
    ("name", "options", "size", "reason"),
    [
        ("resnet", {"norm": "instance"}, (4, 4), "at least 5"),
        ("mobilenet", {"norm": "instance", "stride": 2}, (16, 16), "at least 17"),
        ("vit", {"patch": 8}, (7, 32), "at least 8x8"),
    ],
)
def test_an_image_too_small_for_an_architecture_is_refused(name, options, size, reason):
    with pytest.raises(UsageError, match=reason):
        build_model(name, SMALL[name] | options, (1, *size), 2)


@pytest.mark.parametrize(("size", "stride", "patch"), [((28, 28), 1, 4), ((32, 40), 1, 4), ((64, 64), 2, 8)])
def test_options_that_nobody_names_follow_from_the_image(size, stride, patch):
    assert model_options("mobilenet", {}, (3, *size)).stride == stride
    assert model_options("vit", {}, (3, *size)).patch == patch
    assert model_options("vit", {"patch": 2}, (3, *size)).patch == 2


def test_the_resnet_of_20_layers_is_the_papers():
    model = build_model("resnet", ResNetOptions(depth=20, norm="batch", shortcut="padded"), (3, 32, 32), 10)
    assert sum(each.numel() for each in model.parameters()) == 269_722


def test_stochastic_depth_keeps_the_mean_and_is_off_in_use():
    torch.manual_seed(0)
    layer, branch = StochasticDepth(0.25), torch.ones(4000, 2, 3)
    made = layer(branch)
    assert set(made.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert torch.equal(made[:, :1, :1].expand_as(made), made)
    assert made.mean().item() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(layer.eval()(branch), branch)


# The plain convnet has tests of its own.
COMPILED = [("vit", {}), ("mobilenet", {}), ("resnet", {}), *(KINDS[at] for at in (0, 1, 3, 5, 7))]
DATA = Data((3, 9, 9), 3, Radiometry(("r", "g", "b"), "uint8", (100.0,) * 3, (50.0,) * 3))


@pytest.mark.parametrize(("name", "kind"), COMPILED, ids=named)
def test_an_architecture_compiles(name, kind):
    made = compile_recipe(name, SMALL[name] | kind, DATA, optimiser=Sgd(0.9), schedule=Schedule(5, 4, rate=0.01))
    assert made.recipe.architecture["name"] == name
    assert made.recipe.architecture.items() >= kind.items()


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("resnet", "resnet", {}),
        ("vit:", "vit", {}),
        ("resnet:norm=batch,depth=14", "resnet", {"norm": "batch", "depth": 14}),
        ("mine:make", "mine:make", {}),
        ("mine.tiny:Make.small:width=32,act=silu", "mine.tiny:Make.small", {"width": 32, "act": "silu"}),
        ("mine:make:", "mine:make", {}),
    ],
)
def test_the_command_line_names_recipes(text, name, options):
    spec = recipe(text)
    assert (spec.architecture, dict(spec.options)) == (name, options)


@pytest.mark.parametrize("text", ["resnet:depth", "mine:make:width", "mine:make,width=3"])
def test_a_recipe_that_is_not_one_is_refused(text):
    with pytest.raises(UsageError, match="not a setting"):
        recipe(text)


OWN = """
import torch
from torch import nn

shape = (1, 2)


class Net(nn.Module):
    def __init__(self, num_classes, in_chans=3, width=4, name="net"):
        super().__init__()
        self.head = nn.Conv2d(width, num_classes, 1)
        self.trunk = nn.Sequential(nn.Conv2d(in_chans, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        nn.init.kaiming_normal_(self.trunk[0].weight, mode="fan_out")
        self.gain = nn.Parameter(torch.full((width, 1, 1), 1e-6))

    def forward(self, images):
        return self.head(self.gain * self.trunk(images)).mean((2, 3))


def told(input_shape, class_count):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], class_count))


def passes_on(**options):
    return Net(**options)


def fails():
    raise KeyError("no such weights")


def wrong():
    return [nn.Linear(2, 2)]


def many(in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 1000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def tuples(num_classes):
    class Pair(Net):
        def forward(self, images):
            return super().forward(images), images
    return Pair(num_classes)


def narrow(num_classes):
    return nn.Linear(7, num_classes)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a module of the user's own."""
    (tmp_path / "field_models").mkdir()
    (tmp_path / "field_models" / "own.py").write_text(OWN)
    (tmp_path / "field_broken.py").write_text("import no_such_library\n")
    (tmp_path / "field_typo.py").write_text("def make(:\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("field_")]:
        del sys.modules[name]


@pytest.mark.parametrize("factory", ["Net", "passes_on", "told"])
def test_a_factory_is_told_of_the_data(folder, factory):
    path = list(sys.path)
    model = build_model(f"field_models.own:{factory}", {}, (1, 8, 8), 3)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert model.training
    assert sys.path == path


def test_a_model_from_outside_compiles(folder):
    options = {"width": 5, "name": "mine"}
    made = compile_recipe(
        "field_models.own:Net", options, DATA, optimiser=Sgd(0.9), schedule=Schedule(5, 4, rate=0.01), scopes=("full",)
    )
    assert made.recipe.architecture == {"name": "factory", "factory": "field_models.own:Net", "options": options}
    again = parameter_tensors(build_model("field_models.own:Net", options, DATA.input_shape, 3))
    assert made.recipe.parameters[: len(again)] == again


def test_a_trial_leaves_no_trace_in_the_statistics(folder):
    model = build_model("field_models.own:Net", {}, (3, 8, 8), 3)
    assert torch.equal(model.trunk[1].running_mean, torch.zeros(4))
    assert int(model.trunk[1].num_batches_tracked) == 0


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("field_nowhere:make", {}, "no such module; found field_nowhere"),
        ("field_models.nowhere:make", {}, "no such module; found field_models.nowhere"),
        ("field_broken:make", {}, "cannot be imported.*ModuleNotFoundError.*no_such_library"),
        ("field_typo:make", {}, "cannot be imported.*SyntaxError"),
        ("field_models.own:", {}, "not a factory.*package.module:factory"),
        ("field_models.own:make", {}, "no such factory; found make"),
        ("field_models.own:Net.make", {}, "no such factory; found make"),
        ("field_models.own:shape", {}, "not callable; found tuple"),
        ("field_models.own:fails", {}, "the factory failed; found KeyError.*no such weights"),
        ("field_models.own:Net", {"depth": 2}, "do not fit the factory.*depth.*num_classes, in_chans, width"),
        ("field_models.own:Net", {"width": "a"}, "the factory failed; found TypeError"),
        ("field_models.own:wrong", {}, "makes no module; found list"),
        ("field_models.own:many", {}, r"one logit for each class; found \(2, 1000\); expected \(2, 3\)"),
        ("field_models.own:tuples", {}, "one logit for each class; found tuple"),
        ("field_models.own:narrow", {}, r"fails on images of shape \(3, 8, 8\); found RuntimeError"),
    ],
)
def test_what_is_wrong_with_a_factory_is_told(folder, name, options, reason):
    with pytest.raises(UsageError, match=f"(?s){reason}") as caught:
        build_model(name, options, (3, 8, 8), 3)
    assert name in str(caught.value)


def test_a_factory_that_is_not_there_is_told_before_work_starts(folder):
    check_options("field_models.own:Net", {"width": 3})
    with pytest.raises(UsageError, match="no such factory"):
        check_options("field_models.own:make", {})


def test_a_recipe_from_outside_has_a_name_that_a_bundle_takes(folder):
    assert recipe_name("resnet") == "resnet"
    assert recipe_name("my_models.tiny:Tiny_Net") == "tiny_net"
    assert recipe_name("my_models:Größe") == "gr--e"
    options = check_options("field_models.own:Net", {})
    assert description("field_models.own:Net", options)["options"] == {}


@pytest.mark.parametrize("name", ["convnet", "vit"])
def test_features_are_those_of_the_model(name):
    model = build_model(name, SMALL[name], (1, 8, 8), 3)
    images = torch.randn(2, 1, 8, 8)
    weights = {f"module.{key}": value + 0.1 for key, value in model.named_parameters()}
    found = torch.func.functional_call(features_of(model), weights, (images,))
    model.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
    torch.testing.assert_close(found, model.features(images))


def test_features_of_any_module_are_what_its_last_layer_reads():
    # The order in which layers run counts, not that in which they were made.
    layers = [nn.Linear(6, 3), nn.Conv2d(1, 2, 3), nn.ReLU()]
    model = nn.Sequential(layers[1], layers[2], nn.Flatten(), nn.Linear(72, 6), layers[0])
    images = torch.randn(2, 1, 8, 8, requires_grad=True)
    weights = {f"module.{key}": (value + 0.1).detach() for key, value in model.named_parameters()}
    features = torch.func.functional_call(features_of(model), weights, (images,))
    assert features.shape == (2, 6)
    logits = torch.func.functional_call(model, {key[7:]: value for key, value in weights.items()}, (images,))
    expected = features @ weights["module.4.weight"].T + weights["module.4.bias"]
    torch.testing.assert_close(expected, logits)
    (slope,) = torch.autograd.grad(features.square().sum(), images)
    assert slope.abs().sum() > 0
    assert not any(each._forward_pre_hooks for each in model.modules())


def test_a_trunk_called_features_is_not_taken_for_features():
    class Vgg(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Conv2d(1, 2, 3)
            self.head = nn.Linear(2, 3)

        def forward(self, images):
            return self.head(self.features(images).mean((2, 3)))

    assert features_of(Vgg())(torch.randn(4, 1, 8, 8)).shape == (4, 2)


def test_a_module_without_layers_has_no_features():
    with pytest.raises(ProgramError, match="no features to compare"):
        features_of(nn.Flatten())(torch.zeros(1, 1, 2, 2))


def test_the_command_line_takes_a_model_of_ones_own(folder):
    run = subprocess.run(
        [sys.executable, "-m", "fieldkit", "build", "digits", "-o", "own.h5", "--recipe", "field_models.own:fail"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert "field_models.own:fail: the module has no such factory; found fail" in run.stderr


def test_first_weights_of_every_architecture_can_be_drawn():
    for name in sorted(ARCHITECTURES):
        model = build_model(name, SMALL[name], (3, 16, 16), 4)
        tensors = parameter_tensors(model)
        drawn = initial_weights(tensors, Initial(), 0)
        for each in tensors:
            own = dict(model.named_parameters())[each.name].detach().numpy()
            if own.size > 500:
                assert np.std(drawn[each.name]) == pytest.approx(np.std(own), rel=0.15), each


def test_a_parameter_that_is_frozen_for_good_is_a_constant_of_the_programs():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Conv2d(3, 4, 3)
            self.trunk.weight.requires_grad_(False)
            self.norm = nn.BatchNorm2d(4).requires_grad_(False)
            self.norm.running_mean.fill_(0.7)
            self.head = nn.Linear(4, 3)

        def forward(self, images):
            return self.head(self.norm(self.trunk(images)).mean((2, 3)))

    schedule = Schedule(5, 4, rate=0.01)
    made = compile_model(Half(), {"name": "half"}, DATA, optimiser=Sgd(0.9), schedule=schedule)
    assert [each.name for each in made.recipe.parameters] == ["trunk.bias", "head.weight", "head.bias"]
    for program in made.recipe.programs.values():
        constants = [numpy_helper.to_array(each) for each in onnx.load_from_string(program).graph.initializer]
        assert any(np.array_equal(each, np.full(4, np.float32(0.7))) for each in constants)
