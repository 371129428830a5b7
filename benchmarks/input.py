"""Examples per second of `data=images` beside a plain `tf.data` pipeline over the same JPEG files, measured in turn.

    python benchmarks/input.py --rounds 15
    python benchmarks/input.py --rounds 15 --grain     # and beside grain, where it is installed

The files are made first, in a folder that is deleted afterwards. All pipelines shuffle, decode and resize the same files to uint8,
in one process. In turn each delivers a window of batches while the others stand still: a window begins when the buffers of all are
full, and leaves out what its own held ready. Ratios are taken within a round. See docs/reference/benchmarks.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from modetrain.data.dataset import Data
from modetrain.data.selection import choose
from modetrain.data.sources.images import images
from modetrain.settings import DataSettings

CLASSES = 4
_HELD = 10  # batches that a pipeline may hold ready


def make_files(folder: Path, count: int) -> list[str]:
    """JPEGs of about 200 x 300 pixels in a folder for each class: smooth colours with noise, some 20 KB each."""
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = int(rng.integers(180, 220)), int(rng.integers(280, 320))
        smooth = tf.image.resize(rng.integers(0, 256, (12, 18, 3)), [height, width], "bicubic")
        image = tf.cast(tf.clip_by_value(smooth + rng.normal(0, 8, smooth.shape), 0, 255), tf.uint8)
        file = folder / f"class {number % CLASSES}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tf.io.encode_jpeg(image, quality=90).numpy())
    return sorted(map(str, folder.glob("*/*.jpg")))


def modetrain_batches(folder: Path, size: tuple[int, int], batch: int) -> Iterator[Any]:
    settings = DataSettings(name="images", batch_size=batch, image_size=size, eval_split=None)
    source = choose(images(str(folder), image_size=size), settings, where="modetrain.images")
    return Data(source, settings, seed=0).train_blocks(0, 1)


def decode(file: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    image = tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(file), channels=3), size)
    return tf.cast(tf.round(image), tf.uint8)


def tf_data_batches(files: list[str], size: tuple[int, int], batch: int) -> Iterator[Any]:
    labels = [int(Path(file).parent.name.split()[1]) for file in files]
    dataset = tf.data.Dataset.from_tensor_slices((files, labels)).shuffle(len(files), seed=0).repeat()
    dataset = dataset.map(lambda file, label: (decode(file, size), label), num_parallel_calls=tf.data.AUTOTUNE)
    return iter(dataset.batch(batch, drop_remainder=True).prefetch(2))


def grain_batches(files: list[str], size: tuple[int, int], batch: int) -> Iterator[Any]:
    import grain

    def read(file: str) -> dict[str, Any]:
        return {"image": decode(file, size).numpy(), "label": int(Path(file).parent.name.split()[1])}

    dataset = grain.MapDataset.source(files).shuffle(seed=0).repeat().map(read)
    options = grain.ReadOptions(num_threads=os.cpu_count() or 1, prefetch_buffer_size=2 * batch)
    return iter(dataset.to_iter_dataset(read_options=options).batch(batch, drop_remainder=True))


def window(batches: Iterator[Any], count: int, batch: int) -> tuple[float, float]:
    """Examples per second, and microseconds of CPU an example, once what was held ready is used up."""
    for _ in itertools.islice(batches, _HELD):
        pass
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in itertools.islice(batches, count):
        pass
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = count * batch / wall, 1e6 * cpu / (count * batch)
    while True:  # until its buffers are full again, and its threads stand still
        before = time.process_time()
        time.sleep(0.2)
        if time.process_time() - before < 0.01:
            return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=600)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 192))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=40, help="batches in one window")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--grain", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, size = make_files(folder, given.files), tuple(given.size)
        makers: dict[str, Callable[[], Iterator[Any]]] = {
            "tf.data": lambda: tf_data_batches(files, size, given.batch),
            "modetrain": lambda: modetrain_batches(folder, size, given.batch),
        }
        if given.grain:
            makers["grain"] = lambda: grain_batches(files, size, given.batch)
        running = {name: make() for name, make in makers.items()}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
        for number in range(given.rounds + 1):
            order = list(running)[number % len(running) :] + list(running)[: number % len(running)]
            for contender in order:
                measured = window(running[contender], given.batches, given.batch)
                if number:  # the first windows start threads
                    found[contender].append(measured)
        print(f"{given.files} JPEGs to {size[0]}x{size[1]}, batches of {given.batch}, {os.cpu_count()} cores")
        print(f"{'':12}{'examples/s':>12}{'of tf.data':>12}{'us of CPU':>12}{'of tf.data':>12}")
        for contender, windows in found.items():
            ratios = [own[0] / other[0] for own, other in zip(windows, found["tf.data"], strict=True)]
            costs = [own[1] / other[1] for own, other in zip(windows, found["tf.data"], strict=True)]
            rate, cost = (statistics.median(one[index] for one in windows) for index in (0, 1))
            print(
                f"{contender:12}{rate:12,.0f}{statistics.median(ratios):12.2f}{cost:12,.0f}{statistics.median(costs):12.2f}"
            )


if __name__ == "__main__":
    main()
