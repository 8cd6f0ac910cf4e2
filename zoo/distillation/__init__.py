"""Knowledge distillation: a small network learns from the softened outputs of a trained one.

Paper: Geoffrey Hinton, Oriol Vinyals, Jeff Dean, "Distilling the Knowledge in a Neural Network", 2015,
https://arxiv.org/abs/1503.02531.

Implemented: soft targets at a temperature T with the factor T², mixed with the labels' cross-entropy at T = 1
(``KnowledgeDistillation``), for any trained classifier as the teacher; and the same for the histograms of Imani and
White 2018 (https://arxiv.org/abs/1806.04613), which are soft targets too (``HistogramDistillation``): a teacher with
the student's bins, with other bins, or with points only.

A teacher is trained first, then named by its checkpoint. Two commands, from one working directory::

    python train.py fit --model Classifier
    python train.py fit --model KnowledgeDistillation

    python train.py fit --model HistogramRegression
    python train.py fit --model HistogramDistillation

``--model.alpha 0`` is the same student without its teacher, to compare with.

Departures, each for a reason:

* The weights of the two terms sum to 1, ``(1 - alpha)`` and ``alpha T²``, as is usual today.
* The soft term is a KL divergence instead of a cross-entropy: the same gradient, and 0 for a perfect student.
* Adam, with settings of ours. Neither max-norm weight constraints nor ensembles of specialists.
* A point teacher's soft target has no temperature: its width is the student's sigma.
"""

from .histogram import HistogramDistillation
from .loss import rebin
from .module import KnowledgeDistillation

__all__ = ["HistogramDistillation", "KnowledgeDistillation", "rebin"]
