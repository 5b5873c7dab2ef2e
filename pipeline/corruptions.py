"""Images as a bad camera would give them.

Kinds and strengths are those of CIFAR-10-C: Hendrycks and Dietterich, "Benchmarking neural network
robustness to common corruptions and perturbations", 2019, and the code that made it. Each function
takes images uint8 `(n, h, w, 3)` and gives as many, the same ones whenever it is asked.
"""

import hashlib
import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

Corruption = Callable[[np.ndarray, float], np.ndarray]
SIZE = 32  # pixels of the images that the strengths were chosen for


def gaussian_noise(images: np.ndarray, deviation: float) -> np.ndarray:
    """Noise on every value, of this deviation where 1 is white.

    It is drawn by what the image shows, so that no order and no network changes it.
    """
    noise = np.stack([_normal(image) for image in images])
    return (images + 255 * deviation * noise).round().clip(0, 255).astype(np.uint8)


def _normal(image: np.ndarray) -> np.ndarray:
    """Standard normal float32 of an image's shape, keyed by its pixels."""
    digest = hashlib.blake2b(np.ascontiguousarray(image), digest_size=8).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "little"))
    return generator.standard_normal(image.shape, dtype=np.float32)


def gaussian_blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """A blur of so many pixels where images have 32, and of more where they have more."""
    sigma *= images.shape[1] / SIZE
    reach = math.ceil(4 * sigma)  # the paper's kernel ends there too
    return _by_torchvision(
        images, lambda planes: functional.gaussian_blur(planes, [2 * reach + 1] * 2, [sigma] * 2)
    )


def contrast(images: np.ndarray, share: float) -> np.ndarray:
    """This share of the contrast: the rest of every value is the image's mean grey."""
    return _by_torchvision(images, lambda planes: functional.adjust_contrast(planes, share))


def jpeg(images: np.ndarray, quality: float) -> np.ndarray:
    """Compressed at this quality, 1 .. 100."""
    return np.stack([_compressed(image, int(quality)) for image in images])


def _compressed(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _by_torchvision(
    images: np.ndarray, change: Callable[[torch.Tensor], torch.Tensor]
) -> np.ndarray:
    """`change` of torchvision takes and gives planes, uint8 `(n, 3, h, w)`."""
    return change(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()


# Five strengths of each, weakest first.
CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "jpeg": (jpeg, (80, 65, 58, 50, 40)),
}
