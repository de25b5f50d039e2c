"""Faces in photos: OpenCV's detector with a YuNet model."""

import threading
from typing import Any

import cv2
import numpy as np

from arcface.errors import UserError
from arcface.io.files import read_file

MIN_SCORE = 0.6  # of a detected face, 0 to 1
LARGEST_SIDE = 1280  # pixels, of the image that the detector sees
SMALLEST_SIDE = 64  # of the same, with black added: OpenCV 4 finds faces in strips of less than 32 pixels that are black


class FaceDetector:
    """Finds the faces in photos and their landmarks; threads may share it, each has OpenCV's detector for itself.

    YuNet: Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20, 2023.

    Args:
        model: file of a YuNet model (.onnx).

    Raises:
        UserError: the file cannot be read or is no such model.
    """

    def __init__(self, model: str):
        self._model = model
        try:
            self._content = np.frombuffer(read_file(model), np.uint8)
        except OSError as error:
            raise self._not_a_model(error.strerror or str(error)) from error
        self._of_thread = threading.local()
        try:
            self._find(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise self._not_a_model(error.err) from error

    def landmarks(self, image: np.ndarray) -> np.ndarray:
        """Return the landmarks of the faces in a photo, the main face first.

        The main face is large and near the middle: the greatest area less twice the squared distance of the centres.

        Args:
            image: uint8 [height, width, 3], BGR.

        Returns:
            float64 [faces, 5, 2], x and y in pixels, in the order of `arcface.data.alignment.TEMPLATE`.
        """
        height, width = image.shape[:2]
        scale = min(1.0, LARGEST_SIDE / max(height, width))
        if min(height, width) * scale < 1:
            return np.zeros((0, 5, 2))
        seen = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
        faces = self._find(seen)
        faces = faces[np.isfinite(faces).all(axis=1)]
        x, y, w, h = faces[:, :4].T
        off_centre = (x + w / 2 - seen.shape[1] / 2) ** 2 + (y + h / 2 - seen.shape[0] / 2) ** 2
        main_first = np.argsort(2 * off_centre - w * h, kind="stable")
        return faces[main_first, 4:14].reshape(-1, 5, 2).astype(np.float64) / scale

    def _find(self, image: np.ndarray) -> np.ndarray:
        """Return float32 [faces, 15]: x, y, width, height, five landmarks, score."""
        missing = [max(0, SMALLEST_SIDE - side) for side in image.shape[:2]]
        if any(missing):
            image = cv2.copyMakeBorder(image, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT)
        detector = getattr(self._of_thread, "detector", None)
        if detector is None:
            detector = self._of_thread.detector = self._open()
        detector.setInputSize((image.shape[1], image.shape[0]))
        faces = detector.detect(image)[1]
        return np.zeros((0, 15), np.float32) if faces is None else faces

    def _open(self) -> Any:
        return cv2.FaceDetectorYN.create("onnx", self._content, np.zeros(0, np.uint8), (320, 320), score_threshold=MIN_SCORE)

    def _not_a_model(self, reason: str) -> UserError:
        return UserError(f"--detector {self._model}: OpenCV cannot open it as a YuNet model ({reason}); download it again")
