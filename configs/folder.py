"""Your own photographs: a folder with a sub-folder for each class.

    mixjax train --config=configs/folder.py --config.target.dir=~/photos --workdir=runs/photos

`~/photos/{train,test}/<class>/*`, or `~/photos/<class>/*`: then a fifth of each class is held out to test on. A
tenth of the rest validates, and the network of the best step by it is kept. `docs/data.md` has the details.

ResNet-50 from ImageNet (or yours: --config.model.weights=.. and --config.model.name=..), batch 32, 2,000 steps; a
few minutes on a GPU, hours on a CPU. With thousands of images take 30 passes over them: images * 30 / 32 steps. The
optimiser and its learning rate are those of the network's family, if you do not set them.
The method is SMILE, which does best in the papers where labels are few; a step costs about twice that of
--config.method.name=finetune. For a ViT or a ConvNeXt it is LP-FT, which needs no pretrained classifier. Several seeds
(--config.num_seeds=3) tell how much the result varies.
"""

from mixjax.config import base, recipes


def get_config():
    config = base()
    config.model.name = 'resnet50'
    config.model.weights = 'hf://timm/resnet50.tv_in1k'
    config.target.name = 'folder'
    config.target.val = 0.1
    # SMILE and SGD for a ResNet; LP-FT, AdamW, warm-up and layer-wise decay for a ViT or a ConvNeXt.
    recipes.leave_open(config, 'smile')

    config.keep = 'best'
    config.steps = 2000
    config.batch_size = 32
    config.eval_every = config.checkpoint_every = 100
    config.log_every = 20
    return config
