"""The protocol of the LaMix paper's PuzzleMix section: one data set, network and method, from scratch.

    mixjax grid configs/tables/lamix_table3.py --list

What its Tables 3 and 4 share. "We trained the networks for 600 epochs as implemented in the provided source codes,
and kept all the settings in the codes" (https://github.com/snu-mllab/PuzzleMix): batch 100, SGD with Nesterov
momentum 0.9, learning rate 0.2, weight decay 1e-4, binary cross-entropy of the softmax; CIFAR: random crop 32 of a
2-pixel border, flip, the rate divided by 10 at epochs 350 and 500; Tiny ImageNet: crop 64 of a 4-pixel border, at
300 and 450, mean and spread 1/2, saliency from a pass in train mode that is learned from, whole blocks transported,
and a first convolution of stride 2. Five repeats; beta 1, so no global label.

Open in the paper, chosen here:
  LaMix's loss is its own cross-entropy (Eq. 11), not that code's binary one.
  LaMix's label at beta 1: the random lam of Eq. 2 with the image of lam 1/2 (local_label='lambda'), and PuzzleMix's
    CIFAR settings for the image, also on Tiny ImageNet.
  MNIST, Fashion and SVHN, which that code does not know: as CIFAR-10, resized to 32 x 32, no flips for digits.
  the accuracy of the last epoch; that code also keeps the best one on the test images.
  resnet50 is that code's pre-activation network, not that of Table 1, although Table 3 repeats Table 1's plain
    numbers.
"""

from mixjax.config import base, cells
from mixjax.data.datasets import catalog

METHODS = ('puzzlemix', 'lamix')
NETWORKS = {'preactresnet18': 'preactresnet18_raw', 'resnet50': 'preactresnet50_raw'}
CIFAR10 = ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))
COLOURS = {
    'mnist': CIFAR10,
    'fashion_mnist': CIFAR10,
    'svhn': CIFAR10,
    'cifar10': CIFAR10,
    'cifar100': ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
    'tiny_imagenet': ((127.5,) * 3, (127.5,) * 3),
}  # of 255


def get_config(argument='dataset=cifar100,network=preactresnet18,method=lamix'):
    cell = cells.parse(argument, dataset=COLOURS, network=NETWORKS, method=METHODS)
    dataset = cell['dataset']
    tiny = dataset == 'tiny_imagenet'
    epoch = catalog.entry(dataset).train / 100  # steps
    config = base()
    config.num_seeds = 5
    if cell['method'] == 'lamix':
        config.method = {'name': 'lamix', 'mixing': 'puzzle', 'beta': 1.0, 'local_label': 'lambda'}
    else:
        own = {'clean': 1.0, 'transport_size': -1} if tiny else {'clean': 0.0, 'transport_size': 4}
        config.method = {'name': 'puzzlemix', 'loss': 'bce', **own}
    config.model.name = NETWORKS[cell['network']] + ('_64' if tiny else '')
    config.target.name = dataset

    config.image.crop, config.image.pad = (64, 4) if tiny else (32, 2)
    config.image.flip = dataset not in ('mnist', 'svhn')
    config.image.mean, config.image.std = (tuple(x / 255 for x in of) for of in COLOURS[dataset])

    config.optim.lr = 0.2
    config.optim.drops = (1 / 2, 3 / 4) if tiny else (350 / 600, 500 / 600)
    config.steps = round(600 * epoch)
    config.batch_size = 100
    config.eval_every = config.checkpoint_every = round(10 * epoch)
    config.log_every = 100
    return config
