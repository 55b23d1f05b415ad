"""The protocol of the LaMix paper (all but its PuzzleMix section): one data set, network and method, from scratch.

    mixjax grid configs/tables/lamix_table1.py --list

What its tables share. "The exact settings as in the Facebook codes"
(https://github.com/facebookresearch/mixup-cifar10): batch 128, SGD with momentum 0.9, no Nesterov, learning rate
0.1 divided by 10 twice, weight decay 1e-4, random crop 32 of a 4-pixel border, flip; 400 epochs, five repeats;
MNIST and Fashion are resized to 32 x 32. lam ~ U(0, 1) for all, beta 0.5.

Open in the paper (no code was released), chosen here:
  the drops of the learning rate: that code has epochs 100 and 150 of 200, so 200 and 300 of 400. There each takes
    effect an epoch late, and an epoch ends with a short batch; here neither is so.
  the accuracy of the last epoch; that code also keeps the best one on the test images.
  normalisation: that code's CIFAR-10 mean and spread for every data set.
  flips: none for MNIST and SVHN, where a mirrored digit is not a digit; taken literally the settings would flip them
    (--config.image.flip=true). A grey image is given to the network three times.
  CutMix: half of the batches are cut, as in its authors' CIFAR command; the paper does not say.
  resnet50 is that code's, a ResNet with a 3x3 stem; the PuzzleMix section's is another. That code has no
    WideResNet-28-10, contrary to the paper: it is that of PuzzleMix's code.
  lenet gets the learning rate of all others, 0.1, as the text has it. It has no batch normalization, and on the digits
    (configs/digits/tables.py) it learns nothing at that rate and has 0.02: look at the first evaluations of Table 2's
    LeNet runs, which are 40 % correct in the paper, before training them to the end (--config.optim.lr=0.02).
  Tiny ImageNet (Tables 5 and 6): the same networks and settings on 64 x 64 images, crop 64 of a 4-pixel border.
    That code knows neither the data set nor images of that size; averaging over the last map makes its networks
    fit.
  lam: one for each batch, as in that code; the paper does not say whether each pair of images has its own.
  the alternation and the gradient of LaMix itself: docs/methods.md.
"""

from mixjax.config import base, cells
from mixjax.data.datasets import catalog

METHODS = {
    'vanilla': {'name': 'finetune'},
    'mixup': {'name': 'mixup', 'alpha': 1.0},
    'cutmix': {'name': 'cutmix', 'beta': 1.0, 'probability': 0.5},
    'lamix': {'name': 'lamix', 'beta': 0.5},
    **{f'mixup_uls{e}': {'name': 'mixup', 'alpha': 1.0, 'label_smoothing': e} for e in (0.1, 0.2, 0.3, 0.4)},
    'lamix_without_originals': {'name': 'lamix', 'beta': 0.5, 'originals': False},
    'lamix_without_global': {'name': 'lamix', 'beta': 1.0},
}
NETWORKS = {
    'preactresnet18': 'preactresnet18',
    'resnet50': 'cifar_resnet50',
    'lenet': 'lenet',
    'wrn28_10': 'wrn28_10',
    'densenet121': 'densenet121_cifar',
}
DATASETS = ('mnist', 'fashion_mnist', 'svhn', 'cifar10', 'cifar100', 'tiny_imagenet')


def get_config(argument='dataset=cifar100,network=preactresnet18,method=lamix'):
    cell = cells.parse(argument, dataset=DATASETS, network=NETWORKS, method=METHODS)
    dataset = cell['dataset']
    epoch = catalog.entry(dataset).train / 128  # steps
    config = base()
    config.num_seeds = 5
    config.method = METHODS[cell['method']]
    config.model.name = NETWORKS[cell['network']]
    config.target.name = dataset

    config.image.crop = 64 if dataset == 'tiny_imagenet' else 32
    config.image.pad = 4
    config.image.flip = dataset not in ('mnist', 'svhn')
    config.image.mean = (0.4914, 0.4822, 0.4465)
    config.image.std = (0.2023, 0.1994, 0.2010)

    config.optim.lr = 0.1
    config.optim.nesterov = False
    config.optim.drops = (0.5, 0.75)
    config.steps = round(400 * epoch)
    config.batch_size = 128
    config.eval_every = config.checkpoint_every = round(10 * epoch)
    config.log_every = 100
    return config
