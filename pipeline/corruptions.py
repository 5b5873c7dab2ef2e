"""Images as a bad camera would give them.

Kinds and strengths are those of CIFAR-10-C: Hendrycks and Dietterich, "Benchmarking neural network
robustness to common corruptions and perturbations", 2019, and the code that made it. Each function
takes images uint8 `(n, h, w, 3)` and gives as many, the same ones whenever it is asked.
"""

import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

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
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "little"))
    return generator.standard_normal(image.shape, dtype=np.float32)


def gaussian_blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """A blur of so many pixels where images have 32, and of more where they have more."""
    sigma *= images.shape[1] / SIZE
    blurred = gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0))
    return blurred.round().clip(0, 255).astype(np.uint8)


def contrast(images: np.ndarray, share: float) -> np.ndarray:
    """This share of the contrast: every channel keeps its mean over the image."""
    means = images.mean((1, 2), keepdims=True, dtype=np.float32)
    return ((images - means) * share + means).round().clip(0, 255).astype(np.uint8)


def jpeg(images: np.ndarray, quality: float) -> np.ndarray:
    """Compressed at this quality, 1 .. 100."""
    return np.stack([_compressed(image, int(quality)) for image in images])


def _compressed(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


# Five strengths of each, weakest first.
CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "jpeg": (jpeg, (80, 65, 58, 50, 40)),
}
