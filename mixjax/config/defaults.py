"""The defaults of every setting: `base()` holds them all, with a comment on each."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

# An ml_collections.ConfigDict. What its attributes hold is known to `base()` and not to a type checker.
Config = Any


def base() -> Config:
    """The defaults: fine-tuning of ImageNet networks by the protocol of SMILE's released code."""
    config: Config = ConfigDict()
    config.seed = 0  # of the first run; the others use seed + 1, ..
    config.num_seeds = 1  # independent repeats: own labelled examples, initialisation and order

    # What is trained: one method ('' is finetune; its knobs are filled in from its file), or several in `compare`.
    config.method = ConfigDict({'name': ''})
    config.compare = ConfigDict()  # {label: method}: several methods, each in its own sub-folder
    config.baseline = ''  # label of the one that the others are compared with; '' is the first by name
    config.sweep = ConfigDict({'key': '', 'numbers': ()})  # the whole run once for each value of one number
    config.results = ''  # a Markdown file that gets the accuracy table too
    config.analyse = ''  # what mixjax analyse is asked for at the end: '--what=interpolation,spectrum'
    config.mix = ConfigDict(
        {
            'groups': 1,  # partners are drawn within this many parts of the batch
            'shards': 1,  # source images are dealt out into so many parts, each for its part of the batch
        }
    )

    config.model = ConfigDict(
        {
            'name': 'resnet50',
            'weights': '',  # the pretrained network: hf://.., a file, a run, embedded://glyphnet; '' is from scratch
            'head': 'source',  # the weights' own classifier: becomes the head `source`; keep: the target's too; reset
            'init': '',  # the law of what is not pretrained: torch, kaiming or flax; '' is the network's own
            'dtype': 'float32',  # of the computation; bfloat16 keeps parameters and statistics in float32
        }
    )
    config.target = ConfigDict(
        {
            'name': 'synthetic',
            'dir': '',  # of the data set `folder`: where your images are
            'holdout': 0.2,  # of a folder without a test part: share of each class that is tested on
            'classes': 1.0,  # up to 1 the share of the classes, above it their number
            'per_class': 0,  # labelled examples of each class; 0 takes `rate` of them
            'rate': 1.0,  # share of each class that is labelled, rounded up
            'sampler': 'stratified',  # or global_floor_plus_one: `rate` of all examples, whatever their class
            'images': 0,  # labelled examples of all classes together
            'counts': (),  # labelled examples of each class, a number for each
            'splits': '',  # the splits.json of another run, to repeat its draw
            'val': 0.0,  # share of the labelled examples that is not learned from: to validate on
            'add_rest': False,  # learn from the rest of the train part too
            'balance': 'images',  # an epoch has each image once; classes: all classes equally often
        }
    )
    config.source = ConfigDict({'name': '', 'dir': ''})  # the data set that the weights were trained on
    config.data_dir = ''  # where data sets lie, a folder or gs://..; '' is $TFDS_DATA_DIR or ~/tensorflow_datasets
    config.cache_dir = ''  # where what costs a pass over the source data is kept; '' is ~/.cache/mixjax
    config.feed = 'auto'  # resident: all images on the devices; stream: read as needed; auto: by their bytes
    config.store = True  # keep decoded photographs in cache_dir, so that each is decoded once
    config.cache_limit = 0.5  # what they may take there: up to 1 a share of the room on the disk, above it bytes
    config.synthetic = ConfigDict({'per_class': 0, 'side': 0})  # replace all images by made-up ones (`:smoke`)

    config.image = ConfigDict(
        {
            # Five settings that belong to the pretrained network; 0, '' and () take its own (see `settle`).
            'resize': 0,  # side of the stored images, from which the crops are cut
            'crop': 0,  # side of the random (training) or centre (test) crop
            'interpolation': '',  # bilinear or bicubic
            'mean': (),
            'std': (),
            'fit': 'short',  # short: the shorter side becomes `resize`, centre square; squash: both sides do
            'pad': 0,  # black border before the random crop
            'flip': True,  # random horizontal flip
        }
    )
    config.optim = ConfigDict(
        {
            'name': 'sgd',  # sgd, adam or amsgrad, as torch has them
            'lr': 0.01,
            'betas': (0.9, 0.999),  # of adam and amsgrad
            'eps': 1e-8,
            'momentum': 0.9,  # of sgd
            'nesterov': True,
            'weight_decay': 1e-4,
            'schedule': 'step',  # step: times `factor` at each of `drops`; cosine: to 0; constant
            'drops': (2 / 3,),  # as shares of `steps`
            'factor': 0.1,
            'freeze': (),  # parts that stay as they are: stem, stage1 .., head:target, or trunk and heads for all
            'factors': (),  # of the learning rate of parts: ('trunk=0.1', 'stem=0')
        }
    )
    config.steps = 9000
    config.batch_size = 48
    config.accumulate = 1  # parts of a batch that go through the network one after the other, to save memory
    config.eval_batch_size = 256
    config.eval_every = 1000  # steps; the last step is always evaluated
    config.checkpoint_every = 1000
    config.snapshots = ()  # shares of `steps` after which the first seed's whole network is kept in snapshots/STEP
    config.keep = 'last'  # the network of the last step; best: of the step with the best validation accuracy
    config.log_every = 50
    config.on_nan = 'stop'  # where loss or gradient are not finite; skip: go on without that step
    config.devices = 0  # how many to use at most; 0 is all: seeds side by side, and the batch of each shared out
    config.shard_params = False  # cut parameters and optimiser state over the devices of a seed, for large networks
    config.dispatch = 0  # training steps per call of the compiled program; 0 is 1 on a CPU, up to 25 elsewhere
    return config
