"""The protocol of the SMILE paper on one of its data sets, with one of its methods and all training images.

    mixjax grid configs/tables/smile_table2.py --list

What its tables share; they say which part of the images is labelled. Batch 48, 9,000 steps, SGD with Nesterov
momentum 0.9, learning rate 0.01 for all parameters, divided by 10 after 6,000 steps, weight decay 1e-4, the
accuracy of the last step: the released code (https://github.com/lixingjian/SMILE), because the paper gives no
settings.

Open in the paper and its code, chosen here:
  seeds: neither says how many runs a mean is of; five, as in the same authors' XMixup. A seed draws its own
    labelled images; the classes of a 25 % split are the same for all five.
  labelled images: 15, 30 and 50 % of each class, rounded up. The released code takes 1 + floor(share x n) of all
    images and can miss a class, for which Co-Tuning has no label (--config.target.sampler=global_floor_plus_one).
  images: CUB keeps its aspect (short side 256), Cars and Aircraft are squashed to 256 x 256, as released. Crops are
    cut from the centre square, in the released code from the whole rectangle. Indoor and Food are not in that code:
    as CUB.
  Aircraft: the 20 lowest rows of each photograph, a banner with the name of its owner, are cut off before anything
    else, as the publishers of the set ask for. The paper does not say whether it did so.
  L2-SP, DELTA, BSS, RIFLE: the released settings of the data set; for Indoor and Food those of CUB.
  DELTA's channel weights: released as files for three data sets; here they are measured for all (docs/methods.md).
  Co-Tuning and RegSL are not in the code. They get this protocol's optimiser and their own authors' settings:
    Co-Tuning a tenth of the rate for the trunk and its published calibration of these weights (so ImageNet is not
    needed); RegSL the constraint with the numbers published for the data set, without self-labelling.
  the baselines with Mixup (`l2sp_mixup` and so on: the paper says that it compares with them and prints no numbers):
    each with its own settings, with the Mixup of this protocol in front of its loss. Co-Tuning's source classes are
    mixed by the same shares; the networks that DELTA compares see the same mixed image.
  Indoor: the weights are those of Places365, resnet50_places365.pth.tar, in the folder weights/.
  Food: EfficientNet-B4 as in the released code, with AutoAugment's weights, that code's padding, and crops of 224
    and not of 380. SMILE's feature map is that of the last block, stage7; BSS and DELTA take the last map of all,
    where the released code has the last block's.
"""

from mixjax.config import base, cells

METHODS = {
    'finetune': {},
    'mixup': {'alpha': 0.2, 'fold': True},
    'l2sp': {'form': 'smile'},
    'delta': {'form': 'smile'},
    'bss': {'weight': 0.001},
    'rifle': {},
    'cotuning': {'calibration': 0.8840456604957581},
    'regsl': {},
    'smile': {},
}
WITH_MIXUP = ('l2sp', 'delta', 'bss', 'rifle', 'cotuning', 'regsl')
CUB = {'l2sp': {'alpha': 0.001}, 'delta': {'alpha': 0.01}, 'rifle': {'resets': 2}}
# Settings of a data set: the form of its images, settings of methods.
DATASETS = {
    'cub200': ('short', {**CUB, 'regsl': {'distance': 0.2044, 'head_distance': 23.79, 'scale': 4.738}}),
    'stanford_cars': (
        'squash',
        {
            'l2sp': {'alpha': 0.0001},
            'delta': {'alpha': 0.001},
            'rifle': {'resets': 4},
            'regsl': {'distance': 1.334, 'head_distance': 8.269, 'scale': 3.477},
        },
    ),
    'fgvc_aircraft': (
        'squash',
        {
            'l2sp': {'alpha': 0.001},
            'delta': {'alpha': 0.001},
            'rifle': {'resets': 4},
            'regsl': {'distance': 1.183, 'head_distance': 5.277, 'scale': 1.277},
        },
    ),
    'mit_indoor67': ('short', CUB),
    'food101': ('short', {**CUB, 'smile': {'feature': 'stage7'}}),
}


def get_config(argument='dataset=cub200,method=smile'):
    methods = (*METHODS, *(f'{name}_mixup' for name in WITH_MIXUP))
    cell = cells.parse(argument, dataset=DATASETS, method=methods)
    dataset, method = cell['dataset'], cell['method'].removesuffix('_mixup')
    fit, own = DATASETS[dataset]
    config = base()
    config.num_seeds = 5
    config.method = {'name': method, **METHODS[method], **own.get(method, {})}
    if method != cell['method']:
        config.method.update({'wrappers': ('mixup',), 'mixup_alpha': 0.2, 'mixup_fold': True})
    config.target.name = dataset
    config.image.fit = fit
    config.model.name = 'resnet50'
    config.model.weights = 'hf://timm/resnet50.tv_in1k'
    if dataset == 'mit_indoor67':
        config.model.weights = 'weights/resnet50_places365.pth.tar'
    if dataset == 'food101':
        config.model.name = 'efficientnet_b4_fixed380'
        config.model.weights = 'hf://timm/tf_efficientnet_b4.aa_in1k'
        config.image.resize, config.image.crop, config.image.interpolation = 256, 224, 'bilinear'
    return config
