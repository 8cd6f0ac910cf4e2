"""Six autoencoders that are meant to find the factors of variation of images without labels.

Paper: Francesco Locatello, Stefan Bauer, Mario Lucic, Gunnar Rätsch, Sylvain Gelly, Bernhard Schölkopf, Olivier Bachem,
"Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations", ICML 2019,
https://arxiv.org/abs/1811.12359.

Implemented, on one network and one training step: beta-VAE (Higgins et al. 2017), AnnealedVAE (Burgess et al. 2018),
FactorVAE (Kim and Mnih 2018), DIP-VAE-I and II (Kumar et al. 2018), beta-TCVAE (Chen et al. 2018), with the study's
values; each default is the third of its six. ``python -m zoo.disentanglement.theorem`` shows the paper's theorem. The
metrics are in ``callbacks.DisentanglementEvaluation``, data with known factors in ``datamodules.SpritesDataModule``.

An encoder or decoder of your own is one method each, and so is an objective::

    class Mine(BetaVAE):
        def build_encoder(self):  # (B, C, 64, 64) in [0, 1] to (B, 2 L): means, then log-variances
            return nn.Sequential(nn.Flatten(), nn.Linear(4096, 500), nn.Tanh(), nn.Linear(500, 20))

        def regulariser(self, codes, kl, generator):
            return {"regulariser": 4 * kl + codes.mean.abs().mean()}

Departures, from the text or from the official code, each for a reason:

* Images come in [-1, 1], as everywhere in the zoo, and are mapped to the study's [0, 1] for encoder and likelihood.
* The total correlation of beta-TCVAE is logged with its constant ``(L - 1) log B``, so that 0 means independent codes;
  the official code drops the constant (``estimator: unnormalised``). The gradients are the same.
* Minibatch-stratified weights have ``1 / N`` on the diagonal, and each row sums to 1. Two public ones differ.
* FactorVAE permutes the codes of the batch that it trains on, as the official code does; Kim and Mnih's algorithm takes
  a second batch (``second_batch``).
* FactorVAE's two Adams are two parameter groups of one, so that ``max_steps`` counts batches. In the official code, as
  read, both raise the step counter: its 300,000 steps are about 150,000 batches.
* The discriminator's probabilities are not clipped to [1e-6, 1 - 1e-6], where the official loss has no gradient.
* The Gaussian likelihood has variance 1/2 and its constant: the official squared error, as a log-density.
* Validation and test draw the same codes each time; the official code draws others.
"""

from .factor import FactorVAE
from .module import DIPVAE, AnnealedVAE, BetaTCVAE, BetaVAE

__all__ = ["DIPVAE", "AnnealedVAE", "BetaTCVAE", "BetaVAE", "FactorVAE"]
