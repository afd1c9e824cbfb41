"""Maps: the blur is SciPy's, upsampling keeps a constant, the peak is the peak."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from attnad.maps import peak, smooth, upsample


@pytest.mark.parametrize("sigma", [0, 1, 4])
@pytest.mark.parametrize("shape", [(2, 40, 33), (1, 16, 64)])
def test_smooth_is_the_gaussian_of_scipy(shape, sigma):
    maps = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    wanted = np.stack([gaussian_filter(m, sigma) if sigma else m for m in maps.numpy()])
    np.testing.assert_allclose(smooth(maps, sigma), wanted, atol=1e-6)


def test_smooth_keeps_a_constant_and_the_type():
    maps = torch.full((1, 20, 30), 3.0, dtype=torch.float64)
    assert smooth(maps, 4).dtype == torch.float64
    torch.testing.assert_close(smooth(maps, 4), maps, rtol=1e-6, atol=0)


def test_upsample_to_the_same_size_changes_nothing():
    maps = torch.rand(2, 5, 7)
    assert upsample(maps, (5, 7)) is maps


def test_upsample_places_a_cell_where_it_lies_in_the_picture():
    maps = torch.zeros(1, 4, 4)
    maps[0, 1, 2] = 1
    large = upsample(maps, (32, 32))[0]
    row, column = divmod(int(large.argmax()), 32)
    assert 8 <= row < 16 and 16 <= column < 24


def test_upsample_with_aligned_corners_keeps_the_corners():
    maps = torch.arange(6.0).view(1, 2, 3)
    large = upsample(maps, (8, 12), align_corners=True)[0]
    assert large[0, 0] == 0 and large[-1, -1] == 5 and large[0, -1] == 2


def test_peak():
    maps = torch.tensor([[[1.0, 2.0], [5.0, 0.0]], [[-1.0, -2.0], [-3.0, -4.0]]])
    assert peak(maps).tolist() == [5.0, -1.0]
