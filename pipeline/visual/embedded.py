"""Pictures that stand in a page itself, as data URIs."""

from __future__ import annotations

import base64

import cv2
import numpy as np

_LOSSLESS = 101  # by OpenCV: a WebP quality above 100
_PHOTOGRAPH = 82


def data_uri(picture: np.ndarray, longest: int, photograph: bool = False, codes: bool = True) -> str:
    """(H, W, 3) uint8 RGB as WebP, no side longer than `longest`.

    photograph: lossy, and shrunk by area. Else to the bit; and shrunk by leaving pixels out where colours are codes, of
    classes, which must not blend, else by area, so that thin lines stay.
    """
    height, width = picture.shape[:2]
    if (side := max(height, width)) > longest:
        size = max(1, round(width * longest / side)), max(1, round(height * longest / side))
        picture = cv2.resize(
            picture, size, interpolation=cv2.INTER_NEAREST if codes and not photograph else cv2.INTER_AREA
        )
    quality = _PHOTOGRAPH if photograph else _LOSSLESS
    whole, encoded = cv2.imencode(".webp", picture[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert whole
    return f"data:image/webp;base64,{base64.b64encode(encoded.tobytes()).decode()}"
