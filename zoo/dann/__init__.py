"""DANN: features that do not tell the domains apart, by reversing a gradient.

Paper: Yaroslav Ganin, Evgeniya Ustinova, Hana Ajakan, Pascal Germain, Hugo Larochelle, François Laviolette, Mario
Marchand, Victor Lempitsky, "Domain-Adversarial Training of Neural Networks", JMLR 17(59), 2016,
https://arxiv.org/abs/1505.07818.

Implemented: gradient reversal with the paper's schedules; the networks of its Figure 4, the shallow network of section
4.1, AlexNet for Office-31; the source-only control, whose domain head learns without handing a gradient back; batch
normalisation over both domains or of each; the conditional domain heads CDAN and CDAN+E (Long, Cao, Wang and Jordan,
NeurIPS 2018). Checkpoints are chosen without target labels by ``callbacks.AdaptationEvaluation``.

A feature network of your own is one method; heads are made for the width that it gives::

    class Mine(DANN):
        def build_features(self):
            return nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])

    Mine(num_classes=10, image_shape=(3, 64, 64), normalisation="joint")

Departures, from the paper or from the code of its shallow experiment, each for a reason:

* The domain head ends in one logit, as in the paper's figure; its text has two units, which is the same.
* The domain loss is the sum of the two domains' means, as in the paper's equation; many implementations take half.
* Padding is not given in the paper: none for MNIST and GTSRB, 2 for SVHN, whose third convolution needs it.
* Pooling comes before ReLU: the same numbers with less work.
* Images are scaled to [-1, 1], the same for both domains, instead of having a mean subtracted.
* The label head is not replaced by a linear SVM for the evaluation, as in the paper's tables.
* The entropy weights of CDAN+E and the probabilities in CDAN carry no gradient.
"""

from .module import DANN

__all__ = ["DANN"]
