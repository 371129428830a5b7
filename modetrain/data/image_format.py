"""How the files of one feature become tensors: decoded, resized, all of one shape and dtype."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from modetrain.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """The format of the images of a feature.

    Attributes:
      shape: [height, width, channels] of each image.
      dtype: uint8, or uint16 for PNGs of 16 bits.
      first: the file whose size and channels the others must have.
      convert: whether channels are converted to those of the shape.
      resize: whether images are resized to the shape.
      nearest: whether a pixel takes its nearest one as it is resized.
    """

    shape: tuple[int, int, int]
    dtype: tf.DType
    first: str
    convert: bool
    resize: bool
    nearest: bool

    @classmethod
    def find(
        cls, content: tf.Tensor, *, file: str, size: tuple[int, int] | None, channels: int | None, nearest: bool
    ) -> Format:
        """The format that the first file shows.

        Raises:
          ConfigError: it is a PNG with a palette, and its numbers are wanted.
        """
        head = bytes(content.numpy()[:26])
        if nearest and head.startswith(b"\x89PNG") and head[25] == 3:
            raise ConfigError(
                f"{file}: a PNG with a palette, of which TensorFlow reads the colours and not the numbers. Save the numbers, "
                "as gray, for example with PIL.Image.fromarray(numpy.asarray(PIL.Image.open(file))).save(file)."
            )
        dtype = tf.uint16 if _has_16_bits(head) else tf.uint8
        height, width, found = tf.io.decode_image(content, channels or 0, dtype, expand_animations=False).shape
        return cls(
            shape=(*(size or (height, width)), found),
            dtype=dtype,
            first=file,
            convert=channels is not None,
            resize=size is not None,
            nearest=nearest,
        )

    def check(self, content: tf.Tensor, file: str) -> None:
        """Raises ConfigError if a file can be read, but differs from the first one in channels, bits or size."""
        shape = tuple(self._pixels(content).shape)
        bits, usual = (16 if found else 8 for found in (_has_16_bits(content.numpy()[:26]), self.dtype == tf.uint16))
        if shape[2] != self.shape[2]:
            raise ConfigError(
                f"{file} has {shape[2]} channels and {self.first} has {self.shape[2]}. Type data.channels=3 for colours in all of "
                "them, or data.channels=1 for gray."
            )
        if bits != usual:
            raise ConfigError(f"{file} has {bits} bits a channel and {self.first} has {usual}. Save all of them alike.")
        if shape != self.shape and not self.resize:
            size = "[{},{}]".format(*self.shape[:2])
            raise ConfigError(
                f"images differ in size: {file} is {shape[0]}x{shape[1]} and {self.first} is {self.shape[0]}x{self.shape[1]}. Type "
                f"'data.image_size={size}', or another height and width, to resize all of them."
            )

    def decode(self, content: Any) -> tf.Tensor:
        """The image of a file's content."""
        if not self.resize:
            return tf.ensure_shape(self._pixels(content), self.shape)
        if self.nearest or self.dtype != tf.uint8:
            pixels = self._pixels(content)
        else:
            pixels = tf.cond(tf.io.is_jpeg(content), lambda: self._reduced(content), lambda: self._pixels(content))
        return tf.ensure_shape(self._resized(pixels), self.shape)

    @property
    def _channels(self) -> int:
        return self.shape[2] if self.convert else 0

    def _pixels(self, content: Any) -> tf.Tensor:
        pixels = tf.io.decode_image(content, self._channels, self.dtype, expand_animations=False)
        return tf.ensure_shape(pixels, [None, None, None])

    def _reduced(self, content: Any) -> tf.Tensor:
        """The pixels of a JPEG, decoded at a half, a quarter or an eighth of its size where that is enough: it is faster."""
        sides = tf.io.extract_jpeg_shape(content)[:2] // tf.constant(self.shape[:2])
        halvings = tf.reduce_sum(tf.cast(tf.reduce_min(sides) >= tf.constant([2, 4, 8]), tf.int32))
        decoders = [
            lambda ratio=ratio: tf.io.decode_jpeg(content, self._channels, ratio=ratio) for ratio in (1, 2, 4, 8)
        ]
        return tf.ensure_shape(tf.switch_case(halvings, decoders), [None, None, None])

    def _resized(self, pixels: tf.Tensor) -> tf.Tensor:
        size = tf.constant(self.shape[:2])
        images = pixels[tf.newaxis]
        if self.nearest:
            return tf.raw_ops.ResizeNearestNeighbor(images=images, size=size, half_pixel_centers=True)[0]
        # Between two pixels nothing is left out until a side shrinks to less than half.
        small = tf.reduce_any(tf.shape(pixels)[:2] > 2 * size)
        values = tf.cond(
            small,
            lambda: tf.raw_ops.ResizeArea(images=images, size=size),
            lambda: tf.raw_ops.ResizeBilinear(images=images, size=size, half_pixel_centers=True),
        )
        return tf.cast(tf.round(values[0]), self.dtype)


def _has_16_bits(head: bytes) -> bool:
    return head.startswith(b"\x89PNG") and head[24] == 16
