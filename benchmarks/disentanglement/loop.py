"""What the step of the disentangling autoencoders is compared with: their bare networks, and pythae's models.

In float32; `bare` and `pythae` copy the networks of a module and give a function that makes one step.
Further down: the module's step without one of its savings.

What pythae 0.1.2 does otherwise, all of it left as it is:

* FactorVAE cuts its batch in two: the codes of one half are permuted, and the autoencoder learns from the other half
  alone. Its batch of 64 is 32 + 32. The half to be permuted is encoded with a graph that no gradient goes through.
* FactorVAE's discriminator loss reaches the encoder, which is gone through backwards a second time for it and steps
  with its gradient too; the discriminator has five hidden layers unless it is given another one, as here.
* The likelihood takes probabilities: the decoder ends in a sigmoid.
* The trainer has torch's Adam as it comes, two of them for FactorVAE, and reads every loss with ``item`` in each step.
"""

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo import FactorVAE
from zoo.disentanglement.loss import density_ratio_tc
from zoo.disentanglement.vae import Codes

Step = Callable[[], None]
IMAGES = 737_280  # of dSprites, which minibatch-weighted sampling counts


def bare(module: Any, x: Tensor, layout: torch.memory_format) -> Step:
    """The networks forward, and the gradients of their weights: no draw, no loss, no optimiser.

    Fixed gradients of the outputs stand for a loss, and means for codes. FactorVAE's discriminator makes the passes
    that its algorithm needs: from as many codes to their gradient, and from twice as many to that of the weights.

    Args:
        module: One of ``zoo.disentanglement``.
        x: (B, C, 64, 64) in [0, 1]. With ``second_batch`` half of it is encoded only, without gradients.
        layout: Of the convolutions' weights.
    """
    layers = [copy.deepcopy(part).to(x.device, memory_format=layout) for part in (module.encoder, module.decoder)]
    encoder, decoder = layers
    parameters = [parameter for part in layers for parameter in part.parameters()]
    x, others = x.chunk(2) if module.hparams.get("second_batch") else (x, None)
    latents = module.hparams["num_latents"]
    gradients = [torch.randn(len(x), 2 * latents, device=x.device), torch.randn_like(x)]
    discriminator = getattr(module, "discriminator", None)
    judge = None if discriminator is None else bare_discriminator(discriminator, gradients[0][:, :latents])

    def step() -> None:
        moments = encoder(x)
        torch.autograd.grad([moments, decoder(moments[:, :latents])], parameters, gradients)
        if others is not None:
            with torch.no_grad():
                encoder(others)
        if judge is not None:
            judge()

    return step


def bare_discriminator(discriminator: nn.Module, z: Tensor) -> Step:
    """FactorVAE's discriminator in one step, on codes (B, L) and as many permuted ones."""
    network = copy.deepcopy(discriminator).to(z.device)
    parameters = list(network.parameters())
    z, both = z.clone().requires_grad_(), torch.cat([z, z])
    gradient = torch.randn(len(both), 2, device=z.device)

    def step() -> None:
        torch.autograd.grad(network(z), z, gradient[: len(z)])
        torch.autograd.grad(network(both), parameters, gradient)

    return step


def pythae(module: Any, x: Tensor, layout: torch.memory_format = torch.contiguous_format) -> Step:
    """The model of that name in pythae, on copies of the module's networks, stepped by pythae's own trainer.

    Args:
        module: ``zoo.BetaVAE``, ``BetaTCVAE`` or ``FactorVAE``.
        x: (B, C, 64, 64) in [0, 1], a batch as pythae takes it: FactorVAE's autoencoder sees half of it.
        layout: Of the convolutions' weights.

    Raises:
        SystemExit: It is not installed.
    """
    try:
        from pythae import models, trainers
        from pythae.data.datasets import BaseDataset
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseDiscriminator, BaseEncoder
    except ImportError as error:
        raise SystemExit(f"--peer needs pythae ({error}): pip install -e '.[peers]'") from error

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(module.encoder)

        def forward(self, x: Tensor) -> Any:
            mean, logvar = self.network(x).chunk(2, 1)
            return ModelOutput(embedding=mean, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(module.decoder)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.network(z).sigmoid())

    class Judge(BaseDiscriminator):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(module.discriminator)

        def forward(self, z: Tensor) -> Tensor:
            return self.network(z)

    logging.getLogger("pythae.trainers.base_trainer.base_trainer").setLevel(logging.ERROR)
    name, h = type(module).__name__, module.hparams
    strengths = {
        "BetaVAE": lambda: {"beta": h.beta},
        "BetaTCVAE": lambda: {"alpha": 1.0, "beta": h.beta, "gamma": 1.0, "use_mss": False},
        "FactorVAE": lambda: {"gamma": h.gamma},
    }[name]()
    shared = {"input_dim": tuple(x.shape[1:]), "latent_dim": h.num_latents, "reconstruction_loss": "bce"}
    model = getattr(models, name)(getattr(models, f"{name}Config")(**shared, **strengths), Encoder(), Decoder())
    data = BaseDataset(x, torch.zeros(len(x)))
    losses: tuple[str, ...] = ("loss",)
    if name == "FactorVAE":
        model.set_discriminator(Judge())
        config = trainers.AdversarialTrainerConfig(
            autoencoder_learning_rate=h.lr, discriminator_learning_rate=h.discriminator_lr
        )
        trainer = trainers.AdversarialTrainer(model, data, training_config=config)
        trainer.set_autoencoder_optimizer()
        trainer.set_discriminator_optimizer()
        losses = ("autoencoder_loss", "discriminator_loss")
    else:
        trainer = trainers.BaseTrainer(model, data, training_config=trainers.BaseTrainerConfig(learning_rate=h.lr))
        trainer.set_optimizer()
    model.to(memory_format=layout).train()

    def step() -> None:
        output = model({"data": x}, epoch=1, dataset_size=IMAGES, uses_ddp=False)
        trainer._optimizers_step(output)
        for loss in losses:
            output[loss].item()

    return step


class WeightGradients(FactorVAE):
    """With the gradient of the total correlation for the discriminator's weights too, in the place of constants."""

    def regulariser(self, codes: Codes, kl: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """As slow as it would be; not the method's gradient."""
        tc = density_ratio_tc(self.discriminator(self.in_precision(codes.z)))
        return {"regulariser": kl + self.hparams["gamma"] * tc, "total_correlation": tc}


def plain_adam(module: Any) -> None:
    """Take Adam as torch has it on a CPU by default, a loop over the tensors."""
    configure = module.configure_optimizers

    def unfused() -> torch.optim.Optimizer:
        optimizer = configure()
        for group in optimizer.param_groups:
            group["fused"] = False
        return optimizer

    module.configure_optimizers = unfused
