"""How long a device takes to decide whether it trusts a bundle: seal, SHA-256, signatures, policy and serial.

    python tools/bench_verify.py --bytes 1000000 --signatures 2

The payload is noise, since nothing parses it.  Prints the median and the spread of ``rounds`` calls of
``field.trust.verification.verified`` on bytes in memory, the time of SHA-256 alone, and that of decryption for
comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable

from fieldkit.bundle.encryption import encrypt
from fieldkit.bundle.keys import PrivateKey
from fieldkit.bundle.seal import seal, sign
from fieldkit.field.trust.policy import TrustStore
from fieldkit.field.trust.verification import verified


def measured(call: Callable[[], object], rounds: int) -> str:
    """Median, fastest and slowest of ``rounds`` calls, in milliseconds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    return f"median {statistics.median(times):.2f} ms, {min(times):.2f} to {max(times):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--signatures", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=50)
    chosen = parser.parse_args()
    keys = [PrivateKey.generate(f"key{index}") for index in range(chosen.signatures)]
    payload = os.urandom(chosen.bytes - 4096)
    data = plain = seal("noise", payload) + payload
    closed = encrypt(plain, [keys[0].public()], "noise")
    for key in keys:
        data, closed = sign(data, key, "noise"), sign(closed, key, "noise")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CONFIG_HOME"] = folder
        store = TrustStore()
        for key in keys:
            store.add(key.public())
        store.require(chosen.signatures)
        store.serials.record("noise", 0, hashlib.sha256(payload).hexdigest())
        path = store.store.folder / "key0.key"
        path.touch(mode=0o600)
        path.write_bytes(keys[0].encode())
        verified(data, "noise")
        print(f"{len(data):,} bytes, {chosen.signatures} signatures required, {chosen.rounds} rounds")
        print(f"verified: {measured(lambda: verified(data, 'noise'), chosen.rounds)}")
        print(f"SHA-256 alone: {measured(lambda: hashlib.sha256(payload).hexdigest(), chosen.rounds)}")
        print(f"verified and decrypted: {measured(lambda: verified(closed, 'noise', key=path), chosen.rounds)}")


if __name__ == "__main__":
    main()
