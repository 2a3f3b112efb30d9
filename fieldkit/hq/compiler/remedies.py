"""What to use in place of an operator that no rule compiles."""

from __future__ import annotations

from fnmatch import fnmatchcase

ORDER = "use what needs no order: amax, a maximum pooling, a mean, or a sum weighted by a softmax"
RECURRENCE = (
    "use attention (nn.MultiheadAttention) or a convolution, or write the steps with nn.Linear, sigmoid and tanh"
)
PLACES = "use torch.where with a mask, a product with a one-hot matrix, or torch.cat of the parts"
NUMBERS = "keep it a tensor: no item(), float() or if of a tensor's value; torch.where chooses between two"
COMPLEX = "hold real and imaginary parts in a tensor each; a Fourier transform is a product with sines and cosines"
FACTORS = "learn the factors themselves, or approach them with a few products (Newton's iteration)"
RANDOMS = "draw with torch.rand_like, torch.bernoulli or nn.Dropout, and in training only"
SPACE = "fold one axis into the channels or the batch, and use the layer of two axes"
WINDOWS = "use nn.Conv2d with a constant kernel of ones and zeros, or torch.cat of slices"
# By the patterns of the operators' names; the first that matches counts.
REMEDIES = {
    "*sort": ORDER,
    "topk": ORDER,
    "kthvalue": ORDER,
    "*median": ORDER,
    "*quantile": ORDER,
    "mode": ORDER,
    "lstm*": RECURRENCE,
    "gru*": RECURRENCE,
    "rnn_*": RECURRENCE,
    "*scatter*": PLACES,
    "*index_put*": PLACES,
    "index_*": PLACES,
    "gather": PLACES,
    "take*": PLACES,
    "item": NUMBERS,
    "_local_scalar_dense": NUMBERS,
    "nonzero*": NUMBERS,
    "masked_select": NUMBERS,
    "*unique*": NUMBERS,
    "fft_*": COMPLEX,
    "*complex*": COMPLEX,
    "real": COMPLEX,
    "imag": COMPLEX,
    "linalg_*": FACTORS,
    "*cholesky*": FACTORS,
    "*svd": FACTORS,
    "inverse": FACTORS,
    "rand*": RANDOMS,
    "normal*": RANDOMS,
    "multinomial": RANDOMS,
    "poisson": RANDOMS,
    "*3d*": SPACE,
    "unfold": WINDOWS,
    "im2col": WINDOWS,
    "col2im": WINDOWS,
    "*cdist*": "write the distances as sums of squares and a product of matrices",
    "cumprod": "use exp of the cumulated logarithm",
    "bilinear": "use torch.einsum",
}
OTHERWISE = "use a layer made of the operators that docs/program.md lists, or add a rule, as it says"


def remedy(name: str) -> str:
    """What a user may do about ATen operator ``name``, without its namespace and overload.

    >>> remedy("lstm") == RECURRENCE
    True
    """
    return next((words for pattern, words in REMEDIES.items() if fnmatchcase(name, pattern)), OTHERWISE)
