#!/usr/bin/env python3
"""Writes the folder numpy/ beside this file: arrays as NumPy saves them, for tests/npy_test.cpp and tests/npz_test.cpp.

    python3 tests/golden/make_numpy.py          (needs NumPy, as in Debian's python3-numpy)

Element i (in C order) is (i - 3) / 4 for floats, 3 i - 4 for integers, 37 i mod 256 for u8, i mod 3 == 0 for bool.
"""
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "numpy"


def values(shape, dtype):
    i = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
    if dtype == "b1":
        return i % 3 == 0
    if dtype == "u1":
        return (37 * i % 256).astype("u1")
    return ((i - 3) / 4 if dtype[0] == "f" else 3 * i - 4).astype("<" + dtype)


def save(name, array, version=(1, 0)):
    with open(FOLDER / name, "wb") as file:
        np.lib.format.write_array(file, array, version=version, allow_pickle=False)


FOLDER.mkdir(exist_ok=True)
for dtype in ("f2", "f4", "f8", "i4", "i8", "u1", "b1"):
    save(f"{dtype}.npy", values((2, 3), dtype))
save("scalar.npy", values((), "f4"))
save("empty.npy", values((0,), "f4"))
save("empty_matrix.npy", values((3, 0, 2), "i8"))
save("vector.npy", values((3,), "f8"))
save("odd.npy", values((3, 5, 7), "f4"))
save("version2.npy", values((2, 3), "f4"), (2, 0))
save("version3.npy", values((2, 3), "f4"), (3, 0))
save("fortran.npy", np.asfortranarray(values((2, 3, 4), "i4")))
save("big_endian.npy", values((2, 3), "f4").astype(">f4"))
save("records.npy", np.zeros(2, dtype=[("a", "<f4"), ("b", "<i4")]))
save("text.npy", np.array(["ab", "c"]))
ARRAYS = {"weight": values((4, 3), "f4"), "block/bias": values((5,), "f8"), "count": values((), "i8"),
          "mask": values((2, 3), "b1"), "fortran": np.asfortranarray(values((2, 3), "f2")), "none": values((0, 2), "i4")}
np.savez(FOLDER / "stored.npz", **ARRAYS)
np.savez_compressed(FOLDER / "deflated.npz", zeros=np.zeros(5000, "<f4"), **ARRAYS)
