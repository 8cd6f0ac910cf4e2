"""Local error signals: every block of a network learns from a loss of its own.

Paper: Arild Nøkland, Lars Hiller Eidnes, "Training Neural Networks with Local Error Signals", ICML 2019,
https://arxiv.org/abs/1901.06656.

Implemented: the six losses (a local classifier, similarity matching, both, and each without back-propagation through
the heads); updates of each block in the forward sweep, the summed loss, and plain back-propagation of the same network;
VGG8B, VGG11B, the MLP, ResNets and wide ResNets in which every convolution is a block; several processes, which share
the batch, or with ``PipelineStrategy`` the blocks: then the second half of a network works on a batch while the first
half already works on the next one.

A network of your own is a list of modules. Each maps a batch to a batch; heads are made for the shapes they give::

    class Mine(LocalErrorSignals):
        def build_blocks(self):
            return [
                nn.Sequential(nn.Conv2d(1, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
                Block(nn.Sequential(nn.Conv2d(32, 64, 2), nn.ReLU()), after=nn.MaxPool2d(2)),
                nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU()),
            ]

    L.Trainer(max_epochs=20).fit(Mine(image_shape=(1, 8, 8), loss="predsim"), DigitsDataModule())

``Block``, from ``zoo.local_error``, is for what happens between the local loss and the next block: pooling, dropout.
For a local loss of your own override ``make_head(shape)``, which gives a module ``(features, labels) -> loss``.

Departures, from the paper or from its official code, each for a reason:

* Similarity matching is the mean over all pairs, as in the official code; the paper's text has the sum.
* A row of constant features gets the gradient zero; the official code gives NaN.
* Heads are sized from the real output of their block. The official ones are not, and its residual networks crash.
* The last normalisation of a wide ResNet belongs to the last block; in the official code no optimiser has it.
* No unused layers, no unsupervised term (its weight is 0 in every run of the paper).
* Images are scaled to [-1, 1] instead of standardised; the data modules drop the last partial batch, crop CIFAR from
  mirrored instead of zero padding, and hold some training images out, on which a temperature is fitted.
"""

from .blocks import Block
from .module import LocalErrorSignals
from .pipeline import PipelineStrategy

__all__ = ["Block", "LocalErrorSignals", "PipelineStrategy"]
