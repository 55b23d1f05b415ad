"""The papers' tables and figures on the digits, 10 seeds each: the runs of docs/results.md.

    mixjax grid configs/digits/tables.py --list
    mixjax grid configs/digits/tables.py --run 0
    python -m reproduction.digits runs/digits_tables

`make results-full` does all of it. A cell by itself, as any config:

    mixjax train --config=configs/digits/tables.py:table=order,labels=3,method=smile --workdir=runs/smile

`order` has the main methods of all three papers. The transfer tables begin with the shipped network and have the
quickstart's settings; LaMix's are from scratch with 100 labels per class, as configs/digits/lamix.py has it. Nothing
was tuned: every method has its defaults, but for SMILE's baselines, which are SMILE's own (`_smile`, as in
configs/papers/smile.py), and for two cases where the default learns nothing (LeNet's learning rate, PuzzleMix's loss on
letters). The tables about other networks and data have other ones here, too: SMILE's Table 3 the other network that is
shipped; LaMix's Table 2 a shallow network and a deep one, its Tables 4 and 6 (Tiny ImageNet) the 160 printed letters, 8
labels per class (Table 6 for 50 passes over them and for 250; the paper has 400). The figures' pictures have configs of
their own, configs/digits/*_fig*.py; here are their numbers. LaMix's Fig. 8 has 2,500 steps, as there.
"""

from mixjax.config import cells, read

RUNS = 'digits_tables'
FEW, THREE, ALL, LETTERS = ('3', '5', '10', '20', '50'), ('3', '10', '50'), '100', '8'
ALPHAS = tuple(2.0**k for k in range(-3, 7))
TENTHS = tuple(k / 10 for k in range(1, 10))

