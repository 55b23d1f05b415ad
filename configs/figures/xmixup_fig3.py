"""XMixup, Fig. 3: accuracy against the number of auxiliary images.

    mixjax train --config=configs/figures/xmixup_fig3.py:data=cub200 --workdir=runs/xmixup_fig3

Smaller sets are random parts of the default one, larger ones more rounds of pairing, up to as many classes as whole
rounds can choose (960 of the 1,000 for Dogs); `all` is ImageNet without a selection. The claim: about 30,000 are
enough, more than 100,000 change little, and too many hurt on Stanford Dogs alone. Other settings:
configs/figures/xmixup_fig4.py. The same on the digits: configs/digits/xmixup_fig3.py.
"""

from mixjax.config import cells, read

# Rounds of pairing that the default takes (100,000 images at least of Dogs, 200,000 of the others), and more of them.
ROUNDS = {'cub200': (1, 2, 3, 5), 'fgvc_aircraft': (2, 4, 6, 10), 'stanford_dogs': (1, 2, 4, 8)}
FEWER = (10_000, 30_000, 60_000, 100_000)


def get_config(argument=''):
    data = cells.choose(argument, data=tuple(ROUNDS))['data']
    config = read('figures/xmixup_fig4', argument)
    plain, default = config.compare['finetune'], {**config.compare['default'], 'min_images': 0}
    rounds = ROUNDS[data]
    sizes = {f'images_{n}': {**default, 'rounds': rounds[0], 'max_images': n} for n in FEWER}
    sizes |= {f'rounds_{n}': {**default, 'rounds': n} for n in rounds}
    sizes['all'] = {**default, 'auxiliary': 'all'}
    config.method = {'name': ''}  # `compare` says what is trained
    config.compare = {'finetune': plain, **sizes}
    config.analyse = '--what=sweep --over="source images"'
    return config
