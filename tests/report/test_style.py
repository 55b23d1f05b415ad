"""The palette: seen on its ground, told apart by colour-blind readers, in light and in dark."""

import itertools

import numpy as np
import pytest

from mixjax.report import style, svg

# Linear-light RGB as seen with full protanopia, deuteranopia and tritanopia (Machado et al. 2009).
SIGHTS = {
    'normal': np.eye(3),
    'protan': np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    'deutan': np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    'tritan': np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
MODES = {'light': (style.LIGHT, style.GROUND_LIGHT), 'dark': (style.DARK, style.GROUND_DARK)}


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    dark, light = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (a, b))
    return (light + 0.05) / (dark + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize('mode', MODES)
def test_every_colour_is_seen_on_its_ground(mode):
    colours, ground = MODES[mode]
    assert len(colours) == svg.COLOURS + 1
    assert min(contrast(colour, ground) for colour in colours) >= 3


@pytest.mark.parametrize('sight', SIGHTS)
@pytest.mark.parametrize('mode', MODES)
def test_any_two_colours_are_told_apart(mode, sight):
    seen = [lab(SIGHTS[sight] @ linear(colour)) for colour in MODES[mode][0]]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 20


@pytest.mark.parametrize('mode', [style.LIGHT_MODE, style.DARK_MODE])
def test_text_has_the_contrast_of_text(mode):
    values = dict(part.strip().split(': ') for part in mode.strip().split(';') if part.strip())
    for ground in (values['--ground'], values['--panel']):
        assert min(contrast(values[ink], ground) for ink in ('--ink', '--soft', '--mark')) >= 4.5


def test_both_modes_set_the_same_variables():
    names = [{part.split(':')[0].strip() for part in mode.split(';')} for mode in (style.LIGHT_MODE, style.DARK_MODE)]
    assert names[0] == names[1]
    assert {f'--c{i}' for i in range(svg.COLOURS + 1)} <= names[0]
