"""Makes the bundles that the repository ships, from the data in FIELDKIT_DATA.

    python tools/make_bundles.py [mnist-1 mnist-10 mstar-10 cifar10-10 aid10-10] [--output bundles] [--resume]

Each is one ``fieldkit build`` command, printed before it runs.  Where the number of iterations is fixed, the same
versions on the same kind of machine make the same file; Ctrl-C keeps what was reached and --resume goes on.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

DATA = Path(os.environ.get("FIELDKIT_DATA", "../shared/data"))

# name: (data file, options of fieldkit build)
BUNDLES = {
    "mnist-1": (
        "mnist.h5",
        "--ipc 1 --method unrolled --init fixed --recipe convnet:width=32 --steps 20 --levels 64 "
        "--iterations 5000 --probe 200 --threads 1",
    ),
    "mnist-10": (
        "mnist.h5",
        "--ipc 10 --method ridge --init random --recipe convnet:width=64 --iterations 3000 --probe 200 --threads 1",
    ),
    "mstar-10": (
        "mstar.h5",
        "--ipc 10 --method ridge --init random --recipe convnet:width=32,depth=4 --steps 200 --minutes 22 "
        "--precision bfloat16 --threads 1",
    ),
    "cifar10-10": (
        "cifar10.h5",
        "--ipc 10 --formation 2 --method ridge --recipe convnet:width=64 --minutes 24 --precision bfloat16 --levels 32 "
        "--augment flip=true --whiten 5 --threads 1",
    ),
    "aid10-10": (
        "aid10",
        "--ipc 10 --method ridge --recipe convnet:width=32,depth=4 --steps 200 --minutes 20 --precision bfloat16 "
        "--levels 16 --augment flip=true --whiten 5 --threads 1",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(BUNDLES), metavar="NAME")
    parser.add_argument("--output", type=Path, default=Path("bundles"))
    parser.add_argument("--resume", action="store_true")
    settings = parser.parse_args()
    unknown = sorted(set(settings.names) - BUNDLES.keys())
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(BUNDLES)}")
    for name in settings.names:
        data, options = BUNDLES[name]
        command = ["fieldkit", "build", str(DATA / data), "-o", str(settings.output / f"{name}.h5"), *options.split()]
        command += ["--resume"] * settings.resume
        print(shlex.join(command), flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)


if __name__ == "__main__":
    main()
