"""The images of a batch in one operation, which calls one small function for each of them.

One by one, as elements of a dataset of their own, images cost about 0.1 ms each beside decoding: dozens of small
operations, and copies between stages. Here whatever can be known of a batch, or of the set, is known before, each
function is a chain of a few operations that one thread follows to its end, and its image is copied into the batch while
it is in the processor's cache. The pixels are the same, bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import tensorflow as tf

from conf.schema import AugmentSpec, Encoding
from data_pipeline.augment import changes_pixels
from data_pipeline.augment.columns import FLIP
from data_pipeline.images import SHRINKS_WELL, Stored, StoredPixels, decode, decode_crop, image_of, resize
from data_pipeline.manifest import ImageSizes

_JPEG = b"\xff\xd8\xff"

Parts = dict[str, tf.Tensor]


def can_be_at_once(augment: AugmentSpec) -> bool:
    """Whether nothing but windows and mirrors is asked for: what else there is costs so much that little is gained."""
    return not (augment.pad_crop or changes_pixels(augment))


@dataclass(frozen=True)
class BatchImages:
    """Makes the images of a batch, float32 [n, side, side, channels], out of what is stored of them.

    `sizes` are those of the whole set: they say what need not be asked of each image.
    """

    encoding: Encoding
    sizes: ImageSizes
    channels: int
    side: int

    def __call__(self, stored: Stored | StoredPixels, windows: tf.Tensor | None, draws: tf.Tensor | None) -> tf.Tensor:
        """The images, of `windows` [n, 4] or whole, and mirrored as `draws` say, if they are given."""
        if isinstance(stored, StoredPixels):
            return self._of_pixels(stored, windows, draws)
        parts = self._asked(stored, windows, draws) | {"encoded": stored.encoded}
        if windows is not None:
            parts["window"] = windows
        if self.encoding is Encoding.pixels:
            parts |= {"height": stored.height, "width": stored.width, "has_pixels": stored.has_pixels}
            return self._each(parts, self._any)
        if windows is None:
            return self._each(parts, self._of_file)
        are_jpegs = tf.reduce_all(tf.strings.substr(stored.encoded, 0, len(_JPEG)) == _JPEG)
        return tf.cond(are_jpegs, partial(self._each, parts, self._of_jpeg), partial(self._each, parts, self._any))

    def _of_pixels(self, stored: StoredPixels, windows: tf.Tensor | None, draws: tf.Tensor | None) -> tf.Tensor:
        """Those of pixels that are in one array."""
        parts, row, zeros = self._asked(stored, windows, draws), stored.width * self.channels, 0 * stored.width
        begin, height = stored.begin, stored.height
        if windows is not None:
            y, x, height, width = tf.unstack(tf.cast(windows, tf.int64), axis=1)
            begin += y * row
            parts["left"] = tf.stack([zeros, x, zeros], 1)
            parts["extent"] = tf.stack([height, width, zeros + self.channels], 1)
        parts["begin"], parts["num_bytes"] = begin[:, None], (height * row)[:, None]
        parts["shape"] = tf.stack([height, stored.width, zeros + self.channels], 1)
        return self._each(parts, self._of_rows, stored.data)

    def _asked(self, stored: Stored | StoredPixels, windows: tf.Tensor | None, draws: tf.Tensor | None) -> Parts:
        """What is to be done to each image once it is there."""
        parts = {}
        if draws is not None:
            parts["mirrored"] = draws[:, FLIP] < 0.5
        if self._may_alias:
            extent = tf.stack([stored.height, stored.width], 1) if windows is None else windows[:, 2:]
            parts["aliases"] = tf.cast(tf.reduce_max(extent, 1), tf.float32) > SHRINKS_WELL * self.side
        return parts

    @property
    def _may_alias(self) -> bool:
        return self.sizes.largest_side > SHRINKS_WELL * self.side

    def _each(self, parts: Parts, make: Callable[..., tf.Tensor], *common: tf.Tensor) -> tf.Tensor:
        """`make` of each image's parts and what is `common` to all, and what is done to every one afterwards."""
        names = list(parts)

        def one(*own: tf.Tensor) -> tf.Tensor:
            example = dict(zip(names, own, strict=False))
            image = self._resized(make(example, *own[len(names) :]), example.get("aliases"))
            if "mirrored" in example:
                image = _if(example["mirrored"], image, lambda pixels: tf.reverse(pixels, [1]))
            return image

        specs = [tf.TensorSpec(part.shape[1:], part.dtype) for part in parts.values()]
        specs += [tf.TensorSpec(part.shape, part.dtype) for part in common]
        (images,) = tf.raw_ops.MapDefun(
            arguments=list(parts.values()),
            captured_inputs=list(common),
            output_types=[tf.float32],
            output_shapes=[[self.side, self.side, self.channels]],
            f=tf.function(one, autograph=False).get_concrete_function(*specs),
        )
        return images

    def _resized(self, image: tf.Tensor, aliases: tf.Tensor | None) -> tf.Tensor:
        """As `images.resize`."""
        pixels, size = tf.cast(image, tf.float32), [self.side, self.side]
        if aliases is None:
            resized = tf.raw_ops.ResizeBilinear(images=pixels[None], size=size, half_pixel_centers=True)
            return tf.reshape(resized, [*size, self.channels])
        return tf.ensure_shape(resize(image, self.side), [*size, self.channels])

    def _any(self, example: Parts) -> tf.Tensor:
        height, width, has_pixels = (example.get(name) for name in ("height", "width", "has_pixels"))
        image = image_of(Stored(example["encoded"], None, None, height, width, has_pixels), self.encoding)
        if "window" in example:
            return decode_crop(image, example["window"], self.channels)
        return decode(image, self.channels)

    def _of_file(self, example: Parts) -> tf.Tensor:
        return decode(example["encoded"], self.channels)

    def _of_jpeg(self, example: Parts) -> tf.Tensor:
        encoded, window = example["encoded"], example["window"]
        return tf.io.decode_and_crop_jpeg(encoded, window, self.channels, dct_method="INTEGER_ACCURATE")

    def _of_rows(self, example: Parts, data: tf.Tensor) -> tf.Tensor:
        """The window's rows, and of these its columns."""
        image = tf.reshape(tf.slice(data, example["begin"], example["num_bytes"]), example["shape"])
        return tf.slice(image, example["left"], example["extent"]) if "left" in example else image


def _if(condition: tf.Tensor, value: tf.Tensor, change: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """`change(value)` where the condition holds, else the value itself, by the executor's own two operations.

    tf.cond would call a function of its own here: in a function that is called by an operation it is not taken apart.
    """
    unchanged, to_change = tf.raw_ops.Switch(data=value, pred=condition)
    chosen, _ = tf.raw_ops.Merge(inputs=[unchanged, change(to_change)])
    return tf.ensure_shape(chosen, value.shape)
