"""The protocol of the XMixup paper on one of its data sets, with one of its methods.

    mixjax grid configs/tables/xmixup_table1.py --list

What its tables share. ResNet-50 from ImageNet, batch 48, 9,000 steps, SGD with momentum 0.9, learning rate 0.01
(Dogs 0.001) divided by 10 after 6,000 steps; short side 256, centre square, random crop 224, flip; five repeats.
Seq-Train, Co-Train and XMixup learn from ImageNet images too: one-to-one pairing is repeated until the chosen
classes hold 200,000 images (Dogs 100,000).

Open in the paper (no code was released), chosen here:
  weight decay 1e-4, Nesterov momentum, one learning rate for all parameters, the last step's accuracy: as in the
    same authors' later code, that of SMILE.
  alpha: 4, and 0.5 for Dogs: inside the ranges that its Fig. 4 recommends (2^0 .. 2^6, and 2^-3 .. 2^-1 for Dogs).
  labels: one softmax over target and chosen source classes, its source part fresh; tested among the target classes.
  pairing: the best remaining pair first; whole rounds; class means over all images, as in Eq. 1 (whose argmin over
    a cosine is a sign error). With several rounds a class is drawn first, then one of its images.
  L2-SP: 0.01 and 0.01, and no decay towards 0, as in the same authors' DELTA code. BSS: weight 0.001, k 1, its
    paper's.
  Seq-Train: the first stage is as long as the run and has its schedule. Co-Train: 48 source images beside 48 target
    images, losses weighted 1/2 and 1/2 as in the training files that Ge and Yu released.
  `mixup` (Table 4) is "Mixup using only samples in the target dataset": XMixup with the partner in the batch in
    place of the source image, so lam ~ Beta(alpha, 1) too. `without_label`: the mixed image has the target's label
    with weight 1.
  Aircraft: the paper speaks of 102 models; the data set has 100 variants. The 20 lowest rows of each photograph, a
    banner with the name of its owner, are cut off before anything else, as the publishers of the set ask for; the
    paper does not say whether it did so.
"""

from mixjax.config import base, cells

# The method, and whether it draws source images.
METHODS = {
    'finetune': ({'name': 'finetune'}, False),
    'l2sp': ({'name': 'l2sp', 'form': 'delta', 'alpha': 0.01, 'beta': 0.01}, False),
    'bss': ({'name': 'bss', 'weight': 0.001}, False),
    'seqtrain': ({'name': 'seqtrain', 'share': 1.0}, True),
    'cotrain': ({'name': 'cotrain'}, True),
    'xmixup': ({'name': 'xmixup'}, True),
    'xmixup_random': ({'name': 'xmixup', 'auxiliary': 'random'}, True),
    'without_label': ({'name': 'xmixup', 'labels': 'target'}, True),
    'mixup': ({'name': 'xmixup', 'auxiliary': 'target'}, False),
}
DATASETS = ('cub200', 'stanford_cars', 'flowers102', 'food101', 'stanford_dogs', 'fgvc_aircraft')


def get_config(argument='dataset=stanford_dogs,method=xmixup'):
    cell = cells.parse(argument, dataset=DATASETS, method=METHODS)
    dogs = cell['dataset'] == 'stanford_dogs'
    method, source = METHODS[cell['method']]
    config = base()
    config.num_seeds = 5
    if source:
        config.source.name = 'imagenet2012'
        method = {**method, 'min_images': 100_000 if dogs else 200_000, 'per_class': 0}
    if method['name'] == 'xmixup':
        method = {**method, 'alpha': 0.5 if dogs else 4.0}
    config.method = method
    config.target.name = cell['dataset']
    config.model.name = 'resnet50'
    config.model.weights = 'hf://timm/resnet50.tv_in1k'
    config.optim.lr = 0.001 if dogs else 0.01
    return config
