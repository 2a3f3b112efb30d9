"""scikit-learn's own handwritten digits: 1,797 real images of 8x8 with counts 0-16, on every machine of HQ's.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import numpy as np

from fieldkit.bundle.samples import Samples
from fieldkit.errors import INSTALL_HQ, UsageError
from fieldkit.field.datasets import Dataset
from fieldkit.tasks import classification

_CLASSES = tuple(str(digit) for digit in range(10))
_FOLD = 5


def load() -> Dataset:
    """The digits, uint8 [n, 1, 8, 8]; of each class every fifth sample is test.

    Raises UsageError if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # HQ's only use of scikit-learn: paid for only when asked for
    except ImportError as error:
        raise UsageError(
            "the source 'digits' needs scikit-learn, which is not installed", found=str(error), remedy=INSTALL_HQ
        ) from error
    found = load_digits()
    whole = Samples(found.images.astype(np.uint8)[:, None], found.target.astype(np.int64))
    test = np.zeros(len(whole), bool)
    for positions in classification.group(whole.targets, len(_CLASSES)):
        test[positions[_FOLD - 1 :: _FOLD]] = True
    return Dataset(
        train=whole.take(np.flatnonzero(~test)),
        test=whole.take(np.flatnonzero(test)),
        classes=_CLASSES,
        name="digits",
        licence="CC BY 4.0",
        source="UCI Optical Recognition of Handwritten Digits, as in scikit-learn",
        bands=("grey",),
    )
