"""The features of a `tf.train.Example`, as people write them.

    image                    a JPEG, PNG, GIF, BMP or WebP file
    raw uint8[28,28,1]       the bytes of numbers
    int64, float32, string   one value
    int64[], float32[?,4]    any number of values, any number of rows of 4
    float32[3]               three values

Examples store whole numbers as int64 and others as float32: another dtype (int32, bool, float16) is converted to.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from modetrain.errors import ConfigError, did_you_mean

_WHOLE = ("int64", "int32", "int16", "int8", "uint8", "uint16", "bool")
_FLOATS = ("float32", "float64", "float16", "bfloat16")
_WRITTEN = re.compile(r"(?P<raw>raw )?(?P<dtype>\w+)(\[(?P<sides>[\d?, ]*)\])?")
_EXPECTED = "image, int64, float32, string, 'int64[]', 'float32[?,4]' or 'raw uint8[28,28,1]'"
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_STORED = {"int64_list": "int64", "float_list": "float32", "bytes_list": "string"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feature:
    """How a feature is stored, and what becomes of it.

    Attributes:
      dtype: of the values in a batch; of an image that of its pixels is found later.
      shape: of an example; only the first dimension may be None.
      form: `values`, `raw` or `image`.
    """

    dtype: tf.DType
    shape: tuple[int | None, ...] = ()
    form: str = "values"

    @classmethod
    def parse(cls, written: Any, name: str) -> Feature:
        """A feature as people write it.

        Raises:
          ConfigError: it cannot be read.
        """
        match = _WRITTEN.fullmatch(str(written).strip())
        kind = match["dtype"] if match else ""
        if match and kind == "image" and not match["raw"] and match["sides"] is None:
            return cls(dtype=tf.string, form="image")
        known = (*_WHOLE, *_FLOATS, *(() if match and match["raw"] else ("string",)))
        sides = [side.strip() for side in match["sides"].split(",")] if match and match["sides"] is not None else []
        shape = tuple(None if side in ("", "?") else int(side) for side in sides if side.count("?") < 2)
        if kind not in known or None in shape[1:] or (match and match["raw"] and None in shape) or 0 in shape:
            raise ConfigError(
                f"data.features: `{name}` is {written!r}; expected is {_EXPECTED}, where only the first size may be open."
                f"{did_you_mean(kind, ('image', *known))}"
            )
        return cls(dtype=tf.as_dtype(kind), shape=shape, form="raw" if match and match["raw"] else "values")

    @property
    def stored(self) -> tf.DType:
        """The dtype in the file."""
        if self.form != "values" or self.dtype == tf.string:
            return tf.string
        return tf.float32 if self.dtype.is_floating else tf.int64

    @property
    def spec(self) -> Any:
        """The feature for `tf.io.parse_single_example`."""
        if self.form != "values":
            return tf.io.FixedLenFeature((), tf.string)
        if None in self.shape:
            return tf.io.FixedLenSequenceFeature(self.shape[1:], self.stored, allow_missing=True)
        return tf.io.FixedLenFeature(self.shape, self.stored)

    @property
    def batch_spec(self) -> Any:
        """The feature for `tf.io.parse_example`."""
        return tf.io.RaggedFeature(self.stored) if None in self.shape else self.spec

    def of_batch(self, value: tf.Tensor | tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """A parsed batch padded with zeros, and the sizes of what varies; an image stays the bytes of its file."""
        if self.form == "raw":
            raw = tf.io.decode_raw(value, self.dtype)
            return tf.reshape(raw, [tf.shape(value)[0], *self.shape]), None
        lengths = None
        if None in self.shape:
            values = value.row_lengths()
            width = math.prod(side for side in self.shape[1:] if side)
            whole = tf.debugging.Assert(tf.reduce_all(values % width == 0), ["no whole rows"])
            with tf.control_dependencies([whole]):
                lengths = tf.cast(values // width, tf.int32)
            sizes = [tf.shape(lengths)[0], tf.reduce_max(tf.concat([[0], lengths], 0)), *self.shape[1:]]
            value = tf.reshape(value.to_tensor(), sizes)
        return (value if self.dtype == value.dtype else tf.cast(value, self.dtype)), lengths

    def convert(self, value: tf.Tensor) -> tf.Tensor:
        """A parsed value as it is in a batch; an image stays the bytes of its file."""
        if self.form == "raw":
            return tf.reshape(tf.io.decode_raw(value, self.dtype), self.shape)
        return value if self.dtype == value.dtype else tf.cast(value, self.dtype)

    def __str__(self) -> str:
        if self.form == "image":
            return "image"
        sides = ",".join("?" if side is None else str(side) for side in self.shape)
        return f"{'raw ' if self.form == 'raw' else ''}{self.dtype.name}" + (
            f"[{'' if sides == '?' else sides}]" if self.shape else ""
        )


def find(contents: Sequence[bytes], where: str) -> dict[str, Feature]:
    """The features that some records have: a number of values that differs is any number; a JPEG or PNG file is an image.

    Raises:
      ConfigError: they are no `tf.train.Example`, or differ in the type of a feature.
    """
    found: dict[str, Feature] = {}
    sizes: dict[str, set[int]] = {}
    examples = _examples(contents, where)
    for example in examples:
        for name, (stored, values) in example.items():
            sizes.setdefault(name, set()).add(len(values))
            is_image = stored == "string" and len(values) == 1 and values[0].startswith(_IMAGES)
            feature = Feature(dtype=tf.as_dtype(stored), form="image" if is_image else "values")
            if found.setdefault(name, feature).dtype != feature.dtype:
                raise ConfigError(
                    f"{where}: `{name}` is {found[name]} in one record and {feature} in another. Write it alike in all."
                )
    for name, count in sizes.items():
        always = sum(name in example for example in examples) == len(examples)
        if count == {1} and always:
            continue
        shape = (next(iter(count)),) if len(count) == 1 and always else (None,)
        found[name] = dataclasses.replace(found[name], shape=shape, form="values")
    return dict(sorted(found.items()))


def check(features: Mapping[str, Feature], contents: Sequence[bytes], where: str) -> None:
    """Raises ConfigError if the records have no such feature, or have it with another type."""
    examples = _examples(contents, where)
    held = {name: stored for example in examples for name, (stored, _) in example.items()}
    has = ", ".join(f"{name} ({stored})" for name, stored in sorted(held.items())) or "no feature"
    for name, feature in features.items():
        if name not in held:
            raise ConfigError(
                f"data.features: {where} has no feature `{name}`; its first records have {has}.{did_you_mean(name, held)}"
            )
        if held[name] != feature.stored.name:
            raise ConfigError(
                f"data.features: `{name}` is given as {feature}, which is stored as {feature.stored.name}, and {where} has it as "
                f"{held[name]}. Its first records have {has}."
            )


def _examples(contents: Sequence[bytes], where: str) -> list[dict[str, tuple[str, Any]]]:
    """By record and feature the type and the values; a feature without values is left out.

    A damaged record among others is left out too: it is named when it is read.
    """
    found, damage = [], ""
    for content in contents:
        try:
            held = tf.train.Example.FromString(content).features.feature
        except Exception as error:  # protobuf's DecodeError; its module differs between versions
            damage = str(error)
            continue
        kinds = {name: feature.WhichOneof("kind") for name, feature in held.items()}
        found.append({n: (_STORED[k], list(getattr(held[n], k).value)) for n, k in kinds.items() if k})
    if not found:
        raise ConfigError(f"{where}: its first records are no tf.train.Example ({damage}). Write them again.")
    return found
