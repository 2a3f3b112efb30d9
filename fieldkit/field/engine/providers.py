"""Which of onnxruntime's execution providers runs the programs: the CPU's, CUDA's or TensorRT's.

A provider is the process's choice, made once, before anything is opened.
"""

from __future__ import annotations

from fieldkit.errors import ProgramError, UsageError
from fieldkit.field.engine.session import built_in_providers, open_session, providers, runtime_version, set_providers
from fieldkit.field.programs.protobuf import encode_bytes, encode_number

PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
"""onnxruntime's names of what runs a program, best first."""
AUTO = "auto"


def use_provider(name: str) -> str | None:
    """Run all programs that are opened from here on with this provider: a key of ``PROVIDERS``, or "auto".

    "auto" takes CUDA where it works, and else the CPU without a word.  Returns None, or why programs run on the CPU
    instead.  Whether a provider works shows only when it runs something, so a program of one operator is opened.
    Raises UsageError for an unknown name.
    """
    if name not in (*PROVIDERS, AUTO):
        raise UsageError("no provider", where="provider", found=name, expected=" or ".join((*PROVIDERS, AUTO)))
    wanted = PROVIDERS["cuda" if name == AUTO else name]
    set_providers(PROVIDERS["cpu"])
    if wanted[0] not in built_in_providers():
        reason = f"onnxruntime {runtime_version()} comes without it here; it has {', '.join(available_providers())}"
        return None if name == AUTO else f"provider {name}: {reason}, so programs run on the CPU"
    set_providers(wanted)
    try:
        if wanted[0] in open_session(_trial(), f"provider {name}", 1).get_providers():
            return None
        reason = "it does not start here: check the driver, CUDA and cuDNN"
    except ProgramError as error:
        reason = error.found or error.message
    set_providers(PROVIDERS["cpu"])
    return f"provider {name}: {reason}, so programs run on the CPU"


def available_providers() -> tuple[str, ...]:
    """The short names of the providers that this onnxruntime was built with."""
    there = built_in_providers()
    return tuple(name for name, needed in PROVIDERS.items() if needed[0] in there)


def chosen_provider() -> str:
    """The short name of what programs run with."""
    return next(name for name, each in PROVIDERS.items() if each == providers())


def _trial() -> bytes:
    """A program of one operator: y = -x, for one float32."""
    one = encode_bytes(2, encode_bytes(1, encode_number(1, 1)))
    value = encode_bytes(2, encode_bytes(1, encode_number(1, 1) + one))
    node = encode_bytes(1, b"x") + encode_bytes(2, b"y") + encode_bytes(4, b"Neg")
    ends = encode_bytes(11, encode_bytes(1, b"x") + value) + encode_bytes(12, encode_bytes(1, b"y") + value)
    graph = encode_bytes(1, node) + encode_bytes(2, b"trial") + ends
    return encode_number(1, 8) + encode_bytes(7, graph) + encode_bytes(8, encode_number(2, 13))
