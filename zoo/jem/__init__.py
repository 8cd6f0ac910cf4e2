"""JEM: a classifier is secretly an energy-based model.

Paper: Will Grathwohl, Kuan-Chieh Wang, Joern-Henrik Jacobsen, David Duvenaud, Mohammad Norouzi, Kevin Swersky,
"Your Classifier is Secretly an Energy Based Model and You Should Treat it Like One", ICLR 2020,
https://arxiv.org/abs/1912.03263.

Implemented: the joint training of log p(x) + log p(y|x) with SGLD chains in a replay memory, two minibatches or one a
step, the factorisation log p(x|y) + log p(y), class-conditional chains, semi-supervised use, the three scores for
out-of-distribution detection, class-conditional sampling; recovery from divergence.
From JEM++ (Yang and Ji, ICCV 2021): proximal SGLD, informative initialisation, batch normalisation. From VERA
(Grathwohl et al., ICLR 2021): the energy penalty.

Departures, from the paper or from its official code, each for a reason:

* Chains are drawn from the memory without replacement; the official code can draw a slot twice in a batch, and then the
  order of writing decides.
* The memory is shared out over the processes and saved with the optimiser, the epoch and the random state; the official
  checkpoint holds weights and memory only, so that its resume starts from epoch 0.
* Divergence is detected before the memory is written, NaN included, and training goes on from the last good state. The
  official code stops; its guard misses NaN.
* Step size 1 without the factor 1/2 and noise 0.01 follow the official code; the paper's equation couples the two.
* No dequantisation noise at validation and test: metrics are the same in every run. The official code adds it there.
* Plotting samples never writes to the memory.
* The network has no unused heads (they break multi-process training), and averages over its whole last map.
"""

from .module import JEM

__all__ = ["JEM"]
