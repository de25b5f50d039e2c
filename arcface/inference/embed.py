"""What embeds faces, whatever computes it."""

from collections.abc import Callable

import numpy as np

# uint8 images [n, 3, 112, 112], RGB -> float32 embeddings [n, D], not normalised
Embed = Callable[[np.ndarray], np.ndarray]
