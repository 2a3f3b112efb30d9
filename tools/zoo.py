"""An exam for the compiler: models of timm, a zoo that the project does not depend on.

    python tools/zoo.py [PATTERN]... [--size 160] [--batch 4] [--classes 10] [--scope full]

Compiles each model with its proof of parity and says what became of it.  PATTERN as timm.list_models takes it; the
default is timm's family of tiny test models.  timm must be installed by hand (pip install --no-deps timm safetensors
huggingface_hub pyyaml tqdm); torchvision, which it wants for its data pipeline alone, is stood in for.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import types
from importlib.machinery import ModuleSpec

import torch

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Schedule
from fieldkit.errors import FieldkitError
from fieldkit.hq.compiler import Data, Sgd, compile_model

TORCHVISION = (
    "torchvision",
    "torchvision.datasets",
    "torchvision.datasets.folder",
    "torchvision.io",
    "torchvision.models",
    "torchvision.models.feature_extraction",
    "torchvision.ops",
    "torchvision.ops.misc",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.transforms.v2",
)


class _Anything(type):
    """A class whose attributes are their own names: enough for code that only mentions it."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


def stand_in_for_torchvision() -> None:
    """Modules of torchvision's names, whose every member is an empty class."""

    def member(name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})

    for name in TORCHVISION:
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__path__ = []
        module.__getattr__ = member  # type: ignore[method-assign]
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("patterns", nargs="*", default=["test_*"])
    for name, value in (("size", 160), ("batch", 4), ("classes", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--scope", default="full")
    parser.add_argument("--traceback", action="store_true")
    settings = parser.parse_args()
    try:
        import torchvision  # noqa: F401
    except ImportError:
        stand_in_for_torchvision()
    import timm

    names = sorted({name for pattern in settings.patterns for name in timm.list_models(pattern)})
    passed = sum(_examine(timm, name, settings) for name in names)
    print(f"timm {timm.__version__}, torch {torch.__version__}: {passed} of {len(names)} compiled with parity")


def _examine(timm: types.ModuleType, name: str, settings: argparse.Namespace) -> bool:
    """Compile one model; print one line."""
    torch.manual_seed(0)
    shape = (3, settings.size, settings.size)
    model = _created(timm, name, settings)
    data = Data(shape, settings.classes, Radiometry(("r", "g", "b"), "uint8", (120.0,) * 3, (60.0,) * 3))
    schedule = Schedule(steps=10, batch=settings.batch, rate=0.01)
    began = time.perf_counter()
    try:
        made = compile_model(model, {"name": name}, data, optimiser=Sgd(), schedule=schedule, scopes=(settings.scope,))
    except FieldkitError as error:
        print(f"{name}: REFUSED in {time.perf_counter() - began:.0f} s: {' '.join(str(error).split())}", flush=True)
        return False
    except Exception:
        print(f"{name}: FAILED\n{traceback.format_exc(limit=-4)}", flush=True)
        return False
    parity, size = made.parity, sum(len(each) for each in made.recipe.programs.values())
    print(
        f"{name}: {made.recipe.size:,} values, step error {parity.step_error:.1e} ({parity.step_tensor}), loss "
        f"{parity.loss_error:.1e}, {size:,} bytes of programs, {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return True


def _created(timm: types.ModuleType, name: str, settings: argparse.Namespace) -> torch.nn.Module:
    """The model, for images of the wanted size where it must be told."""
    try:
        return timm.create_model(name, num_classes=settings.classes, img_size=settings.size)
    except TypeError:
        return timm.create_model(name, num_classes=settings.classes)


if __name__ == "__main__":
    main()
