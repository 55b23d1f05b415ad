"""LaMix, Fig. 5: training loss and accuracy over 2,000 epochs (CIFAR-100).

    mixjax train --config=configs/figures/lamix_fig5.py --workdir=runs/lamix_fig5

The claim: the loss of LaMix stays higher than the others', and it does not overfit. Where the learning rate falls is
not said: here at a half and three quarters again. Nor is which loss LaMix's curve shows: its original and its mixed
batches have a curve each, and the mean of both is compared.
Other settings: configs/lamix_cifar100.py. The same on the digits: configs/digits/lamix_fig5.py.
"""

from mixjax.config import read


def get_config():
    config = read('lamix_cifar100')
    config.num_seeds = 1
    config.method = {'name': ''}  # `compare` says what is trained
    config.compare = {name: {'name': name} for name in ('lamix', 'mixup', 'cutmix')}
    config.baseline = 'mixup'
    config.steps *= 5
    config.analyse = '--what=curves'
    return config
