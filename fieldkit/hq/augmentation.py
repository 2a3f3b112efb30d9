"""Random changes to normalised images, differentiable in the images.

One definition for both uses: distillation calls it on its synthetic and real images (Zhao & Bilen 2021, "siamese"
augmentation), and the compiler traces it into the train program, where the device feeds the uniforms.

One affine warp does shift, scale, rotation and mirroring.  Pixels from outside repeat the image's border: no edge
appears that was not in the image, whatever count stands for "nothing" in a band.  Brightness, contrast and cutout act
on normalised pixels; an erased square takes the value 0, which is the band's mean.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from fieldkit.bundle.recipe import Augmentation
from fieldkit.errors import UsageError


def augment(images: torch.Tensor, aug: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    """Change each image by its own row of uniforms.

    images: float32 [b, c, h, w], normalised.  aug: float32 [b, augmentation.width], uniforms in [0, 1), whose columns
    are, each only where its strength is above 0: shift_y, shift_x, scale, rotate, flip, brightness, contrast,
    cutout_y, cutout_x.  To give all images of a batch the same change, repeat one row.
    """
    if aug.shape != (images.shape[0], augmentation.width):
        raise UsageError(
            "augmentation needs one row of uniforms per image",
            where="aug",
            found=tuple(aug.shape),
            expected=(images.shape[0], augmentation.width),
        )
    columns = _columns(aug, augmentation)
    images = _warp(images, columns, augmentation)
    if "brightness" in columns:
        images = images + _centred(columns["brightness"]) * augmentation.brightness
    if "contrast" in columns:
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = mean + (images - mean) * (1.0 + _centred(columns["contrast"]) * augmentation.contrast)
    if "cutout_y" in columns:
        images = images * _kept(images, columns["cutout_y"], columns["cutout_x"], augmentation.cutout)
    return images


def column_names(augmentation: Augmentation) -> tuple[str, ...]:
    """What each column of ``aug`` drives, in order."""
    strengths = (
        ("shift_y", augmentation.shift),
        ("shift_x", augmentation.shift),
        ("scale", augmentation.scale),
        ("rotate", augmentation.rotate),
        ("flip", augmentation.flip),
        ("brightness", augmentation.brightness),
        ("contrast", augmentation.contrast),
        ("cutout_y", augmentation.cutout),
        ("cutout_x", augmentation.cutout),
    )
    return tuple(name for name, strength in strengths if strength > 0)


def _columns(aug: torch.Tensor, augmentation: Augmentation) -> dict[str, torch.Tensor]:
    """Each column as [b, 1, 1, 1], so that it multiplies a batch of images."""
    names = column_names(augmentation)
    return {name: aug[:, index : index + 1, None, None] for index, name in enumerate(names)}


def _centred(uniform: torch.Tensor) -> torch.Tensor:
    return uniform * 2.0 - 1.0


def _warp(images: torch.Tensor, columns: dict[str, torch.Tensor], augmentation: Augmentation) -> torch.Tensor:
    """Shift, scale, rotate and mirror by one bilinear resampling."""
    if not columns.keys() & {"shift_y", "scale", "rotate", "flip"}:
        return images
    height, width = images.shape[2:]
    # Centres of the pixels in grid_sample's coordinates: -1 and 1 are the outer edges of the image.
    x = ((torch.arange(width, device=images.device) * 2 + 1) / width - 1.0).reshape(1, 1, width)
    y = ((torch.arange(height, device=images.device) * 2 + 1) / height - 1.0).reshape(1, height, 1)
    if "shift_y" in columns:
        y = y + _centred(columns["shift_y"][:, 0]) * (2.0 * augmentation.shift)
        x = x + _centred(columns["shift_x"][:, 0]) * (2.0 * augmentation.shift)
    if "scale" in columns:
        zoom = torch.exp(_centred(columns["scale"][:, 0]) * -math.log1p(augmentation.scale))
        x, y = x * zoom, y * zoom
    if "rotate" in columns:
        angle = _centred(columns["rotate"][:, 0]) * math.radians(augmentation.rotate)
        cosine, sine = torch.cos(angle), torch.sin(angle)
        # The grid's units differ between the axes of an oblong image; a rotation must not shear it.
        x, y = x * cosine - y * (sine * (height / width)), x * (sine * (width / height)) + y * cosine
    if "flip" in columns:
        x = x * torch.where(columns["flip"][:, 0] < 0.5, -1.0, 1.0)
    shape = (images.shape[0], height, width)
    grid = torch.stack((x.expand(shape), y.expand(shape)), dim=3)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _kept(images: torch.Tensor, v: torch.Tensor, u: torch.Tensor, side: float) -> torch.Tensor:
    """1 outside and 0 inside a box of ``side`` times the image's sides, around a centre anywhere in the image."""
    height, width = images.shape[2:]
    rows = ((torch.arange(height, device=images.device) + 0.5) / height).reshape(1, 1, height, 1)
    columns = ((torch.arange(width, device=images.device) + 0.5) / width).reshape(1, 1, 1, width)
    inside = ((rows - v).abs() < side / 2) & ((columns - u).abs() < side / 2)
    return torch.where(inside, 0.0, 1.0)
