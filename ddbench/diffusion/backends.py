"""One interface for diffusion models of pixels and of latents: encode, decode, predict the noise.

Images are ``(n, C, H, W)`` in [-1, 1]; latents are what the model moves: the images themselves for a UNet of pixels, an
autoencoder's codes for a diffusion transformer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = {"cpu": 32, "cuda": 256}
"""Latents that the network sees at once: the memory of every stage. Rounding may depend on it, so it is no setting."""


class Backend(ABC):
    """A class-conditional model of noise.

    Attributes:
        channels, side: of its images, in px.
        latent_shape: of a latent, ``(c, h, w)``.
        classes: number of classes K; the null class, for classifier-free guidance, is K.
        alphas: float64 ``(T,)`` cumulative alphas of its times, on the CPU.
        noisy_codes: whether :meth:`encode` draws from the autoencoder's posterior.
        bounded: whether latents are images, in [-1, 1].
        device: where it computes.
    """

    channels: int
    side: int
    latent_shape: tuple[int, int, int]
    classes: int
    alphas: Tensor
    noisy_codes: bool
    bounded: bool
    device: torch.device

    @property
    def null_class(self) -> int:
        """The class of no class: always one after the last."""
        return self.classes

    @property
    def batch(self) -> int:
        """Latents that are moved at once."""
        return BATCH.get(self.device.type, BATCH["cpu"])

    @abstractmethod
    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents ``(n, *latent_shape)`` of images; ``noise`` of that shape draws from the posterior (None: mean)."""

    def decode(self, latents: Tensor, *, graph: bool = False) -> Tensor:
        """Images of latents, clamped to [-1, 1].

        Args:
            graph: keep what leads to them, so that they can be differentiated in the latents.
        """
        with torch.set_grad_enabled(graph):
            return self._decode(latents).clamp(-1, 1)

    @abstractmethod
    def _decode(self, latents: Tensor) -> Tensor:
        """Images of latents as they come."""

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """What predicts the noise, in evaluation mode."""

    @abstractmethod
    def predict(self, latents: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """The network's prediction, of the shape of the latents; it can be differentiated.

        Args:
            times, labels: int64 ``(n,)``, of each latent its own; labels of the model's classes or the null class.
        """

    @torch.no_grad()
    def noise(self, latents: Tensor, time: int, labels: Tensor, guidance: float = 1.0) -> Tensor:
        """Predicted noise with classifier-free guidance: ``e(null) + guidance (e(class) - e(null))``.

        Args:
            labels: int64 ``(n,)`` of the model's classes.
            guidance: 1: the class alone, which costs one pass; others cost two.
        """
        if guidance == 1:
            return self.predict(latents, torch.full_like(labels, time), labels)
        both = torch.cat([labels, torch.full_like(labels, self.null_class)])
        told, untold = self.predict(torch.cat([latents, latents]), torch.full_like(both, time), both).chunk(2)
        return untold + guidance * (told - untold)

    def images(self, pixels: Tensor) -> Tensor:
        """uint8 images of any side as the model's: float32 in [-1, 1], resized with antialiased bilinear weights."""
        return self.fitted(pixels.to(self.device).float().div_(127.5).sub_(1))

    def fitted(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] of any side at the model's, resized with antialiased bilinear weights."""
        if images.shape[-1] == self.side:
            return images
        return F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)

    def pixels(self, images: Tensor, side: int) -> Tensor:
        """Images as uint8 of ``side`` px on the CPU; another side than the model's is reached by Lanczos weights."""
        grey = images.clamp(-1, 1).add(1).mul_(127.5).round_().to(torch.uint8).cpu()
        return grey if grey.shape[-1] == side else _lanczos(grey, side)


class PixelUNet(Backend):
    """A diffusers ``UNet2DModel`` with K + 1 classes, in pixel space.

    Args:
        net: the network, in evaluation mode.
        alphas: cumulative alphas of its scheduler.
    """

    noisy_codes, bounded = False, True

    def __init__(self, net: Any, alphas: Tensor, device: torch.device) -> None:
        config = net.config
        self.net, self.device = net.to(device).eval(), device
        self.channels, self.side = int(config.in_channels), int(config.sample_size)
        self.latent_shape = (self.channels, self.side, self.side)
        self.classes = int(config.num_class_embeds) - 1
        self.alphas = alphas.double().cpu()

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        return images

    def _decode(self, latents: Tensor) -> Tensor:
        return latents

    @property
    def network(self) -> nn.Module:
        network: nn.Module = self.net
        return network

    def predict(self, latents: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        predicted: Tensor = self.net(latents, times, class_labels=labels).sample
        return predicted


class LatentDiT(Backend):
    """A diffusers ``DiTTransformer2DModel`` over the codes of an ``AutoencoderKL``, as a ``DiTPipeline`` holds them.

    The pipeline itself writes the null class 1000 into its loop, whatever the number of classes: it is not used.

    Args:
        transformer, vae: in evaluation mode (in training mode the transformer drops labels at random).
        alphas: cumulative alphas of its scheduler.
        precision: of the transformer: float32, or autocast to a shorter type.
    """

    noisy_codes, bounded = True, False

    def __init__(
        self, transformer: Any, vae: Any, alphas: Tensor, device: torch.device, precision: torch.dtype = torch.float32
    ) -> None:
        self.transformer = transformer.to(device).eval()
        self.vae = vae.to(device).eval()
        self.device, self.precision = device, precision
        config = transformer.config
        codes, latent_side = int(config.in_channels), int(config.sample_size)
        self.latent_shape = (codes, latent_side, latent_side)
        self.channels = int(vae.config.in_channels)
        self.side = latent_side * 2 ** (len(vae.config.block_out_channels) - 1)
        self.classes = int(config.num_embeds_ada_norm)
        self.scale = float(vae.config.scaling_factor)
        self.alphas = alphas.double().cpu()

    @torch.no_grad()
    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        posterior = self.vae.encode(images).latent_dist
        code = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        latents: Tensor = code * self.scale
        return latents

    def _decode(self, latents: Tensor) -> Tensor:
        images: Tensor = self.vae.decode(latents / self.scale).sample
        return images

    @property
    def network(self) -> nn.Module:
        network: nn.Module = self.transformer
        return network

    def predict(self, latents: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            predicted = self.transformer(latents, timestep=times, class_labels=labels).sample
        # The second half of the channels, where there is one, is the learned variance: DDIM has no use for it.
        noise: Tensor = predicted[:, : self.latent_shape[0]].float()
        return noise


def _lanczos(grey: Tensor, side: int) -> Tensor:
    """uint8 images resized with Lanczos weights, which torch does not have, by Pillow, one channel at a time."""
    from PIL import Image

    resized = torch.empty(*grey.shape[:2], side, side, dtype=torch.uint8)
    for n, image in enumerate(grey):
        for c, channel in enumerate(image):
            picture = Image.fromarray(channel.numpy()).resize((side, side), Image.Resampling.LANCZOS)
            resized[n, c] = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(side, side)
    return resized
