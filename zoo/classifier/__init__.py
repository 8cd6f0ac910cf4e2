"""Supervised classification with cross-entropy: the baseline that every other paper is compared with.

Networks: LeCun et al. 1998 (LeNet-like), He et al. 2016 (ResNet-18), Zagoruyko and Komodakis 2016 (wide ResNet,
https://arxiv.org/abs/1605.07146).
Implemented: cross-entropy with label smoothing; SGD with Nesterov momentum, weight decay, linear warm-up and cosine
annealing to zero, which is the standard strong recipe for CIFAR-10 (``paper_cifar10.yaml``).
Departures: the wide ResNet has biases, LeakyReLU and its stride on the second convolution, as in JEM's code, so that
the two papers share one network; images are scaled to [-1, 1] instead of standardised channel by channel.
"""

from .module import Classifier

__all__ = ["Classifier"]
