"""LaMix, Fig. 8: two units for cats, dogs and deer at epochs 100, 400, 700 and 1000 (CIFAR-10).

    mixjax train --config=configs/figures/lamix_fig8.py --workdir=runs/lamix_fig8

The claim: the classes go on coming apart long after the training accuracy is 100 %. Whether the network knew ten
classes or these three is not said; here ten, of which three are shown. Nor is the schedule of 1,000 epochs: here the
learning rate falls at epochs 500 and 750, at a half and three quarters as elsewhere: between the second picture and the
third, and between the third and the last.
Other settings: configs/lamix_cifar100.py. The same on the digits: configs/digits/lamix_fig8.py.
"""

from mixjax.config import read


def get_config():
    config = read('lamix_cifar100')
    config.model.name = 'preactresnet18_plane'
    config.target.name = 'cifar10'
    config.num_seeds = 1
    config.steps = round(config.steps * 2.5)
    config.snapshots = (0.1, 0.4, 0.7, 1.0)
    config.analyse = '--what=plane --images=0 --classes=cat,dog,deer'
    return config
