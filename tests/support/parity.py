"""Fixtures of networks that the authors' own code computed, and the gradient that is compared with theirs."""

import jax
import jax.numpy as jnp

# fixture -> (network, dialect of the fixture's names)
FILES = {
    'model_fb_lenet': ('lenet', 'cifar'),
    'model_fb_resnet18': ('preactresnet18', 'cifar'),
    'model_fb_resnet50': ('cifar_resnet50', 'cifar'),
    'model_fb_densenet121': ('densenet121_cifar', 'cifar'),
    'model_preactresnet18': ('preactresnet18_raw', 'cifar'),
    'model_preactresnet50': ('preactresnet50_raw', 'cifar'),
    'model_wrn28_10': ('wrn28_10', 'cifar'),
    'model_tv_resnet50_96': ('resnet50', 'torchvision'),
    'model_tv_resnet50_224': ('resnet50', 'torchvision'),
    'model_tv_densenet121_96': ('densenet121', 'torchvision'),
    'model_efficientnet_b4_224': ('efficientnet_b4', "SMILE's efficientnet"),
}


def train(net, params, stats, image, label):
    """Mean cross-entropy in train mode: ((loss, (logits, features, model_state)), gradient)."""

    def loss(params):
        out, new = net.apply({'params': params, **stats}, image, train=True)
        logits = out.logits['source']
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], 1)
        return -picked.mean(), (logits, out.features, new)

    return jax.value_and_grad(loss, has_aux=True)(params)
