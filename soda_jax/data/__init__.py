"""Data: datasets, views of their examples, and batches.

A batch is a dict of NumPy arrays with leading axis B. Images are uint8 RGB; normalisation and
source noise happen on the device.

    source             uint8 [B, n, h, w, 3]   the n source views; in training n may differ from step
                                               to step, and is the same in a whole batch
    source_mask        bool [B, n]             which sources are present: here, all
    target             uint8 [B, H, W, 3]      the target view
    id                 int32 [B]               training: place in the global batch, which the
                                               device's randomness is keyed by
    index              int32 [B]               evaluation: place of the example in its split
    mask               bool [B]                evaluation: False on padding, and where an image
                                               could not be read (another one stands in for it)
    label              int32 [B]               optional: class
    attributes         int32 [B, A]            optional: binary attributes
    factors            int32 [B, F]            optional: ground-truth factors
    source_window      float32 [B, n, 4]       all view policies but "camera": the view's window of
    target_window      float32 [B, 4]          its image, (x_left, y_top, x_right, y_bottom), where
                                               the whole image spans -1..1, x right, y down; a
                                               mirrored view has x_left > x_right
    source_pose        float32 [B, n, 4, 4]    policy "camera": camera-to-world (x right, y up,
    target_pose        float32 [B, 4, 4]       looking along -z; world z up)
    source_intrinsics  float32 [B, n, 4]       policy "camera": focal lengths and principal point
    target_intrinsics  float32 [B, 4]          (fx, fy, cx, cy) of the view in pixels; a pixel's
                                               centre lies at +.5
"""

from soda_jax.data.datasets import Dataset, Labels, load_dataset
from soda_jax.data.decode import DecodeError, decode_image
from soda_jax.data.pipeline import eval_batches, iterate, train_batches
from soda_jax.data.views import ViewSpec, eval_views, make_views

__all__ = [
    "DecodeError",
    "Dataset",
    "Labels",
    "ViewSpec",
    "decode_image",
    "eval_batches",
    "eval_views",
    "iterate",
    "load_dataset",
    "make_views",
    "train_batches",
]
