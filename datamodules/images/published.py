"""Data modules of the published image sets; batches are ``(x, y)``, see ``ImageDataModule`` for the arguments."""

from . import sources
from .base import ImageDataModule


class DigitsDataModule(ImageDataModule):
    """scikit-learn's 1,797 handwritten digits, 8x8, one channel, no files; split 1,197 / 300 / 300.

    Every class has its share in training, validation and test, and the split never changes. Augmentation: shifts by
    up to one pixel.
    """

    source = sources.DIGITS_SOURCE
    padding = 1
    default_val_split = 300


class MNISTDataModule(ImageDataModule):
    """MNIST: 60,000 + 10,000 handwritten digits, 28x28, one channel. Augmentation: shifts by up to two pixels."""

    source = sources.MNIST_SOURCE
    padding = 2


class FashionMNISTDataModule(ImageDataModule):
    """Fashion-MNIST: 60,000 + 10,000 pieces of clothing, 28x28, one channel. Augmentation: shifts (2) and mirroring."""

    source = sources.FASHION_MNIST_SOURCE
    padding = 2
    flip = True


class KMNISTDataModule(ImageDataModule):
    """Kuzushiji-MNIST: 60,000 + 10,000 Japanese characters, 28x28, one channel. Augmentation: shifts (2)."""

    source = sources.KMNIST_SOURCE
    padding = 2


class USPSDataModule(ImageDataModule):
    """USPS: 7,291 + 2,007 handwritten digits, 16x16, one channel. Augmentation: shifts by up to one pixel."""

    source = sources.USPS_SOURCE
    padding = 1


class SVHNDataModule(ImageDataModule):
    """Street View House Numbers: 73,257 + 26,032 digits (not ``extra``), 32x32, RGB.

    Augmentation: crops from 4 mirrored pixels on each side, no mirroring of the image.
    """

    source = sources.SVHN_SOURCE
    padding = 4
    padding_mode = "reflect"


class SVHNExtraDataModule(SVHNDataModule):
    """The same with the 531,131 easier images of ``extra`` beside the training split, as most papers use it: 604,388.

    They take 1.9 GB of memory.
    """

    source = sources.SVHN_EXTRA_SOURCE


class CIFAR10DataModule(ImageDataModule):
    """CIFAR-10: 50,000 + 10,000 pictures of 10 classes, 32x32, RGB.

    Augmentation: crops from 4 mirrored pixels on each side, and mirroring of the image.
    """

    source = sources.CIFAR10_SOURCE
    padding = 4
    padding_mode = "reflect"
    flip = True


class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100: 50,000 + 10,000 pictures of 100 classes, 32x32, RGB. Augmentation as for CIFAR-10."""

    source = sources.CIFAR100_SOURCE


class STL10DataModule(ImageDataModule):
    """STL-10: 5,000 + 8,000 labelled pictures of 10 classes, 96x96, RGB; not the unlabelled ones, nor the ten folds.

    The published archive has 2.6 GB, most of them unlabelled; ``unlabeled_X.bin`` can be deleted. Augmentation: crops
    from 12 mirrored pixels on each side, and mirroring of the image.
    """

    source = sources.STL10_SOURCE
    padding = 12
    padding_mode = "reflect"
    flip = True
