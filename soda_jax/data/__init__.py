"""Data: sources of examples, views of them, and batches.

A batch is a dict of NumPy arrays with leading axis B. Images are uint8 RGB; normalisation and
source noise happen on the device.

    source             uint8 [B, n, h, w, 3]   the n source views
    source_mask        bool [B, n]             which sources are present; all are
    target             uint8 [B, H, W, 3]      the target view
    id                 int32 [B]               training: place in the global batch, which the
                                               device's randomness is keyed by
    index              int32 [B]               evaluation: place of the example in its split
    mask               bool [B]                evaluation: False on padding
    label              int32 [B]               optional: class
    attributes         int32 [B, A]            optional: binary attributes
    factors            int32 [B, F]            optional: ground-truth factors
    source_pose        float32 [B, n, 4, 4]    optional: camera-to-world (x right, y up, looking
    target_pose        float32 [B, 4, 4]       along -z; world z up)
    source_intrinsics  float32 [B, n, 4]       optional: focal lengths and principal point (fx, fy,
    target_intrinsics  float32 [B, 4]          cx, cy) in pixels; a pixel's centre lies at +.5
"""

from soda_jax.data.pipeline import eval_batches, iterate, train_dataset
from soda_jax.data.sources import Source, Targets, load_source
from soda_jax.data.views import ViewSpec, eval_views, make_views

__all__ = [
    "Source",
    "Targets",
    "ViewSpec",
    "eval_batches",
    "eval_views",
    "iterate",
    "load_source",
    "make_views",
    "train_dataset",
]
