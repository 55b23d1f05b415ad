"""Every method, and every variant of it that takes another way through its code: {label: method config}."""

VARIANTS = {
    'finetune': {},
    'finetune smoothed': {'name': 'finetune', 'label_smoothing': 0.1},
    'mixup': {},
    'mixup folded': {'name': 'mixup', 'alpha': 0.2, 'fold': True},
    'smile': {},
    'smile vector': {'name': 'smile', 'feature': 'vector'},
    'xmixup': {},
    'xmixup two heads': {'name': 'xmixup', 'labels': 'two_heads', 'source_rows': 'pretrained', 'exact': True},
    'xmixup two rounds': {'name': 'xmixup', 'min_images': 30},
    'lamix': {},
    'lamix mixed only': {'name': 'lamix', 'originals': False, 'local_label': 'mean', 'stop_global': True},
    'lamix no global': {'name': 'lamix', 'beta': 1.0},
    # mixing
    # puzzle
    # transfer
    # relation and constraint
}
