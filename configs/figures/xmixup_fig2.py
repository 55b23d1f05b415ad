"""XMixup, Fig. 2: the ten smallest singular values of the features, of L2 at four sampling rates and of XMixup.

    mixjax train --config=configs/figures/xmixup_fig2.py:data=cub200 --workdir=runs/xmixup_fig2

The claim: XMixup makes the tail smaller, as more images do. The paper shows XMixup for all images; here it is trained
at every rate. Of which images the features are is not said: here of the test images, the same for all. Other settings:
configs/figures/xmixup_fig4.py. The same on the digits: configs/digits/xmixup_fig2.py.
"""

from mixjax.config import read


def get_config(argument=''):
    config = read('figures/xmixup_fig4', argument)
    config.method = {'name': ''}  # `compare` says what is trained
    config.compare = {label: config.compare[label] for label in ('finetune', 'default')}
    config.sweep.key, config.sweep.numbers = 'target.rate', (0.1, 0.3, 0.5, 1.0)
    config.analyse = '--what=spectrum --images=4000'
    return config
