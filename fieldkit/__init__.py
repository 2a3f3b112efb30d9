"""fieldkit: distil a data set at headquarters, train from it in the field.

The public API of the field side, on one page::

    import fieldkit

    bundle = fieldkit.open_bundle("mnist-10.h5").bundle
    trained = fieldkit.train(bundle, seed=0)
    fieldkit.save_model("model.onnx", trained, bundle)
    probabilities = fieldkit.Predictor.open("model.onnx").predict(images)

Names are imported when they are first used, so that ``import fieldkit`` costs nothing and never needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fieldkit.bundle.contents import Bundle as Bundle
    from fieldkit.bundle.keys import PrivateKey as PrivateKey
    from fieldkit.bundle.keys import PublicKey as PublicKey
    from fieldkit.bundle.keys import read_private_key as read_private_key
    from fieldkit.bundle.keys import read_public_key as read_public_key
    from fieldkit.bundle.keys import write_key_pair as write_key_pair
    from fieldkit.bundle.reader import parse_bundle as parse_bundle
    from fieldkit.bundle.reader import read_bundle as read_bundle
    from fieldkit.bundle.samples import Samples as Samples
    from fieldkit.errors import FieldkitError as FieldkitError
    from fieldkit.field.adaptation import Adaptation as Adaptation
    from fieldkit.field.adaptation import adapt as adapt
    from fieldkit.field.adapting import AdaptRequest as AdaptRequest
    from fieldkit.field.adapting import adapt_file as adapt_file
    from fieldkit.field.admission import open_bundle as open_bundle
    from fieldkit.field.answers import Asking as Asking
    from fieldkit.field.answers import predict_files as predict_files
    from fieldkit.field.benchmark import bench as bench
    from fieldkit.field.compression import compress as compress
    from fieldkit.field.conditions import Conditions as Conditions
    from fieldkit.field.confidence import calibrate as calibrate
    from fieldkit.field.continual import export_state as export_state
    from fieldkit.field.continual import first_state as first_state
    from fieldkit.field.continual import learn as learn
    from fieldkit.field.continual import report_state as report_state
    from fieldkit.field.diagnosis import diagnose as diagnose
    from fieldkit.field.exporting import export as export
    from fieldkit.field.exporting import save_model as save_model
    from fieldkit.field.finding import find_images as find_images
    from fieldkit.field.imagery import read_image as read_image
    from fieldkit.field.inspecting import inspect_bundle as inspect_bundle
    from fieldkit.field.prediction import Predictor as Predictor
    from fieldkit.field.production import Order as Order
    from fieldkit.field.production import train_model as train_model
    from fieldkit.field.providers import use_provider as use_provider
    from fieldkit.field.ranking import Limits as Limits
    from fieldkit.field.reopening import reopen as reopen
    from fieldkit.field.sealing import decrypt_bundle as decrypt_bundle
    from fieldkit.field.sealing import encrypt_bundle as encrypt_bundle
    from fieldkit.field.sealing import sign_bundle as sign_bundle
    from fieldkit.field.selection import Choice as Choice
    from fieldkit.field.selection import select as select
    from fieldkit.field.state import read_state as read_state
    from fieldkit.field.state import write_state as write_state
    from fieldkit.field.training import Trained as Trained
    from fieldkit.field.training import Trainer as Trainer
    from fieldkit.field.training import train as train
    from fieldkit.field.trust import TrustStore as TrustStore
    from fieldkit.field.unlabelled import UnlabelledAdaptation as UnlabelledAdaptation
    from fieldkit.field.unlabelled import adapt_unlabelled as adapt_unlabelled
    from fieldkit.field.updating import diff_bundles as diff_bundles
    from fieldkit.field.updating import patch_bundle as patch_bundle
    from fieldkit.field.verification import verify_bundle as verify_bundle
    from fieldkit.field.watching import watch as watch

__version__ = "0.1.0"

_HOMES = {
    "AdaptRequest": "fieldkit.field.adapting",
    "Adaptation": "fieldkit.field.adaptation",
    "Asking": "fieldkit.field.answers",
    "Bundle": "fieldkit.bundle.contents",
    "Choice": "fieldkit.field.selection",
    "Conditions": "fieldkit.field.conditions",
    "FieldkitError": "fieldkit.errors",
    "Limits": "fieldkit.field.ranking",
    "Order": "fieldkit.field.production",
    "Predictor": "fieldkit.field.prediction",
    "PrivateKey": "fieldkit.bundle.keys",
    "PublicKey": "fieldkit.bundle.keys",
    "Samples": "fieldkit.bundle.samples",
    "Trained": "fieldkit.field.training",
    "Trainer": "fieldkit.field.training",
    "TrustStore": "fieldkit.field.trust",
    "UnlabelledAdaptation": "fieldkit.field.unlabelled",
    "adapt": "fieldkit.field.adaptation",
    "adapt_file": "fieldkit.field.adapting",
    "adapt_unlabelled": "fieldkit.field.unlabelled",
    "bench": "fieldkit.field.benchmark",
    "calibrate": "fieldkit.field.confidence",
    "compress": "fieldkit.field.compression",
    "decrypt_bundle": "fieldkit.field.sealing",
    "diagnose": "fieldkit.field.diagnosis",
    "diff_bundles": "fieldkit.field.updating",
    "encrypt_bundle": "fieldkit.field.sealing",
    "export": "fieldkit.field.exporting",
    "export_state": "fieldkit.field.continual",
    "find_images": "fieldkit.field.finding",
    "first_state": "fieldkit.field.continual",
    "inspect_bundle": "fieldkit.field.inspecting",
    "learn": "fieldkit.field.continual",
    "open_bundle": "fieldkit.field.admission",
    "parse_bundle": "fieldkit.bundle.reader",
    "patch_bundle": "fieldkit.field.updating",
    "predict_files": "fieldkit.field.answers",
    "read_bundle": "fieldkit.bundle.reader",
    "read_image": "fieldkit.field.imagery",
    "read_private_key": "fieldkit.bundle.keys",
    "read_public_key": "fieldkit.bundle.keys",
    "read_state": "fieldkit.field.state",
    "reopen": "fieldkit.field.reopening",
    "report_state": "fieldkit.field.continual",
    "save_model": "fieldkit.field.exporting",
    "select": "fieldkit.field.selection",
    "sign_bundle": "fieldkit.field.sealing",
    "train": "fieldkit.field.training",
    "train_model": "fieldkit.field.production",
    "use_provider": "fieldkit.field.providers",
    "verify_bundle": "fieldkit.field.verification",
    "watch": "fieldkit.field.watching",
    "write_key_pair": "fieldkit.bundle.keys",
    "write_state": "fieldkit.field.state",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
