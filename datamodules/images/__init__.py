"""Images with labels: published sets, folders, few labels, and the out-of-distribution sets beside them."""

from .folder import ImageFolderDataModule
from .mnistm import DigitsMDataModule, MNISTMDataModule
from .office31 import Office31DataModule
from .published import (
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
from .semi_supervised import SemiSupervisedDataModule

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "DigitsMDataModule",
    "FashionMNISTDataModule",
    "ImageFolderDataModule",
    "KMNISTDataModule",
    "MNISTDataModule",
    "MNISTMDataModule",
    "Office31DataModule",
    "STL10DataModule",
    "SVHNDataModule",
    "SVHNExtraDataModule",
    "SemiSupervisedDataModule",
    "USPSDataModule",
]
