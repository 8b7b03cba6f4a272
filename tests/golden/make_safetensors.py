#!/usr/bin/env python3
"""Writes tests/golden/safetensors/python.safetensors with the reference implementation (PyPI: safetensors 0.8.0, numpy).

    python3 tests/golden/make_safetensors.py

A development tool: the tests read the committed file.
"""
import pathlib

import numpy
from safetensors.numpy import save_file


def values(shape, dtype):
    """As numpy_values in tests/support/npy_files.h."""
    i = numpy.arange(int(numpy.prod(shape, dtype=numpy.int64)))
    if dtype == numpy.bool_:
        flat = i % 3 == 0
    elif dtype == numpy.uint8:
        flat = 37 * i % 256
    elif numpy.issubdtype(dtype, numpy.floating):
        flat = (i - 3) / 4
    else:
        flat = 3 * i - 4
    return numpy.array(flat.astype(dtype).reshape(shape))


folder = pathlib.Path(__file__).parent / "safetensors"
tensors = {
    "z.f64": values((2,), numpy.float64),
    "b.weight": values((3, 4), numpy.float32),
    "half": values((5,), numpy.float16),
    "ids": values((2, 3), numpy.int64),
    "places": values((3,), numpy.int32),
    "bytes": values((4,), numpy.uint8),
    "mask": values((7,), numpy.bool_),
    "scalar": values((), numpy.float32),
    "empty": values((0, 3), numpy.float32),
    "größe": values((1,), numpy.float32),
}
save_file(tensors, folder / "python.safetensors", {"format": "np"})
