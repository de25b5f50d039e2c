"""Face alignment: five landmarks onto the places where ArcFace's networks expect them."""

import cv2
import numpy as np

from arcface.io.images import SIZE

# x and y in pixels of the 112x112 crop: the eyes (the one on the left of the image first), the tip of the nose, the corners
# of the mouth. The template of ArcFace (Deng et al., CVPR 2019): SphereFace's for 96x112 pixels, 8 pixels further right.
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])


def align(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Rotate, scale and shift a face onto TEMPLATE, and crop it.

    As InsightFace does: interpolation is bilinear, and what lies outside the image is black.

    Args:
        image: uint8 [H, W, 3], channels in any order.
        landmarks: float [5, 2], x and y in pixels, in the order of TEMPLATE.

    Returns:
        uint8 [112, 112, 3], channels in the same order.

    Raises:
        ValueError: other shapes or types, or landmarks that determine no transform.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    return cv2.warpAffine(image, similarity_transform(landmarks, TEMPLATE), (SIZE, SIZE))


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the rotation, uniform scale and shift, never a reflection, that brings points nearest to others.

    Nearest in the sum of squared distances: the problem of Umeyama, "Least-squares estimation of transformation
    parameters between two point patterns", PAMI 13(4), 1991. In the plane his solution is a linear regression: with
    points as complex numbers x + iy, measured from their means, the factor is sum(conj(source) * target) /
    sum(|source|^2).

    Args:
        source, target: float [n, 2], x and y of n >= 2 points.

    Returns:
        float64 [2, 3]: a point (x, y) goes to matrix @ (x, y, 1).

    Raises:
        ValueError: other shapes, coordinates that are no numbers, or points that determine no transform: they
            coincide, or no rotation of them is better than another.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.ndim != 2 or source.shape[1] != 2 or source.shape != target.shape or len(source) < 2:
        raise ValueError(f"points are two times [n, 2] with n >= 2, not {list(source.shape)} and {list(target.shape)}")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("the coordinates of points must be finite numbers")
    z, w = source @ (1, 1j), target @ (1, 1j)
    mean_z, mean_w = z.mean(), w.mean()
    covariance = np.vdot(z - mean_z, w - mean_w)  # vdot conjugates its first argument
    spread_z, spread_w = np.linalg.norm(z - mean_z), np.linalg.norm(w - mean_w)
    # Relative to the coordinates, since those of points that coincide differ by rounding.
    coincide = spread_z <= 1e-6 * np.abs(z).max() or spread_w <= 1e-6 * np.abs(w).max()
    if coincide or abs(covariance) <= 1e-6 * spread_z * spread_w:
        raise ValueError("the points determine no transform: they coincide, or lie mirrored")
    factor = covariance / spread_z**2
    shift = mean_w - factor * mean_z
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])