VANILLA = ('finetune', 'mixup', 'cutmix', 'lamix')  # of LaMix's tables
LONG = ('finetune', 'mixup', 'lamix')  # of its Table 6, for five times as many steps
# SMILE's baselines as its authors have them.
OWN = {
    'mixup_smile': {'name': 'mixup', 'alpha': 0.2, 'fold': True},
    'l2sp_smile': {'name': 'l2sp', 'form': 'smile'},
    'delta_smile': {'name': 'delta', 'form': 'smile'},
}
# The six regularizers of its Table 2, with the Mixup of its baselines in front of their losses.
WITH_MIXUP = {
    f'{name}_mixup': {'wrappers': ('mixup',), 'mixup_alpha': 0.2, 'mixup_fold': True, **OWN.get(name, {'name': name})}
    for name in ('l2sp_smile', 'delta_smile', 'bss', 'rifle', 'cotuning', 'regsl')
}
SIX = ('finetune', 'mixup_smile', 'delta_smile', 'bss', 'rifle', 'smile')  # of SMILE's Table 3
METHODS = {
    **{name: {} for name in ('finetune', 'feature_extraction', 'l2sp', 'bss', 'rifle', 'cotuning', 'regsl')},
    **{name: {} for name in ('seqtrain', 'cotrain', 'smile', 'xmixup', 'lamix')},
    **{name: {} for name in ('label_smoothing', 'mixup', 'cutmix', 'manifold_mixup', 'puzzlemix')},
    **OWN,
    **WITH_MIXUP,
    'lamix_puzzle': {'name': 'lamix', 'mixing': 'puzzle', 'beta': 1.0},
    'lamix_without_originals': {'name': 'lamix', 'originals': False},
    'lamix_without_global': {'name': 'lamix', 'beta': 1.0},
    'xmixup_random': {'name': 'xmixup', 'auxiliary': 'random'},
    'xmixup_target': {'name': 'xmixup', 'auxiliary': 'target'},
    'xmixup_without_label': {'name': 'xmixup', 'labels': 'target'},
    **{f'xmixup_alpha{alpha:g}': {'name': 'xmixup', 'alpha': alpha} for alpha in ALPHAS},
    **{f'mixup_uls{e}': {'name': 'mixup', 'label_smoothing': e} for e in (0.1, 0.2, 0.3, 0.4)},
    'finetune_scratch': {'name': 'finetune'},
    'mixup_smile_scratch': OWN['mixup_smile'],
    **{f'{name}_long': {'name': name} for name in ('lamix', 'mixup', 'cutmix')},
    **{f'{name}_other': OWN.get(name, {'name': name}) for name in SIX},
    **{f'{name}_{net}': {'name': name} for net in ('shallow', 'deep') for name in VANILLA},
    'lamix_plane': {'name': 'lamix'},
    **{f'{name}_letters': {'name': name} for name in VANILLA},
    **{f'{name}_letters_long': {'name': name} for name in LONG},
    # The released loss, a binary cross-entropy, is a mean over the classes; over 160 it learns nothing in so few steps.
    **{name: {'name': 'puzzlemix', 'loss': 'ce'} for name in ('puzzlemix_ce', 'puzzlemix_letters')},
    'lamix_puzzle_letters': {'name': 'lamix', 'mixing': 'puzzle', 'beta': 1.0},
    **{f'xmixup_images{n}': {'name': 'xmixup', 'max_images': n} for n in (20, 60)},
    **{f'xmixup_rounds{n}': {'name': 'xmixup', 'rounds': n} for n in (2, 4, 8, 16)},
    'xmixup_all': {'name': 'xmixup', 'auxiliary': 'all'},
    **{f'lamix_beta{beta}': {'name': 'lamix', 'beta': beta} for beta in TENTHS},
    **{f'smoothing{e}': {'name': 'label_smoothing', 'epsilon': e} for e in TENTHS},
}
# table: (labels per class, methods).
TABLES = {
    'order': (FEW, ('finetune', 'label_smoothing', 'mixup', 'cutmix', 'smile', 'xmixup', 'lamix', 'cotrain')),
    'others': (('3', '10'), ('feature_extraction', 'manifold_mixup', 'puzzlemix', 'lamix_puzzle', 'mixup_uls0.1')),
    'smile_table2': (
        THREE,
        ('finetune', 'mixup_smile', 'l2sp_smile', 'delta_smile', 'bss', 'rifle', 'cotuning', 'regsl', 'smile'),
    ),
    'smile_with_mixup': (THREE, (*WITH_MIXUP, 'smile')),
    'smile_table3': (('3', '10'), tuple(f'{name}_other' for name in SIX)),
    'smile_table4': (('3', '10'), ('finetune', 'mixup_smile', 'smile')),
    'xmixup_table1': (THREE, ('finetune', 'l2sp', 'bss', 'seqtrain', 'cotrain', 'xmixup')),
    'xmixup_table2': (('3',), ('finetune', 'xmixup')),
    'xmixup_table3': (THREE, ('xmixup', 'xmixup_random')),
    'xmixup_table4': (THREE, ('xmixup', 'xmixup_target', 'xmixup_without_label')),
    'xmixup_fig4': (('3',), ('finetune', *(f'xmixup_alpha{alpha:g}' for alpha in ALPHAS))),
    'lamix_table1': ((ALL,), VANILLA),
    'lamix_table2': ((ALL,), tuple(f'{name}_{net}' for net in ('shallow', 'deep') for name in VANILLA)),
    'lamix_table3': ((ALL,), ('finetune', 'puzzlemix', 'puzzlemix_ce', 'lamix_puzzle')),
    'lamix_table4': ((LETTERS,), ('puzzlemix_letters', 'lamix_puzzle_letters')),
    'lamix_table5': ((ALL,), ('lamix', 'mixup', *(f'mixup_uls{e}' for e in (0.1, 0.2, 0.3, 0.4)))),
    'lamix_table6': (
        (LETTERS,),
        (*(f'{name}_letters' for name in VANILLA), *(f'{name}_letters_long' for name in LONG)),
    ),
    'lamix_table7': ((ALL,), ('lamix', 'lamix_without_originals')),
    'lamix_table8': ((ALL,), ('lamix', 'lamix_without_global')),
    'smile_fig1': (('3',), ('finetune', 'mixup_smile', 'finetune_scratch', 'mixup_smile_scratch')),
    'xmixup_fig3': (
        ('3',),
        (
            *('finetune', 'xmixup_images20', 'xmixup_images60', 'xmixup'),
            *(f'xmixup_rounds{n}' for n in (2, 4, 8, 16)),
            'xmixup_all',
        ),
    ),
    'lamix_fig2': ((ALL,), ('lamix',)),
    'lamix_fig2_letters': ((LETTERS,), ('lamix_letters',)),
    'lamix_fig3': ((ALL,), ('lamix',)),
    'lamix_fig4': ((ALL,), tuple(f'lamix_beta{beta}' for beta in TENTHS)),
    'lamix_fig5': ((ALL,), ('lamix', 'mixup', 'cutmix', 'lamix_long', 'mixup_long', 'cutmix_long')),
    'lamix_fig6': ((ALL,), ('lamix', *(f'smoothing{e}' for e in TENTHS))),
    'lamix_fig7': ((ALL,), ('lamix', 'mixup', 'cutmix')),
    'lamix_fig8': ((ALL,), ('lamix_plane',)),
}
# What cells have besides their methods, by the ends of their names.
ENDS = {
    '_scratch': {'model.weights': ''},
    '_long': {'steps': 5000, 'log_every': 25},
    '_other': {'model.name': 'glyphnet_deep', 'model.weights': 'embedded://glyphnet_deep'},
    '_shallow': {'model.name': 'lenet', 'optim.lr': 0.02},  # at 0.1 it learns nothing: it has no batch normalization
    '_deep': {'model.name': 'glyphnet_deep'},
    # Two checkpoints of each seed are kept: that of half of the training, and the last one.
    '_plane': {'model.name': 'glyphnet_plane', 'steps': 2500, 'checkpoint_every': 1250},
    '_letters': {'target.name': 'glyphs'},
    '_letters_long': {'target.name': 'glyphs'},
}


def grid():
    return [
        cell
        for table, (labels, methods) in TABLES.items()
        for cell in cells.product(table=(table,), labels=labels, method=methods)
    ]


def get_config(argument='table=order,labels=3,method=xmixup'):
    cell = cells.parse(argument, table=TABLES, labels=(*FEW, ALL, LETTERS), method=METHODS)
    labels, methods = TABLES[cell['table']]
    cells.parse(argument, table=TABLES, labels=labels, method=methods)  # what this table has
    scratch = cell['table'].startswith('lamix')
    config = read('digits/lamix' if scratch else 'quickstart')
    config.compare, config.baseline = {}, ''
    config.num_seeds = 10
    for end, settings in ENDS.items():
        if cell['method'].endswith(end):
            config.update_from_flattened_dict(settings)
    config.target.per_class = int(cell['labels'])
    config.method = {'name': cell['method'], **METHODS[cell['method']]}
    return config
