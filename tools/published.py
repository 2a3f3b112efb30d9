"""What papers report for sets of so many images per class, each from its own table; ConvNets of width 128."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DISTILLED, WHOLE = "distilled", "whole set"

PAPERS = {
    "coresets": "as measured by DC's authors",
    "DC": "Zhao, Mopuri & Bilen, ICLR 2021, arXiv 2006.05929, table 1",
    "DSA": "Zhao & Bilen, ICML 2021, arXiv 2102.08259, table 1",
    "DM": "Zhao & Bilen, WACV 2023, arXiv 2110.04181, table 1",
    "MTT": "Cazenavette et al., CVPR 2022, arXiv 2203.11932, table 1",
    "FRePo": "Zhou, Nezhadarya & Ba, NeurIPS 2022, arXiv 2206.00719, table 1",
    "RCIG": "Loo et al., ICML 2023, arXiv 2302.06755, table 1",
    "RaT-BPTT": "Feng, Vedantam & Kempe, ICLR 2024, arXiv 2311.07025, table 1",
}
# (data set, images per class): accuracy in per cent, by what it is compared with.
PUBLISHED: Mapping[tuple[str, int], Mapping[str, Any]] = {
    ("mnist", 1): {
        "random": 64.9,
        "herding": 89.2,
        "kcenter": 89.3,
        DISTILLED: {"DC": 91.7, "DSA": 88.7, "DM": 89.7, "FRePo": 93.0, "RCIG": 94.7},
        WHOLE: 99.6,
    },
    ("mnist", 10): {
        "random": 95.1,
        "herding": 93.7,
        "kcenter": 84.4,
        DISTILLED: {"DC": 97.4, "DSA": 97.8, "DM": 97.5, "FRePo": 98.6, "RCIG": 98.9},
        WHOLE: 99.6,
    },
    ("mnist", 50): {
        "random": 97.9,
        "herding": 94.8,
        "kcenter": 97.4,
        DISTILLED: {"DC": 98.8, "DSA": 99.2, "DM": 98.6, "FRePo": 99.2, "RCIG": 99.2},
        WHOLE: 99.6,
    },
    ("cifar10", 1): {
        "random": 14.4,
        "herding": 21.5,
        "kcenter": 21.5,
        DISTILLED: {"DC": 28.3, "DSA": 28.8, "DM": 26.0, "MTT": 46.3, "FRePo": 46.8, "RCIG": 53.9, "RaT-BPTT": 53.2},
        WHOLE: 84.8,
    },
    ("cifar10", 10): {
        "random": 26.0,
        "herding": 31.6,
        "kcenter": 14.7,
        DISTILLED: {"DC": 44.9, "DSA": 52.1, "DM": 48.9, "MTT": 65.3, "FRePo": 65.5, "RCIG": 69.1, "RaT-BPTT": 69.4},
        WHOLE: 84.8,
    },
    ("cifar10", 50): {
        "random": 43.4,
        "herding": 40.4,
        "kcenter": 27.0,
        DISTILLED: {"DC": 53.9, "DSA": 60.6, "DM": 63.0, "MTT": 71.6, "FRePo": 71.7, "RCIG": 73.5, "RaT-BPTT": 75.3},
        WHOLE: 84.8,
    },
}


def published(data: str, ipc: int, name: str) -> str:
    """What papers report for a row: at equal count, not at equal bytes."""
    figures = PUBLISHED.get((data, ipc), {})
    kind = name.partition(",")[0].partition(" (")[0]
    if kind not in figures or "bytes" in name:
        return ""
    found = figures[kind]
    return ", ".join(f"{each} {value}" for each, value in found.items()) if isinstance(found, dict) else str(found)
