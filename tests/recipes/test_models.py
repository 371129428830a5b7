"""The shipped models are built for any image they can take, and say which they cannot."""

from __future__ import annotations

import pytest

from modetrain import ConfigError
from recipes import models


@pytest.mark.parametrize(("size", "filters"), [((28, 28), [1, 1, 1, 1]), ((2, 9), [1]), ((16, 31), [1, 1, 1, 1])])
def test_a_cnn_halves_images_as_often_as_it_can(size, filters):
    assert models.cnn((*size, 3), 7, filters=filters).output_shape == (None, 7)
    with pytest.raises(ConfigError, match=f"halved {len(filters)} times"):
        models.cnn((*size, 3), 7, filters=[*filters, 1])


def test_what_is_proposed_for_images_too_small_for_a_cnn_can_be_typed():
    with pytest.raises(ConfigError) as caught:
        models.cnn((28, 28, 1), 10, filters=[8, 16, 32, 64, 128])
    assert str(caught.value).startswith("model.filters=[8,16,32,64,128] with images of 28 x 28: ")
    assert str(caught.value).endswith("Type model.filters=[8,16,32,64], or data.image_size=[32,32].")
    with pytest.raises(ConfigError, match=r"0 times. Type data.image_size=\[2,2\]"):
        models.cnn((1, 1, 1), 10, filters=[8])


def test_a_gan_takes_images_whose_sides_are_multiples_of_four():
    generator, discriminator = models.gan((12, 8, 3), 10, latent=5, width=2)
    assert (generator.input_shape, generator.output_shape) == ((None, 5), (None, 12, 8, 3))
    assert (discriminator.input_shape, discriminator.output_shape) == ((None, 12, 8, 3), (None,))
    with pytest.raises(ConfigError, match=r"Type data.image_size=\[32,32\]"):
        models.gan((30, 30, 1), 10)


def test_an_mlp_without_hidden_layers_is_linear():
    model = models.mlp((4, 4, 1), 3, hidden=[])
    assert [v.shape for v in model.trainable_variables] == [(16, 3), (3,)]
