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
    from fieldkit.field.adaptation.command import AdaptRequest as AdaptRequest
    from fieldkit.field.adaptation.command import adapt_file as adapt_file
    from fieldkit.field.adaptation.labelled import Adaptation as Adaptation
    from fieldkit.field.adaptation.labelled import adapt as adapt
    from fieldkit.field.adaptation.unlabelled import UnlabelledAdaptation as UnlabelledAdaptation
    from fieldkit.field.adaptation.unlabelled import adapt_unlabelled as adapt_unlabelled
    from fieldkit.field.answers.answers import Asking as Asking
    from fieldkit.field.answers.answers import predict_files as predict_files
    from fieldkit.field.answers.arrivals import watch as watch
    from fieldkit.field.compression.compression import compress as compress
    from fieldkit.field.endurance.conditions import Conditions as Conditions
    from fieldkit.field.engine.providers import use_provider as use_provider
    from fieldkit.field.engine.training import Trained as Trained
    from fieldkit.field.engine.training import Trainer as Trainer
    from fieldkit.field.engine.training import train as train
    from fieldkit.field.images.finding import find_images as find_images
    from fieldkit.field.images.imagery import read_image as read_image
    from fieldkit.field.inspection.inspecting import inspect_bundle as inspect_bundle
    from fieldkit.field.learning.continual import export_state as export_state
    from fieldkit.field.learning.continual import first_state as first_state
    from fieldkit.field.learning.continual import learn as learn
    from fieldkit.field.learning.continual import report_state as report_state
    from fieldkit.field.learning.state import read_state as read_state
    from fieldkit.field.learning.state import write_state as write_state
    from fieldkit.field.measurement.benchmark import bench as bench
    from fieldkit.field.measurement.diagnosis import diagnose as diagnose
    from fieldkit.field.measurement.ranking import Limits as Limits
    from fieldkit.field.models.confidence import calibrate as calibrate
    from fieldkit.field.models.exporting import export as export
    from fieldkit.field.models.exporting import save_model as save_model
    from fieldkit.field.models.prediction import Predictor as Predictor
    from fieldkit.field.models.production import Order as Order
    from fieldkit.field.models.production import train_model as train_model
    from fieldkit.field.models.reopening import reopen as reopen
    from fieldkit.field.selection.selection import Choice as Choice
    from fieldkit.field.selection.selection import select as select
    from fieldkit.field.trust.admission import open_bundle as open_bundle
    from fieldkit.field.trust.policy import TrustStore as TrustStore
    from fieldkit.field.trust.sealing import decrypt_bundle as decrypt_bundle
    from fieldkit.field.trust.sealing import encrypt_bundle as encrypt_bundle
    from fieldkit.field.trust.sealing import sign_bundle as sign_bundle
    from fieldkit.field.trust.updating import diff_bundles as diff_bundles
    from fieldkit.field.trust.updating import patch_bundle as patch_bundle
    from fieldkit.field.trust.verification import verify_bundle as verify_bundle

__version__ = "0.1.0"

_HOMES = {
    "AdaptRequest": "fieldkit.field.adaptation.command",
    "Adaptation": "fieldkit.field.adaptation.labelled",
    "Asking": "fieldkit.field.answers.answers",
    "Bundle": "fieldkit.bundle.contents",
    "Choice": "fieldkit.field.selection.selection",
    "Conditions": "fieldkit.field.endurance.conditions",
    "FieldkitError": "fieldkit.errors",
    "Limits": "fieldkit.field.measurement.ranking",
    "Order": "fieldkit.field.models.production",
    "Predictor": "fieldkit.field.models.prediction",
    "PrivateKey": "fieldkit.bundle.keys",
    "PublicKey": "fieldkit.bundle.keys",
    "Samples": "fieldkit.bundle.samples",
    "Trained": "fieldkit.field.engine.training",
    "Trainer": "fieldkit.field.engine.training",
    "TrustStore": "fieldkit.field.trust.policy",
    "UnlabelledAdaptation": "fieldkit.field.adaptation.unlabelled",
    "adapt": "fieldkit.field.adaptation.labelled",
    "adapt_file": "fieldkit.field.adaptation.command",
    "adapt_unlabelled": "fieldkit.field.adaptation.unlabelled",
    "bench": "fieldkit.field.measurement.benchmark",
    "calibrate": "fieldkit.field.models.confidence",
    "compress": "fieldkit.field.compression.compression",
    "decrypt_bundle": "fieldkit.field.trust.sealing",
    "diagnose": "fieldkit.field.measurement.diagnosis",
    "diff_bundles": "fieldkit.field.trust.updating",
    "encrypt_bundle": "fieldkit.field.trust.sealing",
    "export": "fieldkit.field.models.exporting",
    "export_state": "fieldkit.field.learning.continual",
    "find_images": "fieldkit.field.images.finding",
    "first_state": "fieldkit.field.learning.continual",
    "inspect_bundle": "fieldkit.field.inspection.inspecting",
    "learn": "fieldkit.field.learning.continual",
    "open_bundle": "fieldkit.field.trust.admission",
    "parse_bundle": "fieldkit.bundle.reader",
    "patch_bundle": "fieldkit.field.trust.updating",
    "predict_files": "fieldkit.field.answers.answers",
    "read_bundle": "fieldkit.bundle.reader",
    "read_image": "fieldkit.field.images.imagery",
    "read_private_key": "fieldkit.bundle.keys",
    "read_public_key": "fieldkit.bundle.keys",
    "read_state": "fieldkit.field.learning.state",
    "reopen": "fieldkit.field.models.reopening",
    "report_state": "fieldkit.field.learning.continual",
    "save_model": "fieldkit.field.models.exporting",
    "select": "fieldkit.field.selection.selection",
    "sign_bundle": "fieldkit.field.trust.sealing",
    "train": "fieldkit.field.engine.training",
    "train_model": "fieldkit.field.models.production",
    "use_provider": "fieldkit.field.engine.providers",
    "verify_bundle": "fieldkit.field.trust.verification",
    "watch": "fieldkit.field.answers.arrivals",
    "write_key_pair": "fieldkit.bundle.keys",
    "write_state": "fieldkit.field.learning.state",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
