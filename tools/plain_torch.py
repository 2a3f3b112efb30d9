"""The training of ``fieldkit train`` as a plain torch script: what bench_train.py compares with.

    python tools/plain_torch.py WORK.npz MODEL.pt

WORK holds images, labels, rates, batch, mean, std, probe images and targets, and the architecture as JSON;
bench_train.py writes it.  Same network, data, batch, steps, learning rates, optimiser and augmentation; the order of
the images is torch's.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from fieldkit.bundle.recipe import Augmentation
from fieldkit.hq.augmentation import augment
from fieldkit.hq.models import build_model


def train(work: Any) -> torch.nn.Module:
    """A trained network."""
    settings = json.loads(str(work["settings"]))
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    images, labels = torch.from_numpy(work["images"]), torch.from_numpy(work["labels"])
    images = normalise(images, work)
    architecture = settings["architecture"]
    name = architecture.pop("name")
    model = build_model(name, architecture, (images.shape[1], images.shape[2], images.shape[3]), labels.shape[1])
    changes = Augmentation.from_json(settings["augmentation"])
    if settings["optimiser"] == "sgd":
        optimiser: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    else:
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    order = torch.empty(0, dtype=torch.int64)
    for rate in work["rates"].tolist():
        batch, targets = images, labels
        if len(images) > settings["batch"]:
            if len(order) < settings["batch"]:
                order = torch.cat([order, torch.randperm(len(images))])
            chosen, order = order[: settings["batch"]], order[settings["batch"] :]
            batch, targets = images[chosen], labels[chosen]
        if changes.width:
            batch = augment(batch, torch.rand(len(batch), changes.width), changes)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(batch), targets)
        loss.backward()
        optimiser.step()
        if not np.isfinite(loss.item()):
            sys.exit("the loss is no number")
    return model


def normalise(images: torch.Tensor, work: Any) -> torch.Tensor:
    mean, std = (torch.from_numpy(work[name])[:, None, None] for name in ("mean", "std"))
    return (images.float() - mean) / std


def main() -> None:
    work = np.load(sys.argv[1])
    model = train(work)
    torch.save(model.state_dict(), sys.argv[2])
    if len(work["probe_images"]):
        with torch.no_grad():
            parts = normalise(torch.from_numpy(work["probe_images"]), work).split(32)
            guesses = torch.cat([model(part).argmax(1) for part in parts])
        right = (guesses == torch.from_numpy(work["probe_targets"])).float().mean()
        print(f"probe: {100 * right:.1f} %")


main()
