"""Lightning data modules, each in a file for its kind of batch.

Those of images offer, before anything is read, ``num_classes``, ``image_shape`` and ``test_sets``: the names of the
test loaders, first the set's own, then ``near/<name>`` and ``far/<name>`` out-of-distribution sets. Images arrive at
the module as float32 in [-1, 1]; the labels of out-of-distribution images are -1.

Those for domain adaptation have pairs as training batches, ``{"source": (x, y), "target": x}``, and offer ``val_sets``
beside ``test_sets``: first the source, then ``target/<name>``.

Those with known factors of variation have batches ``(x, factors)``, and offer ``image_shape``, ``factor_names`` and
``factor_sizes``, and ``images_of`` and ``sample_factors`` after ``setup``.

Those for regression offer ``num_features``, ``target_name`` and ``test_sets``, and ``training_targets`` after
``setup``. Features arrive standardised by the training rows, labels in the units in which they were measured.
"""

from .adaptation.moons import MoonsDataModule
from .adaptation.pairs import AdaptationDataModule
from .factors.published import (
    Cars3DDataModule,
    DSpritesDataModule,
    MPI3DDataModule,
    Shapes3DDataModule,
    SmallNORBDataModule,
)
from .factors.sprites import SpritesDataModule
from .images.folder import ImageFolderDataModule
from .images.mnistm import DigitsMDataModule, MNISTMDataModule
from .images.office31 import Office31DataModule
from .images.published import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FashionMNISTDataModule,
    KMNISTDataModule,
    MNISTDataModule,
    STL10DataModule,
    SVHNDataModule,
    SVHNExtraDataModule,
    USPSDataModule,
)
from .images.semi_supervised import SemiSupervisedDataModule
from .tables.base import CSVRegressionDataModule, UCIRegressionDataModule
from .tables.sine import SineDataModule

__all__ = [
    "AdaptationDataModule",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "CSVRegressionDataModule",
    "Cars3DDataModule",
    "DSpritesDataModule",
    "DigitsDataModule",
    "DigitsMDataModule",
    "FashionMNISTDataModule",
    "ImageFolderDataModule",
    "KMNISTDataModule",
    "MNISTDataModule",
    "MNISTMDataModule",
    "MPI3DDataModule",
    "MoonsDataModule",
    "Office31DataModule",
    "STL10DataModule",
    "SVHNDataModule",
    "SVHNExtraDataModule",
    "SemiSupervisedDataModule",
    "Shapes3DDataModule",
    "SineDataModule",
    "SmallNORBDataModule",
    "SpritesDataModule",
    "UCIRegressionDataModule",
    "USPSDataModule",
]
