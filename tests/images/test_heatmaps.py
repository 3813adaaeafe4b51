"""Heat maps as they are stored."""

import struct

import numpy as np

from cxrpipe.images import heatmaps


def test_a_map_is_stored_in_shades_of_its_own_maximum():
    heat = np.zeros((64, 64), np.float32)
    heat[3, 4], heat[5, 6] = 0.02, 0.01
    found = heatmaps.decode(heatmaps.encode(heat))
    assert (found[3, 4], found[5, 6], found.sum()) == (255, 128, 383)


def test_a_map_of_nothing_is_black():
    assert not heatmaps.decode(heatmaps.encode(np.zeros((64, 64)))).any()


def test_a_stored_map_is_a_small_grey_png_of_eight_bits():
    png = heatmaps.encode(heatmaps.mean_map([np.eye(7, dtype=np.float32)]))
    assert struct.unpack(">IIBB", png[16:26]) == (64, 64, 8, 0)
    assert len(png) < 4_000


def test_members_of_different_grids_are_averaged_in_one_frame():
    left, right = np.zeros((8, 8), np.float32), np.zeros((7, 7), np.float32)
    left[:, 0], right[:, -1] = 2.0, 4.0
    found = heatmaps.mean_map([left, right])
    assert (found[:, 0] == 1.0).all()
    assert (found[:, -1] == 2.0).all()
    assert (found[:, 32] == 0.0).all()
