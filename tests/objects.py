"""Objects seen by known cameras, made of random pixels, and a stand-in for `Inference` that knows their views."""

import numpy as np

from soda_jax.data import cameras


class Objects:
    """`count` objects with `num_views` random 8-pixel views each, by cameras above the horizon around the origin."""

    labels = {}

    def __init__(self, count=5, num_views=6, side=8, seed=0):
        rng = np.random.default_rng(seed)
        self.images = rng.integers(0, 256, (count, num_views, side, side, 3), np.uint8)
        draws = rng.random((count, num_views, 3))
        self.poses = cameras.hemisphere(draws, (0.1, 1.2), (2.5, 3.5)).astype(np.float32)
        self.intrinsics = np.array([1.1 * side, 1.2 * side, 0.52 * side, 0.47 * side], np.float32)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        views = [
            {"image": image, "pose": pose, "intrinsics": self.intrinsics}
            for image, pose in zip(self.images[index], self.poses[index], strict=True)
        ]
        return {"views": views}

    def place(self, pose):
        """(object, view) that `pose` [4, 4] belongs to."""
        found = np.argwhere((self.poses == pose).all((-1, -2)))
        assert len(found) == 1
        return tuple(found[0])
