"""Flip single bits of a signed bundle and count what a device that trusts the signer makes of each.

    python tools/flip_bits.py bundles/mstar-10.h5 --flips 20000
    python tools/flip_bits.py set.h5 --all

The bundle is signed in memory by a new key, and by another that the device does not know.  Every changed copy goes
through the door that all commands use (``field.trust.admission.admit``).  Prints how many were refused, by which
errors, and how many reached HDF5: expected are none, and exit code 0.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fieldkit.bundle import hdf5
from fieldkit.bundle.keys import PrivateKey
from fieldkit.bundle.seal import sign
from fieldkit.errors import FieldkitError
from fieldkit.field.trust.admission import admit
from fieldkit.field.trust.policy import TrustStore


class ReachedError(Exception):
    """HDF5 was about to parse bytes that nobody signed."""


def places(bits: int, chosen: argparse.Namespace) -> Iterator[int]:
    """Which bits to flip: all, or ``flips`` drawn by ``seed``."""
    draw = random.Random(chosen.seed)
    return iter(range(bits)) if chosen.all else (draw.randrange(bits) for _ in range(chosen.flips))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--flips", type=int, default=20000)
    parser.add_argument("--all", action="store_true", help="flip every bit instead")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    signer, stranger = PrivateKey.generate("signer"), PrivateKey.generate("stranger")
    data = bytearray(sign(sign(chosen.bundle.read_bytes(), signer, "bundle"), stranger, "bundle"))
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CONFIG_HOME"] = folder
        TrustStore().add(signer.public())
        admit(bytes(data), "whole")

        def unpack(data: bytes, where: object) -> None:
            raise ReachedError

        hdf5.unpack = unpack
        began = time.monotonic()
        for place in places(8 * len(data), chosen):
            data[place // 8] ^= 1 << place % 8
            try:
                admit(bytes(data), "flipped")
                outcomes["accepted"] += 1
            except ReachedError:
                outcomes["reached HDF5"] += 1
            except FieldkitError as error:
                outcomes[f"refused: {type(error).__name__}: {error.message}"] += 1
            data[place // 8] ^= 1 << place % 8
    print(f"{chosen.bundle}: {len(data):,} bytes, {sum(outcomes.values()):,} flips, {time.monotonic() - began:.0f} s")
    for outcome, count in outcomes.most_common():
        print(f"{count:>9,}  {outcome}")
    return 1 if outcomes["accepted"] or outcomes["reached HDF5"] else 0


if __name__ == "__main__":
    sys.exit(main())
